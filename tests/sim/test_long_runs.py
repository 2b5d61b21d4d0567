"""Long runs: what is over is judged and forgotten, and no more is drawn ahead than a stretch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim
from sim import plan
from sim.checkers.integrity import Integrity
from sim.checkers.linearizability import ABSENT, Event, Linearizability, search
from sim.mutants import applied
from sim.record import MISS, OK, PENDING, Op
from sim.results import run
from sim.settings import BadSetting, SimConfig
from tests.sim.views import View

LONG = SimConfig(operations=700, operations_kept=100)


def test_operations_that_are_over_are_forgotten_and_counted() -> None:
    found = run(LONG, 3)
    assert not found.violations
    assert found.op_count > 700
    assert len(found.ops) <= 101
    assert [op.id for op in found.ops] == sorted(op.id for op in found.ops)


def test_forgetting_does_not_change_what_happens() -> None:
    """What is forgotten went into the digest before, in another order than at the end."""
    whole, short = run(LONG.but(operations_kept=100_000), 3), run(LONG, 3)
    kept = {op.id: op.row() for op in whole.ops}
    assert all(kept[op.id] == op.row() for op in short.ops)
    assert (whole.message_count, whole.end_us, whole.op_count) == (short.message_count, short.end_us, short.op_count)
    assert short.digest == run(LONG, 3).digest


@pytest.mark.parametrize("mutant", ["no-write-back", "commit-older", "quorum-2f"])
def test_what_breaks_is_found_all_the_same(mutant: str) -> None:
    with applied(mutant):
        assert any(run(LONG, seed).violations for seed in range(10))


def test_steps_are_drawn_stretch_by_stretch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "STRETCH", 60)
    found = run(SimConfig(), 3)
    assert not found.violations
    assert sum(len(ops) for _, _, _, ops in found.plan.steps) == 60
    assert found.plan.later == 140
    assert sum(op.phase == "faults" for op in found.ops) == 200
    assert found.digest == run(SimConfig(), 3).digest


def test_an_operation_that_was_forgotten_is_named_so() -> None:
    study = sim.run(LONG, 3)
    with pytest.raises(BadSetting, match="operation 0 was forgotten"):
        study.plot_messages(0)
    assert len(study.ops) == len(study.raw.ops)


def test_a_limit_too_low_gets_a_clear_error() -> None:
    with pytest.raises(BadSetting, match="operations_kept = 5"):
        SimConfig(operations_kept=5)


def test_values_of_forgotten_writes_are_nobodys_fault() -> None:
    view = View()
    write = view.op("write", 0, 10, b"0 by 0", time=1)
    checker = Integrity(view)  # type: ignore[arg-type]
    checker.started(write)
    checker.forgetting([write])
    checker.ended(view.op("read", 20, 30, b"0 by 0", time=1))
    assert not view.violations
    checker.ended(view.op("read", 20, 30, b"77 by 0", time=1))
    assert "never wrote" in view.violations[0]


@st.composite
def registers(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What clients of a linearizable register saw: each operation takes effect at a point within its time."""
    found = []
    value = ABSENT
    for number in range(draw(st.integers(6, 24))):
        point = 10 * number
        times = {"start": point - draw(st.integers(0, 60)), "end": point + draw(st.integers(0, 60))}
        kind = draw(st.sampled_from(["read", "read", "write", "delete"]))
        if kind == "write":
            value = b"%d by 0" % number
            found.append({"kind": kind, "value": value, "time": number + 1, **times})
        elif kind == "delete":
            value = ABSENT
            found.append({"kind": kind, "time": number + 1, **times})
        elif value == ABSENT:
            found.append({"kind": kind, "outcome": MISS, "proven": True, **times})
        else:
            found.append({"kind": kind, "value": value, "time": number, **times})
    return sorted(found, key=lambda op: op["start"])


@given(registers(), st.integers(2, 8))
def test_windows_accuse_nobody_falsely(ops: list[dict[str, Any]], window: int) -> None:
    view = View()
    checker = Linearizability(view)  # type: ignore[arg-type]
    ends: list[tuple[Op, int, str]] = []

    def end_those_until(now: int) -> None:
        for op, end, outcome in ends:
            if end <= now:
                op.end_us, op.outcome = end, outcome
        ends[:] = [each for each in ends if each[1] > now]

    for more in ops:
        end_those_until(more["start"])
        end, outcome = more.pop("end"), more.pop("outcome", OK)
        op = view.op(more.pop("kind"), more.pop("start"), None, more.pop("value", b""), PENDING, **more)
        ends.append((op, end, outcome))
        if len(view.ops) > window:
            leaving = [op for op in view.ops[: len(view.ops) // 2] if op.outcome != PENDING]
            checker.forgetting(leaving)
            view.ops[:] = [op for op in view.ops if op not in leaving]
    end_those_until(10**9)
    checker.finished()
    assert not view.violations


def test_what_goes_wrong_within_a_window_is_found() -> None:
    view = View()
    checker = Linearizability(view)  # type: ignore[arg-type]
    for number in range(10):
        view.op("write", 100 * number, 100 * number + 10, b"%d by 0" % number, time=number + 1)
        view.op("read", 100 * number + 20, 100 * number + 30, b"%d by 0" % number, time=number + 1)
        if number == 6:
            checker.forgetting(view.ops[:6])
            del view.ops[:6]
    assert not view.violations
    view.op("read", 2000, 2010, b"8 by 0", time=9)
    checker.finished()
    assert "no order explains" in view.violations[0]


def test_a_long_history_with_deletes_is_searched_in_little_memory() -> None:
    """What the search remembers of a state does not grow with what lies behind it: this takes about a second."""
    history = []
    for at in range(0, 30_000, 10):
        history += [Event(at, at + 1, True, b"%d" % at), Event(at + 2, at + 3, True, ABSENT)]
        history += [Event(at + 4, at + 5, False, ABSENT)]
    assert search(history) is True
    assert search([*history, Event(40_000, 40_001, False, b"0")]) is False
