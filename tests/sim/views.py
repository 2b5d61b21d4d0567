"""Histories written by hand, for the tests of checkers, and how they are played."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from quorumcache.core.model import slot_of, stamp_of
from sim.checkers import Checker
from sim.record import OK, Op

SLOT = slot_of(b"sim", b"key 0")
ALICE, EVE = b"a" * 32, b"e" * 32


class View:
    """A stage for hand-written histories."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.nodes: list[Any] = []
        self.configuration = SimpleNamespace(n=4, q=3, group_of=lambda slot: SimpleNamespace(members=(0, 1, 2, 3)))
        self.evil_writers = {EVE}
        self.features: tuple[str, ...] = ()
        self.evil_headers: set[bytes] = set()
        self.revoked: dict[bytes, int] = {}
        self.barred: set[bytes] = set()
        self.retired: dict[bytes, int] = {}
        self.op_time_us = 500_000
        self.reachable = False
        self.hampered = False
        self.max_skew_us = 50_000
        self.now_us = 10**9
        self.violations: list[str] = []

    def moves_since(self, client: int, time_us: int) -> int:
        return 0

    def node_at(self, index: int, configuration: Any = None) -> Any:
        return self.nodes[index]

    def configuration_of(self, client: int) -> Any:
        return self.configuration

    def fail(self, checker: str, text: str) -> None:
        self.violations.append(text)

    def op(self, kind: str, start: int, end: int | None, value: bytes = b"", outcome: str = OK, **more: Any) -> Op:
        op = Op(len(self.ops), len(self.ops), 0, kind, SLOT, value, more.pop("phase", "faults"))
        op.start_us, op.end_us, op.outcome, op.writer = start, end, outcome, ALICE
        if "time" in more:
            op.stamp = stamp_of(more.pop("time"), more.get("writer", ALICE), 1)
        for name, what in more.items():
            setattr(op, name, what)
        self.ops.append(op)
        return op


def judge(kind: type[Checker], view: View) -> list[str]:
    """Play the view's operations to a checker in the order of their starts and ends."""
    checker = kind(view)  # type: ignore[arg-type]
    events = [(op.start_us, 1, op.id) for op in view.ops]
    events += [(op.end_us, 0 if op.end_us != op.start_us else 2, op.id) for op in view.ops if op.end_us is not None]
    for _, what, number in sorted(events):
        op = view.ops[number]
        if what == 1:
            checker.started(op)
        else:
            checker.ended(op)
    checker.finished()
    return view.violations
