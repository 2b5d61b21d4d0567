"""Makes what was written durable, in a thread: one sync at a time, each for all that was written before it began.

While one is under way, what is written waits for the next: so many small transactions share one. It must not know what
the file holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Syncer:
    """`sync` blocks until all that was written before its call is durable, or raises OSError; it runs in a thread."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._written = 0
        self._durable = 0
        self._under_way = False
        self._closed = False
        self._next: asyncio.Future[None] | None = None
        self.failure: OSError | None = None
        self.syncs_count = 0

    def wrote(self) -> None:
        """Something was written."""
        self._written += 1

    def wait(self) -> asyncio.Future[None] | None:
        """Done when all that was written so far is durable; None where it is."""
        if self._durable == self._written and self.failure is None:
            return None
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            # Whoever waits hears of it; and where nobody does any more, the node's own look at `failure` does.
            self._next.add_done_callback(lambda done: done.cancelled() or done.exception())
        waiting = self._next
        if not self._under_way:
            self._begin()
        # Several wait for the same: one that is cancelled must not cancel the others.
        return asyncio.shield(waiting)

    def _begin(self) -> None:
        waiting, self._next = self._next, None
        assert waiting is not None
        if self.failure is not None or self._closed:
            fault = self.failure or OSError("storage is closed")
            waiting.set_exception(OSError(*fault.args))
            return
        loop, covers = asyncio.get_running_loop(), self._written
        self._under_way = True

        def ended(done: Future[None]) -> None:
            loop.call_soon_threadsafe(self._ended, done, covers, waiting)

        self._thread.submit(self._sync).add_done_callback(ended)

    def _ended(self, done: Future[None], covers: int, waiting: asyncio.Future[None]) -> None:
        self._under_way = False
        self.syncs_count += 1
        fault = done.exception()
        if isinstance(fault, OSError):
            self.failure = fault
            if not waiting.done():
                waiting.set_exception(OSError(*fault.args))
        elif fault is not None:
            raise fault
        else:
            self._durable = covers
            if not waiting.done():
                waiting.set_result(None)
        if self._next is not None:
            self._begin()

    def close(self) -> None:
        """Wait for what is under way; who waits for more gets an OSError."""
        self._closed = True
        self._thread.shutdown()
