"""Linearizability, slot by slot: an order of the operations that respects real time and explains every read.

Two algorithms. `is_explained` is the test of Gibbons & Korach (Testing Shared Memories, SIAM J. Comput. 26, 1997) for
registers whose values are written once: n log n, by comparing the zones of values. `search` is Wing & Gong's search (J.
Parallel Distrib. Comput. 17, 1993) with Lowe's memory of configurations (Concurrency Computat. Pract. Exper. 29, 2017):
exponential at worst, bounded here, and good for values that are written more than once, as deletes make of absence.
They agree wherever both apply, which the tests hold.

What a history holds (protocol 5.3, 5.4): reads that found a value; misses only where nothing happened that excuses
one; writes that succeeded; of writes whose outcome is unknown, whose client crashed, or that an adversary made, those
that were read: they may take effect at any time from their start on. An overtaken write is ordered like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from sim.checkers.base import Checker, View, told
from sim.record import FAILED, MISS, OK, PENDING, UNKNOWN, Op

NEVER: Final = 1 << 62
ABSENT: Final = b"\xffabsent"
STEPS_MAX: Final = 200_000


class Event(NamedTuple):
    """One operation on one register. `end` is NEVER where it may still take effect; `value` is written or read."""

    start: int
    end: int
    is_write: bool
    value: bytes


def is_explained(history: Sequence[Event]) -> bool:
    """Whether a register's history is linearizable; each value is written at most once, and ABSENT is what it has at
    first (and is never written)."""
    # Per value: the earliest end and the latest start among its write and its reads.
    earliest_end: dict[bytes, int] = {ABSENT: -2}
    latest_start: dict[bytes, int] = {ABSENT: -2}
    write_start: dict[bytes, int] = {ABSENT: -3}
    for event in history:
        if event.is_write:
            write_start[event.value] = event.start
        value = event.value
        earliest_end[value] = min(earliest_end.get(value, NEVER), event.end)
        latest_start[value] = max(latest_start.get(value, -3), event.start)
    for event in history:
        if not event.is_write and (event.value not in write_start or event.end < write_start[event.value]):
            return False
    forward, backward = [], []
    for value, end in earliest_end.items():
        start = latest_start[value]
        if end < start:
            forward.append((end, start))
        else:
            backward.append((start, end))
    forward.sort()
    for (_, before_end), (after_start, _) in pairwise(forward):
        if after_start < before_end:
            return False
    # A value all of whose operations overlap may stand anywhere in its zone, unless that lies inside another's.
    at = 0
    for start, end in sorted(backward):
        while at < len(forward) and forward[at][1] <= start:
            at += 1
        if at < len(forward) and forward[at][0] < start and end < forward[at][1]:
            return False
    # The value that the register begins with has to come first.
    return all(latest_start[ABSENT] <= end for value, end in earliest_end.items() if value != ABSENT)


def search(history: Sequence[Event], *, steps_max: int = STEPS_MAX) -> bool | None:
    """Whether a register's history is linearizable; None where `steps_max` steps did not tell."""
    events = sorted(history)
    count = len(events)
    done = 0
    all_ended = 0
    for i, event in enumerate(events):
        if event.end < NEVER:
            all_ended |= 1 << i
    # What is done, by how many of the first events all are, and a mask of the rest: short, however long the history.
    seen: set[tuple[int, int, bytes]] = set()
    stack: list[tuple[int, bytes]] = [(0, ABSENT)]
    steps = 0
    while stack:
        done, value = stack.pop()
        if done & all_ended == all_ended:
            return True
        steps += 1
        if steps > steps_max:
            return None
        # What may come next began before anything that is still to come has ended.
        horizon = NEVER
        first = _ones(done)
        last = count
        for i in range(first, count):
            if done >> i & 1:
                continue
            event = events[i]
            if event.start > horizon:
                last = i
                break
            if event.end < horizon:
                horizon = event.end
        for i in range(last - 1, first - 1, -1):
            event = events[i]
            if done >> i & 1 or event.start > horizon:
                continue
            if event.is_write:
                after = (done | 1 << i, event.value)
            elif event.value == value:
                after = (done | 1 << i, value)
            else:
                continue
            ones = _ones(after[0])
            known = (ones, after[0] >> ones, after[1])
            if known not in seen:
                seen.add(known)
                stack.append(after)
    return False


