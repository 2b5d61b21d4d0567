"""`python -m sim report`: one HTML page that says what was run and what came of it, with a picture; nothing outside it.

Runs seeds, and mutants where asked, and writes them up. What is true of a run is computed elsewhere.
"""

from __future__ import annotations

import argparse
import base64
import io
import platform
import time
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from html import escape
from pathlib import Path
from typing import Any, Final

from quorumcache.version import VERSION
from sim.mutants import MUTANTS
from sim.mutants.hunt import Hunted, hunt
from sim.progress import counted
from sim.results import Run, run
from sim.settings import BadSetting, SimConfig

SEEDS_MAX: Final = 100_000
_LATENCIES_MAX: Final = 200_000
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}
code{background:#f4f4f4;padding:0 .25rem}
.bad{color:#b00020;font-weight:600}
.good{color:#06752e;font-weight:600}
img{max-width:100%}
"""


@dataclass
class Tally:
    """What some seeds came to."""

    seeds: int = 0
    operations: int = 0
    messages: int = 0
    faults: int = 0
    undecided: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    lies: Counter[str] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    latencies_ms: dict[str, list[float]] = field(default_factory=dict)
    failed: list[tuple[int, str, str]] = field(default_factory=list)
    digest: str = ""

    def add(self, found: Run) -> None:
        """Count one run."""
        self.seeds += 1
        self.operations += found.op_count
        self.messages += found.message_count
        self.faults += len(found.faults)
        self.undecided += found.undecided
        self.virtual_s += (found.end_us - found.start_us) / 1e6
        self.wall_s += found.wall_s
        self.lies.update(lie for lies in found.plan.lies for lie in lies)
        self.features.update(found.plan.features)
        for op in found.ops:
            self.outcomes[op.kind, op.outcome] += 1
            kept = self.latencies_ms.setdefault(op.kind, [])
            if op.end_us is not None and len(kept) < _LATENCIES_MAX:
                kept.append((op.end_us - op.start_us) / 1000)
        if found.violations:
            first = found.violations[0]
            self.failed.append((found.seed, first.checker, first.text))
        self.digest = blake2b((self.digest + found.digest).encode(), digest_size=16).hexdigest()


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "report",
        help="run seeds and write what came of them as one HTML page",
        description="Run seeds (and mutants), and write what came of them as one HTML page. Exit status 1 if a "
        "property was violated, or a mutant was not caught.",
    )
    parser.add_argument("--out", type=Path, default=Path("simulation.html"), metavar="FILE")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="seeds (default 200)")
    parser.add_argument("--start", type=int, default=0, metavar="N", help="the first seed")
    parser.add_argument("--mutants", choices=("none", "fast", "all"), default="none", help="which mutants to hunt")
    parser.add_argument("--mutant-seeds", type=int, default=2000, metavar="N", help="seeds for each (default 2000)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that hunt mutants")
    parser.set_defaults(do=run_report)


def run_report(options: argparse.Namespace) -> int:
    """Run, write the page, say where it is; returns the exit status."""
    if not 1 <= options.count <= SEEDS_MAX or options.start < 0:
        raise BadSetting(f"--count is 1 to {SEEDS_MAX}, --start is 0 or more")
    if options.jobs < 1 or options.mutant_seeds < 1:
        raise BadSetting("--jobs and --mutant-seeds are 1 or more")
    folder = options.out.resolve().parent
    if not folder.is_dir():
        raise BadSetting(f"there is no folder {folder} to write {options.out.name} to")
    tally = Tally()
    sample: Run | None = None
    seeds = range(options.start, options.start + options.count)
    for seed in counted(seeds, options.count, "seeds"):
        found = run(SimConfig(), seed)
        tally.add(found)
        if sample is None or (found.faults and not sample.faults):
            sample = found
    names = [n for n, mutant in MUTANTS.items() if options.mutants == "all" or mutant.fast]
    hunted: list[Hunted] = []
    if options.mutants != "none":
        hunted += counted(hunt(names, options.mutant_seeds, jobs=options.jobs), len(names), "mutants")
    try:
        options.out.write_text(page(tally, hunted, sample, options.start), encoding="utf-8")
    except OSError as fault:
        raise BadSetting(f"{options.out} cannot be written: {fault}") from None
    missed = [found.name for found in hunted if not found.checker]
    print(
        f"{tally.seeds} seeds, {len(tally.failed)} failed; {len(hunted)} mutants, {len(missed)} not caught. "
        f"The report is {options.out}"
    )
    return 1 if tally.failed or missed else 0


def page(tally: Tally, hunted: list[Hunted], sample: Run | None, start: int) -> str:
    """The page's HTML."""
    verdict = (
        '<p class="good">No property was violated.</p>'
        if not tally.failed
        else f'<p class="bad">{len(tally.failed)} seeds violated a property.</p>'
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>quorumcache: simulation report</title>",
        f"<style>{_STYLE}</style><h1>Simulation report</h1>{verdict}",
        f"<p>quorumcache {escape(VERSION)}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}. "
        f"Seeds {start} to {start + tally.seeds - 1}: {tally.operations:,} operations, {tally.messages:,} messages, "
        f"{tally.faults:,} faults, {tally.virtual_s:,.0f} s of virtual time in {tally.wall_s:.0f} s. "
        f"{tally.undecided} histories were too long to judge. Digest of all runs: <code>{tally.digest}</code>.</p>",
    ]
    if tally.failed:
        rows = [(f"python -m sim run --seed {seed}", checker, text) for seed, checker, text in tally.failed[:100]]
        parts += ["<h2>Violations</h2>", _table(("replay", "checker", "what"), rows)]
    parts += ["<h2>Operations</h2>", _operations(tally)]
    parts.append("<p>Latencies are of operations that ended, in virtual milliseconds, faults included.</p>")
    if sample is not None:
        parts += [f"<h2>Latency in seed {sample.seed}, faults shaded</h2>", _picture(sample)]
    parts += ["<h2>What the Byzantine nodes did</h2>", _table(("lie", "seeds"), tally.lies.most_common())]
    parts += ["<h2>What the seeds had in them</h2>", _table(("feature", "seeds"), tally.features.most_common())]
    if hunted:
        rows_hunted = []
        for found in hunted:
            when = f"{found.survived:,}" if found.checker else f"not in {found.survived:,}"
            rows_hunted.append((found.name, MUTANTS[found.name].rule, when, found.checker or "-"))
        parts += ["<h2>Mutants</h2>", _table(("bug", "rule that it breaks", "caught at seed", "by"), rows_hunted)]
    parts.append("</html>\n")
    return "\n".join(parts)


def _operations(tally: Tally) -> str:
    outcomes = sorted({outcome for _, outcome in tally.outcomes})
    rows = []
    for kind in sorted({kind for kind, _ in tally.outcomes}):
        ordered = sorted(tally.latencies_ms.get(kind, ()))
        counts = [f"{tally.outcomes[kind, outcome]:,}" for outcome in outcomes]
        rows.append((kind, *counts, *(_quantile(ordered, share) for share in (0.5, 0.9, 0.99))))
    return _table(("operation", *outcomes, "p50 ms", "p90 ms", "p99 ms"), rows)


def _quantile(ordered: list[float], share: float) -> str:
    return f"{ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.1f}" if ordered else "-"


def _table(head: tuple[str, ...], rows: Any) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{cells}</tr>{body}</table>" if body else "<p>None.</p>"


def _picture(sample: Run) -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from sim.study import Study

    figure, ax = plt.subplots(figsize=(9, 3.5))
    Study(sample).plot_latency(ax)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    coded = base64.b64encode(data.getvalue()).decode("ascii")
    return f'<img alt="latency over time" src="data:image/png;base64,{coded}">'
