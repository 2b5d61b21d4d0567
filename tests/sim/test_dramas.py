"""Dramas: the core passes them, with one liar and with two; each catches the mutants that it is about."""

from __future__ import annotations

import msgspec
import pytest

import sim
from quorumcache.core import messages as m
from sim import scenarios
from sim.__main__ import main
from sim.dramas import DRAMAS
from sim.mutants import MUTANTS, applied
from sim.mutants.hunt import hunt_one
from sim.network import Network, graph_of
from sim.plan import plan_of
from sim.record import Record
from sim.results import run
from sim.settings import BadSetting
from sim.world import World

STAGED = [name for name, mutant in MUTANTS.items() if "scenario" in mutant.aim]


@pytest.mark.parametrize("name", DRAMAS)
def test_the_core_passes(name: str) -> None:
    for sizes in ({}, {"nodes": 7, "f": 2}):
        for seed in range(6):
            assert not run(scenarios.load(name).but(**sizes), seed).violations, (sizes, seed)


def test_the_core_passes_any_drama_among_other_faults() -> None:
    config = scenarios.load("dramas")
    assert not any(run(config, seed).violations for seed in range(6))


@pytest.mark.parametrize("name", STAGED)
def test_a_drama_is_about_its_rule(name: str) -> None:
    """Most seeds of a drama show the bug that it is aimed at, and none of them fails without that."""
    config = scenarios.load(MUTANTS[name].aim["scenario"])
    with applied(name):
        caught = sum(bool(run(config, seed).violations) for seed in range(10))
    assert caught > 5
    assert hunt_one(name, 10, mutated=False).checker == ""


def test_other_seeds_are_as_they_would_be_without_dramas() -> None:
    """Which drama "any" is comes from a stream of its own; all else is the seed's, given the parts that it needs."""
    configs = (sim.SimConfig(drama=drama, byzantine_nodes=1, byzantine_writers=1) for drama in (None, "any"))
    plain, played = (plan_of(config, 3) for config in configs)
    assert plain.drama == ""
    assert played.drama in DRAMAS
    assert msgspec.structs.replace(played, drama="") == plain


@pytest.mark.parametrize("settings", [{"crypto": "real"}, {"wire": True}])
def test_crypto_and_codec_change_nothing(settings: dict[str, object]) -> None:
    for name in DRAMAS:
        config = scenarios.load(name)
        assert run(config.but(**settings), 2).digest == run(config, 2).digest


def test_what_liars_say_on_stage_is_told_like_other_lies() -> None:
    told = sim.run(scenarios.load("two_reports"), 1).lies
    assert "scripted" in set(told["lie"])


def test_acts_are_told_among_the_faults() -> None:
    kinds = set(sim.run(scenarios.load("two_reports"), 1).faults["kind"])
    assert {"hold", "wipe", "cut", "mend"} <= kinds


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"drama": "hamlet"}, "drama: 'hamlet' is not known"),
        ({"drama": "any", "nodes": 5}, "3f\\+1 nodes"),
        ({"drama": "any", "byzantine_nodes": 0}, "f Byzantine nodes"),
        ({"drama": "any", "byzantine_writers": 0}, "a Byzantine writer"),
        ({"drama": "any", "clients": 1}, "two clients"),
    ],
)
def test_a_drama_that_cannot_be_cast_gets_a_clear_error(settings: dict[str, object], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        sim.SimConfig().but(**settings)


def test_a_drama_is_a_setting_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--seed", "1", "--drama", "two_reports", "--operations", "10", "--features", ""]) == 0
    assert main(["run", "--seed", "1", "--drama", "two_reports", "--nodes", "9"]) == 2
    assert "one group" in capsys.readouterr().err


def test_held_messages_arrive_when_released_in_the_order_of_their_sending() -> None:
    world, record = World(1), Record()
    network = Network(world, graph_of("rack", ["rack"] * 3), record, wire=False)
    arrived: list[tuple[int, int]] = []
    for process in range(3):
        network.attach(process, lambda source, message: arrived.append((source, message.id)))
    network.hold([(0, 1)], (m.Ping,))
    network.hold([(0, 2)], (m.Ping,))
    for number in range(3):
        network.send(0, 1, m.Ping(number, b""))
    network.send(0, 1, m.Pong(7, 0))
    network.send(0, 2, m.Ping(8, b""))
    world.run_until(world.now_us + 1_000_000)
    assert arrived == [(0, 7)]
    network.release([(0, 1)])
    world.run_until(world.now_us + 1_000)
    assert arrived == [(0, 7), (0, 0), (0, 1), (0, 2)]
    network.calm()
    world.run_until(world.now_us + 1_000)
    assert arrived[-1] == (0, 8)
    assert record.messages[1][1] - record.messages[1][0] >= 1_000_000  # sent then, arrived now
