"""Commands of one connection run together, as far as nobody could tell their order (ordering.py).

Each command is a generator of operations; all that run together go forward in step, and what they ask for in a step
leaves as one batch: no task, lock, timer or round trip of their own. What many connections ask for at about the same
time leaves together too (quorumcache/client/pacing.py). It must not know what commands do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from quorumcache.client import Client
from quorumcache.client.mixed import Operation, ReadSlot, begin_mixed, run_mixed
from quorumcache.core.outcome import Outcome
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.deadlines import Deadlines
from quorumcache.gateway.redis.faults import Fault, fault_of
from quorumcache.gateway.redis.folding import fold
from quorumcache.gateway.redis.ordering import Numbered, turns_of
from quorumcache.gateway.redis.table import Steps

#: How many operations of one step leave at a time; what they bring back is in memory at once.
_OPERATIONS_MAX: Final = 1024


async def run_calls(client: Client, deadlines: Deadlines, calls: list[Numbered], replies: list[Any]) -> None:
    """Run commands that are steps, and put each one's reply (or Fault) into `replies` at its number."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ended(bug: Exception | None) -> None:
        if future.done():
            return
        if bug is None:
            future.set_result(None)
        else:
            future.set_exception(bug)

    running = Running(client, deadlines, calls, replies, ended)
    running.start()
    try:
        await future
    finally:
        running.stop()


class Running:
    """Commands on their way, without a task: what comes of their operations takes them on, within the loop.

    `ended(bug)` is called once all have their replies, or with what one of them raised that it must not raise.
    """

    __slots__ = (
        "_asked",
        "_at",
        "_client",
        "_deadlines",
        "_ended",
        "_followers",
        "_outcomes",
        "_parts",
        "_replies",
        "_running",
        "_task",
        "_turns",
    )

    def __init__(
        self,
        client: Client,
        deadlines: Deadlines,
        calls: list[Numbered],
        replies: list[Any],
        ended: Callable[[Exception | None], None],
    ) -> None:
        self._client = client
        self._deadlines = deadlines
        self._replies = replies
        self._ended = ended
        #: (number, number of the command that it went into).
        self._followers: list[tuple[int, int]] = []
        if len(calls) == 1:
            self._turns = [calls]
        else:
            calls, self._followers = fold(calls)
            self._turns = turns_of(calls)
            self._turns.reverse()
        #: What the commands of this step wait for: number, steps, how many operations.
        self._running: list[tuple[int, Steps, int]] = []
        self._parts: list[Operation] = []
        self._outcomes: list[Outcome] = []
        self._at = 0
        self._asked: _Asked | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, or go on with the next commands. May call `ended` at once."""
        try:
            self._go_on()
        except Exception as bug:  # noqa: BLE001 - as in `take`
            self._end(bug)

    def stop(self) -> None:
        """Forget all; `ended` will not be called. What left is under way all the same."""
        self._stop_asking()
        self._turns = []
        for _, steps, _ in self._running:
            steps.close()
        self._running = []

    def take(self, outcomes: list[Outcome]) -> None:
        """What comes of the operations that were asked for last."""
        try:
            if self._at < len(self._parts):
                self._outcomes += outcomes
                if not self._ask():
                    self._go_on()
                return
            self._stop_asking()
            if self._outcomes:
                outcomes = self._outcomes + outcomes
                self._outcomes = []
            before, self._running, self._parts = self._running, [], []
            at = 0
            for number, steps, count in before:
                self._advance(number, steps, outcomes[at : at + count])
                at += count
            self._go_on()
        except Exception as bug:  # noqa: BLE001 - a fault of ours must not leave a client waiting, nor others' outcomes
            self._end(bug)

    def give_up(self) -> None:
        """The time for this step is over: its commands end, those behind them go on."""
        self._stop_asking()
        timeout_s, replies, at = self._deadlines.timeout_s, self._replies, 0
        for number, steps, count in self._running:
            steps.close()
            if any(not isinstance(part, ReadSlot) for part in self._parts[at : at + count]):
                replies[number] = Fault(
                    f"OUTCOMEUNKNOWN not confirmed within {timeout_s:g} s: it may take effect or not"
                )
            else:
                replies[number] = Fault(f"UNAVAILABLE no result within {timeout_s:g} s: too few nodes answered")
            at += count
        self._running, self._parts, self._outcomes = [], [], []
        self.start()

    # --- inside ---

    def _go_on(self) -> None:
        """Ask for what the commands of this step want; where none is left, begin those of the next turn."""
        while True:
            while not self._running:
                if not self._turns:
                    replies = self._replies
                    for number, leader in self._followers:
                        reply = replies[leader]
                        replies[number] = reply if isinstance(reply, Fault) else 1
                    self._end(None)
                    return
                self._parts = []
                for number, call in self._turns.pop():
                    self._advance(number, call.command.run(call), None)
            self._at = 0
            self._deadlines.begin(self)
            if self._ask():
                return

    def _ask(self) -> bool:
        """Ask for the next operations of this step; False where that failed, and with it the commands of the step."""
        parts, at = self._parts, self._at
        self._at = at + _OPERATIONS_MAX
        if len(parts) > _OPERATIONS_MAX:
            parts = parts[at : self._at]
        self._asked = asked = _Asked(self)
        try:
            if not begin_mixed(self._client, parts, asked):
                self._task = asyncio.get_running_loop().create_task(self._ask_later(parts, asked))
        except QuorumCacheError as error:
            self._fail(error)
            return False
        return True

    async def _ask_later(self, parts: Sequence[Operation], asked: _Asked) -> None:
        """As `begin_mixed`, once there are places."""
        try:
            outcomes = await run_mixed(self._client, parts)
        except QuorumCacheError as error:
            if not asked.done():
                self._task = None
                self._fail(error)
                self.start()
            return
        if not asked.done():
            self._task = None
            asked.set_result(outcomes)

    def _fail(self, error: QuorumCacheError) -> None:
        """End the commands of this step."""
        self._stop_asking()
        for number, steps, _ in self._running:
            steps.close()
            self._replies[number] = fault_of(error)
        self._running, self._parts, self._outcomes = [], [], []

    def _stop_asking(self) -> None:
        if self._asked is not None:
            self._asked.running = None
            self._asked = None
        self._deadlines.end(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _end(self, bug: Exception | None) -> None:
        ended = self._ended
        self.stop()
        ended(bug)

    def _advance(self, number: int, steps: Steps, outcomes: list[Any] | None) -> None:
        """Take one command a step on: what it asks for joins the others' operations, or it ends."""
        replies = self._replies
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
                self._running.append((number, steps, len(wanted)))
                self._parts += wanted
                return
            outcomes = []


class _Asked:
    """Takes what comes of one step's operations, unless nobody waits for it any more."""

    __slots__ = ("running",)

    def __init__(self, running: Running) -> None:
        self.running: Running | None = running

    def done(self) -> bool:
        return self.running is None

    def set_result(self, outcomes: list[Outcome], /) -> None:
        if self.running is not None:
            self.running.take(outcomes)
