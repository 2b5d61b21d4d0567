"""The caching patterns for blocking clients: the same objects, run in the client's loop. It must not know what they
do."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from quorumcache.client.database.behind import BYTES_MAX, ENTRIES_MAX, QueueStatus, WriteBehind
from quorumcache.client.database.queue import DeadLetter, Durability
from quorumcache.client.database.store import Store
from quorumcache.client.database.through import REPAIRS_MAX, ReadThrough, WriteThrough, check_loader
from quorumcache.client.sync import SyncClient
from quorumcache.errors import Misuse

T = TypeVar("T")
Key = str | bytes


class SyncReadThrough:
    """See `ReadThrough`. `source`: a function of a key that blocks, run in a thread of its own; or a `Store`."""

    _through: ReadThrough

    def __init__(
        self,
        client: SyncClient,
        source: Callable[[Key], Any] | Store,
        *,
        ttl: float | None = None,
        cache_timeout: float = 2.0,
    ) -> None:
        async def make() -> ReadThrough:
            loader = source if isinstance(source, Store) else _in_thread(source)
            return ReadThrough(client._client, loader, ttl=ttl, cache_timeout=cache_timeout)

        self._client = client
        self._through = client._run(make())

    @property
    def counts(self) -> dict[str, int]:
        """See `ReadThrough.counts`."""
        return self._through.counts

    @property
    def problem(self) -> str:
        """What last went wrong with the cache, in words."""
        return self._through.problem

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See `ReadThrough.close`."""
        self._client._run(self._through.close())

    def close_store(self) -> None:
        """Close the store, which is used in the client's loop; after `close`."""
        if isinstance(self._through.source, Store):
            self._client._run(self._through.source.close())

    @overload
    def get(self, key: Key) -> Any | None: ...

    @overload
    def get(self, key: Key, default: T) -> Any | T: ...

    def get(self, key: Key, default: Any = None) -> Any:
        """See `ReadThrough.get`."""
        return self._client._run(self._through.get(key, default))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `ReadThrough.get_many`."""
        return self._client._run(self._through.get_many(list(keys)))

    def invalidate(self, key: Key) -> None:
        """See `ReadThrough.invalidate`."""
        self._client._run(self._through.invalidate(key))


class _SyncWrites(SyncReadThrough):
    """The writes that write-through and write-behind have in common."""

    _through: WriteThrough | WriteBehind

    def set(self, key: Key, value: Any) -> None:
        """See `WriteThrough.set` and `WriteBehind.set`."""
        self._client._run(self._through.set(key, value))

    def delete(self, key: Key) -> None:
        """See `WriteThrough.delete` and `WriteBehind.delete`."""
        self._client._run(self._through.delete(key))

    def set_many(self, items: Mapping[Key, Any]) -> None:
        """See `WriteThrough.set_many` and `WriteBehind.set_many`."""
        self._client._run(self._through.set_many(items))

    def delete_many(self, keys: Iterable[Key]) -> None:
        """See `WriteThrough.delete_many` and `WriteBehind.delete_many`."""
        self._client._run(self._through.delete_many(list(keys)))

    def close(self, *, timeout: float = 10.0) -> None:
        """See `WriteThrough.close` and `WriteBehind.close`."""
        self._client._run(self._through.close(timeout=timeout))


class SyncWriteThrough(_SyncWrites):
    """See `WriteThrough`. The store is the same as for asyncio: `SqliteStore`, `PostgresStore`, or one of your own."""

    _through: WriteThrough

    def __init__(
        self,
        client: SyncClient,
        store: Store,
        *,
        ttl: float | None = None,
        update: bool = True,
        cache_timeout: float = 2.0,
        repairs_max: int = REPAIRS_MAX,
    ) -> None:
        async def make() -> WriteThrough:
            return WriteThrough(
                client._client, store, ttl=ttl, update=update, cache_timeout=cache_timeout, repairs_max=repairs_max
            )

        self._client = client
        self._through = client._run(make())

    @property
    def unrepaired(self) -> int:
        """See `WriteThrough.unrepaired`."""
        return self._through.unrepaired


class SyncWriteBehind(_SyncWrites):
    """See `WriteBehind`. The store is the same as for asyncio: `SqliteStore`, `PostgresStore`, or one of your own."""

    _through: WriteBehind

    def __init__(
        self,
        client: SyncClient,
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
        async def make() -> WriteBehind:
            return WriteBehind(
                client._client,
                store,
                queue=queue,
                ttl=ttl,
                durability=durability,
                delay=delay,
                batch_max=batch_max,
                entries_max=entries_max,
                bytes_max=bytes_max,
                full_timeout=full_timeout,
                attempts_max=attempts_max,
                save_timeout=save_timeout,
                cache_timeout=cache_timeout,
            )

        self._client = client
        self._through = client._run(make())

    @property
    def status(self) -> QueueStatus:
        """See `WriteBehind.status`."""

        async def status() -> QueueStatus:
            return self._through.status

        return self._client._run(status())

    def flush(self, timeout: float | None = None) -> None:
        """See `WriteBehind.flush`."""
        self._client._run(self._through.flush(timeout))

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """See `WriteBehind.dead_letters`."""
        return self._client._run(self._through.dead_letters(limit))

    def retry_dead(self, limit: int = 100) -> int:
        """See `WriteBehind.retry_dead`."""
        return self._client._run(self._through.retry_dead(limit))

    def drop_dead(self, limit: int = 100) -> int:
        """See `WriteBehind.drop_dead`."""
        return self._client._run(self._through.drop_dead(limit))


def _in_thread(source: Callable[[Key], Any]) -> Callable[[Key], Any]:
    """A function that blocks, as one to await. Raises Misuse for what is none."""
    check_loader(source)
    if inspect.iscoroutinefunction(source):
        raise Misuse("an async source for a blocking client: give ReadThrough an async one, and this a plain one")

    async def load(key: Key) -> Any:
        return await asyncio.to_thread(source, key)

    return load
