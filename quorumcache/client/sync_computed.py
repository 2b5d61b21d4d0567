"""The blocking forms of `get_or_set` and `cached`. It must not know how values are made and kept."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Self, TypeVar, cast

from quorumcache.client.alone import LOCK_TTL_S
from quorumcache.client.cached import KeyMaker, Keys, check_function
from quorumcache.client.computed import CACHE_TIMEOUT_S, Policy, get_or_set
from quorumcache.client.computing import BYTES_MAX, ENTRIES_MAX
from quorumcache.client.lending import ask_and_lend
from quorumcache.client.serializers import Serializer
from quorumcache.client.tracing import Trace
from quorumcache.errors import Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client
    from quorumcache.client.near import NearCache
    from quorumcache.client.sync import SyncClient
    from quorumcache.client.sync_near import SyncNearCache

P = ParamSpec("P")
R = TypeVar("R")
Key = str | bytes


def _get_or_set(client: SyncClient, key: Key, loader: Callable[[], Any], policy: Policy) -> Any:
    if inspect.iscoroutinefunction(loader):
        raise Misuse("an async loader for a blocking client: give Client an async one, and SyncClient a plain one")

    def checked() -> Any:
        value = loader()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise Misuse("the loader returned an awaitable, for which a blocking client cannot wait: use Client")
        return value

    # A value that is made anew before its end is made by the one who drew that lot, in its own thread.
    policy = policy._replace(in_background=False)

    async def ask(lend: Callable[[], Any]) -> Any:
        # Here, in the loop: the policy is checked against the cluster's clock, which is the loop's.
        return await get_or_set(client._client, key, lend, policy.checked(client._client))

    return ask_and_lend(ask, checked, client._submit)


class SyncCachedFunction(Generic[P, R]):
    """A function whose results the cache keeps: called as the function itself."""

    def __init__(
        self,
        client: SyncClient,
        function: Callable[..., Any],
        policy: Policy,
        keys: Keys,
        bound: tuple[Any, ...] = (),
    ) -> None:
        self._client = client
        self._function = function
        self._policy = policy
        self._keys = keys
        self._bound = bound
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> SyncCachedFunction[..., R]:
        """As a method: bound to its object."""
        if instance is None:
            return self
        return SyncCachedFunction(self._client, self._function, self._policy, self._keys, (*self._bound, instance))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result, from the cache or else of the function. Raises as `SyncClient.get_or_set` does."""
        key = self._keys.key_of((*self._bound, *args), kwargs)
        loader = functools.partial(self._function, *self._bound, *args, **kwargs)
        value: R = _get_or_set(self._client, key, loader, self._policy)
        return value

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> str | bytes:
        """The key of the result for these arguments."""
        return self._keys.key_of((*self._bound, *args), kwargs)

    def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments. Raises as `SyncClient.delete` does."""
        self._client.delete(self.key_of(*args, **kwargs))


class SyncDecorator:
    """What `SyncClient.cached(...)` gives: to be put before a function."""

    def __init__(self, client: SyncClient, policy: Policy, key: KeyMaker | None) -> None:
        if key is not None and not isinstance(key, str) and not callable(key):
            raise Misuse(f"a key of type {type(key).__name__}: it is a format string or a function of the arguments")

        async def check() -> Policy:
            return policy.checked(client._client)

        self._client = client
        self._policy = client._run(check())
        self._key = key

    def __call__(self, function: Callable[P, R]) -> SyncCachedFunction[P, R]:
        """The function, with a cache before it."""
        check_function(function)
        if inspect.iscoroutinefunction(function):
            raise Misuse(f"{function.__qualname__} is async, and this client blocks: use Client for it")
        return SyncCachedFunction(self._client, function, self._policy, Keys(function, self._key))


class SyncComputing:
    """Mixed into `SyncClient`."""

    def get_or_set(
        self,
        key: Key,
        loader: Callable[[], Any],
        ttl: float | None = None,
        *,
        eagerness: float = 1.0,
        stale: float = 0.0,
        timeout: float | None = None,
        cache_timeout: float = CACHE_TIMEOUT_S,
        on_unavailable: Literal["load", "raise"] = "load",
        lock: str | None = None,
        lock_ttl: float = LOCK_TTL_S,
    ) -> Any:
        """See `Client.get_or_set`. The loader blocks, and runs in the thread of one of those who ask; nothing can
        interrupt it, so a `timeout` is kept by those who wait for another's. Who draws the lot to make a value anew
        before its end waits for it."""
        client = cast("SyncClient", self)
        policy = Policy(ttl, eagerness, stale, timeout, cache_timeout, on_unavailable, lock=lock, lock_ttl=lock_ttl)
        return _get_or_set(client, key, loader, policy)

    def cached(
        self,
        *,
        ttl: float | None = None,
        key: KeyMaker | None = None,
        eagerness: float = 1.0,
        stale: float = 0.0,
        timeout: float | None = None,
        cache_timeout: float = CACHE_TIMEOUT_S,
        on_unavailable: Literal["load", "raise"] = "load",
        lock: str | None = None,
        lock_ttl: float = LOCK_TTL_S,
    ) -> SyncDecorator:
        """See `Client.cached`; for functions that are not async."""
        client = cast("SyncClient", self)
        return SyncDecorator(
            client,
            Policy(ttl, eagerness, stale, timeout, cache_timeout, on_unavailable, lock=lock, lock_ttl=lock_ttl),
            key,
        )

    def namespace(
        self,
        name: str | None = None,
        *,
        serializer: str | Serializer | None = None,
        ttl: float | None = None,
        timeout: float | None = None,
        attempts: int | None = None,
        trace: Trace | None = None,
    ) -> Self:
        """See `Client.namespace`."""

        client = cast("SyncClient", self)

        async def make() -> Client:
            return client._client.namespace(
                name, serializer=serializer, ttl=ttl, timeout=timeout, attempts=attempts, trace=trace
            )

        other = copy.copy(client)
        other._client = client._run(make())
        return cast("Self", other)

    def near(self, *, staleness: float, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> SyncNearCache:
        """See `Client.near`."""
        from quorumcache.client.sync_near import SyncNearCache

        client = cast("SyncClient", self)

        async def make() -> NearCache:
            return client._client.near(staleness=staleness, entries_max=entries_max, bytes_max=bytes_max)

        return SyncNearCache(client, client._run(make()))

    def _submit(self, coroutine: Any) -> Future[Any]:
        client = cast("SyncClient", self)
        client._check_usable(coroutine)
        return asyncio.run_coroutine_threadsafe(coroutine, client._loop)
