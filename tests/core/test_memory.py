"""Memory per node and per namespace: sums that are exact, quotas that are kept, and who gives way to whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.certificate import Batch
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.memory import PROMISE_BYTES_MAX, batch_cost
from quorumcache.core.model import slot_of
from quorumcache.core.node import NodeLimits
from quorumcache.core.slots import Held, Slots
from tests import craft
from tests.cluster import START_US, configuration_of
from tests.making import Alone, Draft

QUOTA = 1 << 16
NAMESPACES = (
    NamespaceInfo("test"),
    NamespaceInfo("small", quota_bytes=QUOTA),
    NamespaceInfo("large", quota_bytes=4 * QUOTA),
)
CONFIGURATION = configuration_of(shards=1, namespaces=NAMESPACES)


def slots_of(bytes_max: int) -> Slots:
    return Slots(CONFIGURATION, floor_us=0, recovering=False, bytes_max=bytes_max, promises_max=100)


def held_of(crafted: craft.Crafted, batch: Batch | None = None, position: int = 0) -> Held:
    made = batch or Batch(craft.certificate(CONFIGURATION, [crafted]), b"", b"")
    return Held(crafted.digest, crafted.raw, crafted.salted, made, position, b"")


def put(slots: Slots, namespace: str, key: str, time_us: int, size: int = 1000) -> bool:
    """Store an entry alone in its batch, at the time of its stamp."""
    crafted = craft.craft(slot_of(namespace.encode(), key.encode()), time_us, bytes(size))
    return slots.store(slot_of(namespace.encode(), key.encode()), held_of(crafted), time_us)


def fill(slots: Slots, namespace: str, count: int, size: int = 1000, start_us: int = START_US) -> int:
    """Store so many keys, four seconds apart; returns how many were stored."""
    return sum(put(slots, namespace, f"k{i}", start_us + i * 4_000_000, size) for i in range(count))


def used(slots: Slots) -> dict[str, int]:
    return {pool.namespace or "others": pool.bytes_used for pool in slots.memory.pools}


def count_of(slots: Slots, namespace: str) -> int:
    return sum(slot[1 : 1 + slot[0]] == namespace.encode() for slot in slots.current)


def test_a_namespace_at_its_quota_evicts_from_itself() -> None:
    slots = slots_of(16 * QUOTA)
    fill(slots, "test", 20)
    fill(slots, "large", 20)
    before = used(slots)
    assert fill(slots, "small", 200) == 200
    after = used(slots)
    assert QUOTA - 3000 < after["small"] <= QUOTA
    assert {name: after[name] for name in ("others", "large")} == {name: before[name] for name in ("others", "large")}
    assert count_of(slots, "test") == count_of(slots, "large") == 20


def test_a_full_node_takes_from_whoever_is_furthest_above_its_share() -> None:
    """A flood of one namespace must not drive out those that keep within theirs."""
    slots = slots_of(8 * QUOTA)
    fill(slots, "small", 20)
    fill(slots, "large", 80)
    # Quotas leave 3 of 8 parts to the others, who take more, until the node is full.
    assert fill(slots, "test", 2000) == 2000
    assert count_of(slots, "small") == 20
    assert count_of(slots, "large") == 80
    assert slots.memory.bytes_used > 8 * QUOTA - 3000
    # Those with a quota get theirs back from them.
    late_us = START_US + 8000 * 1_000_000
    assert fill(slots, "large", 500, start_us=late_us) == 500
    assert used(slots)["large"] > 4 * QUOTA - 3000
    assert count_of(slots, "small") == 20


def test_quotas_above_the_memory_leave_a_part_for_the_others() -> None:
    slots = slots_of(QUOTA)
    fill(slots, "large", 100)
    assert used(slots)["large"] <= QUOTA
    assert fill(slots, "test", 100, start_us=START_US + 1000 * 1_000_000) == 100
    assert used(slots)["others"] >= QUOTA // 8 - 3000


def test_a_namespace_full_of_what_is_young_is_full_alone() -> None:
    """protocol 7: only what is older than now - 2 max_skew may go, of a namespace at its quota too."""
    slots = slots_of(16 * QUOTA)
    stored = sum(put(slots, "small", f"k{i}", START_US + i) for i in range(200))
    assert 0 < stored < 100
    assert put(slots, "test", "k", START_US + 300)
    assert put(slots, "small", "late", START_US + 2_100_000)


def test_the_refusal_names_the_quota() -> None:
    alone = Alone(configuration_of(namespaces=(NamespaceInfo("test", quota_bytes=QUOTA),)))
    for i in range(40):
        alone.commit(alone.draft().put(f"k{i}", bytes(1000), at_us=START_US + i))
    refusal = alone.refusal(alone.draft().put("new", bytes(3000), at_us=START_US + 300))
    assert refusal.code == m.FULL
    assert refusal.detail.startswith("namespace test is at its quota")


def test_who_shares_a_batch_pays_for_it() -> None:
    """Else a writer has other namespaces pay for the leaves that one small entry of its own keeps here."""
    slots = slots_of(64 * QUOTA)
    names = ["small", "large", "test"]
    crafted = [craft.craft(slot_of(names[i % 3].encode(), b"k%d" % i), START_US) for i in range(60)]
    batch = Batch(craft.certificate(CONFIGURATION, crafted), b"".join(c.digest for c in crafted), b"")
    for i, each in enumerate(crafted):
        slots.store(slot_of(names[i % 3].encode(), b"k%d" % i), held_of(each, batch, i), START_US)
    shared = batch_cost(batch)
    own = sum(slots.cost_of(held) for _, held in slots)
    assert slots.memory.bytes_used == own + shared
    assert sum(used(slots).values()) == own + 3 * shared
    for i in range(3, 60):
        slots.drop(slot_of(names[i % 3].encode(), b"k%d" % i))
    assert all(bytes_ > shared for bytes_ in used(slots).values())
    for i in range(3):
        slots.drop(slot_of(names[i].encode(), b"k%d" % i))
        assert used(slots)[names[i] if i < 2 else "others"] == 0
    assert slots.memory.bytes_used == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "drop", "read"]),
        st.sampled_from(["test", "small", "large"]),
        st.integers(0, 5),
        st.integers(0, 20_000),
    ),
    max_size=60,
)


@given(STEPS)
def test_bounds_hold_and_sums_come_to_nothing(steps: list[tuple[str, str, int, int]]) -> None:
    """Habit 6: neither the node nor a namespace passes its bound, whatever is written; and nothing is counted twice."""
    slots = slots_of(3 * QUOTA)
    for i, (what, namespace, number, size) in enumerate(steps):
        key = slot_of(namespace.encode(), b"k%d" % number)
        if what == "put":
            put(slots, namespace, f"k{number}", START_US + i * 1_000_000, size)
        elif what == "drop" and key in slots.current:
            slots.drop(key)
        elif what == "read":
            slots.memory.touched([key])
        assert slots.memory.bytes_used <= slots.memory.bytes_max
        assert all(not pool.bytes_max or pool.bytes_used <= pool.bytes_max for pool in slots.memory.pools)
        assert slots.memory.bytes_used == sum(used(slots).values())
        assert set(slots.memory.places) == set(slots.current)
    for name in list(slots.current):
        slots.drop(name)
    assert set(used(slots).values()) == {0}
    assert slots.memory.bytes_used == 0


# --- promises ---


def staggered(alone: Alone, count: int, gap_us: int) -> Draft:
    """A batch whose headers are ahead of the node's clock by one `gap_us` after another."""
    draft = alone.draft()
    ahead_us = alone.now_us + alone.configuration.max_skew_us
    for i in range(count):
        draft.put(f"k{i}", at_us=ahead_us + i * gap_us)
    return draft


