"""`run(config, seed)` and what it returns: everything that happened, in plain lists. Tables and plots build on this."""

from __future__ import annotations

import time
from dataclasses import dataclass

import networkx as nx

from sim.checkers import ALL, Checker
from sim.engine import Engine
from sim.plan import Plan, plan_of
from sim.record import Op, Violation
from sim.settings import SimConfig


@dataclass(frozen=True)
class Run:
    """A run that ended. Times are true microseconds.

    `messages` has rows of `record.MESSAGE_COLUMNS` (kinds are indices into `record.KINDS`), `faults` of
    `record.FAULT_COLUMNS`, `states` (time, node, state). `nodes` processes come first in `messages`, then clients.
    """

    config: SimConfig
    seed: int
    plan: Plan
    ops: list[Op]
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


def run(config: SimConfig, seed: int, *, plan: Plan | None = None, checkers: tuple[type[Checker], ...] = ALL) -> Run:
    """Run one seed. `plan` replaces the one that the seed gives, as for a failing run made smaller."""
    began = time.perf_counter()
    plan = plan or plan_of(config, seed)
    engine = Engine(config, seed, plan, checkers=checkers)
    start_us = engine.now_us
    engine.run()
    return result_of(engine, start_us, began)


def result_of(engine: Engine, start_us: int, began: float) -> Run:
    """What an engine that has run leaves; `began` is when it did, on this process's performance counter."""
    config, seed, plan, record = engine.config, engine.seed, engine.plan, engine.record
    return Run(
        config=config,
        seed=seed,
        plan=plan,
        ops=record.ops,
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
    )
