"""Compare-and-set and locks for blocking clients: those of exact.py, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from quorumcache.client.exact import Lock

if TYPE_CHECKING:
    from quorumcache.client.operations import Key
    from quorumcache.client.sync import SyncClient

T = TypeVar("T")


class SyncExactMethods:
    """Mixed into `SyncClient`."""

    def add(self, key: Key, value: Any, *, ttl: float | None = None) -> int | None:
        """See `Client.add`."""
        client = cast("SyncClient", self)
        return client._run(client._client.add(key, value, ttl=ttl))

    def cas(self, key: Key, expected: Any, new: Any, *, ttl: float | None = None) -> int | None:
        """See `Client.cas`."""
        client = cast("SyncClient", self)
        return client._run(client._client.cas(key, expected, new, ttl=ttl))

    def incr(self, key: Key, by: int = 1, *, ttl: float | None = None) -> int:
        """See `Client.incr`."""
        client = cast("SyncClient", self)
        return client._run(client._client.incr(key, by, ttl=ttl))

    def append(self, key: Key, data: bytes) -> int:
        """See `Client.append`."""
        client = cast("SyncClient", self)
        return client._run(client._client.append(key, data))

    def update(self, key: Key, function: Callable[[Any], T], *, ttl: float | None = None) -> T:
        """See `Client.update`; `function` runs in the client's own thread."""
        client = cast("SyncClient", self)
        return client._run(client._client.update(key, function, ttl=ttl))

    def lock(self, key: Key, ttl: float, *, wait: float | None = None) -> SyncLock:
        """See `Client.lock`: `with client.lock("job", 30) as lock: ...`."""
        client = cast("SyncClient", self)
        return SyncLock(client._client.lock(key, ttl, wait=wait), client)


class SyncLock:
    """See `Lock`."""

    def __init__(self, lock: Lock, client: SyncClient) -> None:
        """Not for callers: use `SyncClient.lock`."""
        self._lock = lock
        self._client = client

    @property
    def token(self) -> int:
        """See `Lock`."""
        return self._lock.token

    @property
    def left(self) -> float:
        """See `Lock.left`."""
        return self._lock.left

    def acquire(self) -> int:
        """See `Lock.acquire`."""
        return self._client._run(self._lock.acquire())

    def extend(self, ttl: float | None = None) -> int:
        """See `Lock.extend`."""
        return self._client._run(self._lock.extend(ttl))

    def release(self) -> bool:
        """See `Lock.release`."""
        return self._client._run(self._lock.release())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
