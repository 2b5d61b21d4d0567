"""Listings for applications: pages of keys, the cursors between them, and what is done to all keys of a prefix.

A page is put together from parts of groups' listings (core/scan.py); doubtful keys are read. Each step is bounded: keys
of a page, requests for one page, bytes of a cursor. It must not know nodes' answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

import msgspec

from quorumcache.client.bulk import Part, error_of
from quorumcache.client.cursor import Key, as_given, make_cursor, prefix_bytes, read_cursor
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, slot_of
from quorumcache.core.outcome import Failed, Found, Listed, Missed, Outcome
from quorumcache.errors import Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client

LIMIT: Final = 1000
LIMIT_MAX: Final = 10_000
#: Requests to groups for one page: one that finds few keys ends early, and its cursor leads on.
PARTS_MAX: Final = 64
#: Doubtful keys read at a time.
_READS_MAX: Final = 1024


class Page(msgspec.Struct, frozen=True):
    """A page of a listing: keys, and the cursor to the next page; None after the last."""

    keys: list[Key]
    cursor: str | None


class Listing:
    """Listings of one namespace. `part` asks a group for keys (prefix, where to start, how many); `is_there` reads
    slots and tells of each whether it has a value. Both raise what their operations raise."""

    def __init__(
        self,
        configuration: Configuration,
        namespace: bytes,
        part: Callable[[bytes, m.Position, int], Awaitable[Listed]],
        is_there: Callable[[list[bytes]], Awaitable[list[bool]]],
    ) -> None:
        self._configuration = configuration
        self._namespace = namespace
        self._part = part
        self._is_there = is_there

    async def page(self, prefix: Key, limit: int, cursor: str | None) -> Page:
        """A page of the keys that begin with `prefix`: what `Client.scan` gives."""
        if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
            raise Misuse(f"a limit of {limit!r}; it is 1 to {LIMIT_MAX} keys")
        configuration, namespace = self._configuration, self._namespace
        start = prefix_bytes(prefix)
        position: m.Position | None = m.Position(0)
        if cursor is not None:
            position = read_cursor(cursor, configuration, namespace, start)
        found: list[bytes] = []
        for _ in range(PARTS_MAX):
            assert position is not None
            room = limit - len(found)
            part = await self._part(start, position, min(room, m.SCAN_KEYS_MAX))
            position = part.stop or _next_group(configuration, position.shard)
            keys = await self._confirmed(part)
            if len(keys) > room:
                # Lists that differ may come to more than was asked for.
                keys = keys[:room]
                position = m.Position(configuration.shard_of(slot_of(namespace, keys[-1])), keys[-1])
            found += keys
            if position is None or len(found) == limit:
                break
        following = None if position is None else make_cursor(configuration, namespace, start, position)
        return Page([as_given(key, prefix) for key in found], following)

    async def _confirmed(self, part: Listed) -> list[bytes]:
        """The keys of the part, without those doubtful ones that a read does not find."""
        gone: set[int] = set()
        for at in range(0, len(part.doubtful), _READS_MAX):
            places = part.doubtful[at : at + _READS_MAX]
            there = await self._is_there([slot_of(self._namespace, part.keys[place]) for place in places])
            gone.update(place for place, is_there in zip(places, there, strict=True) if not is_there)
        return [key for place, key in enumerate(part.keys) if place not in gone] if gone else part.keys


def _next_group(configuration: Configuration, shard: int) -> m.Position | None:
    """The start of the group after that of the shard; None after the last."""
    groups = list(configuration.shards_of_groups)
    following = groups.index(configuration.shard_groups[shard].id) + 1
    return m.Position(configuration.shards_of_groups[groups[following]][0]) if following < len(groups) else None


_THERE: Final = Found(b"", b"")


class _Seen(Part):
    """A read of which only counts how it ended: values are let go of at once."""

    def set_result(self, outcome: Outcome, /) -> None:
        super().set_result(outcome if isinstance(outcome, Missed | Failed) else _THERE)


class Lists:
    """Mixed into `Client`: what is done with all keys of a prefix (docs/client.md, "Listing")."""

    async def scan(self, prefix: Key = "", limit: int = LIMIT, cursor: str | None = None) -> Page:
        """A page of the keys that begin with `prefix`, at most `limit` (1 to 10,000), and the cursor to the next page.

        The order is by group, shard and slot: fixed, but not alphabetical. A page may have fewer keys than `limit`,
        even none, and a cursor all the same; without one it is the last. Keys are bytes where the prefix is; else str,
        but for those that are not UTF-8. Raises Misuse for a cursor of another listing or configuration, and where
        clients hide keys from nodes; Unavailable.
        """
        client = cast("Client", self)
        if client._vault is not None and client._vault.hides_keys:
            raise Misuse(f"clients hide the keys of the namespace {client._namespace!r}: nodes cannot list them")
        return await self._listing().page(prefix, limit, cursor)

    async def keys(self, prefix: Key = "") -> AsyncIterator[Key]:
        """All keys that begin with `prefix`, as `scan` lists them: `async for key in client.keys("user:")`."""
        cursor = None
        while True:
            page = await self.scan(prefix, LIMIT, cursor)
            for key in page.keys:
                yield key
            cursor = page.cursor
            if cursor is None:
                return

    async def delete_prefix(self, prefix: Key) -> int:
        """Delete the keys that begin with `prefix`, page by page; returns how many.

        Raises as `delete_many` does; what was deleted before that stays deleted: call it again.
        """
        if not prefix:
            raise Misuse("an empty prefix is that of every key: clear() deletes them all")
        client = cast("Client", self)
        if client._vault is not None and client._vault.hides_keys:
            raise Misuse(f"clients hide the keys of the namespace {client._namespace!r}: nodes know no prefix of them")
        return await self._delete_all(prefix_bytes(prefix))

    async def clear(self) -> int:
        """Delete all keys of the namespace, as `delete_prefix` does; returns how many."""
        return await self._delete_all(b"")

    # --- inside ---

    def _listing(self) -> Listing:
        client = cast("Client", self)
        return Listing(client.configuration, client._namespace.encode(), self._list, self._are_there)

    async def _delete_all(self, prefix: bytes) -> int:
        client = cast("Client", self)
        listing, namespace = self._listing(), client._namespace.encode()
        cursor, deleted = None, 0
        while True:
            page = await listing.page(prefix, LIMIT, cursor)
            keys = [key for key in page.keys if isinstance(key, bytes)]
            # As slots: what nodes list is the key as they have it, and a key with fields goes with its base.
            slots = [slot_of(namespace, key) for key in keys]
            client._check_many(page.keys, await client._many(slots, [(b"", DELETE, 0)] * len(slots)))
            deleted += len(keys)
            cursor = page.cursor
            if cursor is None:
                return deleted

    async def _list(self, prefix: bytes, start: m.Position, count: int) -> Listed:
        client = cast("Client", self)
        engine = client._engine
        client._check_usable()
        future = await engine.place()
        engine.core.scan(client._namespace.encode(), prefix, start, count, future)
        engine.kick()
        outcome = await future
        if type(outcome) is not Listed:
            raise error_of(outcome)
        return outcome

    async def _are_there(self, slots: list[bytes]) -> list[bool]:
        client = cast("Client", self)
        outcomes = await client._many(slots, None, part=_Seen)
        for outcome in outcomes:
            if type(outcome) is Failed:
                raise error_of(outcome)
        return [outcome is _THERE for outcome in outcomes]
