"""One run per key at a time in this process: who asks for a key while its value is made, waits for the same run.

It must not know caches, loaders or values. A run is a task of its own: that one who waits is cancelled ends
the run only when nobody else waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

from quorumcache.errors import Misuse, Unavailable

V = TypeVar("V")

#: The runs that this code is part of: to wait for one of them would be to wait for oneself.
_within: ContextVar[tuple[Flight[Any], ...]] = ContextVar("quorumcache flights", default=())
#: How long those who wait for a value wait for its being kept, in seconds.
KEEP_S_MAX: Final = 0.1


class Flight(Generic[V]):
    """One run, and those who wait for it. The run may `answer` before it ends, and go on with what nobody waits for."""

    __slots__ = ("_future", "is_overtaken", "task", "waiting")

    def __init__(self) -> None:
        self._future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.waiting = 0
        #: Set by who wrote the key meanwhile: what the run found may be older than that write.
        self.is_overtaken = False

    def answer(self, value: V) -> None:
        """Give all who wait the value."""
        if not self._future.done():
            self._future.set_result(value)

    async def answer_when(self, value: V, kept: Awaitable[None]) -> None:
        """Give all who wait the value when `kept` is done, so that they find it where they look next; or after a
        moment, so that what is slow there does not hold them up. Raises what `kept` raises."""
        timer = self._future.get_loop().call_later(KEEP_S_MAX, self.answer, value)
        try:
            await kept
        finally:
            timer.cancel()
            self.answer(value)

    def fail(self, error: Exception) -> None:
        """Give all who wait the error."""
        if not self._future.done():
            self._future.set_exception(error)
            self._future.exception()  # Seen: an error that nobody waits for any more is nobody's loss.

    @property
    def is_answered(self) -> bool:
        """Whether those who wait have their answer."""
        return self._future.done()

    async def wait(self) -> V:
        """The run's answer; raises its error. Whoever is the last to be cancelled here ends the run."""
        self.waiting += 1
        try:
            return await asyncio.shield(self._future)
        finally:
            self.waiting -= 1
            if not self.waiting and not self._future.done() and self.task is not None:
                self.task.cancel()


class Flights(Generic[V]):
    """The runs under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight[V]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._flights)

    async def run(self, key: Hashable, work: Callable[[Flight[V]], Awaitable[V]]) -> V:
        """The value of `work` for the key: of the run under way, if there is one, else of a new one.

        Raises Misuse where `work` itself asks for it, and otherwise what `work` raises. A `work` that ends by a
        cancellation of its own making raises Unavailable.
        """
        flight = self._flights.get(key)
        if flight is not None and flight in _within.get():
            raise Misuse(f"what makes the value of {key!r} asks for that value itself, which would never end")
        # A run whose last waiter has gone is being cancelled: who comes now must not share that.
        if flight is None or (not flight.waiting and not flight.is_answered):
            flight = self._begin(key, work)
        return await flight.wait()

    def start(self, key: Hashable, work: Callable[[Flight[V]], Awaitable[V]]) -> None:
        """Begin a run that nobody waits for, unless one is under way; its error reaches only those who join it."""
        if key not in self._flights:
            self._begin(key, work).waiting = 1  # The caller, who never goes.

    def overtake(self, key: Hashable) -> None:
        """The key was just written: the run under way must not put what it finds where others look for it."""
        flight = self._flights.pop(key, None)
        if flight is not None:
            flight.is_overtaken = True

    async def stop(self) -> None:
        """End all runs; those who wait get Unavailable."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, key: Hashable, work: Callable[[Flight[V]], Awaitable[V]]) -> Flight[V]:
        flight: Flight[V] = Flight()
        self._flights[key] = flight
        flight.task = asyncio.get_running_loop().create_task(self._fly(key, flight, work))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, key: Hashable, flight: Flight[V], work: Callable[[Flight[V]], Awaitable[V]]) -> None:
        # In the context of this task alone, and of what it starts.
        _within.set((*_within.get(), flight))
        try:
            flight.answer(await work(flight))
        except asyncio.CancelledError:
            flight.fail(Unavailable("what was being loaded was cancelled, and nothing was stored: try again"))
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is goes to those who asked for the value
            flight.fail(error)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
