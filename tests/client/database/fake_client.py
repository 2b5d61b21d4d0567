"""A cache in a dict, with the methods of `Client` that the patterns use: quick enough for thousands of cases, and it
fails as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

from quorumcache.client import Client
from quorumcache.client.database.store import Key, key_bytes
from quorumcache.client.serializers import BytesSerializer
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Outcome
from quorumcache.errors import OutcomeUnknown, Unavailable

#: How the cache fails: not at all; nothing happens; a write is unknown and happens, does not, or does so later.
FAILURES = ("", "down", "unknown, done", "unknown, lost", "unknown, late")


class FakeCache:
    """What several clients share."""

    def __init__(self) -> None:
        self.clock_us = 0
        self._held: dict[bytes, tuple[int, bytes | None]] = {}
        self._late: list[tuple[bytes, int, bytes | None]] = []
        self._stamps = 0

    @property
    def rows(self) -> dict[bytes, bytes]:
        """What it shows."""
        return {key: value for key, (_, value) in self._held.items() if value is not None}

    def stamp(self) -> int:
        """As a client's: later writes have higher ones."""
        self._stamps += 1
        return self._stamps

    def put(self, key: bytes, stamp: int, value: bytes | None, *, late: bool = False) -> None:
        """A write with its stamp; of two, the one with the higher stamp stays."""
        if late:
            self._late.append((key, stamp, value))
        elif stamp > self._held.get(key, (0, None))[0]:
            self._held[key] = (stamp, value)

    def deliver(self) -> None:
        """Writes whose outcome was unknown take effect now."""
        late, self._late = self._late, []
        for key, stamp, value in late:
            self.put(key, stamp, value)


class FakeClient:
    """One client of it."""

    def __init__(self, cache: FakeCache) -> None:
        self.cache = cache
        self.failure = ""
        self.serializer = BytesSerializer()
        self.writer = b"writer"
        self.namespace_name = "default"
        self.configuration = SimpleNamespace(cluster_id="fake")

    def as_client(self) -> Client:
        return cast(Client, self)

    @property
    def time_us(self) -> int:
        self.cache.clock_us += 1
        return self.cache.clock_us

    def check(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        self.serializer.dumps(value)

    def check_key(self, key: Key) -> None:
        key_bytes(key)

    def check_ttl(self, ttl: float | None) -> None:
        pass

    async def get(self, key: Key) -> bytes | None:
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Iterable[Key]) -> dict[Key, bytes]:
        await self._turn()
        return {key: self.cache.rows[key_bytes(key)] for key in keys if key_bytes(key) in self.cache.rows}

    async def read(self, key: Key) -> Outcome:
        try:
            value = await self.get(key)
        except Unavailable as fault:
            return Failed(UNAVAILABLE, str(fault))
        return Missed(4) if value is None else Found(b"", bytes(16) + value)

    def data_of(self, key: Key, found: Found) -> bytes:
        return found.salted[16:]

    async def set_many(self, items: Mapping[Key, bytes], *, ttl: float | None = None) -> None:
        await self._write({key_bytes(key): value for key, value in items.items()})

    async def delete_many(self, keys: Iterable[Key]) -> None:
        await self._write(dict.fromkeys(map(key_bytes, keys), None))

    async def _write(self, rows: Mapping[bytes, bytes | None]) -> None:
        if not rows:
            return
        stamp = self.cache.stamp()
        await self._turn()
        if self.failure != "unknown, lost":
            for key, value in rows.items():
                self.cache.put(key, stamp, value, late=self.failure == "unknown, late")
        if self.failure:
            raise OutcomeUnknown("not confirmed in time")

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.failure == "down":
            raise Unavailable("too few nodes")
