"""Reads and writes of any namespaces and types in one go: what gateways are built on.

Operations are data here, and so are their outcomes; all of one call leave in the same turn of the loop. It must not
know what they are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from quorumcache.client.bulk import Many, Part
from quorumcache.client.client import Client
from quorumcache.client.exact import write_of, written
from quorumcache.core.exactwrite import Changer
from quorumcache.core.outcome import Outcome


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


async def run_mixed(client: Client, parts: Sequence[Operation]) -> list[Outcome]:
    """Run operations of any namespaces over the client's sessions, all at once; their outcomes, in order.

    Of several on one slot the order is not said. Raises Misuse where the client is closed; failures are outcomes.
    """
    client._check_usable()
    if not parts:
        return []
    engine = client._engine
    core, flights = engine.core, engine.flights
    many = Many(engine.loop.create_future(), len(parts))
    plain: list[int] = []  # Plain writes that go by compare-and-set: where they are.
    try:
        for i, part in enumerate(parts):
            if not engine.admit():
                engine.kick()
                await engine.admitted()
                core = engine.core  # The cluster may have moved on meanwhile.
            if type(part) is ReadSlot:
                core.read(part.slot, Part(many, i))
                continue
            if len(flights):
                flights.overtake(part.slot)
            if isinstance(part, ChangeSlot):
                core.exact(part.slot, part.change, Part(many, i))
                continue
            writer, slot, kind, value, expires_at_us, base_expires_at_us = part  # type: ignore[misc]
            if writer._type == "exact":
                core.exact(slot, write_of(kind, value, expires_at_us), Part(many, i))
                plain.append(i)
            else:
                seal = writer._seal if value else None
                core.write(slot, kind, value, expires_at_us, Part(many, i), b"", base_expires_at_us, seal=seal)
    finally:
        engine.kick()
    outcomes = await many.future
    for i in plain:
        outcomes[i] = written(outcomes[i])
    return outcomes
