"""What carries writes from a queue to the database: batches in order, retries, dead letters, and a look at the cache
afterwards.

It must not know how writes come into the queue, or how it is stored.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from quorumcache.client.backoff import backoff_s
from quorumcache.client.client import Client
from quorumcache.client.database.queue import DurableQueue, Queued
from quorumcache.client.database.repairs import Repairs
from quorumcache.client.database.store import Change, Store, key_bytes
from quorumcache.core.outcome import Found, Missed, Outcome
from quorumcache.errors import CannotOpen, InvalidKey, InvalidValue, QuorumCacheError

RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 10.0
MESSAGE_MAX: Final = 1000


class Pending:
    """A write that waits. `told`: whether the cache shows it; None while that is being tried."""

    __slots__ = ("attempts", "not_before_s", "queued", "since_s", "told")

    def __init__(self, queued: Queued, *, told: bool | None) -> None:
        self.queued = queued
        self.told = told
        self.since_s = 0.0
        self.attempts = 0
        self.not_before_s = 0.0


class _Outage(Exception):
    """The database is out of reach, whatever was to be saved."""


class _Batch:
    """What became of the writes of a batch."""

    def __init__(self) -> None:
        self.saved: list[Pending] = []
        self.overtaken: set[bytes] = set()
        self.dead: list[tuple[Pending, str]] = []
        self.held: set[bytes] = set()  # Keys of which an earlier write has to be tried again first.


class Flusher:
    """The writes that wait, by their numbers, and the task that saves them."""

    def __init__(
        self,
        client: Client,
        store: Store,
        queue: DurableQueue,
        repairs: Repairs,
        *,
        overlay: dict[bytes, Pending],
        on_left: Callable[[int, int], None],
        delay: float,
        batch_max: int,
        attempts_max: int,
        save_timeout: float,
    ) -> None:
        self._client = client
        self._store = store
        self._queue = queue
        self._repairs = repairs
        self._overlay = overlay
        self._on_left = on_left
        self._delay = delay
        self._batch_max = batch_max
        self._attempts_max = attempts_max
        self._save_timeout = save_timeout
        self._loop = asyncio.get_running_loop()
        self.pending: OrderedDict[int, Pending] = OrderedDict()
        #: How many writes have been saved.
        self.saved = 0
        #: Why the last attempt failed, in words; empty where it did not.
        self.problem = ""
        self._hurry_until = 0
        self._changed = asyncio.Event()
        self._flushed = asyncio.Event()
        self._progress: asyncio.Future[None] = self._loop.create_future()
        self._task = self._loop.create_task(self._run())

    @property
    def oldest_s(self) -> float:
        """How long the oldest write has been waiting, in seconds."""
        first = next(iter(self.pending.values()), None)
        return 0.0 if first is None else self._loop.time() - first.since_s

    def add(self, pending: Iterable[Pending]) -> None:
        """These wait from now on."""
        now_s = self._loop.time()
        for one in pending:
            one.since_s = now_s
            self.pending[one.queued.seq] = one
        self.wake()

    def wake(self) -> None:
        """Something is different: look again."""
        self._changed.set()
        if not self._progress.done():
            self._progress.set_result(None)
            self._progress = self._loop.create_future()

    async def progress(self) -> None:
        """Wait until something is different."""
        await asyncio.shield(self._progress)

    async def flush(self, seq: int) -> None:
        """Wait until no write up to that number waits any more, and do not wait for more to share their batches."""
        self._hurry_until = max(self._hurry_until, seq)
        self._changed.set()
        self._flushed.set()
        while self.pending and next(iter(self.pending)) <= seq:
            self.check()
            await self.progress()

    def check(self) -> None:
        """Raise the error that ended the task, if one did: a bug, of the store's `check` or of ours."""
        if self._task.done() and not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """End. What waits stays in the queue."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- the task ---

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                batch = await self._next()
                try:
                    done = _Batch()
                    try:
                        await self._save(batch, done)
                    finally:
                        await self._leave(done)
                    failures, self.problem = 0, "" if not done.held else self.problem
                except _Outage as fault:
                    failures += 1
                    self.problem = str(fault)
                    await self._pause(backoff_s(failures, RETRY_S_MIN, RETRY_S_MAX))
        finally:
            self.wake()

    async def _pause(self, delay_s: float) -> None:
        """Wait; but who flushes wants it tried once more at once."""
        self._flushed.clear()
        try:
            async with asyncio.timeout(delay_s):
                await self._flushed.wait()
        except TimeoutError:
            pass  # The pause is over.

    async def _next(self) -> list[Pending]:
        """The writes of the next batch, when it is time for it."""
        while True:
            self._changed.clear()
            now_s = self._loop.time()
            batch, again_s = self._take(now_s)
            if batch:
                due_s = batch[0].since_s + self._delay
                hurried = batch[0].queued.seq <= self._hurry_until
                if hurried or len(batch) >= self._batch_max or now_s >= due_s:
                    return batch
                again_s = due_s
            try:
                async with asyncio.timeout_at(again_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # It is time to look again.

    def _take(self, now_s: float) -> tuple[list[Pending], float | None]:
        """The oldest writes that may be saved now: none before an earlier one of its key. And when one more may."""
        batch: list[Pending] = []
        waiting: set[bytes] = set()
        again_s: float | None = None
        for one in self.pending.values():
            key = one.queued.key
            if key in waiting:
                continue
            if one.told is None:
                waiting.add(key)
            elif one.not_before_s > now_s:
                waiting.add(key)
                again_s = one.not_before_s if again_s is None else min(again_s, one.not_before_s)
            else:
                batch.append(one)
                if len(batch) >= self._batch_max:
                    break
        return batch, again_s

    async def _save(self, batch: Sequence[Pending], done: _Batch) -> None:
        """Save the batch; what is refused, by halves, until those are found whose fault it is. Raises _Outage."""
        batch = [one for one in batch if one.queued.key not in done.held]
        if not batch:
            return
        try:
            changes = [self._change(one.queued) for one in batch]
            async with asyncio.timeout(self._save_timeout):
                overtaken = await self._store.save(changes) or ()
        except (InvalidKey, InvalidValue) as fault:
            if len(batch) == 1:
                done.dead.append((batch[0], _words(fault)))
                return
        except (QuorumCacheError, OSError) as fault:
            if isinstance(fault, TimeoutError) and not str(fault):
                fault = TimeoutError(f"the store took longer than {self._save_timeout:g} s")
            raise _Outage(_words(fault)) from fault
        except Exception as fault:  # noqa: BLE001 - a store may raise anything; what it was is told
            if len(batch) == 1:
                self._try_again(batch[0], _words(fault), done)
                return
        else:
            done.saved.extend(batch)
            done.overtaken.update(key_bytes(key) for key in overtaken)
            return
        middle = len(batch) // 2
        await self._save(batch[:middle], done)
        await self._save(batch[middle:], done)

    def _try_again(self, one: Pending, words: str, done: _Batch) -> None:
        one.attempts += 1
        if one.attempts >= self._attempts_max:
            done.dead.append((one, f"{one.attempts} attempts failed, the last one so: {words}"))
            return
        self.problem = words
        one.not_before_s = self._loop.time() + backoff_s(one.attempts, RETRY_S_MIN, RETRY_S_MAX)
        done.held.add(one.queued.key)

    def _change(self, queued: Queued) -> Change:
        value = None if queued.data is None else self._client.serializer.loads(queued.data)
        return Change(queued.name, value, queued.data is None, queued.version)

    async def _leave(self, done: _Batch) -> None:
        """Take what is saved or refused out of the queue, when it is known what the cache shows instead."""
        if not done.saved and not done.dead:
            return
        left = [*done.saved, *(one for one, _ in done.dead)]
        suspect = await self._suspects(left, done)
        self._repairs.note(suspect)
        settled = {one.queued.key for one in left} - suspect
        try:
            await self._queue.remove(
                [one.queued.seq for one in done.saved],
                dead=[(one.queued, words) for one, words in done.dead],
                unsettled=suspect,
                settled=settled,
            )
        except QuorumCacheError as fault:
            # They are saved again, then: harmless but for a store without versions that others write too.
            raise _Outage(_words(fault)) from fault
        for one in left:
            del self.pending[one.queued.seq]
            if self._overlay.get(one.queued.key) is one:
                del self._overlay[one.queued.key]
        self.saved += len(done.saved)
        self._on_left(len(left), sum(one.queued.size for one in left))
        self.wake()

    async def _suspects(self, left: list[Pending], done: _Batch) -> set[bytes]:
        """The keys of which the cache shows, or may show, something else than the database now holds.

        Another process may have written a key, to the cache and the database in different orders. Whoever saved last
        sees it here, and has it deleted from the cache.
        """
        refused = {one.queued.key for one, _ in done.dead}
        last = {one.queued.key: one for one in left}
        suspect: set[bytes] = set()
        asked: list[Pending] = []
        for key, one in last.items():
            if self._overlay.get(key) is not one:
                continue  # A later write waits: its turn comes.
            if not one.told or key in refused or key in done.overtaken:
                suspect.add(key)
            else:
                asked.append(one)
        outcomes = await asyncio.gather(*(self._client.read(one.queued.key) for one in asked), return_exceptions=True)
        for one, outcome in zip(asked, outcomes, strict=True):
            if not isinstance(outcome, Missed) and not self._shows(outcome, one.queued):
                suspect.add(one.queued.key)
        return suspect

    def _shows(self, outcome: Outcome | BaseException, queued: Queued) -> bool:
        try:
            return isinstance(outcome, Found) and self._client.data_of(queued.key, outcome) == queued.data
        except CannotOpen:
            return False


def _words(fault: BaseException) -> str:
    return (str(fault) or type(fault).__name__)[:MESSAGE_MAX]
