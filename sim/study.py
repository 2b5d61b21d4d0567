"""`sim.run`: a run to look into. Tables, plots and the history are made when they are asked for, from the plain run.

Running costs what `sim.results.run` costs: pandas and matplotlib are imported by the first table and the first plot. It
must not know how any of them is made.
"""

from __future__ import annotations

from functools import cached_property
from html import escape
from os import PathLike
from typing import TYPE_CHECKING, Any

import networkx as nx

from sim import history, results, tables, tracing
from sim.checkers import ALL, Checker
from sim.plan import Plan
from sim.record import Violation
from sim.settings import BadSetting, SimConfig

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class Study:
    """A run that ended. `raw` has it as plain lists; here are tables, in microseconds since the run began."""

    def __init__(self, raw: results.Run) -> None:
        self.raw = raw

    @property
    def config(self) -> SimConfig:
        """What was asked for."""
        return self.raw.config

    @property
    def seed(self) -> int:
        """The seed."""
        return self.raw.seed

    @property
    def plan(self) -> Plan:
        """What the seed made of it."""
        return self.raw.plan

    @property
    def violations(self) -> list[Violation]:
        """What checkers found: the run stops at the first."""
        return self.raw.violations

    @property
    def digest(self) -> str:
        """The digest over the whole trace: the same for the same seed, configuration and code."""
        return self.raw.digest

    @property
    def undecided(self) -> int:
        """Histories on which the search for an order gave up."""
        return self.raw.undecided

    @property
    def wall_s(self) -> float:
        """Real seconds that it took."""
        return self.raw.wall_s

    @property
    def virtual_s(self) -> float:
        """Virtual seconds that it lasted."""
        return (self.raw.end_us - self.raw.start_us) / 1e6

    @property
    def graph(self) -> nx.DiGraph:
        """The network: processes with their `place`, edges with `latency_us`, `loss` and so on (see network.py)."""
        return self.raw.graph

    @cached_property
    def ops(self) -> pd.DataFrame:
        """Operations, one a row; on long runs the last `operations_kept` of them."""
        return tables.ops(self.raw)

    @cached_property
    def messages(self) -> pd.DataFrame:
        """Messages, one a row and copy; the last `messages_max` of them."""
        return tables.messages(self.raw)

    @cached_property
    def faults(self) -> pd.DataFrame:
        """Faults that happened, from when until when."""
        return tables.faults(self.raw)

    @cached_property
    def states(self) -> pd.DataFrame:
        """The nodes' states, from when until when."""
        return tables.states(self.raw)

    @cached_property
    def trace(self) -> tracing.Trace:
        """The run once more, with a close look (the same seed gives the same run): for `lies` and `plot_messages`."""
        return tracing.trace(self.raw)

    @cached_property
    def lies(self) -> pd.DataFrame:
        """Answers of Byzantine nodes that were not what an honest node would have said."""
        return tables.lies(self.raw, self.trace.lies)

    def summary(self) -> dict[str, Any]:
        """The run in a row: outcomes, availability, latencies, counts."""
        return tables.summary(self.raw)

    def messages_of(self, operation: int) -> pd.DataFrame:
        """The messages that an operation's client exchanged about its slot while it lasted, with `lie` and `effect`
        where a Byzantine node answered. Operations that left together share messages. Raises BadSetting."""
        return tables.messages_of(self.raw, self.trace, self._checked(operation))

    def plot_latency(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Quantiles of operations' latencies over time, with fault windows shaded (see plots.latency)."""
        from sim import plots

        return plots.latency(self.raw, ax, **options)

    def plot_messages(self, operation: int | None = None, ax: Axes | None = None, **options: Any) -> Axes:
        """The space-time diagram of an operation; of the slowest that ended, unless told (see plots.messages)."""
        from sim import plots

        if operation is None:
            ended = self.ops.dropna(subset="latency_ms")
            if ended.empty:
                raise BadSetting("no operation of this run ended: name the one to draw")
            operation = int(ended.loc[ended["latency_ms"].idxmax(), "id"])
        return plots.messages(self.raw, self.trace, self._checked(operation), ax, **options)

    def plot_topology(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Where processes are, and how far from each other (see plots.topology)."""
        from sim import plots

        return plots.topology(self.raw, ax, **options)

    def save_history(self, path: str | PathLike[str]) -> int:
        """Write the operations as JSON lines (docs/simulator.md); returns how many. Raises OSError."""
        return history.save(self.raw, path)

    def _checked(self, operation: int) -> int:
        return self.raw.op(operation).id

    def __repr__(self) -> str:
        raw = self.raw
        found = raw.violations[0].checker if raw.violations else "no violation"
        return f"<run of seed {raw.seed}: {raw.op_count} operations, {raw.message_count} messages, {found}>"

    def _repr_html_(self) -> str:
        raw, row = self.raw, self.summary()
        liars = ", ".join(
            f"node {n} ({' '.join(x) or 'honest'})" for n, x in zip(raw.plan.byzantine, raw.plan.lies, strict=True)
        )
        lines = {
            "seed": raw.seed,
            "cluster": f"{raw.config.nodes} nodes (f = {raw.config.f}), {raw.plan.topology}",
            "Byzantine": liars or "no node",
            "features": ", ".join(raw.plan.features) or "none",
            "operations under faults": ", ".join(
                f"{row[name]} {name}" for name in ("ok", "miss", "failed", "unknown", "pending") if row[name]
            ),
            "read, write (median)": f"{row['read_p50_ms']:.2f} ms, {row['write_p50_ms']:.2f} ms",
            "messages": raw.message_count,
            "faults": len(raw.faults),
            "lasted": f"{self.virtual_s:.2f} s of virtual time, {raw.wall_s:.2f} s of real time",
            "violations": "; ".join(f"{v.checker}: {v.text}" for v in raw.violations) or "none",
            "digest": raw.digest,
        }
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
            for name, value in lines.items()
        )
        return f"<table>{rows}</table>"


def run(
    config: SimConfig | None = None,
    seed: int = 0,
    *,
    plan: Plan | None = None,
    checkers: tuple[type[Checker], ...] = ALL,
) -> Study:
    """Run one seed. `plan` replaces the one that the seed gives; `checkers=()` lets everything happen unjudged."""
    return Study(results.run(config or SimConfig(), seed, plan=plan, checkers=checkers))
