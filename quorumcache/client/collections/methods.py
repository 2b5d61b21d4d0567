"""The methods of `Client` that give handles of keys with fields, and what these need of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from quorumcache.client.collections.counter import CounterHandle
from quorumcache.client.collections.handle import FieldChange, Key
from quorumcache.client.collections.maps import MapHandle
from quorumcache.client.collections.sets import SetHandle
from quorumcache.client.collections.siblings import SiblingsHandle
from quorumcache.core.model import DELETE
from quorumcache.core.outcome import Outcome
from quorumcache.errors import Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client

#: Type -> the method that gives a handle.
HANDLES: Final = {"counter": "counter", "set": "set_", "map": "map_", "siblings": "siblings"}


class Handles:
    """Mixed into `Client`."""

    def counter(self, key: Key, *, ttl: float | None = None) -> CounterHandle:
        """The counter of this name, in this client's namespace or the only one of type "counter". `ttl`: seconds that
        it lives once it is made. Raises Misuse where there is no such namespace, or several."""
        return CounterHandle(self._typed("counter"), key, ttl)

    def set_(self, key: Key, *, ttl: float | None = None) -> SetHandle:
        """The set of this name; as `counter`."""
        return SetHandle(self._typed("set"), key, ttl)

    def map_(self, key: Key, *, ttl: float | None = None) -> MapHandle:
        """The map of this name; as `counter`."""
        return MapHandle(self._typed("map"), key, ttl)

    def siblings(self, key: Key, *, ttl: float | None = None) -> SiblingsHandle:
        """The siblings of this name; as `counter`."""
        return SiblingsHandle(self._typed("siblings"), key, ttl)

    async def _write_field(self, change: FieldChange, expires_at_us: int, base_expires_at_us: int) -> Outcome:
        client = cast("Client", self)
        engine = client._engine
        client._check_usable()
        future = await engine.place()
        slot, kind, value, details = change
        seal = client._seal if value else None
        engine.core.write(slot, kind, value, expires_at_us, future, details, base_expires_at_us, seal=seal)
        engine.kick()
        return await future

    async def _delete_slot(self, slot: bytes) -> None:
        client = cast("Client", self)
        client._check_written(await client._write(slot, DELETE, b"", 0))

    def _typed(self, kind: str) -> Client:
        """This client, or the one for the only namespace of that type. Raises Misuse."""
        client = cast("Client", self)
        if client._type == kind:
            return client
        names = [info.name for info in client.configuration.namespaces if info.type == kind]
        if len(names) != 1:
            have = f"has several: {', '.join(names)}" if names else "has none"
            raise Misuse(
                f"the namespace {client._namespace!r} is of type {client._type}, and the cluster {have} of type {kind}"
                + (": choose one with client.within(name)" if names else ": have its administrators add one")
            )
        return client.within(names[0])

    def _no_slot(self, key: Key) -> bytes:
        client = cast("Client", self)
        raise Misuse(
            f"the namespace {client._namespace!r} is of type {client._type}: use "
            f"client.{HANDLES[client._type]}(key), or a namespace of registers"
        )
