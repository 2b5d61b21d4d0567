"""The one seam to compare-and-set: whatever is done only if something is still as it was goes through here.

Redis runs one command at a time, so there it needs no thought. Here several gateways and clients write at once, and to
read and then write would lose what came between. Until there is compare-and-set such commands are refused, by name.
"""

from __future__ import annotations

from typing import Final, Protocol

from quorumcache.gateway.redis.faults import Fault


class Exact(Protocol):
    """What compare-and-set will have to be: put a value into a slot if that still holds the entry of the digest
    `expected` (or nothing, where that is None); whether it did."""

    async def put_if(self, slot: bytes, expected: bytes | None, kind: int, value: bytes, expires_at_us: int) -> bool:
        """Won or lost; raises what writes raise."""
        ...


#: None: this build has none.
EXACT: Final[Exact | None] = None


def refuse(what: str) -> Fault:
    """The error for a command that cannot be right without compare-and-set."""
    return Fault(f"ERR {what} needs compare-and-set, which this build does not have")
