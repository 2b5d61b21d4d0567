"""Protocol 4, write 1: cluster time is the median of the clocks that q nodes reported, whatever f of them say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.clock import ClusterClock

S = 1_000_000


@given(st.data(), st.integers(0, 3))
def test_f_liars_cannot_move_cluster_time_out_of_the_range_of_the_correct(data: st.DataObject, f: int) -> None:
    heard = data.draw(st.integers(2 * f + 1, 3 * f + 1))
    honest = data.draw(st.lists(st.integers(-S, S), min_size=heard - f, max_size=heard - f))
    lies = data.draw(st.lists(st.sampled_from([0, 1 << 62]) | st.integers(0, 1 << 62), min_size=f, max_size=f))
    now_us = 10**9
    clocks = data.draw(st.permutations([now_us + 10**12 + h for h in honest] + lies))
    clock = ClusterClock(2 * f + 1, 0)
    for node, clock_us in enumerate(clocks):
        clock.report(node, clock_us, now_us)
    assert clock.is_known
    assert min(honest) <= clock.offset_us - 10**12 <= max(honest)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 62), st.integers(0, 1000)), max_size=50))
def test_cluster_time_never_runs_backwards_and_stamps_never_repeat(reports: list[tuple[int, int, int]]) -> None:
    clock = ClusterClock(3, 5)
    now_us, before_us = 10**9, 0
    for node, clock_us, passed_us in reports:
        now_us += passed_us
        clock.report(node, clock_us, now_us)
        assert clock.time_us(now_us) >= before_us
        before_us = clock.next_us(now_us)
        assert clock.next_us(now_us) > before_us
        before_us += 1


def test_the_guess_counts_until_q_nodes_reported() -> None:
    clock = ClusterClock(3, 7)
    clock.report(0, 100, 0)
    clock.report(1, 100, 0)
    clock.report(1, 100_000, 0)
    assert not clock.is_known
    assert clock.time_us(0) == 7
    clock.report(2, 200, 0)
    assert clock.time_us(0) == 200


@pytest.mark.parametrize(("guess_us", "restarts"), [(S, False), (3 * S + 100, False), (3 * S + 101, True)])
def test_a_wrong_guess_far_ahead_is_given_up(guess_us: int, restarts: bool) -> None:
    clock = ClusterClock(1, guess_us)
    clock.time_us(0)
    clock.report(0, 100, 0)
    assert clock.restart(0, 3 * S) == restarts
    assert clock.time_us(0) == (100 if restarts else guess_us)
