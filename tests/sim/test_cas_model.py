"""The model of compare-and-set holds what protocol 17 claims, and notices each rule that is left out."""

from dataclasses import replace

import pytest

from sim.models.cas import EXPLORED, MUTANTS, WALKED, explore, walk


@pytest.mark.parametrize("name", ["one that follows, two ballots, no time", "one restart"])
def test_all_states_keep_the_invariants(name: str) -> None:
    found = explore(EXPLORED[name])
    assert found.complete
    assert found.fault == ""


@pytest.mark.parametrize("name", WALKED)
def test_random_walks_keep_the_invariants(name: str) -> None:
    assert walk(WALKED[name], 200).fault == ""


@pytest.mark.parametrize("name", MUTANTS)
def test_each_rule_is_needed(name: str) -> None:
    found = explore(replace(MUTANTS[name], without=frozenset([name])), 200_000)
    assert found.fault
    assert found.trace
