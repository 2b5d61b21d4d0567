"""The methods of `Client` for values that loaders and functions make. How they are made is in computed.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from quorumcache.client import envelope
from quorumcache.client.alone import LOCK_TTL_S
from quorumcache.client.cached import Decorator, KeyMaker
from quorumcache.client.computed import CACHE_TIMEOUT_S, Key, Loader, Policy, get_or_set
from quorumcache.client.envelope import STALE, Stale
from quorumcache.client.serializers import Serializer
from quorumcache.client.tracing import Trace
from quorumcache.client.views import Options, namespace_in, view

if TYPE_CHECKING:
    from quorumcache.client.client import Client
    from quorumcache.client.near import NearCache

#: What a near cache holds unless told otherwise.
ENTRIES_MAX: Final = 10_000
BYTES_MAX: Final = 64 << 20


class Computing:
    """Mixed into `Client`."""

    async def get_or_set(
        self,
        key: Key,
        loader: Loader,
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
        """The key's value; where there is none, what `loader()` returns or awaits, which is kept for `ttl` seconds.

        In this process one loader runs for a key at a time, and all who ask meanwhile share what it makes. None is a
        value as any other. Before its end a value is made anew in the background, at a random time that leaves the
        loader enough of it (`eagerness`: 1 is right, more is earlier, 0 is never). `stale`: seconds after its end for
        which a value still serves where the loader fails or takes too long. `timeout`: seconds for all of this.
        `cache_timeout`: seconds to wait for the cache. `on_unavailable`: whether to "load" without the cache where it
        cannot be reached, or to "raise". `lock`: a namespace of type exact, in which a lock sees to it that only one
        process at a time runs a loader for the key; the others look for what it makes, for `lock_ttl` seconds at most.

        Raises what the loader raises; DeadlineExceeded; Misuse, InvalidKey; InvalidValue where the cache cannot hold
        the value. A loader is cancelled when all who wait for it are.
        """
        client = cast("Client", self)
        policy = Policy(ttl, eagerness, stale, timeout, cache_timeout, on_unavailable, lock=lock, lock_ttl=lock_ttl)
        return await get_or_set(client, key, loader, policy.checked(client))

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
        """A client for the namespace of that name (or this one) over the same sessions: closing one closes both.

            sessions = client.namespace("sessions", serializer="json", ttl=3600, timeout=0.5, attempts=3)

        `ttl`: seconds to live where a call names none. `timeout`: seconds for one operation: a read then raises
        DeadlineExceeded, a write that is under way OutcomeUnknown. `attempts`: how often an operation is tried of which
        nothing happened (Unavailable), with growing pauses. `trace`: is told of operations; see `OpenTelemetry`. What
        is not given is as in this client. Raises Misuse where there is no such namespace.
        """
        client = cast("Client", self)
        mine = client._options
        options = Options(
            mine.ttl if ttl is None else ttl,
            mine.timeout if timeout is None else timeout,
            mine.attempts if attempts is None else attempts,
            mine.trace if trace is None else trace,
        )
        chosen = client.namespace_name if name is None else namespace_in(client.configuration, name)
        return cast("Self", view(client, chosen, serializer, options))

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
    ) -> Decorator:
        """A decorator: the cache keeps the function's results, as `get_or_set` does values.

            @client.cached(ttl=60, key="user:{user_id}")
            async def load_user(user_id): ...

        For async functions and methods; a function that blocks becomes an async one, and runs in a thread. `key`: a
        format string over the parameters, or a function of the arguments; without it, the function's name and a hash
        of all arguments, which then have to be plain values (numbers, text, bytes, dates, lists, dicts, sets, ...).
        A method has to be given a key, since its object is an argument too: `key="{self.id}:{name}"`.

        The decorated function also has `invalidate(...)` and `key_of(...)`, with the function's arguments. Raises
        Misuse for generators, and for arguments that no key can be made of.
        """
        client = cast("Client", self)
        return Decorator(
            client,
            Policy(ttl, eagerness, stale, timeout, cache_timeout, on_unavailable, lock=lock, lock_ttl=lock_ttl),
            key,
        )

    def near(self, *, staleness: float, entries_max: int = ENTRIES_MAX, bytes_max: int = BYTES_MAX) -> NearCache:
        """A near cache before this client: what was read less than `staleness` seconds ago is read from memory. See
        `NearCache`."""
        from quorumcache.client.near import NearCache

        client = cast("Client", self)
        return NearCache(client, staleness=staleness, entries_max=entries_max, bytes_max=bytes_max)

    def _unwrapped(self, data: bytes) -> Any | Stale:
        """The value in an envelope, or STALE where it has outlived its time."""
        client = cast("Client", self)
        stored = envelope.parse(data)
        if stored.fresh_until_us and client.time_us >= stored.fresh_until_us:
            return STALE
        return None if stored.data is None else client._loads(stored.data)
