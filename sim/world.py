"""Virtual time: the heap of events, the clocks, and the random streams that one seed gives.

An event is a tuple (time, number, function, two arguments). Times are integers of true microseconds, which nobody in
the world can read: processes have clocks, which are off. It must not know networks, nodes or the protocol.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any, Final

#: Where true time begins: some day of 2023.
START_US: Final = 1_700_000_000_000_000

_STUCK_MASK: Final = (1 << 16) - 1

Action = Callable[[Any, Any], None]


class World:
    """The event heap. `now_us` is true time; `random(name)` gives independent streams of the one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.now_us = START_US
        self.stopped = False
        #: Whether time stood still: the same instant held tens of thousands of events.
        self.stuck = False
        self.event_count = 0
        self._heap: list[tuple[int, int, Action, Any, Any]] = []
        self._number = 0

    def random(self, name: str) -> random.Random:
        """The random stream of this name. A string seeds it, so no hash of the interpreter is involved."""
        return random.Random(f"{self.seed} {name}")

    def at(self, time_us: int, action: Action, first: Any = None, second: Any = None) -> None:
        """Have `action(first, second)` done at a time. What is due at the same time is done in the order of asking."""
        self._number = number = self._number + 1
        heapq.heappush(self._heap, (time_us, number, action, first, second))

    def run_until(self, end_us: int) -> None:
        """Do what is due up to and including a time, or until something sets `stopped`."""
        heap, pop = self._heap, heapq.heappop
        count = 0
        mark_us = -1
        while heap and not self.stopped and heap[0][0] <= end_us:
            self.now_us, _, action, first, second = pop(heap)
            action(first, second)
            count += 1
            if not count & _STUCK_MASK:
                if self.now_us == mark_us:
                    self.stopped = self.stuck = True
                mark_us = self.now_us
        self.event_count += count
        if not self.stopped:
            self.now_us = max(self.now_us, end_us)


class Clock:
    """A clock that is off by `offset_us` and drifts, within `bound_us` of true time, and never runs backwards.

    With `bound_us=None` (a process declared Byzantine) it may be off by anything, and jump back.
    """

    __slots__ = ("_bound_us", "_drift_ppm", "_last_us", "_offset_us", "_since_us", "_world")

    def __init__(self, world: World, offset_us: int, drift_ppm: int, bound_us: int | None) -> None:
        self._world = world
        self._offset_us = offset_us
        self._drift_ppm = drift_ppm
        self._since_us = world.now_us
        self._bound_us = bound_us
        self._last_us = 0

    def read_us(self) -> int:
        """What the clock shows now."""
        now_us = self._world.now_us
        offset_us = self._offset_us + (now_us - self._since_us) * self._drift_ppm // 1_000_000
        bound_us = self._bound_us
        if bound_us is None:
            return now_us + offset_us
        if offset_us > bound_us:
            offset_us = bound_us
        elif offset_us < -bound_us:
            offset_us = -bound_us
        shown_us = now_us + offset_us
        if shown_us < self._last_us:
            return self._last_us
        self._last_us = shown_us
        return shown_us

    def step(self, offset_us: int) -> None:
        """Set the clock to another offset; a bounded one stands still where that would take it back."""
        self._offset_us = offset_us
        self._since_us = self._world.now_us


class Stopwatch:
    """A client's monotonic clock: its own origin, and a small drift."""

    __slots__ = ("_drift_ppm", "_origin_us", "_start_us", "_world")

    def __init__(self, world: World, origin_us: int, drift_ppm: int) -> None:
        self._world = world
        self._origin_us = origin_us
        self._start_us = world.now_us
        self._drift_ppm = drift_ppm

    def read_us(self) -> int:
        """What it shows now."""
        passed_us = self._world.now_us - self._start_us
        return self._origin_us + passed_us + passed_us * self._drift_ppm // 1_000_000

    def when_us(self, shown_us: int) -> int:
        """The first true time, from now on, at which it shows at least `shown_us`."""
        # Exactly: what wakes a microsecond early finds nothing due, and would wake at that very time for ever.
        passed_us = -(-(shown_us - self._origin_us) * 1_000_000 // (1_000_000 + self._drift_ppm))
        return max(self._start_us + passed_us, self._world.now_us)
