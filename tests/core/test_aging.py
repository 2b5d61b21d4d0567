"""What a node may drop, when, and what that does to floors (protocol 3 and 7): promises, eviction, reaping, FULL."""

import pytest

from quorumcache.core import messages as m
from quorumcache.core.memory import batch_cost
from quorumcache.core.model import DELETE
from quorumcache.core.node import NodeLimits
from quorumcache.core.slots import Slots
from tests.cluster import START_US, configuration_of, slot
from tests.making import SECOND_US, Alone

#: 2 max_skew and 2 max_skew + op_time of the tests' configuration.
AGE_US = 2 * SECOND_US
PROMISE_AGE_US = 7 * SECOND_US


def later(alone: Alone, by_us: int) -> None:
    alone.now_us += by_us
    alone.node.tick(alone.now_us)


# --- promises ---


def test_a_promise_is_kept_for_2_max_skew_and_op_time() -> None:
    """protocol 3: a promise older than 2 max_skew + op_time may be dropped, and not before."""
    alone = Alone()
    assert alone.grants(alone.draft().put())
    later(alone, PROMISE_AGE_US)
    assert (alone.promises(), alone.floor()) == (1, 0)
    later(alone, 1)
    assert (alone.promises(), alone.floor()) == (0, START_US)


def test_dropping_a_promise_raises_the_floor_to_its_time() -> None:
    """protocol 3 (R): dropping it raises the floor to its stamp's time, so its entry is not taken any more."""
    alone = Alone()
    draft = alone.draft().put(at_us=START_US + SECOND_US)
    assert alone.grants(draft)
    later(alone, PROMISE_AGE_US + 1)
    assert alone.floor() == START_US + SECOND_US
    assert alone.commit(draft) == ["EVICTED"]
    assert alone.refusal(draft).code == m.BELOW_FLOOR


def test_promises_age_out_instead_of_blocking() -> None:
    """protocol 11: writers that crash between prepare and commit do not block the slot for ever."""
    alone = Alone()
    for i in range(4):
        assert alone.grants(alone.draft().put(at_us=START_US + i))
    wanted = alone.draft().put(at_us=START_US + 4)
    assert alone.refusal(wanted).code == m.BUSY
    alone.now_us += PROMISE_AGE_US + 1
    assert alone.grants(wanted), "without any tick in between"
    assert alone.floor() == START_US


def test_old_promises_make_room_in_the_table() -> None:
    """protocol 3, prepare rule 7: full of *young* ones; old ones go."""
    alone = Alone(limits=NodeLimits(promises_max=2))
    assert alone.prepare(alone.draft().put("a").put("b")).bitmap == b"\x03"
    alone.now_us += PROMISE_AGE_US
    assert alone.refusal(alone.draft().put("c", at_us=alone.now_us)).code == m.BUSY
    alone.now_us += 1
    assert alone.grants(alone.draft().put("c", at_us=alone.now_us))


def test_what_makes_room_may_shut_the_door() -> None:
    """protocol 3, prepare rule 5 after rule 7: the floor that a dropped promise raised counts for the header too."""
    alone = Alone(limits=NodeLimits(promises_max=1))
    assert alone.grants(alone.draft().put(at_us=START_US + SECOND_US))
    alone.now_us += PROMISE_AGE_US + 1
    refusal = alone.refusal(alone.draft("w2").put(at_us=START_US + 5))
    assert (refusal.code, refusal.time_us) == (m.BELOW_FLOOR, START_US + SECOND_US)


def test_a_tick_does_a_bounded_amount_of_work() -> None:
    """Habit 6: promises are dropped at most 256 a tick."""
    alone = Alone()
    draft = alone.draft()
    for i in range(300):
        draft.put(f"k{i}")
    alone.prepare(draft)
    later(alone, PROMISE_AGE_US + 1)
    assert len(alone.node.slots.promises) == 300 - 256
    later(alone, 0)
    assert len(alone.node.slots.promises) == 0


