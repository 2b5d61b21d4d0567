"""What waits for outcomes no longer than a time that is the same for all: one timer for all of it.

It must not know what waits.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Waiting(Protocol):
    """What waits."""

    def give_up(self) -> None:
        """The time is over."""


class Deadlines:
    """`timeout_s`: how long each may wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._loop = loop
        #: What waits -> until when, on the loop's clock; in the order of time.
        self._ends_s: dict[Waiting, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._ends_s)

    def begin(self, waiting: Waiting) -> None:
        """It waits from now on."""
        self._ends_s[waiting] = self._loop.time() + self.timeout_s
        if self._timer is None:
            self._timer = self._loop.call_later(self.timeout_s, self._expire)

    def end(self, waiting: Waiting) -> None:
        """It waits no longer."""
        self._ends_s.pop(waiting, None)

    def stop(self) -> None:
        """Nothing ends any more for its time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._ends_s.clear()

    def _expire(self) -> None:
        self._timer = None
        now_s = self._loop.time()
        over = []
        for waiting, end_s in self._ends_s.items():
            if end_s > now_s:
                self._timer = self._loop.call_later(end_s - now_s, self._expire)
                break
            over.append(waiting)
        for waiting in over:
            if self._ends_s.pop(waiting, None) is not None:
                waiting.give_up()
