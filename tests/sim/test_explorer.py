"""The bounded exhaustive search of the real core, and that it sees a bug where there is one."""

import pytest

from quorumcache.core.slots import Slots
from sim.__main__ import main
from sim.copying import clone, fingerprint
from sim.explorer import TOLD_EACH, Bounds, Explorer
from sim.mutants import applied

SMALL = Bounds(writers=2, reads=1, deviations=1, restarts=0, evictions=0, releases=0, ticks=0, plans=1)


def test_the_core_holds_within_small_bounds_and_the_search_is_complete() -> None:
    result = Explorer(SMALL).run()
    assert result.violation is None
    assert result.exhausted == SMALL.deviations + 1
    assert result.states > 500


def test_a_search_that_reaches_its_bound_says_that_it_is_not_complete() -> None:
    result = Explorer(Bounds(states_max=200, plans=1)).run()
    assert result.states == 200
    assert result.exhausted <= result.bounds.deviations


def test_the_same_search_visits_the_same_states() -> None:
    first, second = Explorer(SMALL).run(), Explorer(SMALL).run()
    assert (first.states, first.transitions) == (second.states, second.transitions)


@pytest.mark.slow
def test_a_quorum_of_2f_is_found_to_be_too_small() -> None:
    bounds = Bounds(deviations=2, reads=1, restarts=0, evictions=0, releases=0, ticks=0, plans=1)
    with applied("quorum-2f"):
        result = Explorer(bounds).run()
    assert result.violation is not None
    assert "older" in result.violation.text


def test_a_clone_shares_nothing_that_changes_and_looks_the_same() -> None:
    explorer = Explorer(SMALL)
    node = explorer._first((True, True, "oldest")).nodes[0]
    copy = clone(node)
    assert fingerprint(copy) == fingerprint(node)
    assert isinstance(copy.slots, Slots)
    copy.slots.raise_floor(copy.slots.shards[0], 5)
    assert node.slots.shards[0].floor_us == 0
    assert fingerprint(copy) != fingerprint(node)


def test_bounds_out_of_range_are_refused_with_what_is_allowed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", "--writers", "9"]) == 2
    assert "--writers is 9; 1 to 2 are allowed" in capsys.readouterr().err


def test_a_search_ends_when_it_is_told_to() -> None:
    """As after `--seconds`: what was found until then is told, and that it is not complete."""
    result = Explorer(Bounds(deviations=2, plans=1), told=lambda states, level: True).run()
    assert result.states == TOLD_EACH
    assert result.exhausted <= 2
    assert result.violation is None
    assert main(["explore", "--seconds", "0"]) == 2