# --- eviction ---


def cost(slots: Slots) -> int:
    """What is held costs: every entry, and once for each batch that entries share."""
    held = list(slots.current.values())
    shared = {id(h.batch): batch_cost(h.batch) for h in held}
    return sum(map(slots.cost_of, held)) + sum(shared.values())


def filled(count: int, *, shards: int = 1, fresh: bool = False) -> Alone:
    """A node with room for `count` entries, and k0, k1, ... in it, one microsecond apart."""
    alone = Alone(configuration_of(shards=shards), fresh=fresh)
    base_us = START_US + (3 * SECOND_US if fresh else 0)
    for i in range(count):
        assert alone.commit(alone.draft().put(f"k{i}", at_us=base_us + i)) == ["OK"]
    alone.node.slots.memory.bytes_max = alone.node.slots.memory.bytes_used
    return alone


def test_evict_only_what_is_old() -> None:
    """protocol 7 and 11 (R): only what is older than now - 2 max_skew may go; a node full of younger ones is FULL."""
    alone = filled(4)
    alone.now_us = START_US + AGE_US
    new = alone.draft().put("n0", at_us=alone.now_us)
    assert alone.refusal(new).code == m.FULL
    assert alone.commit(new) == ["FULL"]
    assert alone.floor() == 0
    alone.now_us += SECOND_US
    assert alone.grants(new)
    assert alone.node.slots.evicted_count > 0


def test_evict_to_the_microsecond() -> None:
    """protocol 7: older than now - 2 max_skew, exactly."""
    for age_us, code in ((AGE_US, "FULL"), (AGE_US + 1, "OK")):
        alone = filled(1)
        alone.now_us = START_US + age_us
        assert alone.commit(alone.draft().put("n0", at_us=alone.now_us)) == [code]


def test_eviction_raises_the_floor_to_its_time() -> None:
    """protocol 7: evict an entry for space: floor to its stamp's time; the oldest goes first."""
    alone = filled(4)
    alone.now_us = START_US + AGE_US + 10
    assert alone.commit(alone.draft().put("n0", at_us=alone.now_us)) == ["OK"]
    assert alone.value("k0") is None
    assert [alone.value(f"k{i}") for i in (1, 2, 3)] == [b"v"] * 3
    assert alone.floor() == START_US
    assert alone.commit(alone.draft().put("k0")) == ["EVICTED"], "and what was evicted does not come back"


def test_a_commit_never_evicts_its_own_slot() -> None:
    """protocol 7: making room for a longer value of a slot takes others, and the floor stays below the new stamp."""
    alone = filled(4)
    alone.now_us = START_US + 9 * SECOND_US
    assert alone.commit(alone.draft().put("k0", bytes(300), at_us=alone.now_us)) == ["OK"]
    assert alone.value("k0") == bytes(300)
    assert alone.floor() < alone.now_us


@pytest.mark.parametrize("shards", [1, 8])
def test_memory_stays_within_its_bound(shards: int) -> None:
    """Habit 6: bytes_used never passes bytes_max, whatever is written, and counts exactly what is held."""
    alone = filled(8, shards=shards)
    slots = alone.node.slots
    for i in range(60):
        alone.now_us += 3 * SECOND_US
        alone.commit(alone.draft().put(f"n{i % 13}", bytes(i * 7 % 90), at_us=alone.now_us))
        assert slots.memory.bytes_used <= slots.memory.bytes_max
        assert slots.memory.bytes_used == cost(slots)
        assert sorted(slots.current) == sorted(s for shard in slots.shards for s in shard.slots)
    assert slots.evicted_count > 20


def test_what_never_fits_is_refused_without_evicting() -> None:
    """Habit 6: an entry larger than the node is FULL, and costs nobody their entry."""
    alone = filled(2)
    alone.now_us += 9 * SECOND_US
    assert alone.commit(alone.draft().put("n", bytes(5000), at_us=alone.now_us)) == ["FULL"]
    assert len(alone.node.slots.current) == 2


