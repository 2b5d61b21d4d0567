"""The one seam to compare-and-set: whatever is done only if something is still as it was goes through here.

Redis runs one command at a time, so there it needs no thought. Here several gateways and clients write at once, and to
read and then write would lose what came between. Where a database's strings are in a namespace of type exact, a command
says what is to stand in place of what stood there, and compare-and-set sees to it; elsewhere it is refused, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from quorumcache.client.bulk import error_of
from quorumcache.client.envelope import MAGIC, parse
from quorumcache.client.mixed import ChangeSlot
from quorumcache.core.exactwrite import Change
from quorumcache.core.model import DELETE, PUT, SALT_BYTES, header_expires_at
from quorumcache.core.outcome import Decided, Failed
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.faults import Fault, fault_of
from quorumcache.gateway.redis.table import Call, Steps


class Stood(NamedTuple):
    """What stands under a key: its value (None: nothing), when it expires (cluster time in microseconds, 0: never), the
    cluster's time, and its header (empty: nothing)."""

    value: bytes | None
    expires_at_us: int
    now_us: int
    header: bytes = b""


class Put(NamedTuple):
    """What is to stand there: a value (None: nothing), until then."""

    value: bytes | None
    expires_at_us: int = 0


#: What stands there -> what is to stand there, or None for: as it is. May raise Fault. Called as often as others are
#: first; what it returned last counts.
Edit = Callable[[Stood], Put | None]


def edit(call: Call, key: bytes, make: Edit) -> Steps:
    """Change a string as `make` says: whether it was changed. Raises Fault: refused, what `make` raised, or failed."""
    database = call.database
    if not database.is_exact:
        raise refuse(call.command.name.upper())
    faults: list[Fault] = []

    def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        faults.clear()
        stood = Stood(None, 0, cluster_us)
        if header:
            stood = Stood(plain(salted[SALT_BYTES:]), header_expires_at(header), cluster_us, header)
        try:
            put = make(stood)
            if put is None or (put.value is None and not header):
                return None
            if put.value is None:
                return Change(DELETE)
            return Change(PUT, database.strings._stored(put.value), put.expires_at_us)
        except Fault as fault:
            faults.append(fault)
        except QuorumCacheError as error:
            faults.append(fault_of(error))
        return None

    (outcome,) = yield [ChangeSlot(database.string_slot(key), change)]
    if isinstance(outcome, Failed):
        raise fault_of(error_of(outcome))
    if faults:
        raise faults[0]
    return isinstance(outcome, Decided)


def plain(data: bytes) -> bytes:
    """A value, of what is stored."""
    return (parse(data).data or b"") if data[:4] == MAGIC else data


def refuse(what: str) -> Fault:
    """The error for a command that cannot be right without compare-and-set."""
    return Fault(
        f"ERR {what} needs compare-and-set: SELECT a database whose strings are in a namespace of type exact, which "
        "the gateway is given as --database N=NAMESPACE"
    )
