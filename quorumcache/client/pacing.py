"""When what was asked for leaves: what comes while a batch is under way waits for it to end, for a moment at most.

Many callers' operations then go in few large batches instead of falling apart into many small ones, each with its
frames and signatures (Nagle's rule, RFC 896). Nobody waits who is alone. It must not know what batches are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol


class Ending(Protocol):
    """A batch."""

    finished: bool


#: As many leave at once: a larger batch would cost hardly less for each.
FULL_BATCH: Final = 64


class Pace:
    """One stream of batches. `wake()` is called when what was held may leave; `hold_s`: how long it is held at most."""

    __slots__ = ("_hold_s", "_latest", "_loop", "_sent_s", "_timer", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop, hold_s: float, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._hold_s = hold_s
        self._wake = wake
        self._latest: Ending | None = None
        self._sent_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def holds(self, count: int) -> bool:
        """Whether so many operations that are queued wait; `wake` will be called then."""
        latest = self._latest
        if latest is None or latest.finished or count >= FULL_BATCH:
            return False
        if self._timer is None:
            left_s = self._sent_s + self._hold_s - self._loop.time()
            if left_s <= 0:
                return False
            self._timer = self._loop.call_later(left_s, self._expire)
        return True

    @property
    def is_holding(self) -> bool:
        """Whether something is held, and `wake` will be called."""
        return self._timer is not None

    def sent(self, latest: Ending | None) -> None:
        """What was queued has left, the last of it as this batch."""
        self._latest = latest
        self._sent_s = self._loop.time()
        self.stop()

    def release(self) -> None:
        """Something ended: if it was the batch that others wait for, they may leave."""
        if self._timer is not None and (self._latest is None or self._latest.finished):
            self.stop()
            self._wake()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        self._latest = None
        self._wake()
