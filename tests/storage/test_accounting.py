"""What a node counts for its entries, beside what Python allocates for them: within 15 %, however they came.

Counted are objects, which are the same on every machine and at any load. What allocators and SQLite's page cache add to
that only a real process shows: `bench/memory.py --states`.
"""

from __future__ import annotations

import gc
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from quorumcache.core import merkle
from quorumcache.core.certificate import Batch
from quorumcache.core.journal import Journal
from quorumcache.core.model import (
    Certificate,
    Grant,
    digest_of,
    encode_header,
    header_slot,
    slot_of,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.slots import Held, Slots
from quorumcache.core.values import Values
from quorumcache.storage import Identity, SqliteStorage
from tests.cluster import START_US, configuration_of

ENTRIES = 6_144
CONFIGURATION = configuration_of(shards=64)
IDENTITY = Identity("test", CONFIGURATION.digest, b"k" * 32)
_random = random.Random(5)


def new_slots(*, values_leave: bool = False) -> Slots:
    slots = Slots(CONFIGURATION, floor_us=0, recovering=False, bytes_max=1 << 40, promises_max=1000)
    if values_leave:
        slots.values = Values(slots, 1 << 40)
    return slots


def put(slots: Slots, number: int, size: int, *, alone: bool) -> None:
    """Store a batch, all of it new objects. `alone`: its entries came one by one, with paths in place of leaves."""
    draw = _random.randbytes
    headers = []
    for i in range(size):
        slot = slot_of(b"test", b"key-%08d" % (number * size + i))
        salted = draw(144)
        stamp = stamp_of(START_US + number, draw(32), 1)
        headers.append((encode_header(slot, stamp, 0, value_hash_of(salted), 128, 0), salted))
    leaves = b"".join([digest_of(header) for header, _ in headers])
    grants = tuple(Grant(i, draw((size + 7) // 8), draw(64)) for i in range(3))
    certificate = Certificate(draw(32), draw(16), draw(32), size, draw(32), draw(64), grants)
    batch = Batch(certificate, b"" if alone else leaves, b"")
    for position, (header, salted) in enumerate(headers):
        path = merkle.path_of(leaves, position) if alone else None
        assert slots.store(header_slot(header), Held(digest_of(header), header, salted, batch, position, path), 0)


def grown_of(make: Callable[[], Slots]) -> tuple[float, float]:
    """Bytes for each entry of the slots that are made: allocated, and counted."""
    merkle.root_of.cache_clear()
    merkle._levels.cache_clear()
    gc.collect()
    tracemalloc.start(1)
    try:
        before, _ = tracemalloc.get_traced_memory()
        slots = make()
        merkle._levels.cache_clear()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(slots.current) == ENTRIES
    return (after - before) / ENTRIES, slots.memory.bytes_used / ENTRIES


@pytest.mark.parametrize(("size", "alone"), [(1, False), (8, False), (8, True), (512, False), (512, True)])
def test_in_memory_what_is_counted_is_what_is_allocated(size: int, alone: bool) -> None:
    """The accounting is honest within 15 %, for entries that clients wrote and for those that were recovered."""

    def make() -> Slots:
        slots = new_slots()
        for number in range(ENTRIES // size):
            put(slots, number, size, alone=alone)
        return slots

    allocated, counted = grown_of(make)
    assert allocated * 0.85 < counted < allocated * 1.15, f"{allocated:.0f} bytes allocated, {counted:.0f} counted"


@pytest.mark.parametrize("again", [False, True], ids=["written", "started again"])
@pytest.mark.parametrize("alone", [False, True], ids=["together", "one by one"])
def test_with_storage_what_is_counted_is_what_is_allocated(alone: bool, again: bool) -> None:
    """The same where values may leave memory and rows are numbered, before and after a start from what is stored."""
    with tempfile.TemporaryDirectory() as place:

        def fill() -> Slots:
            storage = SqliteStorage(Path(place), boot="boot 1")
            slots = new_slots(values_leave=True)
            storage.open(IDENTITY, slots)
            journal = slots.journal = Journal()
            journal.shards.update({shard.number: shard for shard in slots.shards})
            for number in range(ENTRIES // 64):
                put(slots, number, 64, alone=alone)
                storage.write(journal, slots)
                journal.clear()
            slots.journal = None
            storage.close()
            return slots

        def load() -> Slots:
            storage = SqliteStorage(Path(place), boot="boot 1")
            slots = new_slots(values_leave=True)
            assert storage.open(IDENTITY, slots)
            storage.close()
            return slots

        if again:
            fill()
        allocated, counted = grown_of(load if again else fill)
    assert allocated * 0.85 < counted < allocated * 1.15, f"{allocated:.0f} bytes allocated, {counted:.0f} counted"
