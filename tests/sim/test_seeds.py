"""The simulator as a whole: seeds hold, mutants fall, one seed gives one digest, bad input gets an error."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import sim
from sim import scenarios
from sim.__main__ import main
from sim.campaign import results_of
from sim.mutants import MUTANTS, applied
from sim.mutants.hunt import aimed, hunt_one
from sim.plan import plan_of
from sim.settings import BadSetting, SimConfig
from sim.shrink import LINES_MAX, shrink, transcript

ROOT = Path(__file__).parents[2]


def test_fifty_seeds_hold() -> None:
    failed = [r for r in results_of(SimConfig(), range(50)) if r.checker]
    assert not failed


def test_seeds_that_once_failed_hold() -> None:
    kept = tomllib.loads((ROOT / "tests" / "seeds.toml").read_text())["seed"]
    for entry in kept:
        config = scenarios.load(entry["scenario"]) if "scenario" in entry else SimConfig()
        if "also" in entry:
            config = config.but(also=tuple(entry["also"]))
        if "aim" in entry:
            config = aimed(config, dict(MUTANTS[entry["aim"]].aim), entry["seed"])
        assert not sim.run(config, entry["seed"]).violations, entry["found"]


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.fast])
def test_fast_mutants_fall(name: str) -> None:
    assert hunt_one(name, 60).checker


def test_mutants_leave_no_trace() -> None:
    before = sim.run(SimConfig(operations=60), 3).digest
    for name in MUTANTS:
        with applied(name):
            pass
    assert sim.run(SimConfig(operations=60), 3).digest == before


@pytest.mark.parametrize("settings", [{"crypto": "real"}, {"wire": True}])
def test_crypto_and_codec_change_nothing(settings: dict[str, object]) -> None:
    for seed in (1, 7):
        assert sim.run(SimConfig().but(**settings), seed).digest == sim.run(SimConfig(), seed).digest


def test_one_seed_gives_one_digest_whatever_the_hash_seed_and_the_jobs() -> None:
    # Seed 5017 reads sets, whose order as Python prints them depends on the hash seed.
    outputs = set()
    for hash_seed, jobs in (("1", "1"), ("2", "2")):
        done = subprocess.run(
            [sys.executable, "-m", "sim", "seeds", "--start", "5010", "--count", "12", "--jobs", jobs, "--digests"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        outputs.add(tuple(done.stdout.splitlines()[:12]))
    assert len(outputs) == 1


def test_a_failing_seed_is_made_smaller_and_told_on_a_page() -> None:
    config = SimConfig()
    with applied("commit-older"):
        found = sim.run(config, 0)
        assert found.violations
        small = shrink(config, 0, found.raw, runs_max=60)
    assert small.violations[0].checker == found.violations[0].checker
    assert len(small.plan.steps) < len(found.plan.steps)
    told = transcript(small)
    assert len(told.splitlines()) <= LINES_MAX + 1
    assert small.violations[0].checker in told


def test_every_scenario_loads_and_runs() -> None:
    for name in scenarios.names():
        assert not sim.run(scenarios.load(name).but(operations=60), 1).violations, name


def test_features_come_on_top_of_those_that_a_seed_draws() -> None:
    for seed in range(20):
        drawn, with_exact = (
            set(plan_of(config, seed).features) for config in (SimConfig(), SimConfig(also=("exact",)))
        )
        assert with_exact == drawn - {"revoke", "types", "epochs"} | {"exact"}
        assert "types" in plan_of(SimConfig(also=("types",)), seed).features


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--seed", "1", "--nodes", "3"], "too few for f = 1"),
        (["run", "--seed", "1", "--scenario", "nowhere"], "there is no scenario 'nowhere'"),
        (["run", "--seed", "1", "--scenario", "missing.toml"], "no such file"),
        (["run", "--seed", "1", "--byzantine-nodes", "2"], "--over"),
        (["run", "--seed", "1", "--features", "rain"], "features: 'rain' is not known"),
        (["run", "--seed", "1", "--also", "rain"], "also: 'rain' is not known"),
        (["run", "--seed", "1", "--also", "types", "--features", "loss"], "none come on top"),
        (["run", "--seed", "1", "--topology", "moon"], "topology: 'moon' is not known"),
        (["run", "--seed", "1", "--mutant", "nobody"], "there is no mutant"),
    ],
)
def test_bad_input_gets_a_clear_error(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("story = ", "not valid TOML"),
        ("nodes = 4", "needs a story"),
        ('story = "x"\nnodes = "four"', "nodes: 'four' is not of the type int"),
        ('story = "x"\nmodes = 4', "there is no setting 'modes'"),
        ('story = "x"\nnodes = 6\nf = 2', "too few for f = 2"),
    ],
)
def test_a_broken_scenario_file_gets_a_clear_error(text: str, says: str) -> None:
    with pytest.raises(BadSetting, match=says.replace("(", r"\(")):
        scenarios.parse(text, "broken.toml")


def test_more_than_f_liars_break_it() -> None:
    """Beyond f nothing is promised: the simulator shows that, too."""
    config = SimConfig().but(over=True, byzantine_nodes=2)
    assert any(sim.run(config, seed).violations for seed in range(20))


def test_adversaries_are_given_no_way_to_other_keys() -> None:
    for path in (ROOT / "sim" / "adversary").glob("*.py"):
        if path.name == "__init__.py":
            continue
        code = [line for line in path.read_text().splitlines() if "import" in line]
        assert not any("Suite" in line or "Ledger" in line or "wire.keys" in line for line in code), path
