"""A near cache: what was read or written lately, kept in this process for as long as the caller allows it to be old.

It must not know nodes or serializers' bytes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar, overload

from quorumcache.client.client import Client
from quorumcache.client.computing import BYTES_MAX, ENTRIES_MAX
from quorumcache.client.envelope import parse
from quorumcache.client.flight import Flight, Flights
from quorumcache.client.operations import Key
from quorumcache.core.model import header_expires_at
from quorumcache.core.outcome import Found, Missed, Outcome
from quorumcache.errors import Misuse

T = TypeVar("T")

#: What an entry takes beside its key and value, about.
ENTRY_BYTES: Final = 400


class _Near(NamedTuple):
    """A value's bytes (None: there is none, or it is None) as read at some time, until when it may be shown."""

    data: bytes | None
    is_there: bool
    until_s: float


class NearCache:
    """Reads from memory what was read less than `staleness` seconds ago, and the rest from the cluster.

        near = NearCache(client, staleness=0.5)
        await near.get("config")

    What `get` returns was the key's value at some time within the last `staleness` seconds, or has expired since; what
    this object has written is seen at once. Never more than `entries_max` entries and about `bytes_max` bytes are kept;
    what was not used for longest goes first. One read for a key is under way at a time. A cluster that cannot be
    reached shows after `staleness` seconds at the latest, as `Unavailable`. For a client in its own event loop.
    """

    def __init__(
        self,
        client: Client,
        *,
        staleness: float,
        entries_max: int = ENTRIES_MAX,
        bytes_max: int = BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock`: seconds, for tests. Raises Misuse for bounds that are none."""
        if type(staleness) not in (int, float) or not 0 < staleness < float("inf"):
            raise Misuse(f"a staleness of {staleness!r}; it is a number of seconds above 0")
        for name, bound in (("entries_max", entries_max), ("bytes_max", bytes_max)):
            if type(bound) is not int or bound < 1:
                raise Misuse(f"{name} is {bound!r}; it is a whole number above 0")
        self._client = client
        self._configuration = client.configuration
        self._staleness = staleness
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._clock = clock
        self._entries: OrderedDict[bytes, _Near] = OrderedDict()
        self._bytes = 0
        self._flights: Flights[_Near] = Flights()
        # What each `get_many` under way has asked for, less the keys that were written since.
        self._asked: list[set[bytes]] = []
        self._hits = self._misses = 0

    @property
    def counts(self) -> dict[str, int]:
        """hits (from memory), misses (asked of the cluster), entries, bytes (about)."""
        return {"hits": self._hits, "misses": self._misses, "entries": len(self._entries), "bytes": self._bytes}

    # --- reading ---

    @overload
    async def get(self, key: Key) -> Any | None: ...

    @overload
    async def get(self, key: Key, default: T) -> Any | T: ...

    async def get(self, key: Key, default: Any = None) -> Any:
        """The key's value, or `default` where there is none. Raises as `Client.get` does."""
        slot = self._client._slot(key)
        near = self._fresh(slot)
        if near is None:
            self._misses += 1
            near = await self._flights.run(slot, partial(self._read, slot))
        else:
            self._hits += 1
        return self.value_of(near, default)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The values of those keys that have one: one round trip for those that are not near. Raises as `get` does."""
        found: dict[Key, Any] = {}
        far: dict[Key, bytes] = {}
        for key in dict.fromkeys(keys):
            slot = self._client._slot(key)
            near = self._fresh(slot)
            if near is None:
                far[key] = slot
            elif near.is_there:
                found[key] = self.value_of(near, None)
        self._hits += len(found)
        if not far:
            return found
        self._misses += len(far)
        unwritten = set(far.values())
        self._asked.append(unwritten)
        start_s = self._clock()
        try:
            outcomes = await self._client._many(list(far.values()), None)
        finally:
            self._asked.remove(unwritten)
        for (key, slot), outcome in zip(far.items(), outcomes, strict=True):
            near = self._near(slot, outcome, start_s)
            if slot in unwritten:
                self._keep(slot, outcome, near)
            if near.is_there:
                found[key] = self.value_of(near, None)
        return found

    # --- writing ---

    async def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """As `Client.set`; what was near is forgotten, also where this fails."""
        await self.set_many({key: value}, ttl=ttl)

    async def set_many(self, items: Mapping[Key, Any], *, ttl: float | None = None) -> None:
        """As `Client.set_many`."""
        slots = [self._client._slot(key) for key in items]
        self._forget(slots)
        try:
            await self._client.set_many(items, ttl=ttl)
        finally:
            self._forget(slots)

    async def delete(self, key: Key) -> None:
        """As `Client.delete`."""
        await self.delete_many([key])

    async def delete_many(self, keys: Iterable[Key]) -> None:
        """As `Client.delete_many`."""
        wanted = list(keys)
        slots = [self._client._slot(key) for key in wanted]
        self._forget(slots)
        try:
            await self._client.delete_many(wanted)
        finally:
            self._forget(slots)

    def forget(self, key: Key) -> None:
        """The next `get` of the key asks the cluster."""
        self._forget([self._client._slot(key)])

    def clear(self) -> None:
        """Forget all that is near."""
        self._forget(list(self._entries))

    async def close(self) -> None:
        """End what is under way. The client stays open: it is the caller's."""
        self.clear()
        await self._flights.stop()

    # --- inside ---

    def _fresh(self, slot: bytes) -> _Near | None:
        if self._configuration is not self._client.configuration:
            # In the cluster's next epoch a writer may be revoked, and all that it wrote with it.
            self._configuration = self._client.configuration
            self.clear()
        near = self._entries.get(slot)
        if near is None:
            return None
        if self._clock() >= near.until_s:
            self._drop(slot)
            return None
        self._entries.move_to_end(slot)
        return near

    def glance(self, key: Key) -> _Near | None:
        """What is near for the key, if it may still be shown: for other threads."""
        slot = self._client._slot(key)
        near = self._entries.get(slot)
        if near is None or self._clock() >= near.until_s or self._configuration is not self._client.configuration:
            return None
        try:
            self._entries.move_to_end(slot)
        except KeyError:
            pass  # It was let go of just now; it was right all the same.
        self._hits += 1
        return near

    async def _read(self, slot: bytes, flight: Flight[_Near]) -> _Near:
        # From before it is asked: what is read was right at some time after that.
        start_s = self._clock()
        outcome = await self._client._read(slot, False)
        near = self._near(slot, outcome, start_s)
        if not flight.is_overtaken:
            self._keep(slot, outcome, near)
        return near

    def _near(self, slot: bytes, outcome: Outcome, start_s: float) -> _Near:
        until_s = start_s + self._staleness
        if type(outcome) is not Found:
            self._client._check_miss(outcome, False)
            return _Near(None, False, until_s)
        stored = parse(self._client._value(slot, outcome))
        end_us = stored.fresh_until_us or header_expires_at(outcome.header)
        if end_us:
            left_s = (end_us - self._client.time_us) / 1e6
            if left_s <= 0:
                return _Near(None, False, until_s)
            until_s = min(until_s, self._clock() + left_s)
        return _Near(stored.data, True, until_s)

    def value_of(self, near: _Near, default: Any) -> Any:
        """The value, or `default` where there is none."""
        if not near.is_there:
            return default
        # Made anew each time, so that nobody can change what others get.
        return None if near.data is None else self._client._loads(near.data)

    def _keep(self, slot: bytes, outcome: Outcome, near: _Near) -> None:
        if isinstance(outcome, Missed) and outcome.vouchers <= self._client.configuration.f:
            return  # Too few vouch for it: the value may be there all the same.
        size = len(slot) + len(near.data or b"") + ENTRY_BYTES
        self._drop(slot)
        if size > self._bytes_max:
            return
        self._entries[slot] = near
        self._bytes += size
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))

    def _forget(self, slots: Iterable[bytes]) -> None:
        for slot in slots:
            self._drop(slot)
            self._flights.overtake(slot)
            for unwritten in self._asked:
                unwritten.discard(slot)

    def _drop(self, slot: bytes) -> None:
        near = self._entries.pop(slot, None)
        if near is not None:
            self._bytes -= len(slot) + len(near.data or b"") + ENTRY_BYTES
