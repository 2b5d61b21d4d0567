"""Write-behind: a write is acknowledged when it is in a durable queue of this process, and reaches the database later.

What it promises is in docs/database.md. It must not know any database, nor how the queue is stored.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from quorumcache.client.client import Client
from quorumcache.client.database.flusher import Flusher, Pending
from quorumcache.client.database.queue import DeadLetter, Durability, DurableQueue, Queued
from quorumcache.client.database.repairs import Repairs
from quorumcache.client.database.store import Change, Store, key_bytes
from quorumcache.client.database.through import ReadThrough, check_store
from quorumcache.client.operations import Key
from quorumcache.errors import (
    InvalidValue,
    Misuse,
    OutcomeUnknown,
    QueueFull,
    QuorumCacheError,
    StoreFailed,
    Unavailable,
)

ENTRIES_MAX: Final = 100_000
BYTES_MAX: Final = 64 << 20


class QueueStatus(NamedTuple):
    """How a write-behind queue stands: counts, bytes, seconds, and the last problem in words (empty where none)."""

    waiting: int
    waiting_bytes: int
    oldest_s: float
    saved: int
    dead: int
    unrepaired: int
    problem: str


class WriteBehind(ReadThrough):
    """Reads as `ReadThrough`; a write is acknowledged when it is in a durable queue, shown by the cache at once, and
    saved to the database in batches.

        cache = WriteBehind(client, SqliteStore("app.db"), queue="queue.db", ttl=300)
        await cache.set("user:7", b"Ada")
        await cache.close()

    `queue`: an SQLite file, one for each process. What an earlier process left in it is saved first. `durability`:
    whether what is acknowledged survives "power" loss, or the end of the "process" only. `delay`: seconds that writes
    wait for others to share a batch of at most `batch_max`. `entries_max`, `bytes_max`: what may wait; beyond that
    writes wait `full_timeout` seconds, then raise QueueFull. `attempts_max`: how often a write is tried that fails with
    an error of unknown kind; then it becomes a dead letter, as one that the database refuses does at once. Outages are
    waited for without end. `save_timeout`: seconds for one batch.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        *,
        queue: str | os.PathLike[str],
        ttl: float | None = None,
        durability: Durability = "power",
        delay: float = 0.02,
        batch_max: int = 500,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        full_timeout: float = 1.0,
        attempts_max: int = 10,
        save_timeout: float = 30.0,
        cache_timeout: float = 2.0,
    ) -> None:
        """To be made where the client's loop runs. Raises Misuse where the queue is in use, damaged or another's."""
        check_store(store)
        super().__init__(client, store, ttl=ttl, cache_timeout=cache_timeout)
        self._store = store
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._full_timeout = full_timeout
        owner = f"cluster {client.configuration.cluster_id!r}, namespace {client.namespace_name!r}"
        self._queue = DurableQueue(queue, durability=durability, owner=owner)
        self._repairs = Repairs(client, on_done=self._on_repaired, keys_max=entries_max)
        self._last_seq, self._last_us = self._queue.last_seq, self._queue.last_version
        # What is reserved: in the queue, or on its way into it.
        self._count = self._bytes = 0
        # The last write of each key that is not in the database yet.
        self._overlay: dict[bytes, Pending] = {}
        self._is_closed = False
        self._flusher = Flusher(
            client,
            store,
            self._queue,
            self._repairs,
            overlay=self._overlay,
            on_left=self._on_left,
            delay=delay,
            batch_max=batch_max,
            attempts_max=attempts_max,
            save_timeout=save_timeout,
        )
        found = [Pending(one, told=False) for one in self._queue.found]
        self._count, self._bytes = len(found), sum(one.size for one in self._queue.found)
        self._queue.found.clear()
        self._accept(found)
        self._repairs.note(self._queue.unsettled)

    # --- what one may ask ---

    @property
    def status(self) -> QueueStatus:
        """How the queue stands."""
        flusher = self._flusher
        return QueueStatus(
            len(flusher.pending),
            self._bytes,
            flusher.oldest_s,
            flusher.saved,
            self._queue.dead,
            len(self._repairs),
            flusher.problem or self._repairs.problem,
        )

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The oldest writes that the database refused, each with its reason."""
        letters = await self._queue.letters(limit)
        return [DeadLetter(one.seq, one.name, one.data, one.version, message) for one, message in letters]

    async def retry_dead(self, limit: int = 100) -> int:
        """Try the oldest dead letters again: how many. A store with versions leaves what is newer alone; with any
        other, look first whether the key has been written since."""
        self._check_open()
        old = [one for one, _ in await self._queue.letters(limit)]
        new = [one._replace(seq=self._next_seq()) for one in old]
        await self._queue.revive(new, [one.seq for one in old])
        self._count += len(new)
        self._bytes += sum(one.size for one in new)
        self._accept([Pending(one, told=False) for one in new])
        return len(new)

    async def drop_dead(self, limit: int = 100) -> int:
        """Forget the oldest dead letters for good: how many."""
        old = [one for one, _ in await self._queue.letters(limit)]
        await self._queue.bury(old)
        return len(old)

    # --- reading: what waits is newer than cache and database ---

    async def get(self, key: Key, default: Any = None) -> Any:
        """See `ReadThrough.get`. What this process has written is seen at once."""
        waiting = self._overlay.get(key_bytes(key))
        if waiting is not None:
            data = waiting.queued.data
            return default if data is None else self._client.serializer.loads(data)
        return await super().get(key, default)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `ReadThrough.get_many`. What this process has written is seen at once."""
        found: dict[Key, Any] = {}
        rest: list[Key] = []
        for key in dict.fromkeys(keys):
            waiting = self._overlay.get(key_bytes(key))
            if waiting is None:
                rest.append(key)
            elif waiting.queued.data is not None:
                found[key] = self._client.serializer.loads(waiting.queued.data)
        return found | (await super().get_many(rest) if rest else {})

    # --- writing ---

    async def set(self, key: Key, value: Any) -> None:
        """Set the key's value. When this returns, the write survives this process, and will be in the database.

        Raises InvalidKey, InvalidValue, and where the queue is full QueueFull, where its file cannot be written
        Unavailable: in all these cases nothing happened.
        """
        await self._write([(key, value, False)])

    async def delete(self, key: Key) -> None:
        """Delete the key from database and cache; as `set` otherwise."""
        await self._write([(key, None, True)])

    async def set_many(self, items: Mapping[Key, Any]) -> None:
        """Set many keys: acknowledged all or none. Raises as `set` does."""
        await self._write([(key, value, False) for key, value in items.items()])

    async def delete_many(self, keys: Iterable[Key]) -> None:
        """Delete many keys; as `set_many` otherwise."""
        await self._write([(key, None, True) for key in dict.fromkeys(keys)])

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was acknowledged before is in the database, or among the dead letters.

        Raises StoreFailed where that takes longer than `timeout` seconds; nothing is lost then.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._flusher.flush(self._last_seq)
        except TimeoutError:
            raise self._left_behind() from None

    async def close(self, *, timeout: float = 10.0) -> None:
        """Take no more writes, save what waits, tell the cache, and let go of the queue. Client and store stay open.

        Raises StoreFailed where not all could be saved within `timeout` seconds. What is left stays in the file, and
        is saved when it is opened again.
        """
        if self._is_closed:
            return
        self._is_closed = True
        left: StoreFailed | None = None
        try:
            async with asyncio.timeout(timeout):
                await self._queue.idle()
                await self._flusher.flush(self._last_seq)
                await self._repairs.finish()
        except TimeoutError:
            left = self._left_behind()
        finally:
            await super().close()
            await self._flusher.stop()
            await self._repairs.stop()
            await self._queue.close()
        if left is not None:
            raise left

    # --- inside ---

    def _left_behind(self) -> StoreFailed:
        status = self.status
        return StoreFailed(
            f"{status.waiting} writes are not in the database yet, and {status.unrepaired} keys of the cache may show "
            f"older values; they are safe in {self._queue.path}. {status.problem}"
        )

    def _check_open(self) -> None:
        if self._is_closed:
            raise Misuse("this write-behind queue is closed")
        self._flusher.check()

    async def _write(self, writes: list[tuple[Key, Any, bool]]) -> None:
        self._check_open()
        if not writes:
            return
        dumps, pending = self._client.serializer.dumps, []
        for key, value, deleted in writes:
            if deleted:
                self._client.check_key(key)
            elif value is None:
                raise InvalidValue("the value None stands for no value: delete the key")
            else:
                self._client.check(key, value, ttl=self._ttl)
            self._store.check(Change(key, value, deleted, 0))
            queued = Queued(0, key_bytes(key), isinstance(key, str), None if deleted else dumps(value), 0)
            pending.append(Pending(queued, told=None))
        size = sum(one.queued.size for one in pending)
        await self._admit(len(pending), size)
        # Numbered where nothing is awaited any more before they are handed over, so that the file has their order.
        for one in pending:
            self._last_us = max(self._last_us + 1, self._client.time_us)
            one.queued = one.queued._replace(seq=self._next_seq(), version=self._last_us)

        def failed() -> None:
            self._on_left(len(pending), size)

        told = False
        try:
            await self._queue.append([one.queued for one in pending], lambda: self._accept(pending), failed)
            told = await self._tell(pending)
        finally:
            # Also where this was cancelled: then the file may have the writes all the same.
            for one in pending:
                one.told = told
            self._flusher.wake()

    async def _admit(self, count: int, size: int) -> None:
        """Reserve places. Raises QueueFull where there are none in time."""
        if count > self._entries_max or size > self._bytes_max:
            raise Misuse(
                f"{count} writes of {size} bytes in one call, where {self._entries_max} of {self._bytes_max} bytes may "
                "wait in all: split it"
            )
        if not self._has_room(count, size):
            try:
                async with asyncio.timeout(self._full_timeout):
                    while not self._has_room(count, size):
                        await self._flusher.progress()
                        self._check_open()
            except TimeoutError:
                status = self.status
                raise QueueFull(
                    f"{status.waiting} writes ({status.waiting_bytes} bytes) wait for the database, the oldest for "
                    f"{status.oldest_s:.0f} s, {status.unrepaired} keys for the cache, with {status.dead} dead "
                    f"letters: no more are taken, and nothing happened. {status.problem}"
                ) from None
        self._count += count
        self._bytes += size

    def _has_room(self, count: int, size: int) -> bool:
        held = self._count + self._queue.dead + len(self._repairs)
        return held + count <= self._entries_max and self._bytes + self._queue.dead_bytes + size <= self._bytes_max

    def _next_seq(self) -> int:
        self._last_seq += 1
        return self._last_seq

    def _accept(self, pending: Sequence[Pending]) -> None:
        """These are in the file."""
        for one in pending:
            self._overlay[one.queued.key] = one
        self._overtake([one.queued.key for one in pending])
        self._flusher.add(pending)

    def _on_left(self, count: int, size: int) -> None:
        """So many have left the queue, or never came in."""
        self._count -= count
        self._bytes -= size

    async def _on_repaired(self, keys: list[bytes]) -> None:
        try:
            await self._queue.remove((), settled=keys)
        except QuorumCacheError as fault:
            self._note_failure(fault)  # They are deleted once more when the queue is opened again: no harm.
        self._flusher.wake()

    def _is_suspect(self, key: Key) -> bool:
        return key in self._repairs

    async def _tell(self, pending: Sequence[Pending]) -> bool:
        """Show the cache what was written; False where that failed."""
        # Where a later write of the key is in the queue already, that one tells.
        last = {one.queued.key: one for one in pending if self._overlay.get(one.queued.key) is one}
        loads = self._client.serializer.loads
        puts: OrderedDict[Key, Any] = OrderedDict()
        gone: list[Key] = []
        for key, one in last.items():
            if one.queued.data is None:
                gone.append(key)
            else:
                puts[key] = loads(one.queued.data)
        try:
            async with asyncio.timeout(self._cache_timeout):
                await self._client.set_many(puts, ttl=self._ttl)
                await self._client.delete_many(gone)
        except (Unavailable, OutcomeUnknown, TimeoutError) as fault:
            self._note_failure(fault)
            return False
        for key in last:
            self._repairs.forget(key)
        return True
