"""`run(config, seed)` and what it returns: everything that happened, in plain lists. Tables and plots build on this."""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass

import networkx as nx

from sim.checkers import ALL, Checker
from sim.engine import Engine
from sim.plan import Plan, plan_of
from sim.record import Op, Violation
from sim.settings import BadSetting, SimConfig


@dataclass(frozen=True)
class Run:
    """A run that ended. Times are true microseconds.

    `messages` has rows of `record.MESSAGE_COLUMNS` (kinds are indices into `record.KINDS`), `faults` of
    `record.FAULT_COLUMNS`, `states` (time, node, state). `nodes` processes come first in `messages`, then clients.
    `ops` has the last of `op_count` operations, in the order of their ids; `op` finds one by its id.
    """

    config: SimConfig
    seed: int
    plan: Plan
    ops: list[Op]
    op_count: int
    messages: list[tuple[int, int, int, int, int, int]]
    faults: list[tuple[int, str, int, str]]
    states: list[tuple[int, int, str]]
    violations: list[Violation]
    graph: nx.DiGraph
    digest: str
    message_count: int
    event_count: int
    undecided: int
    start_us: int
    #: When faults ended, for good.
    healed_us: int
    end_us: int
    wall_s: float
    #: Who judged it. A run stops at the first violation, so without them it would come out otherwise.
    checkers: tuple[type[Checker], ...] = ALL

    def op(self, number: int) -> Op:
        """The operation with this id. Raises BadSetting where there is none, or it was forgotten."""
        at = bisect_left(self.ops, number, key=lambda op: op.id)
        if at < len(self.ops) and self.ops[at].id == number:
            return self.ops[at]
        if 0 <= number < self.op_count:
            raise BadSetting(
                f"operation {number} was forgotten: this run kept {len(self.ops)} of {self.op_count} operations. "
                "Give operations_kept a higher number"
            )
        raise BadSetting(f"there is no operation {number}: this run has 0 to {self.op_count - 1}")


def run(config: SimConfig, seed: int, *, plan: Plan | None = None, checkers: tuple[type[Checker], ...] = ALL) -> Run:
    """Run one seed. `plan` replaces the one that the seed gives, as for a failing run made smaller."""
    began = time.perf_counter()
    plan = plan or plan_of(config, seed)
    engine = Engine(config, seed, plan, checkers=checkers)
    start_us = engine.now_us
    engine.run()
    return result_of(engine, start_us, began, checkers)


def result_of(engine: Engine, start_us: int, began: float, checkers: tuple[type[Checker], ...] = ALL) -> Run:
    """What an engine that has run leaves; `began` is when it did, on this process's performance counter."""
    config, seed, plan, record = engine.config, engine.seed, engine.plan, engine.record
    return Run(
        config=config,
        seed=seed,
        plan=plan,
        ops=record.ops,
        op_count=record.op_count,
        messages=record.messages,
        faults=record.faults,
        states=record.states,
        violations=record.violations,
        graph=engine.graph,
        digest=engine.digest,
        message_count=record.message_count,
        event_count=engine.world.event_count,
        undecided=engine.undecided,
        start_us=start_us,
        healed_us=engine.healed_us,
        end_us=engine.now_us,
        wall_s=time.perf_counter() - began,
        checkers=checkers,
    )
