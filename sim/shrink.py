"""Makes a failing plan smaller, and tells what is left as a transcript of at most a page.

Fewer faults, operations, lies, schemes and features, as long as the same checker still objects (delta debugging: Zeller
& Hildebrandt, IEEE TSE 2002). It must not know what the violation means.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from quorumcache.core.model import slot_parts
from sim.plan import Plan
from sim.record import Op
from sim.results import Run, run
from sim.settings import SimConfig

T = TypeVar("T")
LINES_MAX = 60


def shrink(config: SimConfig, seed: int, failed: Run, *, runs_max: int = 150) -> Run:
    """A run that fails in the eyes of the same checker, with as little happening in it as `runs_max` tries find."""
    checker = failed.violations[0].checker
    best = failed
    tries = 0

    def fails(plan: Plan) -> bool:
        nonlocal best, tries
        if tries >= runs_max:
            return False
        tries += 1
        found = run(config, seed, plan=plan, checkers=failed.checkers)
        if found.violations and found.violations[0].checker == checker:
            best = found
            return True
        return False

    def reduce(name: str) -> None:
        _smaller(getattr(best.plan, name), lambda part: fails(msgspec.structs.replace(best.plan, **{name: part})))

    if best.plan.later:
        # A long run: it may fail within its first stretch, too.
        fails(msgspec.structs.replace(best.plan, later=0))
    plan = best.plan
    # What nothing needs any more goes first: it makes all further tries quicker.
    steps = _until(plan, best)
    if len(steps) < len(plan.steps):
        fails(msgspec.structs.replace(plan, steps=steps))
    reduce("faults")
    reduce("steps")
    for name in ("schemes", "lies"):
        for number in range(len(getattr(best.plan, name))):
            for item in getattr(best.plan, name)[number]:
                groups = list(getattr(best.plan, name))
                groups[number] = tuple(other for other in groups[number] if other != item)
                fails(msgspec.structs.replace(best.plan, **{name: tuple(groups)}))
    for feature in best.plan.features:
        if feature == "types":
            continue  # Steps on keys with fields stay what they are, but who is far would be twice as far.
        rest = tuple(other for other in best.plan.features if other != feature)
        fails(msgspec.structs.replace(best.plan, features=rest))
    reduce("steps")
    reduce("faults")
    return best


def _until(plan: Plan, failed: Run) -> tuple[Any, ...]:
    """The steps that had begun when the run failed; all, where it forgot what had."""
    if plan.later or len(failed.ops) < failed.op_count:
        return plan.steps
    begun: dict[tuple[int, int], int] = {}
    for op in failed.ops:
        if op.phase == "faults":
            place = (op.client, op.lane)
            begun[place] = begun.get(place, 0) + 1
    kept = []
    for step in plan.steps:
        left = begun.get((step[0], step[1]), 0)
        if left > 0:
            begun[step[0], step[1]] = left - len(step[3])
            kept.append(step)
    return tuple(kept)


def _smaller(items: Sequence[T], fails: Callable[[tuple[T, ...]], bool]) -> None:
    """Drop parts of `items`, halves first, then smaller ones, as long as it still fails."""
    size = max(1, len(items) // 2)
    while items:
        at = 0
        while at < len(items):
            part = tuple(items[:at]) + tuple(items[at + size :])
            if fails(part):
                items = part
            else:
                at += size
        if size == 1:
            break
        size //= 2


def transcript(found: Run) -> str:
    """What happened, by time: faults, operations of the slot in question, the violation. At most a page."""
    plan = found.plan
    lines = [
        f"seed {found.seed}: {found.config.nodes} nodes (f = {found.config.f}), {plan.topology}, "
        f"{plan.keys} keys, {plan.shards} shards, max_skew {plan.max_skew_us // 1000} ms, "
        f"op_time {plan.op_time_us // 1000} ms, grace {plan.grace_us // 1000} ms",
        f"features: {', '.join(plan.features) or 'none'}",
    ]
    for node, lies in zip(plan.byzantine, plan.lies, strict=True):
        played = "plays its part, else " if plan.drama else ""
        lines.append(f"node {node} is Byzantine: {played}{', '.join(lies) or 'tells the truth'}")
    if plan.drama:
        lines.append(f"drama: {plan.drama}")
    for number, schemes in enumerate(plan.schemes):
        lines.append(f"Byzantine writer {number}: {', '.join(schemes) or 'does nothing'}")
    events: list[tuple[int, str]] = []
    violation = found.violations[0] if found.violations else None
    slots = {op.slot for op in found.ops if violation is not None and repr(op.slot[-8:]) in violation.text}
    for time_us, kind, target, detail in found.faults:
        events.append((time_us, f"{kind} of {target} {detail}".rstrip() if target >= 0 else f"{kind} {detail}"))
    for time_us, node, state in found.states:
        events.append((time_us, f"node {node} is {state}"))
    for op in found.ops:
        if not slots or op.slot in slots:
            events.append((op.start_us, f"  client {op.client} begins {op.kind} {op.id} of {_key(op)}"))
            if op.end_us is not None:
                events.append((op.end_us, f"  client {op.client} ends {op.kind} {op.id}: {_outcome(op)}"))
    events.sort(key=lambda event: event[0])
    room = LINES_MAX - len(lines) - 2
    if len(events) > room:
        lines.append(f"... {len(events) - room} earlier events ...")
        events = events[-room:]
    lines += [f"{(time_us - found.start_us) / 1000:10.3f} ms  {text}" for time_us, text in events]
    if violation is not None:
        lines.append(f"{(violation.time_us - found.start_us) / 1000:10.3f} ms  {violation.checker}: {violation.text}")
    return "\n".join(line[:400] for line in lines)


def _key(op: Op) -> str:
    return slot_parts(op.slot)[1].decode(errors="replace")


def _outcome(op: Op) -> str:
    if op.outcome == "ok":
        stamp_us = int.from_bytes(op.stamp[:8], "big")
        return f"{op.value!r}, stamp {stamp_us % 10**10 / 1000:.3f}" + (", overtaken" if op.overtaken else "")
    return f"{op.outcome} {op.detail}"[:160]
