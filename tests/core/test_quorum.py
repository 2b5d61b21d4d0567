"""Quorum arithmetic and cluster time (protocol 1 and 4) against dumb twins."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core import quorum
from quorumcache.core.clock import ClusterClock

values = st.lists(st.integers(-50, 50), max_size=12)


@pytest.mark.parametrize("f", [0, 1, 2])
def test_quorums_intersect_in_a_correct_node(f: int) -> None:
    """protocol 1: two quorums share at least f+1 nodes; a quorum holds f+1 correct ones; f silent leave a quorum."""
    n, q = quorum.group_size(f), quorum.quorum_size(f)
    quorums = [set(c) for c in combinations(range(n), q)]
    assert min(len(a & b) for a in quorums for b in quorums) == f + 1
    assert q - f == f + 1
    assert n - f >= q


@given(values, st.integers(1, 13))
def test_nth(numbers: list[int], n: int) -> None:
    """Habit 4: the n-th highest is what at least n claim as much as, and more than n-1 do not exceed."""
    highest, lowest = quorum.nth_highest(numbers, n), quorum.nth_lowest(numbers, n)
    if len(numbers) < n:
        assert highest is None
        assert lowest is None
        return
    assert highest == max(v for v in numbers if sum(w >= v for w in numbers) >= n)
    assert lowest == min(v for v in numbers if sum(w <= v for w in numbers) >= n)


@given(st.integers(1, 4), st.data())
def test_median_within_the_correct_range(f: int, data: st.DataObject) -> None:
    """protocol 4, write 1: f liars among 2f+1 to 3f+1 clocks cannot move the median outside the others' range."""
    correct = data.draw(st.lists(st.integers(-100, 100), min_size=f + 1, max_size=2 * f + 1))
    liars = data.draw(st.lists(st.integers(-(10**9), 10**9), min_size=max(0, 2 * f + 1 - len(correct)), max_size=f))
    median = quorum.median_of(data.draw(st.permutations(correct + liars)))
    assert min(correct) <= median <= max(correct)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=12))
def test_median_is_the_lower_one(numbers: list[int]) -> None:
    """Habit 4: half of the values are at most the median, and it is the least such value."""
    median = quorum.median_of(numbers)
    assert median == min(v for v in numbers if 2 * sum(w <= v for w in numbers) >= len(numbers))


def test_median_of_nothing() -> None:
    """Habit 5: misuse is an error of ours."""
    with pytest.raises(ValueError):
        quorum.median_of([])


@given(st.integers(1, 1024).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_bitmaps(drawn: tuple[int, set[int]]) -> None:
    """protocol 2, checks of form: bitmaps of exactly ceil(count/8) bytes with spare bits zero."""
    count, bits = drawn
    bitmap = quorum.bitmap_of(bits, count)
    text = "".join("1" if i in bits else "0" for i in range(count))
    padded = text + "0" * (-count % 8)
    assert bitmap == bytes(int(padded[at : at + 8][::-1], 2) for at in range(0, len(padded), 8))
    assert quorum.is_bitmap(bitmap, count)
    assert (bitmap == quorum.full_bitmap(count)) == (len(bits) == count)
    assert not quorum.is_bitmap(bitmap + b"\0", count)
    assert not quorum.is_bitmap(bitmap[:-1], count)
    if count % 8:
        assert not quorum.is_bitmap(bitmap[:-1] + bytes((bitmap[-1] | 0x80,)), count)


# --- cluster time ---


@given(st.integers(1, 3), st.data())
def test_cluster_time_with_liars(f: int, data: st.DataObject) -> None:
    """protocol 4, write 1: cluster time lies within the correct nodes' clocks, whoever answers and whoever lies."""
    clock = ClusterClock(2 * f + 1, guess_us=0)
    now_us = 1_000_000_000
    correct = data.draw(st.lists(st.integers(-1_000_000, 1_000_000), min_size=2 * f + 1, max_size=2 * f + 1))
    lies = data.draw(st.lists(st.integers(-(10**12), 10**12), min_size=f, max_size=f))
    reports = data.draw(st.permutations(list(enumerate(correct + lies))))
    for node, offset in reports:
        clock.report(node, now_us + offset, now_us)
        if clock.is_known:
            assert min(correct) <= clock.offset_us <= max(correct)
    assert clock.is_known


def test_cluster_time_needs_q_different_nodes() -> None:
    """protocol 4: the median of the clocks that *q nodes* reported: one that reports often is one node."""
    clock = ClusterClock(3, guess_us=7)
    for i in range(10):
        clock.report(0, 10_000_000 * i, 0)
    assert not clock.is_known
    assert clock.time_us(100) == 107
    clock.report(1, 1000, 0)
    clock.report(2, 2000, 0)
    assert clock.is_known
    assert clock.offset_us == 2000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-(10**7), 10**7), st.integers(0, 10**6)), max_size=30))
def test_cluster_time_never_runs_backwards(reports: list[tuple[int, int, int]]) -> None:
    """protocol 4, write 1: highest time this client ever proposed + 1: stamps of one client never repeat."""
    clock = ClusterClock(3, guess_us=0)
    now_us, last_us = 10**9, 0
    for node, offset, step_us in reports:
        now_us += step_us
        clock.report(node, now_us + offset, now_us)
        assert clock.time_us(now_us) >= last_us
        proposed = clock.next_us(now_us)
        assert proposed > last_us
        last_us = proposed


def test_a_wrong_guess_is_left_behind() -> None:
    """protocol 4, write 1: a time proposed before any node told its clock does not bind the client for ever; the
    caller has to take a new nonce then, as times may recur (protocol 2, Stamp: drawn again after a fork)."""
    clock = ClusterClock(3, guess_us=10**10)
    assert clock.next_us(1000) == 10**10 + 1000
    for node in range(3):
        clock.report(node, 1000, 1000)
    assert clock.time_us(1000) == 10**10 + 1000
    assert clock.restart(1000, 3_000_000)
    assert clock.time_us(1000) == 1000
    assert not clock.restart(1000, 3_000_000)
