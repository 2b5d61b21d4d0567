"""The near cache for blocking clients: hits are answered in the caller's thread. It must not know how it is filled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from quorumcache.client.near import NearCache

if TYPE_CHECKING:
    from quorumcache.client.sync import SyncClient

T = TypeVar("T")
Key = str | bytes


class SyncNearCache:
    """See `NearCache`; made by `SyncClient.near`, and used from any thread."""

    def __init__(self, client: SyncClient, near: NearCache) -> None:
        self._client = client
        self._near = near

    @property
    def counts(self) -> dict[str, int]:
        """See `NearCache.counts`."""
        return self._near.counts

    @overload
    def get(self, key: Key) -> Any | None: ...

    @overload
    def get(self, key: Key, default: T) -> Any | T: ...

    def get(self, key: Key, default: Any = None) -> Any:
        """See `NearCache.get`."""
        near = self._near.glance(key)
        if near is not None:
            return self._near.value_of(near, default)
        return self._client._run(self._near.get(key, default))

    def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """See `NearCache.get_many`."""
        return self._client._run(self._near.get_many(list(keys)))

    def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """See `NearCache.set`."""
        self._client._run(self._near.set(key, value, ttl=ttl))

    def set_many(self, items: Mapping[Key, Any], *, ttl: float | None = None) -> None:
        """See `NearCache.set_many`."""
        self._client._run(self._near.set_many(items, ttl=ttl))

    def delete(self, key: Key) -> None:
        """See `NearCache.delete`."""
        self._client._run(self._near.delete(key))

    def delete_many(self, keys: Iterable[Key]) -> None:
        """See `NearCache.delete_many`."""
        self._client._run(self._near.delete_many(list(keys)))

    def forget(self, key: Key) -> None:
        """See `NearCache.forget`."""

        async def forget() -> None:
            self._near.forget(key)

        self._client._run(forget())

    def clear(self) -> None:
        """See `NearCache.clear`."""

        async def clear() -> None:
            self._near.clear()

        self._client._run(clear())

    def close(self) -> None:
        """See `NearCache.close`."""
        self._client._run(self._near.close())
