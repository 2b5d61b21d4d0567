"""Whose requests are handled next: fair shares of a node's time, by the key that a session proved.

All sessions of one key (and all strangers together) may use so much time in one turn of the event loop; what is left
then waits for a later turn, so that others are served in between, however many sessions somebody has. It must not know
sessions or requests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

#: How long all of one key's sessions may keep a turn of the event loop, and after how long a session lets others in.
QUANTUM_NS: Final = 1_000_000


class Turns:
    """Counts the time that each key uses, and has it wait once its share of the turn is over."""

    def __init__(self, quantum_ns: int = QUANTUM_NS) -> None:
        self._quantum_ns = quantum_ns
        self._used_ns: dict[bytes, int] = {}
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._scheduled = False
        #: How often each key that waits, or waited last, had to: of few keys, for people and tests.
        self.waited_counts: dict[bytes, int] = {}

    def wait(self, key: bytes) -> asyncio.Future[None] | None:
        """None where the key's sessions may go on now; else what to wait for."""
        if key not in self._waiting and self._used_ns.get(key, 0) < self._quantum_ns:
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        if key in self.waited_counts or len(self.waited_counts) < 1000:
            self.waited_counts[key] = self.waited_counts.get(key, 0) + 1
        self._schedule()
        return turn

    def used(self, key: bytes, time_ns: int) -> None:
        """A session of the key has used so much time."""
        self._used_ns[key] = self._used_ns.get(key, 0) + time_ns
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn of the event loop: one session of each key that waits goes on."""
        self._scheduled = False
        self._used_ns.clear()
        for key in list(self._waiting):
            queue = self._waiting[key]
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    break
            if not queue:
                del self._waiting[key]
        if self._waiting:
            self._schedule()
