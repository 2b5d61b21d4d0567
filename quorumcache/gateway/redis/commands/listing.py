"""Listings: KEYS, SCAN and what goes over all keys of a database; and the fields of one key.

A database's keys are those of its namespaces, one after the other. Members that are all gone leave a collection that
nodes still list: a listing reads collections whole to leave such out.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from quorumcache.client import Client
from quorumcache.client.mixed import ReadSlot, WriteSlot, run_mixed
from quorumcache.core.model import DELETE
from quorumcache.gateway.redis.commands.hashes import read_all
from quorumcache.gateway.redis.database import STRING, Database, check_written, is_there, names_in
from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.faults import SYNTAX, Fault
from quorumcache.gateway.redis.globs import Glob
from quorumcache.gateway.redis.table import ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import integer
from quorumcache.gateway.redis.wholes import HASH, SET

_PAGE: Final = 1000
_COUNT_MAX: Final = 10_000
#: Whole collections read at a time.
_WHOLE_MAX: Final = 16
#: Keys that one KEYS may give.
KEYS_MAX: Final = 1_000_000


class Place(NamedTuple):
    """Where a SCAN goes on: in which database, which of its listings, and where in that."""

    database: int
    listing: int
    cursor: str | None


class _Listing(NamedTuple):
    """Keys of one type in one part of a database. `prefix`: what they begin with, but for what else begins so."""

    part: Database
    prefix: bytes
    kind: str
    client: Client

    def narrowed(self, prefix: bytes) -> bytes | None:
        """What stored keys begin with that begin so; None where there can be none."""
        if self.prefix.startswith(prefix):
            prefix = self.prefix
        elif not prefix.startswith(self.prefix):
            return None
        return self.part.stored_prefix(prefix)


def _listings(database: Database) -> list[_Listing]:
    return [
        _Listing(part, prefix, kind, client)
        for prefix, part in database.parts
        for kind, client in ((STRING, part.strings), *part.collections.items())
    ]


async def _live(database: Database, kind: str, stored: list[bytes]) -> list[bytes]:
    """The keys, as clients know them, of those that a listing of a namespace gave."""
    keys = [key for key in map(database.key_of, stored) if key is not None and database.holds(key)]
    if kind == STRING:
        return keys
    live = []
    for at in range(0, len(keys), _WHOLE_MAX):
        some = keys[at : at + _WHOLE_MAX]
        outcomes = await run_mixed(database.strings, [ReadSlot(database.base_slot(kind, key)) for key in some])
        live += [key for key, outcome in zip(some, outcomes, strict=True) if names_in(outcome)]
    return live


async def _of_kind(database: Database, keys: list[bytes], kind: str) -> list[bytes]:
    """Those of that type, of the keys of an exact database, where all types are in one namespace."""
    found = []
    for at in range(0, len(keys), _WHOLE_MAX):
        some = keys[at : at + _WHOLE_MAX]
        outcomes = await run_mixed(database.strings, [ReadSlot(database.string_slot(key)) for key in some])
        for key, outcome in zip(some, outcomes, strict=True):
            if is_there(outcome) and (database.whole_in(outcome) or STRING) == kind:
                found.append(key)
    return found


def _as_bytes(keys: list[str | bytes]) -> list[bytes]:
    return [key if isinstance(key, bytes) else key.encode() for key in keys]


async def _all_keys(database: Database, prefix: bytes = b"") -> AsyncIterator[list[bytes]]:
    """All keys that begin so, page by page; one may come twice where a race left it in two types."""
    for listing in _listings(database):
        start, cursor = listing.narrowed(prefix), None
        while start is not None:
            page = await listing.client.scan(start, _PAGE, cursor)
            yield await _live(listing.part, listing.kind, _as_bytes(page.keys))
            cursor = page.cursor
            if cursor is None:
                break


@command("keys", 2, "readonly", group="generic", summary="Returns the keys that a pattern fits.")
async def keys(call: Call) -> object:
    glob = Glob(call.arguments[1])
    found: set[bytes] = set()
    async for page in _all_keys(call.database, glob.prefix):
        found.update(key for key in page if glob.fits(key))
        if len(found) > KEYS_MAX:
            raise Fault(f"ERR more than {KEYS_MAX} keys: use SCAN")
    return sorted(found)


class _Options(NamedTuple):
    glob: Glob | None
    limit: int
    kind: str | None
    values: bool


def _options(words: list[bytes], allowed: tuple[bytes, ...]) -> _Options:
    glob, count, kind, values = None, 10, None, True
    rest = iter(words)
    for word in rest:
        option = word.upper()
        if option not in allowed:
            raise Fault(SYNTAX)
        if option == b"NOVALUES":
            values = False
            continue
        given = next(rest, None)
        if given is None:
            raise Fault(SYNTAX)
        if option == b"MATCH":
            glob = Glob(given)
        elif option == b"COUNT":
            count = integer(given)
            if count < 1:
                raise Fault(SYNTAX)
        else:
            kind = given.decode("ascii", "replace").lower()
    return _Options(glob, min(count, _COUNT_MAX), kind, values)


@command("scan", -2, "readonly", group="generic", summary="Lists keys, some at a time.")
async def scan(call: Call) -> object:
    database, cursors = call.database, call.session.gateway.cursors
    options = _options(call.arguments[2:], (b"MATCH", b"COUNT", b"TYPE"))
    place = cursors.find(call.arguments[1], Place)
    if place is not None and place.database != database.number:
        raise Fault("ERR invalid cursor: it is of another database")
    listings = _listings(database)
    prefix = options.glob.prefix if options.glob is not None else b""
    wanted = [
        number
        for number, each in enumerate(listings)
        if (each.part.is_exact or options.kind in (None, each.kind)) and each.narrowed(prefix) is not None
    ]
    if not wanted or (place is not None and place.listing not in wanted):
        return [b"0", []]
    number, cursor = (place.listing, place.cursor) if place is not None else (wanted[0], None)
    part, kind = listings[number].part, listings[number].kind
    page = await listings[number].client.scan(listings[number].narrowed(prefix) or b"", options.limit, cursor)
    live = await _live(part, kind, _as_bytes(page.keys))
    if part.is_exact and options.kind is not None:
        live = await _of_kind(part, live, options.kind)
    following: Place | None = None
    if page.cursor is not None:
        following = Place(database.number, number, page.cursor)
    elif number != wanted[-1]:
        following = Place(database.number, wanted[wanted.index(number) + 1], None)
    found = [key for key in live if options.glob is None or options.glob.fits(key)]
    return [b"%d" % (cursors.keep(following) if following is not None else 0), found]


@command("hscan", -3, "readonly", ONE_KEY, group="hash", summary="Lists fields and values: all at once here.")
def hscan(call: Call) -> Steps:
    options = _one_page(call, (b"MATCH", b"COUNT", b"NOVALUES"))
    found = yield from read_all(call.database, HASH, call.arguments[1])
    words: list[bytes] = []
    for name, entry in found.items():
        if options.glob is None or options.glob.fits(name):
            words.append(name)
            if options.values:
                words.append(call.database.value_of(HASH, entry))
    return [b"0", words]


@command("sscan", -3, "readonly", ONE_KEY, group="set", summary="Lists members: all at once here.")
def sscan(call: Call) -> Steps:
    options = _one_page(call, (b"MATCH", b"COUNT"))
    found = yield from read_all(call.database, SET, call.arguments[1])
    return [b"0", [name for name in found if options.glob is None or options.glob.fits(name)]]


def _one_page(call: Call, allowed: tuple[bytes, ...]) -> _Options:
    if call.arguments[2] != b"0":
        raise Fault("ERR invalid cursor")
    return _options(call.arguments[3:], allowed)


@command("dbsize", 1, "readonly fast", group="server", summary="Counts the keys of the database, by listing them.")
async def dbsize(call: Call) -> object:
    found = 0
    async for page in _all_keys(call.database):
        found += len(page)
    return found


@command("randomkey", 1, "readonly", group="generic", summary="Returns a random key.")
async def randomkey(call: Call) -> object:
    """Of one page of the listing: some key, not each with the same chance."""
    async for page in _all_keys(call.database):
        if page:
            return random.choice(page)
    return None


async def _flush(database: Database) -> None:
    for listing in _listings(database):
        client, part, cursor = listing.client, listing.part, None
        while True:
            page = await client.scan(listing.narrowed(b"") or b"", _PAGE, cursor)
            stored = []
            for each in _as_bytes(page.keys):
                key = part.key_of(each)
                if key is not None and part.holds(key):
                    stored.append(each)
            outcomes = await run_mixed(client, [WriteSlot(client, client._base_slot(key), DELETE) for key in stored])
            check_written(outcomes)
            cursor = page.cursor
            if cursor is None:
                break


def _check_flush(call: Call) -> None:
    words = call.arguments[1:]
    if len(words) > 1 or any(word.upper() not in (b"SYNC", b"ASYNC") for word in words):
        raise Fault(SYNTAX)


@command("flushdb", -1, "write", group="server", summary="Deletes all keys of the database, page by page.")
async def flushdb(call: Call) -> object:
    _check_flush(call)
    await _flush(call.database)
    return OK


@command("flushall", -1, "write", group="server", summary="Deletes all keys of all databases, page by page.")
async def flushall(call: Call) -> object:
    _check_flush(call)
    for database in call.session.gateway.databases.values():
        await _flush(database)
    return OK
