"""The mutants that seeds have not caught (docs/mutants.md): a test that names their rule catches each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sim.mutants import applied
from tests.core import test_aging as aging

HARD: dict[str, Callable[[], None]] = {
    "evict-young": aging.test_evict_only_what_is_old,
    "evict-while-recovering": aging.test_a_recovering_shard_evicts_and_reaps_nothing,
}


@pytest.mark.parametrize("mutant", HARD)
def test_a_test_that_names_the_rule_catches_it(mutant: str) -> None:
    HARD[mutant]()
    with applied(mutant), pytest.raises(AssertionError):
        HARD[mutant]()
