"""The command line: `python -m sim --help` lists what it does. Prints; what it prints is computed elsewhere."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from quorumcache.errors import QuorumCacheError
from sim import explore, report, scenarios
from sim.campaign import Result, results_of
from sim.mutants import MUTANTS, applied
from sim.mutants.hunt import Hunted, hunt
from sim.progress import counted
from sim.results import Run, run
from sim.settings import SimConfig
from sim.shrink import shrink, transcript

_SHOWN_MAX = 10


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks; returns the exit status: 0 all well, 1 a property was violated, 2 bad input."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.do(options))
    except QuorumCacheError as problem:
        print(f"sim: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sim: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not complain about it at its end.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim", description="The quorumcache cluster simulator.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("run", help="run one seed and say what happened")
    one.add_argument("--seed", type=_count, required=True)
    one.add_argument("--mutant", help="with this bug in the core")
    one.add_argument("--no-shrink", action="store_true", help="show a failing run as it is, not made smaller")
    _settings(one)
    one.set_defaults(do=_run)

    many = commands.add_parser("seeds", help="run many seeds; exit status 1 if any fails")
    many.add_argument("--count", type=_count, default=500)
    many.add_argument("--start", type=_count, default=0)
    many.add_argument("--jobs", type=_positive, default=1)
    many.add_argument("--digests", action="store_true", help="print each seed's digest")
    _settings(many)
    many.set_defaults(do=_seeds)

    bugs = commands.add_parser("mutants", help="put bugs into the core, one by one: how many seeds does each survive?")
    bugs.add_argument("names", nargs="*", metavar="MUTANT")
    bugs.add_argument("--fast", action="store_true", help="only those that fall quickly")
    bugs.add_argument("--count", type=_positive, default=2000, help="seeds for each")
    bugs.add_argument("--jobs", type=_positive, default=1)
    bugs.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    bugs.set_defaults(do=_mutants)

    explore.add_parser(commands)
    report.add_parser(commands)
    known = commands.add_parser("scenarios", help="list the scenarios")
    known.set_defaults(do=_scenarios)
    return parser


_HELP = {
    "features": "exactly these, with commas between them",
    "also": "features that every seed has, besides those that it draws: --also types",
}


def _settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings (what is left out is drawn by the seed)")
    group.add_argument("--scenario", help="a name, or the path of a .toml file")
    for name, kind in (
        ("nodes", int),
        ("f", int),
        ("clients", int),
        ("operations", int),
        ("faults", int),
        ("byzantine-nodes", int),
        ("byzantine-writers", int),
        ("keys", int),
        ("shards", int),
        ("max-skew-ms", int),
        ("op-time-ms", int),
        ("grace-ms", int),
        ("topology", str),
        ("crypto", str),
        ("features", str),
        ("also", str),
        ("lies", str),
        ("schemes", str),
        ("drama", str),
        ("operations-kept", int),
        ("messages-max", int),
    ):
        group.add_argument(f"--{name}", type=kind, help=_HELP.get(name))
    group.add_argument("--over", action="store_true", help="allow more than f Byzantine nodes, to see what breaks")
    group.add_argument("--pieces", action="store_true", help="have nodes work on requests in pieces")
    group.add_argument("--wire", action="store_true", help="take every message through the codec")


def _config(options: argparse.Namespace) -> SimConfig:
    changes: dict[str, Any] = {}
    for name in (*SimConfig.__dataclass_fields__,):
        value = getattr(options, name, None)
        if value is None or value is False:
            continue
        if name in ("features", "also", "lies", "schemes"):
            value = tuple(item for item in value.split(",") if item)
        changes[name] = value
    if options.scenario:
        return scenarios.load(options.scenario).but(**changes)
    return SimConfig().but(**changes)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("a number from 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a number from 1")
    return value


# --- commands ---------------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    config = _config(options)
    with applied(options.mutant):
        found = run(config, options.seed)
        print(_summary(found))
        if found.violations and not options.no_shrink and not config.over:
            small = shrink(config, options.seed, found)
            print("\nmade smaller:\n" + transcript(small))
        elif found.violations:
            print("\n" + transcript(found))
    print(f"digest {found.digest}")
    return 1 if found.violations else 0


def _summary(found: Run) -> str:
    outcomes: dict[str, int] = {}
    for op in found.ops:
        name = f"{op.kind} {op.outcome}"
        outcomes[name] = outcomes.get(name, 0) + 1
    virtual_s = (found.end_us - found.start_us) / 1e6
    plan = found.plan
    liars = ", ".join(f"node {n} ({' '.join(x)})" for n, x in zip(plan.byzantine, plan.lies, strict=True))
    return "\n".join(
        (
            f"seed {found.seed}: {found.op_count} operations, {found.message_count} messages, "
            f"{len(found.faults)} faults, {virtual_s:.2f} s of virtual time in {found.wall_s:.3f} s "
            f"({virtual_s / found.wall_s:.0f} times real time)",
            f"  features: {' '.join(plan.features) or 'none'}; topology: {plan.topology}",
            f"  Byzantine: {liars or 'no node'}; writers: "
            f"{', '.join(' '.join(schemes) for schemes in plan.schemes) or 'none'}",
            f"  {', '.join(f'{name}: {count}' for name, count in sorted(outcomes.items()))}",
            f"  {len(found.violations)} violations" + (f", {found.undecided} undecided" if found.undecided else ""),
        )
    )


def _seeds(options: argparse.Namespace) -> int:
    config = _config(options)
    began = time.perf_counter()
    seeds = range(options.start, options.start + options.count)
    failed: list[Result] = []
    ops = messages = undecided = 0
    virtual_s = 0.0
    for result in counted(results_of(config, seeds, jobs=options.jobs), options.count, "seeds"):
        ops += result.ops
        messages += result.messages
        undecided += result.undecided
        virtual_s += result.virtual_s
        if options.digests:
            print(f"{result.seed} {result.digest}")
        if result.checker:
            failed.append(result)
    took_s = time.perf_counter() - began
    for result in failed[:_SHOWN_MAX]:
        print(f"seed {result.seed}: {result.checker}: {result.text}")
        print(f"  replay: {_replay(options, result.seed)}")
    if len(failed) > _SHOWN_MAX:
        print(f"... and {len(failed) - _SHOWN_MAX} more: {', '.join(str(r.seed) for r in failed[_SHOWN_MAX:][:100])}")
    print(
        f"{options.count} seeds from {options.start}: {len(failed)} failed; {ops} operations, {messages} messages, "
        f"{virtual_s:.0f} s of virtual time in {took_s:.1f} s: {options.count / took_s:.1f} seeds/s, "
        f"{virtual_s / took_s:.0f} times real time" + (f"; {undecided} histories undecided" if undecided else "")
    )
    return 1 if failed else 0


def _replay(options: argparse.Namespace, seed: int) -> str:
    words = ["python -m sim run --seed", str(seed)]
    for name, value in vars(options).items():
        known = name in SimConfig.__dataclass_fields__ or name == "scenario"
        if known and value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    return " ".join(words)


def _mutants(options: argparse.Namespace) -> int:
    for name in options.names:
        with applied(name):
            pass  # Raises for a name that does not exist.
    names = options.names or [name for name, mutant in MUTANTS.items() if mutant.fast or not options.fast]
    survivors = 0
    if options.markdown:
        print("| mutant | rule that it breaks | caught at seed | by |\n|---|---|---|---|")
    for found in counted(hunt(names, options.count, jobs=options.jobs), len(names), "mutants"):
        survivors += not found.checker
        print(_row(found, options.markdown), flush=True)
    print(f"{len(names)} mutants, {survivors} not caught within {options.count} seeds")
    return 1 if survivors else 0


def _row(found: Hunted, markdown: bool) -> str:
    where = str(found.survived) + (" (aimed)" if found.aimed else "")
    if not found.checker:
        where = f"none of {found.survived}"
    if markdown:
        return f"| `{found.name}` | {MUTANTS[found.name].rule} | {where} | {found.checker or '-'} |"
    return f"{found.name:32} {where:>16}  {found.checker:22} {found.wall_s:7.1f} s"


def _scenarios(options: argparse.Namespace) -> int:
    for name in scenarios.names():
        scenarios.load(name)
        print(f"{name:28} {scenarios.story(name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
