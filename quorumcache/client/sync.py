"""The client library without asyncio: the same operations, blocking, from any thread.

An event loop in a thread of its own runs the asynchronous client; it works where a loop already runs, as in Jupyter.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from quorumcache.client.client import Client
from quorumcache.client.collections.sync import SyncCounter, SyncMap, SyncSet, SyncSiblings
from quorumcache.client.listing import LIMIT, Page
from quorumcache.client.operations import Key
from quorumcache.client.serializers import Serializer
from quorumcache.client.sync_computed import SyncComputing
from quorumcache.client.sync_exact import SyncExactMethods
from quorumcache.client.vault import DataKeysSource
from quorumcache.client.watching import INTERVAL_S, SyncWatch
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.outcome import Outcome
from quorumcache.errors import Misuse
from quorumcache.wire.keys import SigningKey

T = TypeVar("T")


class SyncClient(SyncComputing, SyncExactMethods):
    """A blocking client of a cluster; its methods are those of `Client`, and may be called from any thread.

    with SyncClient("cluster.toml", key="keys/writer-default.key") as client:
        client.set("greeting", b"hello")
    """

    def __init__(
        self,
        cluster: str | os.PathLike[str] | SignedConfiguration,
        *,
        key: str | os.PathLike[str] | SigningKey | None = None,
        namespace: str | None = None,
        serializer: str | Serializer = "bytes",
        timeout: float = 10.0,
        compress: bool = False,
        data_keys: DataKeysSource | None = None,
    ) -> None:
        """Connect; arguments and errors are those of `Client.connect`."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="quorumcache client", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._client = self._run(
                Client.connect(
                    cluster,
                    key=key,
                    namespace=namespace,
                    serializer=serializer,
                    timeout=timeout,
                    compress=compress,
                    data_keys=data_keys,
                )
            )
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all sessions and end the thread."""
        if not self._closed:
            try:
                self._run(self._client.close())
            finally:
                self._stop()

    @property
    def counts(self) -> dict[str, int]:
        """See `Client.counts`."""
        return self._client.counts

    @property
    def unreachable(self) -> dict[str, str]:
        """See `Client.unreachable`."""
        return self._client.unreachable

    @property
    def evidence(self) -> list[bytes]:
        """See `Client.evidence`."""
        return self._client.evidence

    @property
    def configuration(self) -> Configuration:
        """See `Client.configuration`."""
        return self._client.configuration

    @property
    def writer(self) -> bytes | None:
        """See `Client.writer`."""
        return self._client.writer

    @property
    def namespace_name(self) -> str:
        """See `Client.namespace_name`."""
        return self._client.namespace_name

    @property
    def serializer(self) -> Serializer:
        """See `Client.serializer`."""
        return self._client.serializer

    def within(self, namespace: str) -> Self:
        """See `Client.within`."""
        return self.namespace(namespace)

    def read(self, key: Key) -> Outcome:
        """See `Client.read`."""
        return self._run(self._client.read(key))

    def write(self, key: Key, value: Any, *, ttl: float | None = None) -> Outcome:
        """See `Client.write`."""
        return self._run(self._client.write(key, value, ttl=ttl))

    @overload
    def get(self, key: Key, default: T, *, strict: bool = False, with_proof: Literal[False] = False) -> Any | T: ...

    @overload
    def get(
        self, key: Key, default: T, *, strict: bool = False, with_proof: Literal[True]
    ) -> tuple[Any, bytes] | T: ...

    @overload
    def get(self, key: Key, *, strict: bool = False, with_proof: Literal[False] = False) -> Any | None: ...

    @overload
    def get(self, key: Key, *, strict: bool = False, with_proof: Literal[True]) -> tuple[Any, bytes] | None: ...

    def get(self, key: Key, default: Any = None, *, strict: bool = False, with_proof: bool = False) -> Any:
        """See `Client.get`."""
        if with_proof:
            return self._run(self._client.get(key, default, strict=strict, with_proof=True))
        return self._run(self._client.get(key, default, strict=strict))

    def get_many(self, keys: Iterable[Key], *, strict: bool = False) -> dict[Key, Any]:
        """See `Client.get_many`."""
        return self._run(self._client.get_many(keys, strict=strict))

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """See `Client.set`."""
        self._run(self._client.set(key, value, ttl=ttl))

    def set_many(self, items: Mapping[Key, Any], *, ttl: float | None = None) -> None:
        """See `Client.set_many`."""
        self._run(self._client.set_many(items, ttl=ttl))

    def delete(self, key: Key) -> None:
        """See `Client.delete`."""
        self._run(self._client.delete(key))

    def delete_many(self, keys: Iterable[Key]) -> None:
        """See `Client.delete_many`."""
        self._run(self._client.delete_many(keys))

    def touch(self, key: Key, ttl: float | None) -> bool:
        """See `Client.touch`."""
        return self._run(self._client.touch(key, ttl))

    def ttl(self, key: Key) -> float | None:
        """See `Client.ttl`."""
        return self._run(self._client.ttl(key))

    def counter(self, key: Key, *, ttl: float | None = None) -> SyncCounter:
        """See `Client.counter`."""
        return SyncCounter(self._client.counter(key, ttl=ttl), self._run)

    def set_(self, key: Key, *, ttl: float | None = None) -> SyncSet:
        """See `Client.set_`."""
        return SyncSet(self._client.set_(key, ttl=ttl), self._run)

    def map_(self, key: Key, *, ttl: float | None = None) -> SyncMap:
        """See `Client.map_`."""
        return SyncMap(self._client.map_(key, ttl=ttl), self._run)

    def siblings(self, key: Key, *, ttl: float | None = None) -> SyncSiblings:
        """See `Client.siblings`."""
        return SyncSiblings(self._client.siblings(key, ttl=ttl), self._run)

    def scan(self, prefix: Key = "", limit: int = LIMIT, cursor: str | None = None) -> Page:
        """See `Client.scan`."""
        return self._run(self._client.scan(prefix, limit, cursor))

    def keys(self, prefix: Key = "") -> Iterator[Key]:
        """See `Client.keys`."""
        cursor = None
        while True:
            page = self.scan(prefix, LIMIT, cursor)
            yield from page.keys
            cursor = page.cursor
            if cursor is None:
                return

    def watch(
        self,
        prefix: Key = "",
        *,
        key: Key | None = None,
        resume: str | None = None,
        values: bool = False,
        interval: float = INTERVAL_S,
    ) -> SyncWatch:
        """See `Client.watch`: `with client.watch("user:") as watch: for change in watch: ...`."""
        watch = self._client.watch(prefix, key=key, resume=resume, values=values, interval=interval)
        return SyncWatch(watch, self._run)

    def delete_prefix(self, prefix: Key) -> int:
        """See `Client.delete_prefix`."""
        return self._run(self._client.delete_prefix(prefix))

    def clear(self) -> int:
        """See `Client.clear`."""
        return self._run(self._client.clear())

    def _check_usable(self, coroutine: Coroutine[Any, Any, T]) -> None:
        if self._closed or not self._thread.is_alive():
            coroutine.close()
            raise Misuse("this client is closed, or was made before a fork: connect a new one")
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise Misuse("a blocking call from the client's own loop would never end: use Client there")

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        self._check_usable(coroutine)
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _stop(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)
        if not self._thread.is_alive():
            self._loop.close()
