"""A seed catches a mutant only where the core as it is passes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sim.mutants import hunt
from sim.mutants.hunt import hunt_one


def test_seeds_that_fail_without_the_mutant_catch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from quorumcache.core.instances import Instances

    real = Instances.is_silent

    def run(config: Any, seed: int) -> Any:
        mutated = Instances.is_silent is not real
        failed = seed == 2 or (mutated and seed >= 4)
        return SimpleNamespace(violations=[SimpleNamespace(checker="any", text="")] if failed else [])

    monkeypatch.setattr(hunt, "run", run)
    assert hunt_one("votes-while-it-recovers", 10).survived == 4
    assert hunt_one("votes-while-it-recovers", 10, mutated=False).survived == 2
    assert hunt_one("votes-while-it-recovers", 3)[:3] == ("votes-while-it-recovers", 3, "")