def test_a_batch_sent_again_and_again_keeps_its_leaves_once() -> None:
    """Else a writer with headers that become grantable one by one has each promise keep 32 KiB of leaves."""
    alone = Alone(configuration_of(shards=1))
    draft = staggered(alone, 100, 1000)
    for _ in range(100):
        alone.prepare(draft)
        alone.now_us += 1000
    promises = list(alone.node.slots.promises)
    assert len(promises) == 100
    assert len({id(promise.leaves) for promise in promises}) == 1


def test_promises_are_bounded_in_bytes_and_drive_out_no_entries() -> None:
    """Habit 6: a flood of promises of large batches is BUSY at its own bound, long before it is at the count's."""
    bound = 4 * PROMISE_BYTES_MAX
    alone = Alone(configuration_of(shards=1), limits=NodeLimits(promises_bytes_max=bound))
    assert alone.commit(alone.draft().put("kept", at_us=START_US)) == ["OK"]
    codes = set()
    for i in range(8):
        draft = alone.draft(nonce=i)
        for j in range(50):
            draft.put(f"{i} {j}", at_us=alone.now_us)
        codes |= {refusal.code for refusal in alone.prepare(draft).refusals}
        assert alone.node.slots.memory.promises_bytes <= bound
    assert codes == {m.BUSY}
    assert alone.value("kept") is not None
    alone.now_us += alone.node.slots.promise_age_us + 1
    assert alone.grants(alone.draft().put("late", at_us=alone.now_us)), "old ones make room"
    alone.now_us += alone.node.slots.promise_age_us + 1
    while alone.node.slots.promises:
        alone.node.tick(alone.now_us)
    assert alone.node.slots.memory.promises_bytes == 0


def test_limits_within_so_much_memory_come_to_that() -> None:
    for mib in (1, 16, 256, 1 << 20):
        limits = NodeLimits.within(mib << 20)
        assert limits.bytes_max + limits.promises_bytes_max == mib << 20
        assert limits.promises_bytes_max > PROMISE_BYTES_MAX


# --- what has to go at a time ---


def test_what_is_left_of_overwritten_lives_is_bounded() -> None:
    """Entries that expire and are overwritten leave a note each, until there are half as many as lives."""
    slots = Slots(configuration_of(shards=1), floor_us=0, recovering=False, bytes_max=1 << 20, promises_max=100)
    for i in range(5000):
        key = f"k{i % 10}"
        crafted = craft.craft(key, START_US + i, expires_at_us=START_US + 10**9)
        slots.store(slot_of(b"test", key.encode()), held_of(crafted), START_US + i)
    assert len(slots._reap) < 10 * 3 // 2 + 2 * 1024


def test_a_tick_reaps_a_bounded_part_of_what_is_due() -> None:
    """However many are due at once, and however many notes of overwritten ones are in the way."""
    slots = Slots(configuration_of(shards=1), floor_us=0, recovering=False, bytes_max=1 << 24, promises_max=100)
    for i in range(1000):
        crafted = craft.craft(f"k{i % 500}", START_US + i, expires_at_us=START_US + 10)
        slots.store(slot_of(b"test", b"k%d" % (i % 500)), held_of(crafted), START_US + i)
    later_us = START_US + 10**9
    assert slots.reap(later_us, 16) <= 16
    assert len(slots._reap) >= 1000 - 4 * 16
    while slots.reap(later_us, 16) or slots._reap:
        pass
    assert not slots.current
    assert slots.memory.bytes_used == 0
