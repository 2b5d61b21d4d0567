"""Read-through and write-through: the database is the truth, and the cache stands before it.

What each promises is in docs/database.md. It must not know any database: that is a `Store`'s matter.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from quorumcache.client.client import Client
from quorumcache.client.database.repairs import Repairs
from quorumcache.client.database.store import Change, Store, key_bytes
from quorumcache.client.flight import Flight, Flights
from quorumcache.client.operations import Key
from quorumcache.errors import (
    CannotOpen,
    InvalidKey,
    InvalidValue,
    Misuse,
    OutcomeUnknown,
    QueueFull,
    QuorumCacheError,
    StoreFailed,
    Unavailable,
)

T = TypeVar("T")
Loader = Callable[[Key], Awaitable[Any]]

LOADS_MAX: Final = 64
REPAIRS_MAX: Final = 100_000
WAYS_MAX: Final = 100_000


class ReadThrough:
    """Reads by way of the cache: what is not there is loaded from the database, once per key at a time in this
    process, and put there.

        users = ReadThrough(client, load_user, ttl=60)
        await users.get("user:7")

    `source`: an async function of a key that returns its value, or None where there is none; or a `Store`. `ttl`:
    seconds that the cache keeps what was loaded, which bounds how long it shows what the database no longer holds.
    `cache_timeout`: seconds to wait for the cache before the database is asked without it. A cache that cannot be
    reached, or is slow, costs time and load but no answer.
    """

    def __init__(
        self, client: Client, source: Loader | Store, *, ttl: float | None = None, cache_timeout: float = 2.0
    ) -> None:
        if not isinstance(source, Store):
            check_loader(source)
        if client.writer is None:
            raise Misuse("this client has no writer's key, so nothing that is loaded could be put into the cache")
        client.check_ttl(ttl)
        self._client = client
        self._source = source
        self._ttl = ttl
        self._cache_timeout = cache_timeout
        self._flights: Flights[tuple[Any, bool]] = Flights()
        self._loading = asyncio.Semaphore(LOADS_MAX)
        # What each `get_many` has asked the store for, less the keys that were written since.
        self._asked: list[set[bytes]] = []
        #: What last went wrong with the cache, in words.
        self.problem = ""
        self._counts = {"hits": 0, "loads": 0, "cache_failures": 0}

    @property
    def counts(self) -> dict[str, int]:
        """What happened so far: hits, loads (keys asked of the database), cache_failures."""
        return dict(self._counts)

    @property
    def source(self) -> Loader | Store:
        """Where values come from."""
        return self._source

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is under way. The client and the store stay open: they are the caller's."""
        await self._flights.stop()

    @overload
    async def get(self, key: Key) -> Any | None: ...

    @overload
    async def get(self, key: Key, default: T) -> Any | T: ...

    async def get(self, key: Key, default: Any = None) -> Any:
        """The key's value, from the cache or else the database; `default` where neither has one.

        Raises what the source raises (StoreFailed for the stores that come with quorumcache).
        """
        value = await self._cached(key)
        if value is not None:
            self._counts["hits"] += 1
            return value
        loaded, there = await self._flights.run(key_bytes(key), partial(self._load, key))
        return loaded if there else default

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those keys that have one, by key: one round trip to the cache, and one to a store for the
        rest. Raises as `get` does."""
        wanted = list(dict.fromkeys(keys))
        found = await self._cached_many(wanted)
        self._counts["hits"] += len(found)
        missing = [key for key in wanted if key not in found]
        if not missing:
            return found
        if not isinstance(self._source, Store):
            loads = [self._flights.run(key_bytes(key), partial(self._load, key)) for key in missing]
            for key, (value, there) in zip(missing, await asyncio.gather(*loads), strict=True):
                if there:
                    found[key] = value
            return found
        # One question to the store; a write of one of the keys meanwhile keeps what was found out of the cache.
        fresh = {key_bytes(key) for key in missing}
        self._asked.append(fresh)
        try:
            self._counts["loads"] += len(missing)
            loaded = {key: value for key, value in (await self._source.load(missing)).items() if value is not None}
            await self._put_many({key: value for key, value in loaded.items() if key_bytes(key) in fresh})
        finally:
            self._asked.remove(fresh)
        return found | loaded

    async def invalidate(self, key: Key) -> None:
        """Delete the key from the cache only, so that the next `get` asks the database. Raises as `Client.delete`."""
        self._overtake([key])
        await self._client.delete(key)

    # --- for those who also write ---

    def _overtake(self, keys: Iterable[Key]) -> None:
        """These keys are written: what is being loaded may be older, and stays out of the cache."""
        for key in keys:
            name = key_bytes(key)
            self._flights.overtake(name)
            for fresh in self._asked:
                fresh.discard(name)

    def _is_suspect(self, key: Key) -> bool:
        """Whether the cache is known to hold something else than the database for the key."""
        return False

    # --- inside ---

    async def _cached(self, key: Key) -> Any | None:
        if self._is_suspect(key):
            return None
        try:
            async with asyncio.timeout(self._cache_timeout):
                return await self._client.get(key)
        except (Unavailable, TimeoutError, CannotOpen, InvalidValue) as fault:
            # What cannot be read or understood is loaded, and replaced.
            self._note_failure(fault)
            return None

    async def _cached_many(self, keys: Sequence[Key]) -> dict[Key, Any]:
        asked = [key for key in keys if not self._is_suspect(key)]
        try:
            async with asyncio.timeout(self._cache_timeout):
                return await self._client.get_many(asked)
        except (Unavailable, TimeoutError, CannotOpen, InvalidValue) as fault:
            # What cannot be read or understood is loaded, and replaced.
            self._note_failure(fault)
            return {}

    async def _load(self, key: Key, flight: Flight[tuple[Any, bool]]) -> tuple[Any, bool]:
        self._counts["loads"] += 1
        async with self._loading:
            if isinstance(self._source, Store):
                loaded = await self._source.load([key])
                value = loaded.get(key)
            else:
                loading = self._source(key)
                if not inspect.isawaitable(loading):
                    raise Misuse(f"the source returned a {type(loading).__name__} at once: make it an async function")
                value = await loading
        answer = (value, value is not None)
        if value is not None and not flight.is_overtaken:
            await flight.answer_when(answer, self._put_many({key: value}))
        return answer

    async def _put_many(self, values: Mapping[Key, Any]) -> None:
        """Put into the cache what was loaded. Where that fails, nothing is lost: it is loaded again."""
        fitting = {}
        for key, value in values.items():
            try:
                self._client.check(key, value, ttl=self._ttl)
                fitting[key] = value
            except InvalidValue as fault:
                self._note_failure(fault)  # Too large for the cache, say: the database goes on serving it.
        try:
            async with asyncio.timeout(self._cache_timeout):
                await self._client.set_many(fitting, ttl=self._ttl)
        except (QuorumCacheError, TimeoutError) as fault:
            self._note_failure(fault)

    def _note_failure(self, fault: Exception) -> None:
        self._counts["cache_failures"] += 1
        self.problem = str(fault) or f"the cache took longer than {self._cache_timeout:g} s"


class WriteThrough(ReadThrough):
    """Reads as `ReadThrough`; writes go to the database first, and when it has them, to the cache.

        users = WriteThrough(client, SqliteStore("app.db"), ttl=300)
        await users.set("user:7", b"Ada")

    A `set` that returns is in the database. Where the cache cannot be told, the key is deleted from it in the
    background as soon as it can be; until then this process reads the key from the database, and others may read what
    was there before. `update=False`: after a write the key is deleted from the cache rather than set.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        *,
        ttl: float | None = None,
        update: bool = True,
        cache_timeout: float = 2.0,
        repairs_max: int = REPAIRS_MAX,
    ) -> None:
        check_store(store)
        super().__init__(client, store, ttl=ttl, cache_timeout=cache_timeout)
        self._store = store
        self._update = update
        self._repairs = Repairs(client, keys_max=repairs_max)
        self._turns: dict[bytes, _Turn] = {}
        self._last_us = 0

    @property
    def unrepaired(self) -> int:
        """How many keys the cache may show an older value of, as far as this process knows."""
        return len(self._repairs)

    async def close(self, *, timeout: float = 10.0) -> None:
        """Wait up to `timeout` seconds for repairs of the cache, then end. Client and store stay open."""
        await super().close()
        try:
            async with asyncio.timeout(timeout):
                await self._repairs.finish()
        except TimeoutError:
            raise Unavailable(
                f"{len(self._repairs)} keys of the cache may still show older values, until their ttl ends: "
                f"{self._repairs.problem}"
            ) from None
        finally:
            await self._repairs.stop()

    async def set(self, key: Key, value: Any) -> None:
        """Set the key's value: it is in the database when this returns.

        Raises InvalidKey, InvalidValue (nothing happened), QueueFull where too many keys of the cache wait for repair
        (nothing happened), StoreFailed (it may or may not be in the database).
        """
        await self._write([(key, value, False)])

    async def delete(self, key: Key) -> None:
        """Delete the key from the database and the cache; raises as `set` does."""
        await self._write([(key, None, True)])

    async def set_many(self, items: Mapping[Key, Any]) -> None:
        """Set many keys: one transaction of the store. Raises as `set` does."""
        await self._write([(key, value, False) for key, value in items.items()])

    async def delete_many(self, keys: Iterable[Key]) -> None:
        """Delete many keys; raises as `set_many` does."""
        await self._write([(key, None, True) for key in dict.fromkeys(keys)])

    # --- inside ---

    def _is_suspect(self, key: Key) -> bool:
        return key in self._repairs

    async def _write(self, writes: list[tuple[Key, Any, bool]]) -> None:
        changes = []
        for key, value, deleted in writes:
            changes.append(self._change(key, value, deleted))
        if self._repairs.is_full:
            raise QueueFull(
                f"{len(self._repairs)} keys of the cache wait for repair already, since the cache cannot be written: "
                f"{self._repairs.problem}. Nothing was written"
            )
        names = sorted({key_bytes(change.key) for change in changes})
        turns = [self._turns.setdefault(name, _Turn()) for name in names]
        for turn in turns:
            turn.users += 1
        held = []
        try:
            # In the order of the names, so that two writes of many keys cannot wait for each other.
            for turn in turns:
                await turn.lock.acquire()
                held.append(turn)
            await self._save(changes)
        finally:
            for turn in held:
                turn.lock.release()
            for name, turn in zip(names, turns, strict=True):
                turn.users -= 1
                if not turn.users:
                    del self._turns[name]

    async def _save(self, changes: list[Change]) -> None:
        keys = [change.key for change in changes]
        told = False
        try:
            self._overtake(keys)
            try:
                overtaken = {key_bytes(key) for key in await self._store.save(changes) or ()}
            except (InvalidKey, InvalidValue):
                told = True  # Refused, so nothing changed.
                raise
            except OSError as fault:
                raise StoreFailed(f"the store failed: {str(fault) or type(fault).__name__}") from fault
            self._overtake(keys)
            told = await self._tell([change for change in changes if key_bytes(change.key) not in overtaken])
            if overtaken:
                self._repairs.note(overtaken)
        finally:
            # Also where this was cancelled: what the database has by now is not known.
            if not told:
                self._repairs.note(keys)

    async def _tell(self, changes: list[Change]) -> bool:
        """Bring the cache up to the database; False where that failed."""
        last = {key_bytes(change.key): change for change in changes}.values()
        puts = {change.key: change.value for change in last if self._update and not change.deleted}
        gone = [change.key for change in last if not self._update or change.deleted]
        try:
            async with asyncio.timeout(self._cache_timeout):
                await self._client.set_many(puts, ttl=self._ttl)
                await self._client.delete_many(gone)
        except (Unavailable, OutcomeUnknown, TimeoutError) as fault:
            # The database has the write: the cache is repaired later, and the caller not alarmed.
            self._note_failure(fault)
            return False
        return True

    def _change(self, key: Key, value: Any, deleted: bool) -> Change:
        """A write, checked before anybody hears of it."""
        if deleted:
            self._client.check_key(key)
        elif value is None:
            raise InvalidValue("the value None stands for no value: delete the key")
        else:
            self._client.check(key, value, ttl=self._ttl)
        self._last_us = max(self._last_us + 1, self._client.time_us)
        change = Change(key, value, deleted, self._last_us)
        self._store.check(change)
        return change


def check_loader(loader: object) -> None:
    """Raise Misuse for what cannot be awaited for one value."""
    if inspect.isasyncgenfunction(loader) or inspect.isgeneratorfunction(loader):
        raise Misuse("a source that is a generator: let it return one value for the key")
    if not callable(loader):
        raise Misuse(f"a source of type {type(loader).__name__}: it is an async function of a key, or a Store")


def check_store(store: object) -> None:
    """Raise Misuse for what is no store."""
    if not isinstance(store, Store):
        raise Misuse(f"a store of type {type(store).__name__}: derive it from Store, with `load` and `save`")


class _Turn:
    """Whose turn it is to write a key."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
