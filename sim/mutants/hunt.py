"""How many seeds does each mutant survive? Where a mutant has an aim, every other seed is aimed at it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

from sim import scenarios
from sim.mutants import MUTANTS, applied
from sim.plan import plan_of
from sim.results import run
from sim.settings import FEATURES, SimConfig


class Hunted(NamedTuple):
    """A mutant, how many seeds it survived, and which checker caught it ("" if none). `aimed`: by an aimed seed."""

    name: str
    survived: int
    checker: str
    text: str
    aimed: bool
    wall_s: float


def aimed(config: SimConfig, aim: dict[str, Any], seed: int) -> SimConfig:
    """The settings for an aimed seed: what it would draw, and on top of that what the mutant needs to show itself."""
    changes = dict(aim)
    scenario = changes.pop("scenario", "")
    if scenario:
        config = scenarios.load(scenario, config)
    wanted = changes.pop("features_add", ())
    unwanted = changes.pop("features_drop", ())
    if wanted or unwanted:
        drawn = plan_of(config.but(**changes), seed).features
        # Some of what was drawn only: what hides one bug shows another.
        draw = random.Random(f"{seed} aim")
        changes["features"] = tuple(
            name
            for name in FEATURES
            if name in wanted or (name in drawn and name not in unwanted and draw.random() < 0.5)
        )
    return replace(config, **changes)


def hunt_one(name: str, count: int, *, mutated: bool = True) -> Hunted:
    """Run seeds 0, 1, ... until one catches the mutant, which passes without it; for a mutant with an aim, odd seeds
    are aimed. With `mutated=False` the bug is left out: what the same seeds find then is no mutant's doing."""
    began = time.perf_counter()
    mutant = MUTANTS[name]
    base = SimConfig()
    for seed in range(count):
        is_aimed = bool(mutant.aim) and seed % 2 == 1
        config = aimed(base, dict(mutant.aim), seed) if is_aimed else base
        with applied(name if mutated else None):
            found = run(config, seed)
        if not found.violations or (mutated and run(config, seed).violations):
            continue
        first = found.violations[0]
        return Hunted(name, seed, first.checker, first.text, is_aimed, time.perf_counter() - began)
    return Hunted(name, count, "", "", False, time.perf_counter() - began)


def hunt(names: Sequence[str], count: int, *, jobs: int = 1) -> Iterator[Hunted]:
    """Hunt each, and give the results in order."""
    if jobs <= 1:
        for name in names:
            yield hunt_one(name, count)
        return
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        yield from pool.map(hunt_one, names, [count] * len(names))
