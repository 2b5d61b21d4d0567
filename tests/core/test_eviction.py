"""Which keys go first when memory is short: scans pass, what is used stays, refusals are heard, books are bounded."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core import eviction
from quorumcache.core.eviction import GHOSTS_MIN, LOOKS_MAX, USES_MAX, Ghosts, Policy


def name(number: int) -> bytes:
    return b"key %d" % number


def fill(policy: Policy, names: Iterable[bytes], room: int, cost: int = 1) -> list[bytes]:
    """Add keys one by one, evicting as it takes to stay within `room` bytes; returns what went."""
    gone = []
    for key in names:
        while policy.keys_bytes + cost > room:
            victim = next(policy.victims())
            policy.evicted(victim)
            gone.append(victim)
        policy.added(key, cost)
    return gone


def test_a_scan_leaves_alone_what_is_used() -> None:
    policy = Policy()
    busy = [name(i) for i in range(50)]
    fill(policy, busy, 100)
    for key in busy * 2:
        policy.touched(key)
    gone = fill(policy, (b"scan %d" % i for i in range(10_000)), 100)
    assert not set(gone) & set(busy)
    assert len(gone) == 10_000 - 50


def test_one_use_is_not_enough_to_stay_and_two_are() -> None:
    """What is read once after it was written is common, and says little."""
    policy = Policy()
    fill(policy, [b"once", b"twice"], 10)
    for key in (b"once", b"twice", b"twice"):
        policy.touched(key)
    gone = fill(policy, (name(i) for i in range(10)), 10)
    assert b"once" in gone
    assert b"twice" not in gone


def test_a_key_that_comes_back_soon_after_it_went_stays() -> None:
    policy = Policy()
    gone = fill(policy, (name(i) for i in range(101)), 100)
    assert gone == [name(0)]
    fill(policy, [name(0)], 100)
    gone = fill(policy, (b"scan %d" % i for i in range(1000)), 100)
    assert name(0) not in gone
    assert policy.places[name(0)].in_main


def test_a_flood_of_reads_does_not_outlive_the_reads() -> None:
    """The adversary's readers: however often a key was read, three rounds of the main queue later it goes."""
    policy = Policy()
    fill(policy, [b"flooded"], 100)
    for _ in range(10_000):
        policy.touched(b"flooded")
    assert policy.places[b"flooded"].uses == USES_MAX
    for i in range(2000):
        key = name(i)
        fill(policy, [key], 100)
        policy.touched(key)
        policy.touched(key)
    assert b"flooded" not in policy.places


def test_what_is_left_gives_way_to_the_next_and_is_offered_again() -> None:
    """Protocol 7: what is too young to go is left, and must not hide what may go, in either queue."""
    policy = Policy()
    fill(policy, (name(i) for i in range(100)), 100)
    for i in range(50):
        policy.touched(name(i))
        policy.touched(name(i))
    fill(policy, (b"new %d" % i for i in range(60)), 100)
    offered = list(islice(policy.victims(), 3 * len(policy)))
    assert set(offered) == set(policy.places)


def test_victims_are_bounded_work_when_everything_is_used() -> None:
    """Else the first eviction of a large node would pass over every key three times."""
    policy = Policy()
    for i in range(10 * LOOKS_MAX):
        policy.added(name(i), 1)
        policy.places[name(i)].uses = USES_MAX
    policy.evicted(next(policy.victims()))
    moved = sum(place.in_main for place in policy.places.values())
    assert moved <= LOOKS_MAX
    assert sum(place.uses < USES_MAX for place in policy.places.values()) <= 2 * LOOKS_MAX


def test_keys_that_come_and_go_without_eviction_leave_nothing_behind() -> None:
    """A node that is never full, and whose entries expire: its queues must not grow with all that ever was."""
    policy = Policy()
    for i in range(5000):
        policy.added(name(i), 10)
        if i >= 20:
            policy.removed(name(i - 20))
    assert len(policy) == 20
    assert policy.keys_bytes == 200
    assert len(policy._small) + len(policy._main) < 20 + 20 + 2 * eviction._STALE_SLACK


def test_ghosts_take_memory_in_proportion_to_the_keys_held() -> None:
    policy = Policy()
    fill(policy, (name(i) for i in range(30_000)), 1000)
    assert 8 * 1000 <= policy.ghosts_bytes <= 8 * 4 * 1000
    for victim in islice(policy.victims(), 990):
        policy.evicted(victim)
    assert policy.ghosts_bytes <= 8 * GHOSTS_MIN


@given(st.lists(st.binary(max_size=4), max_size=40, unique=True))
def test_ghosts_are_of_what_was_added_and_are_taken_once(keys: list[bytes]) -> None:
    ghosts = Ghosts()
    for key in keys[::2]:
        ghosts.add(key)
    assert not any(ghosts.take(key) for key in keys[1::2])
    first = [key for key in keys if ghosts.take(key)]
    assert set(first) <= set(keys[::2])
    if keys:
        assert keys[(len(keys) - 1) // 2 * 2] in first, "the last one cannot have been pushed out"
    assert not any(ghosts.take(key) for key in keys)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "touch", "remove", "resize", "evict", "veto"]), st.integers(0, 11)), max_size=120
)


@given(STEPS)
def test_the_sums_are_those_of_a_dumb_twin_and_every_key_is_offered(steps: list[tuple[str, int]]) -> None:
    policy = Policy()
    costs: dict[bytes, int] = {}
    for what, number in steps:
        key = name(number)
        if what == "add" and key not in costs:
            policy.added(key, costs.setdefault(key, number + 1))
        elif what == "touch":
            policy.touched(key)
        elif what == "remove" and key in costs:
            policy.removed(key)
            del costs[key]
        elif what == "resize" and key in costs:
            policy.resized(key, 5)
            costs[key] += 5
        elif what == "evict" and costs:
            victim = next(policy.victims())
            policy.evicted(victim)
            del costs[victim]
        elif what == "veto":
            offered = list(islice(policy.victims(), number))
            assert set(offered) <= set(costs)
        assert policy.keys_bytes == sum(costs.values())
        assert len(policy) == len(costs)
        assert set(policy.places) == set(costs)
    for victim in policy.victims():
        policy.evicted(victim)
        del costs[victim]
    assert not costs
    assert policy.keys_bytes == 0


@given(STEPS)
def test_the_same_calls_give_the_same_order(steps: list[tuple[str, int]]) -> None:
    def order() -> list[bytes]:
        policy = Policy()
        gone = []
        for what, number in steps:
            key = name(number)
            if what == "add" and key not in policy.places:
                policy.added(key, number + 1)
            elif what == "touch":
                policy.touched(key)
            elif what == "evict" and len(policy):
                gone.append(next(policy.victims()))
                policy.evicted(gone[-1])
        return gone + list(islice(policy.victims(), 2 * len(policy)))

    assert order() == order()
