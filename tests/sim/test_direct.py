"""Mode primary in the simulator (protocol 10): it happens, and its checkers would tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quorumcache.core import messages as m
from sim.checkers.directdurability import DirectDurability
from sim.checkers.directfreshness import DirectFreshness
from sim.checkers.directinstep import DirectInStep
from sim.checkers.directintegrity import DirectIntegrity
from sim.checkers.directliveness import DirectLiveness
from sim.checkers.forwarded import Forwarded
from sim.engine import Engine
from sim.plan import plan_of
from sim.record import FAILED, KINDS, MISS, UNKNOWN, Op
from sim.results import run
from sim.settings import SimConfig

CONFIG = SimConfig().but(operations=60, features=["primary", "repair"], byzantine_nodes=0, byzantine_writers=0)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """A run that went well, of correct processes alone."""
    engine = Engine(CONFIG, 3, plan_of(CONFIG, 3))
    engine.run()
    assert not engine.record.violations
    yield engine
    assert engine.record.violations


def last(engine: Engine, kind: str) -> Op:
    return next(op for op in reversed(engine.ops) if op.direct and op.kind == kind and op.outcome == "ok")


def test_writes_of_mode_primary_are_forwarded_and_read() -> None:
    found = run(SimConfig().but(operations=60, features=["primary", "loss"]), 4)
    assert not found.violations
    assert {"Put", "PutReply", "Forward", "ForwardReply", "Get", "GetReply"} <= {
        KINDS[row[4]] for row in found.messages
    }


def test_plans_without_it_stay_what_they_were() -> None:
    config = SimConfig().but(features=["loss", "crash"])
    assert plan_of(config, 1).direct_keys == 0
    assert "primary" not in plan_of(config, 1).features
    drawn = sum("primary" in plan_of(SimConfig().but(operations=1), seed).features for seed in range(100))
    assert 10 <= drawn <= 35


def test_a_forged_value_is_told(engine: Engine) -> None:
    checker, read = DirectIntegrity(engine), last(engine, "read")
    checker.ended(read)
    assert "never wrote" in engine.record.violations[0].text


def test_an_entry_that_nobody_signed_is_told(engine: Engine) -> None:
    DirectIntegrity(engine).quieted()
    assert "never signed" in engine.record.violations[0].text


def test_a_value_of_a_failed_write_is_told(engine: Engine) -> None:
    checker, write = DirectIntegrity(engine), last(engine, "write")
    checker.started(write)
    checker.ended(next(op for op in engine.ops if op.kind == "read" and op.value == write.value))
    write.outcome = FAILED
    checker.ended(write)
    assert "failed for certain" in engine.record.violations[0].text


def test_too_few_copies_are_told(engine: Engine) -> None:
    checker, write = DirectDurability(engine), last(engine, "write")
    checker.started(write)
    for node in engine.nodes:
        node.node.slots._remove(write.slot)
    checker.ended(write)
    assert "was acknowledged for" in engine.record.violations[0].text


def test_what_a_node_let_go_of_is_told(engine: Engine) -> None:
    checker, write = DirectDurability(engine), last(engine, "write")
    checker.started(write)
    checker.ended(write)
    engine.nodes[2].node.slots._remove(write.slot)
    checker.healed()
    assert "which lost nothing" in engine.record.violations[0].text


def test_what_is_not_forwarded_is_told(engine: Engine) -> None:
    write = last(engine, "write")
    held = engine.nodes[0].node.slots.current[write.slot]
    put = m.Put(1, b"", b"", write.writer, b"", [held.header], [held.salted], True)
    checker = Forwarded(engine)
    checker.took(engine.nodes[0], put, m.PutReply(1, 0, b"\0", []))
    checker.ended(write)
    checker.healed()
    assert not engine.record.violations
    engine.nodes[1].node.slots._remove(write.slot)
    checker.healed()
    assert "was to pass on" in engine.record.violations[0].text


def test_what_nobody_was_asked_to_forward_is_told(engine: Engine) -> None:
    Forwarded(engine).ended(last(engine, "write"))
    assert "nobody was asked" in engine.record.violations[0].text


def test_nodes_that_differ_are_told(engine: Engine) -> None:
    checker = DirectInStep(engine)
    checker.quieted()
    engine.nodes[1].node.slots._remove(last(engine, "write").slot)
    checker.healed()
    assert "nothing" in engine.record.violations[0].text


@pytest.mark.parametrize("kind", ["older", "miss"])
def test_a_stale_read_is_told(engine: Engine, kind: str) -> None:
    checker, write, read = DirectFreshness(engine), last(engine, "write"), last(engine, "read")
    read.slot, read.phase = write.slot, write.phase
    checker.started(write)
    checker.ended(write)
    checker.started(read)
    if kind == "miss":
        read.outcome = MISS
    else:
        read.stamp = bytes(40)
    checker.ended(read)
    assert engine.record.violations[0].checker == "freshness of primary"


def test_what_fails_in_peace_or_late_is_told(engine: Engine) -> None:
    checker, write = DirectLiveness(engine), last(engine, "write")
    write.outcome = UNKNOWN
    checker.ended(write)
    write.end_us = write.start_us + 3 * engine.op_time_us
    checker.ended(write)
    told = [violation.text for violation in engine.record.violations]
    assert "failed although" in told[0]
    assert "are allowed" in told[1]
