"""Random things that befall a node's slots, for tests of journal and storage."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from quorumcache.core.certificate import Batch
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, Grant, encode_header, parse_header, stamp_of, value_hash_of
from quorumcache.core.slots import Held, Promise, Slots
from tests.cluster import configuration_of, slot

SECOND_US = 1_000_000
KEYS = [slot(f"k{i}") for i in range(4)]
OPERATIONS = ("store", "drop", "promise", "settle", "drop promise", "floor", "activate")


def new_slots() -> Slots:
    """Two recovering shards of room for a few entries, with a journal."""
    slots = Slots(configuration_of(shards=2), floor_us=0, recovering=True, bytes_max=6000, promises_max=100)
    slots.journal = Journal()
    return slots


def _header(key: bytes, time_us: int) -> bytes:
    return encode_header(key, stamp_of(time_us, b"w" * 32, 1), 0, value_hash_of(bytes(20)), 4, 0)


def _batch() -> Batch:
    return Batch(
        Certificate(bytes(32), bytes(16), bytes(32), 2, b"w" * 32, bytes(64), (Grant(0, b"\x03", bytes(64)),)),
        bytes(64),
        b"",
    )


def apply(slots: Slots, steps: list[tuple[str, int, int]]) -> None:
    """Do these (operation, number of the key, time in seconds)."""
    batch = _batch()
    for number, (operation, key_number, time_s) in enumerate(steps):
        key, time_us = KEYS[key_number], time_s * SECOND_US
        raw = _header(key, time_us)
        if operation == "store":
            if number % 2:
                batch = _batch()
            held = Held(parse_header(raw).digest, raw, bytes(20), batch, 0, None)
            slots.store(key, held, 40 * SECOND_US)
        elif operation == "drop" and key in slots.current:
            slots.drop(key)
        elif operation == "promise":
            slots.add_promise(Promise(parse_header(raw), time_us, bytes(16), bytes(64), bytes(64), 0))
        elif operation == "settle":
            slots.settle_promises(key, raw[3:51])
        elif operation == "drop promise" and key in slots.open:
            slots.drop_promise(min(slots.open[key], key=_order))
        elif operation == "floor":
            slots.raise_floor(slots.shard(key), time_us)
        elif operation == "activate":
            slots.activate(slots.shard(key))


steps: Final = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3), st.integers(1, 30)), max_size=25)


def _order(promise: Promise) -> tuple[int, bytes]:
    return promise.recorded_us, promise.header.raw


def picture(slots: Slots) -> dict[str, Any]:
    """All that has to be there again after a restart with stored state."""
    return {
        "entries": {
            key: (held.digest, held.entry(), held.batch.leaves, held.batch.counts)
            for key, held in sorted(slots.current.items())
        },
        "promises": {
            key: [(p.header, p.recorded_us, p.group, p.intent, p.leaves, p.position) for p in sorted(open_, key=_order)]
            for key, open_ in sorted(slots.open.items())
        },
        "shards": [(shard.floor_us, shard.recovering) for shard in slots.shards],
    }
