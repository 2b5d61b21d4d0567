"""Reads and writes of any namespaces and types in one go: what gateways are built on.

Operations are data here, and so are their outcomes; all of one call leave in the same turn of the loop. It must not
know what they are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from quorumcache.client.bulk import Many, Part, Receiver
from quorumcache.client.client import Client
from quorumcache.client.exact import write_of, written
from quorumcache.core.exactwrite import Changer
from quorumcache.core.outcome import Outcome

if TYPE_CHECKING:
    from quorumcache.client.engine import Engine


class ReadSlot(NamedTuple):
    """A read of one slot: of a register, a key with fields (its base), or one field."""

    slot: bytes


class WriteSlot(NamedTuple):
    """A write of one slot, sealed where `client`'s namespace is. `expires_at_us`: of a register's value, or of a base;
    `base_expires_at_us`: of the key that a field's write makes. Cluster time; 0 is no end."""

    client: Client
    slot: bytes
    kind: int
    value: bytes = b""
    expires_at_us: int = 0
    base_expires_at_us: int = 0


class ChangeSlot(NamedTuple):
    """A read-modify-write of one slot of an exact namespace, by compare-and-set. Its outcome is `Decided`, or
    `Unchanged` where `change` wanted nothing else; the last that `change` was called with is then what stood there."""

    slot: bytes
    change: Changer


Operation = ReadSlot | WriteSlot | ChangeSlot


class _Plain(Part):
    """A plain write that goes by compare-and-set."""

    __slots__ = ()

    def set_result(self, outcome: Outcome, /) -> None:
        super().set_result(written(outcome))


async def run_mixed(client: Client, parts: Sequence[Operation]) -> list[Outcome]:
    """Run operations of any namespaces over the client's sessions, all at once; their outcomes, in order.

    Of several on one slot the order is not said. Raises Misuse where the client is closed; failures are outcomes.
    """
    if not parts:
        client._check_usable()
        return []
    engine = client._engine
    future: asyncio.Future[list[Outcome]] = engine.loop.create_future()
    if begin_mixed(client, parts, future):
        return await future
    many = Many(future, len(parts))
    try:
        for i, part in enumerate(parts):
            if not engine.admit():
                engine.kick()
                await engine.admitted()
            _queue(engine, part, many, i)
    finally:
        engine.kick()
    return await future


def begin_mixed(client: Client, parts: Sequence[Operation], receiver: Receiver) -> bool:
    """As `run_mixed`, for one or more, but what comes of them goes to `receiver`, from within the loop. False, and
    nothing was begun, where the client has too many operations under way. Raises Misuse."""
    client._check_usable()
    engine = client._engine
    if not engine.admit_all(len(parts)):
        return False
    many = Many(receiver, len(parts))
    begun = 0
    try:
        for part in parts:
            _queue(engine, part, many, begun)
            begun += 1
    finally:
        engine.leave(len(parts) - begun)
        engine.kick()
    return True


def _queue(engine: Engine, part: Operation, many: Many, i: int) -> None:
    core = engine.core
    if type(part) is ReadSlot:
        core.read(part.slot, Part(many, i))
        return
    if len(engine.flights):
        engine.flights.overtake(part.slot)
    if isinstance(part, ChangeSlot):
        core.exact(part.slot, part.change, Part(many, i))
        return
    writer, slot, kind, value, expires_at_us, base_expires_at_us = part  # type: ignore[misc]
    if writer._type == "exact":
        core.exact(slot, write_of(kind, value, expires_at_us), _Plain(many, i))
    else:
        seal = writer._seal if value else None
        core.write(slot, kind, value, expires_at_us, Part(many, i), b"", base_expires_at_us, seal=seal)