def test_a_recovering_shard_evicts_and_reaps_nothing() -> None:
    """protocol 7, recovery: until the shard is active it evicts and reaps nothing."""
    alone = filled(2, fresh=True)
    alone.now_us = START_US + 60 * SECOND_US
    assert alone.refusal(alone.draft().put("n", at_us=alone.now_us)).code == m.FULL
    alone.node.slots.memory.bytes_max *= 2
    assert alone.commit(alone.draft().put("k0", b"", kind=DELETE, at_us=alone.now_us)) == ["OK"]
    later(alone, 10 * SECOND_US)
    assert alone.full("k0").entry is not None
    alone.node.slots.shards[0].recovering = False
    later(alone, 10 * SECOND_US)
    assert alone.full("k0").entry is None, "once active, it is reaped"


# --- reaping ---


def test_reap_a_tombstone() -> None:
    """protocol 7: reap a tombstone once it is older than now - 2 max_skew; floor to its stamp's time."""
    alone = Alone()
    assert alone.commit(alone.draft().put("k", b"", kind=DELETE)) == ["OK"]
    later(alone, AGE_US)
    assert alone.full().entry is not None
    later(alone, 1)
    assert (alone.full().entry, alone.floor()) == (None, START_US)
    assert alone.node.slots.reaped_count == 1


def test_reap_an_expired_entry() -> None:
    """protocol 7: reap an expired entry, 2 max_skew after it expired: no correct clock thinks it alive then."""
    alone = Alone()
    expires_at_us = START_US + 5 * SECOND_US
    assert alone.commit(alone.draft().put(expires_at_us=expires_at_us)) == ["OK"]
    later(alone, 5 * SECOND_US + AGE_US)
    assert alone.value() == b"v"
    later(alone, 1)
    assert (alone.value(), alone.floor()) == (None, START_US)


def test_reap_leaves_what_replaced_it() -> None:
    """protocol 7: what was overwritten takes nothing with it when its time comes."""
    alone = Alone()
    assert alone.commit(alone.draft().put(expires_at_us=START_US + SECOND_US)) == ["OK"]
    assert alone.commit(alone.draft().put(value=b"stays", at_us=START_US + 1)) == ["OK"]
    later(alone, 60 * SECOND_US)
    assert (alone.value(), alone.floor()) == (b"stays", 0)


def test_overwritten_tombstones_pile_up_nowhere() -> None:
    """Habit 6: the list of what is to be reaped is bounded by what is held."""
    alone = Alone()
    for i in range(3000):
        header = alone.draft().put("k", b"", kind=DELETE, at_us=START_US + i)
        if i % 300 == 0:
            assert alone.commit(header) == ["OK"]
        alone.node.slots.schedule_reap(slot("k"), header.headers[0][3:51], START_US + i - alone.node.slots.age_us)
    assert len(alone.node.slots._reap) < 1100


# --- starts ---


def test_start_without_state() -> None:
    """protocol 7: start without stored state: floor = now + 2 max_skew, for all shards, which are recovering."""
    alone = Alone(fresh=True)
    for shard in alone.node.slots.shards:
        assert (shard.floor_us, shard.recovering) == (START_US + 2 * SECOND_US, True)
    assert alone.refusal(alone.draft().put(at_us=START_US + SECOND_US)).code == m.BELOW_FLOOR
    assert alone.refusal(alone.draft().put(at_us=START_US + 3 * SECOND_US)).code == m.AHEAD


def test_a_floor_never_goes_down() -> None:
    """protocol 7: raised, never lowered."""
    alone = Alone()
    shard = alone.node.slots.shards[0]
    alone.node.slots.raise_floor(shard, START_US)
    alone.node.slots.raise_floor(shard, START_US - 1)
    assert shard.floor_us == START_US
    assert alone.node.slots.floor_max_us == START_US
