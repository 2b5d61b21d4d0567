"""What a node holds: eviction that finds what may go, memory that is counted, pages (ages are in test_aging.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.certificate import Batch
from quorumcache.core.config import Configuration
from quorumcache.core.paging import page_of
from quorumcache.core.slots import Held, Slots
from tests import craft
from tests.cluster import START_US, configuration_of, slot

CONFIGURATION = configuration_of(shards=1)
LATE_US = START_US + 2_000_001


def slots_of(bytes_max: int = 1 << 20, *, recovering: bool = False, shards: int = 1) -> Slots:
    configuration: Configuration = CONFIGURATION if shards == 1 else configuration_of(shards=shards)
    return Slots(configuration, floor_us=0, recovering=recovering, bytes_max=bytes_max, promises_max=100)


def held_of(crafted: craft.Crafted, batch: Batch | None = None, position: int = 0) -> Held:
    certificate = craft.certificate(CONFIGURATION, [crafted]) if batch is None else None
    made = batch or Batch(certificate, b"", b"")  # type: ignore[arg-type]
    return Held(crafted.digest, crafted.raw, crafted.salted, made, position, b"")


def put(slots: Slots, key: str, time_us: int = START_US, value: bytes | None = b"v" * 100, **more: int) -> bool:
    crafted = craft.craft(key, time_us, value, **more)  # type: ignore[arg-type]
    return slots.store(slot(key), held_of(crafted), max(time_us, START_US))


def keys(slots: Slots) -> set[str]:
    return {name.decode()[7:-2] for name in slots.current}


def test_eviction_finds_the_old_behind_any_number_of_busy_slots() -> None:
    """Slots that are overwritten keep their place at the front: they must not hide what can go."""
    slots = slots_of()
    for i in range(40):
        put(slots, f"busy{i}")
    put(slots, "old")
    for i in range(40):
        put(slots, f"busy{i}", LATE_US)
    slots.memory.bytes_max = slots.memory.bytes_used
    new = held_of(craft.craft("new", LATE_US, b"v" * 100))
    assert any(slots.store(slot("new"), new, LATE_US + 20_000 * i) for i in range(10))
    assert "old" not in keys(slots)
    assert len(keys(slots)) == 41


def test_eviction_passes_over_recovering_shards() -> None:
    """protocol 7: a recovering shard evicts nothing; the others of the node do."""
    slots = slots_of(shards=8)
    for i in range(32):
        put(slots, f"k{i}")
    for shard in slots.shards[:4]:
        shard.recovering = True
    kept = [slot for shard in slots.shards[:4] for slot in shard.slots]
    slots.memory.bytes_max = slots.memory.bytes_used
    for i in range(8):
        assert put(slots, f"n{i}", LATE_US)
    assert kept
    assert all(slot in slots.current for slot in kept)
    assert not any(shard.floor_us for shard in slots.shards[:4])


def test_what_is_read_stays_and_what_is_not_goes() -> None:
    slots = slots_of()
    for i in range(40):
        put(slots, f"k{i}")
    slots.memory.bytes_max = slots.memory.bytes_used
    read = [slot(f"k{i}") for i in range(0, 40, 4)]
    for _ in range(2):
        slots.memory.touched(read)
    for i in range(30):
        assert put(slots, f"n{i}", LATE_US + i)
    assert all(name in slots.current for name in read)


def test_what_is_larger_than_the_node_is_refused_and_evicts_nothing() -> None:
    slots = slots_of(3000)
    put(slots, "a")
    assert not put(slots, "b", LATE_US, bytes(4000))
    assert keys(slots) == {"a"}


def test_a_batch_is_paid_for_as_long_as_one_of_its_entries_is_held() -> None:
    """Else one small entry pins 32 KiB of leaves for nothing."""
    slots = slots_of()
    batch = [craft.craft(f"k{i}", START_US) for i in range(1000)]
    shared = Batch(craft.certificate(CONFIGURATION, batch), b"".join(c.digest for c in batch), b"")
    for i in range(3):
        slots.store(slot(f"k{i}"), held_of(batch[i], shared, i), START_US)
    whole = slots.memory.bytes_used
    assert whole > 32_000
    for i in range(2):
        slots.drop(slot(f"k{i}"))
    assert slots.memory.bytes_used > 32_000
    put(slots, "k2", LATE_US, b"")
    assert slots.memory.bytes_used < 2_500
    slots.drop(slot("k2"))
    assert slots.memory.bytes_used == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 400), st.booleans()), max_size=60))
def test_bytes_used_is_what_is_held_and_within_its_bound(steps: list[tuple[str, int, bool]]) -> None:
    slots = slots_of(3500)
    for i, (key, size, drop) in enumerate(steps):
        now_us = START_US + i * 1_000_000
        if drop and slot(key) in slots.current:
            slots.drop(slot(key))
        else:
            put(slots, key, now_us, bytes(size))
        assert slots.memory.bytes_used <= 3500
        assert set(slots.shards[0].slots) == set(slots.current)
    for name in list(slots.current):
        slots.drop(name)
    assert slots.memory.bytes_used == 0


@given(st.sets(st.text("abc", min_size=1, max_size=4), max_size=30), st.integers(1, 7), st.integers(1, 5000))
def test_pages_name_every_slot_once_in_order(names: set[str], count_max: int, bytes_max: int) -> None:
    slots = slots_of()
    for name in sorted(names):
        put(slots, name)
    seen: list[bytes] = []
    after, more = b"", True
    while more:
        page, more, _ = page_of(slots, slots.shards[0], after, count_max, bytes_max)
        assert page or not more
        assert len(page) <= count_max
        for held in page:
            after = held.header[95:-2]
            seen.append(after)
    assert seen == sorted(slot(name) for name in names)
