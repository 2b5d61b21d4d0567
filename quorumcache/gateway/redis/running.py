"""Commands of one connection run together: those that touch different keys at once, those of one key in their order.

Each command is a generator of operations; all that run together go forward in step, and what they ask for in a step
leaves as one batch: no task, lock or round trip of their own. It must not know what commands do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from quorumcache.client.mixed import Operation, ReadSlot
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.faults import Fault, fault_of
from quorumcache.gateway.redis.folding import fold
from quorumcache.gateway.redis.gathering import Gathering
from quorumcache.gateway.redis.table import Call, Steps

Numbered = tuple[int, Call]

#: How many operations of one step leave at a time; what they bring back is in memory at once.
_OPERATIONS_MAX: Final = 1024


async def run_calls(gathering: Gathering, calls: list[Numbered], replies: list[Any], timeout_s: float) -> None:
    """Run commands that are steps, and put each one's reply (or Fault) into `replies` at its number."""
    if len(calls) == 1:
        await _in_step(gathering, calls, replies, timeout_s)
        return
    calls, followers = fold(calls)
    for level in _levels(calls):
        await _in_step(gathering, level, replies, timeout_s)
    for number, leader in followers:
        reply = replies[leader]
        replies[number] = reply if isinstance(reply, Fault) else 1


def _levels(calls: list[Numbered]) -> list[list[Numbered]]:
    """The commands in turns: each in the first turn after all those before it that it has a key in common with, unless
    both only read."""
    levels: list[list[Numbered]] = []
    read_at: dict[tuple[int, bytes], int] = {}
    written_at: dict[tuple[int, bytes], int] = {}
    for each in calls:
        call = each[1]
        number, is_write = call.database.number, call.command.is_write
        keys = [(number, key) for key in call.command.keys_of(call.arguments)]
        level = 0
        for key in keys:
            level = max(level, written_at.get(key, -1) + 1, read_at.get(key, -1) + 1 if is_write else 0)
        for key in keys:
            if is_write:
                written_at[key] = level
            else:
                read_at[key] = max(level, read_at.get(key, -1))
        if level == len(levels):
            levels.append([])
        levels[level].append(each)
    return levels


async def _in_step(gathering: Gathering, calls: list[Numbered], replies: list[Any], timeout_s: float) -> None:
    running: list[tuple[int, Steps, int]] = []
    parts: list[Operation] = []
    for number, call in calls:
        _advance(replies, running, parts, number, call.command.run(call), None)
    while running:
        try:
            async with asyncio.timeout(timeout_s):
                outcomes = []
                for at in range(0, len(parts), _OPERATIONS_MAX):
                    outcomes += await gathering.run(parts[at : at + _OPERATIONS_MAX])
        except TimeoutError:
            _give_up(running, parts, replies, timeout_s)
            return
        except QuorumCacheError as error:
            for number, steps, _ in running:
                steps.close()
                replies[number] = fault_of(error)
            return
        before, running, parts = running, [], []
        at = 0
        for number, steps, count in before:
            _advance(replies, running, parts, number, steps, outcomes[at : at + count])
            at += count


def _advance(
    replies: list[Any],
    running: list[tuple[int, Steps, int]],
    parts: list[Operation],
    number: int,
    steps: Steps,
    outcomes: list[Any] | None,
) -> None:
    """Take one command a step on: what it asks for joins `parts`, or it ends."""
    while True:
        try:
            wanted: Sequence[Operation] = steps.send(outcomes)  # type: ignore[arg-type]
        except StopIteration as end:
            replies[number] = end.value
            return
        except Fault as fault:
            replies[number] = fault
            return
        except QuorumCacheError as error:
            replies[number] = fault_of(error)
            return
        if wanted:
            running.append((number, steps, len(wanted)))
            parts += wanted
            return
        outcomes = []


def _give_up(
    running: list[tuple[int, Steps, int]], parts: list[Operation], replies: list[Any], timeout_s: float
) -> None:
    at = 0
    for number, steps, count in running:
        steps.close()
        if any(not isinstance(part, ReadSlot) for part in parts[at : at + count]):
            replies[number] = Fault(f"OUTCOMEUNKNOWN not confirmed within {timeout_s:g} s: it may take effect or not")
        else:
            replies[number] = Fault(f"UNAVAILABLE no result within {timeout_s:g} s: too few nodes answered")
        at += count