def _ones(mask: int) -> int:
    """How many of the lowest bits are all set."""
    return (~mask & (mask + 1)).bit_length() - 1


def history_of(ops: Sequence[Op], *, misses: bool = True) -> tuple[list[Event], bool]:
    """The history of one slot's operations, and whether each value in it is written at most once. Without `misses` no
    miss is held against it, as where deletes were forgotten."""
    read = {op.value for op in ops if op.kind == "read" and op.outcome == OK}
    strict = misses and any(op.kind == "read" and op.outcome == MISS and op.proven for op in ops)
    history: list[Event] = []
    written: set[bytes] = set()
    simple = True
    for op in ops:
        open_end = op.outcome in (PENDING, UNKNOWN) or op.end_us is None
        end = NEVER if open_end else op.end_us or 0
        if op.kind == "read":
            if op.outcome == OK:
                history.append(Event(op.start_us, end, False, op.value))
            elif op.outcome == MISS and op.proven and misses:
                history.append(Event(op.start_us, end, False, ABSENT))
        elif op.outcome == OK or open_end:
            if op.kind == "delete":
                if strict:
                    history.append(Event(op.start_us, end, True, ABSENT))
                    simple = False
                continue
            if open_end and op.value not in read:
                # It took no effect that anybody saw: an order without it does.
                continue
            written.add(op.value)
            history.append(Event(op.start_us, end, True, op.value))
    # What nobody in the history wrote was written by the adversary, some time.
    for value in read - written:
        history.append(Event(-1, NEVER, True, value))
    return history, simple


class Linearizability(Checker):
    """Judges each slot's history at the end; on long runs, window by window, each half of which is also in another.

    A part of a linearizable history is one too, as long as what it read from elsewhere may have been written any time,
    and no miss needs a delete that is not in it. So windows accuse nobody falsely, and find what goes wrong within
    them; what is older than a window is the freshness checker's, which forgets nothing.
    """

    name = "linearizability"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.undecided = 0
        self._deleted: set[bytes] = set()

    def forgetting(self, leaving: list[Op]) -> None:
        """Judge the window; note where misses cannot be judged any more."""
        self.finished()
        self._deleted.update(op.slot for op in leaving if op.kind == "delete" and op.outcome != FAILED)

    def finished(self) -> None:
        """All slots, in the order in which they first occur."""
        slots: dict[bytes, list[Op]] = {}
        for op in self.view.ops:
            if op.type or op.direct:
                continue  # Keys with fields, and those in mode primary, have checkers of their own.
            slots.setdefault(op.slot, []).append(op)
        for slot, ops in slots.items():
            history, simple = history_of(ops, misses=slot not in self._deleted)
            verdict = is_explained(history) if simple else search(history)
            if verdict is None:
                self.undecided += 1
            elif not verdict:
                self.fail(self._story(slot, ops, history, simple))
                return

    def _story(self, slot: bytes, ops: list[Op], history: list[Event], simple: bool) -> str:
        """The shortest beginning of the history that has no order, by when operations ended."""
        ends = sorted({event.end for event in history if event.end < NEVER})
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high) // 2
            part = [
                event if event.end <= ends[middle] else event._replace(end=NEVER)
                for event in history
                if event.end <= ends[middle] or (event.is_write and event.start <= ends[middle])
            ]
            if (is_explained(part) if simple else search(part)) is False:
                high = middle
            else:
                low = middle + 1
        last = next((op for op in ops if ends and op.end_us == ends[high]), None)
        return f"no order explains slot {slot[-8:]!r}" + (f" once {told(last)} has ended" if last is not None else "")
