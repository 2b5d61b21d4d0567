"""Values that only storage has: what answers lack is noted and fetched, what goes is what nobody used (values.py)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.journal import Journal
from quorumcache.core.memory import batch_cost
from quorumcache.core.model import DELETE, SALT_BYTES, header_slot, slot_of
from quorumcache.core.slots import Held, Slots
from quorumcache.core.values import Values
from tests import craft
from tests.cluster import START_US, configuration_of
from tests.core.test_memory import CONFIGURATION, QUOTA, held_of
from tests.making import Alone

Disk = dict[int, bytes]


class Kept:
    """Slots with a journal, and a disk that is a dict of values by row."""

    def __init__(self, bytes_max: int, stored_bytes_max: int = 1 << 40) -> None:
        self.slots = Slots(CONFIGURATION, floor_us=0, recovering=False, bytes_max=bytes_max, promises_max=100)
        self.values = self.slots.values = Values(self.slots, stored_bytes_max, SALT_BYTES)
        self.journal = self.slots.journal = Journal()
        self.disk: Disk = {}
        self.rows = 0

    def put(self, name: str, time_us: int, size: int, namespace: bytes = b"test") -> bool:
        slot = slot_of(namespace, name.encode())
        return self.slots.store(slot, held_of(craft.craft(slot, time_us, bytes((time_us & 255,)) * size)), time_us)

    def write(self) -> None:
        """As storage does: rows for what is new."""
        for slot in self.journal.entries:
            held = self.slots.current.get(slot)
            if held is not None and not held.row:
                assert held.salted, "what is not stored yet never leaves memory"
                self.rows += 1
                held.row = self.rows
                self.disk[held.row] = held.salted
        self.journal.clear()

    def check(self) -> None:
        """Sums are what a dumb twin makes of all that is here."""
        slots = self.slots
        batches = {id(held.batch): batch_cost(held.batch) for _, held in slots}
        assert slots.memory.bytes_used == sum(slots.cost_of(held) for _, held in slots) + sum(batches.values())
        assert self.values.stored_bytes == sum(held.size for _, held in slots)
        here = {id(held) for _, held in slots if len(held.salted) > SALT_BYTES}
        hot = {id(held) for queue in self.values._hot for held in queue}
        assert hot == here
        assert self.values.hot_count == len(hot)

    def fetch(self) -> int:
        missing = list(self.values.missing)
        for held in missing:
            self.values.warm(held, self.disk[held.row])
        self.values.lacking_bytes = 0
        return len(missing)


def name_of(held: Held) -> bytes:
    return header_slot(held.header)[7:-2]


def test_with_room_on_the_disk_values_go_and_no_entry_does() -> None:
    kept = Kept(QUOTA)
    for number in range(20):
        assert kept.put(f"k{number}", START_US + number, 8000)
        kept.write()
        kept.check()
    assert len(kept.slots.current) == 20
    assert kept.slots.evicted_count == 0
    assert kept.slots.memory.bytes_used <= QUOTA
    assert 0 < kept.values.hot_count < 8


def test_what_is_not_stored_yet_does_not_leave_memory() -> None:
    """Nothing acknowledged may be lost: until it is written, its only copy is here."""
    kept = Kept(QUOTA)
    stored = [kept.put(f"k{number}", START_US + number, 8000) for number in range(30)]
    assert not all(stored)
    assert all(held.salted for _, held in kept.slots)
    kept.write()
    assert kept.put("more", START_US + 100, 8000)


def test_where_even_headers_do_not_fit_entries_are_evicted() -> None:
    kept = Kept(QUOTA)
    for number in range(200):
        assert kept.put(f"k{number}", START_US + number * 4_000_000, 100)
        kept.write()
    assert kept.slots.evicted_count > 0
    assert kept.slots.memory.bytes_used <= QUOTA
    kept.check()


def test_the_disk_has_a_bound_too() -> None:
    kept = Kept(1 << 30, stored_bytes_max=100_000)
    for number in range(100):
        assert kept.put(f"k{number}", START_US + number * 4_000_000, 8000)
        kept.write()
    assert 80_000 < kept.values.stored_bytes <= 100_000
    assert kept.slots.evicted_count > 80
    # What is young does not go for it.
    full = Kept(1 << 30, stored_bytes_max=100_000)
    assert sum(full.put(f"k{number}", START_US + number, 8000) for number in range(100)) < 13


def test_a_value_that_was_used_stays_longer_than_those_that_were_not() -> None:
    kept = Kept(QUOTA)
    assert kept.put("used", START_US, 4000)
    kept.write()
    for number in range(20):
        kept.slots.memory.touched([slot_of(b"test", b"used")])
        assert kept.put(f"k{number}", START_US + number, 4000)
        kept.write()
    assert b"used" in {name_of(held) for _, held in kept.slots if held.salted}


def test_a_scan_of_what_lies_on_the_disk_leaves_memory_alone() -> None:
    kept = Kept(QUOTA)
    for number in range(20):
        kept.put(f"k{number}", START_US + number, 4000)
        kept.write()
    hot = {name_of(held) for _, held in kept.slots if held.salted}
    for slot, held in list(kept.slots):
        if not held.salted:
            assert kept.slots.value_of(held) == b""
            assert kept.fetch() == 1
            assert held.salted
            kept.slots.memory.touched([slot])
            kept.values.settle()
    kept.check()
    assert kept.slots.memory.bytes_used <= QUOTA
    assert len(hot - {name_of(held) for _, held in kept.slots if held.salted}) <= 1


def test_a_namespace_at_its_quota_lets_go_of_its_own_values() -> None:
    kept = Kept(1 << 30)
    kept.put("other", START_US, 8000)
    kept.write()
    for number in range(20):
        assert kept.put(f"k{number}", START_US + number, 8000, b"small")
        kept.write()
    assert kept.slots.evicted_count == 0
    assert next(held for _, held in kept.slots if name_of(held) == b"other").salted
    kept.check()


def test_answers_are_whole_once_what_they_lack_was_fetched() -> None:
    """Of every request that shows values: the same answer as from a node that has all in memory."""
    hot, cold = Alone(), Alone()
    cold.node.leave_values_to_storage(kept_bytes_max=SALT_BYTES)
    values = cold.node.slots.values
    assert values is not None
    disk: Disk = {}
    slots = [slot_of(b"test", b"k%d" % i) for i in range(3)]
    for alone in (hot, cold):
        for slot in slots:
            draft = alone.draft().put(slot_bytes=slot)
            alone.prepare(draft)
            assert alone.commit(draft) == ["OK"]
    for row, (_, held) in enumerate(cold.node.slots, 1):
        held.row, disk[row] = row, held.salted
        while values.cool_one(cold.node.slots.memory.pools[0]):
            pass
    assert values.hot_count == 0
    shard = cold.configuration.shard_of(slots[0])
    digest = cold.configuration.digest
    for request in (
        m.Read(1, digest, slots, 0, 3),
        m.ReadFull(2, digest, slots),
        m.Report(3, digest, shard, b""),
    ):
        expected = hot.node.handle(request, hot.now_us)
        assert cold.node.handle(request, cold.now_us) != expected
        assert values.lacking_bytes
        for held in list(values.missing):
            values.warm(held, disk[held.row])
        values.lacking_bytes = 0
        assert cold.node.handle(request, cold.now_us) == expected
        assert not values.lacking_bytes
        values.settle()
        while values.cool_one(cold.node.slots.memory.pools[0]):
            pass
    # What shows no value lacks none.
    cold.node.handle(m.Read(4, digest, slots, 0, 0), cold.now_us)
    assert not values.lacking_bytes


acts = st.tuples(
    st.sampled_from(("put", "put", "put", "write", "drop", "read", "settle", "undo")),
    st.integers(0, 9),
    st.integers(0, 6000),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(acts, max_size=60))
def test_sums_hold_and_no_value_is_lost_whatever_happens(steps: list[tuple[str, int, int]]) -> None:
    kept = Kept(24_000)
    now_us = START_US
    expected: dict[bytes, int] = {}
    stored: dict[bytes, int] = {}
    for kind, number, size in steps:
        now_us += 1_000_001
        slot = slot_of(b"test", b"k%d" % number)
        if kind == "put":
            kept.put(f"k{number}", now_us, size)
        elif kind == "write":
            kept.write()
            stored = {slot: held.time_us for slot, held in kept.slots}
        elif kind == "drop" and slot in kept.slots.current:
            kept.slots.drop(slot)
        elif kind == "read" and slot in kept.slots.current:
            held = kept.slots.current[slot]
            if not kept.slots.value_of(held):
                kept.fetch()
            assert held.salted[16:] == bytes((held.time_us & 255,)) * (len(held.salted) - 16)
        elif kind == "settle":
            kept.values.settle()
        elif kind == "undo":
            kept.journal.undo(kept.slots)
            assert {slot: held.time_us for slot, held in kept.slots} == stored
        kept.check()
        expected = {slot: held.time_us for slot, held in kept.slots}
    for slot, held in list(kept.slots):
        assert held.salted or kept.disk[held.row][16:] == bytes((expected[slot] & 255,)) * (
            held.size - len(held.header) - 16
        )


def test_bases_and_tombstones_never_leave() -> None:
    """Their entries prove refusals, which have to be whole at once."""
    alone = Alone(configuration_of(namespaces=(NamespaceInfo("test"), NamespaceInfo("set", "set"))))
    alone.node.leave_values_to_storage(kept_bytes_max=SALT_BYTES)
    values = alone.node.slots.values
    assert values is not None
    for draft in (
        alone.draft().put(slot_bytes=slot_of(b"set", b"key"), value=b""),
        alone.draft().put(value=b"", kind=DELETE),
    ):
        alone.prepare(draft)
        assert alone.commit(draft) == ["OK"]
    for row, (_, held) in enumerate(alone.node.slots, 1):
        held.row = row
    assert not values.cool_one(alone.node.slots.memory.pools[0])
    assert all(held.salted for _, held in alone.node.slots)
