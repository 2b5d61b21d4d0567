"""`python -m sim explore`: bounds from the command line, and what a search within them found (explorer.py)."""

from __future__ import annotations

import argparse
import time
from typing import Any

from sim.exactexplorer import EXACT_PLANS, ExactExplorer
from sim.explorer import PLANS, Bounds, Explorer, Result
from sim.mutants import applied
from sim.progress import shown
from sim.settings import BadSetting

_RANGES = {
    "deviations": (0, 20, "messages held back, early beginnings and faults, in all"),
    "writers": (1, 2, "clients that write once"),
    "reads": (0, 4, "reads, one after another"),
    "restarts": (0, 3, "restarts without state"),
    "evictions": (0, 3, "evictions"),
    "releases": (0, 3, "hoarded entries that the liar commits"),
    "ticks": (0, 6, "times that the clock moves on to the next deadline"),
    "plans": (1, len(PLANS), "plans of the liar that are tried, each from the start"),
    "states_max": (1, 100_000_000, "states after which the search ends, complete or not"),
}


def add_parser(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "explore",
        help="search every run of the real core within bounds",
        description="Search every run of the real core within bounds: n = 4, f = 1, one slot, one Byzantine node. "
        "Exit status 1 on a violation.",
    )
    usual = Bounds()
    for name, (least, most, what) in _RANGES.items():
        default = getattr(usual, name)
        option = "--" + name.replace("_", "-")
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{what}: {least} to {most} (default {default})"
        )
    parser.add_argument(
        "--exact",
        action="store_true",
        help=f"a slot that is written by compare-and-set; the liar has {len(EXACT_PLANS)} plans, and clients die "
        "in the middle, in place of evictions",
    )
    parser.add_argument("--seconds", type=int, metavar="N", help="end the search then, complete or not")
    parser.add_argument("--mutant", help="with this bug in the core")
    parser.set_defaults(do=run)


def run(options: argparse.Namespace) -> int:
    """Search and print; returns the exit status."""
    chosen = {}
    for name, (least, most, _) in _RANGES.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise BadSetting(f"--{name.replace('_', '-')} is {value}; {least} to {most} are allowed")
        chosen[name] = value
    bounds = Bounds(**chosen)
    if options.seconds is not None and options.seconds < 1:
        raise BadSetting(f"--seconds is {options.seconds}; 1 or more are allowed")
    start_s = time.perf_counter()

    with shown("states", None) as tell, applied(options.mutant):

        def told(states: int, level: int) -> bool:
            tell(states, f"at {level} deviations")
            return options.seconds is not None and time.perf_counter() - start_s >= options.seconds

        result = (ExactExplorer if options.exact else Explorer)(bounds, told=told).run()
    print(_summary(result, time.perf_counter() - start_s))
    if result.violation is not None:
        print(f"\nVIOLATION: {result.violation.text}\n")
        for number, step in enumerate(result.violation.steps, 1):
            print(f"  {number:3}. {step}")
        return 1
    return 0


def _summary(result: Result, seconds: float) -> str:
    bounds = result.bounds
    if result.exhausted > bounds.deviations:
        extent = f"complete: every run with up to {bounds.deviations} deviations"
    elif result.exhausted:
        extent = f"not complete: every run with up to {result.exhausted - 1} deviations, and some with more"
    else:
        extent = "not complete: not even every run without deviations"
    return (
        f"{result.states:,} states, {result.transitions:,} transitions, longest run {result.depth} steps, "
        f"{seconds:.1f} s ({result.states / max(seconds, 1e-9):,.0f} states a second)\n{extent}\n"
        f"bounds: {', '.join(f'{name} {getattr(bounds, name)}' for name in _RANGES)}"
    )
