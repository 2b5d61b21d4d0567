"""Anti-entropy, values on disk and rolling restarts in the simulator: they happen, and checkers would tell."""

from __future__ import annotations

from sim import scenarios
from sim.checkers.instep import InStep
from sim.checkers.lasting import Lasting
from sim.engine import Engine
from sim.plan import plan_of
from sim.record import KIND_OF, KINDS, MISS
from sim.results import run
from sim.settings import SimConfig


def engine_of(seed: int, **settings: object) -> Engine:
    config = SimConfig().but(operations=60, **settings)
    return Engine(config, seed, plan_of(config, seed))


def test_a_rolling_restart_restarts_every_node_once_and_all_recover() -> None:
    config = scenarios.load("rolling_restart").but(operations=60)
    engine = Engine(config, 2, plan_of(config, 2))
    assert engine.lossless
    engine.run()
    assert not engine.record.violations
    assert [node.restart_count for node in engine.nodes] == [1] * 4
    assert not any(shard.recovering for node in engine.nodes for shard in node.node.slots.shards)


def test_nodes_compare_shards_and_take_what_they_lack() -> None:
    found = run(SimConfig().but(operations=60, features=["repair", "loss"]), 4)
    assert not found.violations
    kinds = {KINDS[row[4]] for row in found.messages}
    assert {"ShardSums", "ShardSumsReply", "ShardList", "ShardListReply"} <= kinds
    assert KIND_OF


def test_values_leave_memory_and_are_fetched() -> None:
    engine = engine_of(3, features=["cold"], byzantine_nodes=0)
    engine.run()
    assert not engine.record.violations
    assert any(not held.salted for node in engine.nodes for _, held in node.node.slots)


def test_a_node_that_is_behind_is_told() -> None:
    engine = engine_of(1, features=["repair"], byzantine_nodes=0, byzantine_writers=0)
    engine.run()
    assert not engine.record.violations
    node = engine.nodes[1].node
    slot = next(slot for slot in engine.slots if slot in node.slots.current)
    node.slots._remove(slot)
    InStep(engine).healed()
    assert "nothing" in engine.record.violations[0].text


def test_a_loss_is_told() -> None:
    engine = engine_of(1, features=["rolling"], byzantine_nodes=0, byzantine_writers=0)
    engine.run()
    assert not engine.record.violations
    checker = Lasting(engine)
    written = next(op for op in engine.ops if op.kind == "write" and op.outcome == "ok" and not op.type)
    read = next(op for op in engine.ops if op.kind == "read" and op.phase == "final" and op.slot == written.slot)
    checker.ended(written)
    read.outcome = MISS
    checker.ended(read)
    assert "lasting" in {violation.checker for violation in engine.record.violations}
