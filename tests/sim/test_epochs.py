"""The simulator's epochs: what is ordered stays within the model, nodes keep their places apart, and one seed gives one
run whatever the codec and the keys."""

from __future__ import annotations

import pytest

from sim.engine import Engine
from sim.plan import plan_of
from sim.results import run
from sim.settings import SimConfig

EPOCHS = SimConfig(also=("epochs",), operations=80)
EXACT = SimConfig(also=("epochs", "exact"), operations=80)


@pytest.fixture(scope="module")
def engines() -> list[Engine]:
    found = []
    for seed in range(8):
        engine = Engine(EPOCHS, seed, plan_of(EPOCHS, seed))
        engine.run()
        found.append(engine)
    return found


def test_nothing_is_violated_and_epochs_do_begin(engines: list[Engine]) -> None:
    assert not [violation for engine in engines for violation in engine.record.violations]
    lengths = [len(engine.epochs.chain) for engine in engines if engine.epochs is not None]
    assert len(lengths) == len(engines)
    assert max(lengths) >= 3
    assert sum(lengths) > len(engines)


def test_at_most_f_nodes_of_an_epoch_lie(engines: list[Engine]) -> None:
    for engine in engines:
        assert engine.epochs is not None
        for configuration in engine.epochs.chain:
            assert len(configuration.nodes) >= 3 * configuration.f + 1
            addresses = [engine.epochs.directory.addresses[info.key] for info in configuration.nodes]
            assert sum(engine.nodes[address].is_byzantine for address in addresses) <= configuration.f


def test_somebody_joined_and_its_place_is_not_its_number(engines: list[Engine]) -> None:
    joined = [node for engine in engines for node in engine.moving if node.number >= 4 and node.membership is not None]
    assert joined
    assert any(node.index != node.number for node in joined)
    for engine in engines:
        for place, info in enumerate(engine.configuration.nodes):
            assert engine.node_at(place).key.public == info.key


@pytest.mark.parametrize("settings", [{"crypto": "real"}, {"wire": True}])
def test_crypto_and_codec_change_nothing(settings: dict[str, object], engines: list[Engine]) -> None:
    for seed in (0, 3):
        assert run(EPOCHS.but(**settings), seed).digest == engines[seed].digest


def test_features_that_epochs_do_not_go_with_stay_away() -> None:
    for seed in range(40):
        assert {"epochs", "exact"} <= set(plan_of(EXACT, seed).features)
        for config in (EPOCHS, SimConfig(also=("epochs", "types"))):
            features = plan_of(config, seed).features
            assert "epochs" in features
            assert not {"cold", "exact", "revoke"}.intersection(features)
        assert "epochs" not in plan_of(SimConfig(drama="two_reports"), seed).features


def test_compare_and_set_goes_along_where_nodes_keep_their_places() -> None:
    """Protocol 17, "Epochs"."""
    lengths, decided = [], 0
    for seed in range(6):
        engine = Engine(EXACT, seed, plan_of(EXACT, seed))
        engine.run()
        assert not engine.record.violations
        assert engine.epochs is not None
        chain = engine.epochs.chain
        assert {configuration.nodes for configuration in chain} == {chain[0].nodes}
        lengths.append(len(chain))
        begun_us = min((us for client in engine.clients for us in client.moved_us), default=1 << 62)
        ops = (op for op in engine.record.ops if op.type == "exact" and op.kind != "read" and op.start_us > begun_us)
        decided += sum(op.outcome == "ok" and op.detail != "unchanged" for op in ops)
    assert max(lengths) >= 3
    assert decided
