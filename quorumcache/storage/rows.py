"""The rows of a node's database: tables, encodings, checksums; what to write for a journal, how to read it all again.

Batches and intents are rows of their own, shared by the entries and promises that refer to them, as in memory. It must
not know files or durability.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any, Final
from zlib import crc32

import msgspec

from quorumcache.core.certificate import Batch
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, digest_of, header_slot, parse_header
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.storage.interface import Identity

FORMAT: Final = 1
_SUM_MASK: Final = (1 << 63) - 1
_TABLES: Final = (
    "CREATE TABLE about (id INTEGER PRIMARY KEY, format INTEGER, identity BLOB, crc INTEGER)",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, header BLOB, salted BLOB, batch INTEGER, position INTEGER, "
    "path BLOB, crc INTEGER)",
    "CREATE TABLE batches (id INTEGER PRIMARY KEY, certificate BLOB, leaves BLOB, counts BLOB, crc INTEGER)",
    "CREATE TABLE promises (id INTEGER PRIMARY KEY, header BLOB, recorded_us INTEGER, intent INTEGER, "
    "position INTEGER, crc INTEGER)",
    "CREATE TABLE intents (id INTEGER PRIMARY KEY, batch_group BLOB, signature BLOB, leaves BLOB, crc INTEGER)",
    "CREATE TABLE shards (number INTEGER PRIMARY KEY, floor_us INTEGER, recovering INTEGER, crc INTEGER)",
    "CREATE TABLE totals (id INTEGER PRIMARY KEY, entries INTEGER, entries_sum INTEGER, promises INTEGER, "
    "promises_sum INTEGER, crc INTEGER)",
    "CREATE TABLE probe (data BLOB)",
)
_certificate_of = msgspec.msgpack.Decoder(Certificate).decode
_identity_of = msgspec.msgpack.Decoder(Identity).decode
_encode = msgspec.msgpack.Encoder().encode

#: A promise's group, intent and leaves: what it shares with the others of its batch.
IntentKey = tuple[bytes, bytes, bytes]


class Damaged(Exception):
    """The database is not what was written; the text says how it shows."""


def term(digest: bytes) -> int:
    """What a header counts for in a sum over all."""
    return int.from_bytes(digest[:8], "big")


class Totals(msgspec.Struct):
    """How many entries and promises there are, and the sums (modulo 2^63) of their digests' terms."""

    entries: int = 0
    entries_sum: int = 0
    promises: int = 0
    promises_sum: int = 0

    def count_entry(self, digest: bytes, sign: int = 1) -> None:
        """One more (`sign` 1) or one less (-1)."""
        self.entries += sign
        self.entries_sum = (self.entries_sum + sign * term(digest)) & _SUM_MASK

    def count_promise(self, digest: bytes, sign: int = 1) -> None:
        """One more (`sign` 1) or one less (-1)."""
        self.promises += sign
        self.promises_sum = (self.promises_sum + sign * term(digest)) & _SUM_MASK


def _crc(numbers: tuple[int, ...], *parts: bytes | None) -> int:
    """A row's checksum: over its numbers and the lengths and bytes of its parts."""
    crc = crc32(repr((*numbers, *[-1 if part is None else len(part) for part in parts])).encode())
    for part in parts:
        if part:
            crc = crc32(part, crc)
    return crc


def create(database: sqlite3.Connection, identity: Identity) -> None:
    """Make the tables, empty. In the caller's transaction."""
    for statement in _TABLES:
        database.execute(statement)
    raw = _encode(identity)
    database.execute("INSERT INTO about VALUES (1, ?, ?, ?)", (FORMAT, raw, _crc((FORMAT,), raw)))
    _write_totals(database, Totals())


def _write_totals(database: sqlite3.Connection, totals: Totals) -> None:
    numbers = msgspec.structs.astuple(totals)
    database.execute("INSERT OR REPLACE INTO totals VALUES (1, ?, ?, ?, ?, ?)", (*numbers, _crc(numbers)))


# --- writing ---------------------------------------------------------------------------------------------------------


class Change:
    """What has to be written for a journal. Making it numbers the rows of what is new; `settle` (it was written) keeps
    that and brings `totals` and `intents` up to date, `forget` (it was not) takes the numbers back."""

    def __init__(
        self, journal: Journal, slots: Slots, totals: Totals, intents: dict[IntentKey, list[int]], next_row: int
    ) -> None:
        self.next_row = next_row
        self._totals, self._intents = totals, intents
        self._new_totals = msgspec.structs.replace(totals)
        self._fresh: list[Held | Promise | Batch] = []
        self._released = [batch for batch in dict.fromkeys(journal.released) if batch.row and not batch.held_count]
        self._entries: list[tuple[Any, ...]] = []
        self._entries_gone: list[tuple[int]] = []
        self._batches: list[tuple[Any, ...]] = []
        self._promises: list[tuple[Any, ...]] = []
        self._promises_gone: list[tuple[int]] = []
        self._counts: dict[IntentKey, list[int]] = {}
        self._shards = [
            (s.number, s.floor_us, int(s.recovering), _crc((s.number, s.floor_us, int(s.recovering))))
            for s in journal.shards.values()
        ]
        current = slots.current
        for slot, before in journal.entries.items():
            self._entry(before, current.get(slot))
        open_ = slots.open
        for slot, promises in journal.promises.items():
            self._slot_promises(promises, open_.get(slot, ()))

    def _entry(self, before: Held | None, held: Held | None) -> None:
        if held is before:
            return
        if before is not None:
            self._new_totals.count_entry(before.digest, -1)
        if held is None:
            assert before is not None
            self._entries_gone.append((before.row,))
            return
        self._new_totals.count_entry(held.digest)
        batch = held.batch
        if not batch.row:
            batch.row = self._row()
            self._fresh.append(batch)
            raw = _encode(batch.certificate)
            crc = _crc((batch.row,), raw, batch.leaves, batch.counts)
            self._batches.append((batch.row, raw, batch.leaves, batch.counts, crc))
        held.row = self._row() if before is None else before.row
        self._fresh.append(held)
        numbers = (held.row, batch.row, held.position)
        crc = _crc(numbers, held.header, held.salted, held.path)
        self._entries.append((held.row, held.header, held.salted, batch.row, held.position, held.path, crc))

    def _slot_promises(self, before: tuple[Promise, ...], now: list[Promise] | tuple[()]) -> None:
        for promise in before:
            if promise not in now:
                self._new_totals.count_promise(promise.header.digest, -1)
                self._promises_gone.append((promise.row,))
                self._intent(promise)[1] -= 1
        for promise in now:
            if promise.row:
                continue
            promise.row = self._row()
            self._fresh.append(promise)
            self._new_totals.count_promise(promise.header.digest)
            intent = self._intent(promise)
            intent[1] += 1
            raw = promise.header.raw
            numbers = (promise.row, promise.recorded_us, intent[0], promise.position)
            self._promises.append((promise.row, raw, *numbers[1:], _crc(numbers, raw)))

    def _intent(self, promise: Promise) -> list[int]:
        key = (promise.group, promise.intent, promise.leaves)
        counts = self._counts.get(key)
        if counts is None:
            known = self._intents.get(key)
            counts = self._counts[key] = [self._row(), 0] if known is None else known.copy()
        return counts

    def _row(self) -> int:
        row = self.next_row
        self.next_row = row + 1
        return row

    def write(self, database: sqlite3.Connection) -> None:
        """Write it, in the caller's transaction. Raises sqlite3.Error."""
        many = database.executemany
        new, gone = [], []
        for key, (row, count) in self._counts.items():
            known = key in self._intents
            if count and not known:
                new.append((row, *key, _crc((row,), *key)))
            elif known and not count:
                gone.append((row,))
        if new:
            many("INSERT INTO intents VALUES (?, ?, ?, ?, ?)", new)
        if self._promises:
            many("INSERT INTO promises VALUES (?, ?, ?, ?, ?, ?)", self._promises)
        if self._promises_gone:
            many("DELETE FROM promises WHERE id = ?", self._promises_gone)
        if gone:
            many("DELETE FROM intents WHERE id = ?", gone)
        if self._batches:
            many("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", self._batches)
        if self._entries:
            many("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", self._entries)
        if self._entries_gone:
            many("DELETE FROM entries WHERE id = ?", self._entries_gone)
        if self._released:
            many("DELETE FROM batches WHERE id = ?", [(batch.row,) for batch in self._released])
        if self._shards:
            many("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)", self._shards)
        if self._new_totals != self._totals:
            _write_totals(database, self._new_totals)

    def settle(self) -> None:
        """It was written."""
        for field in ("entries", "entries_sum", "promises", "promises_sum"):
            setattr(self._totals, field, getattr(self._new_totals, field))
        for key, counts in self._counts.items():
            if counts[1]:
                self._intents[key] = counts
            else:
                self._intents.pop(key, None)
        for batch in self._released:
            batch.row = 0

    def forget(self) -> None:
        """It was not."""
        for thing in self._fresh:
            thing.row = 0


# --- reading ---------------------------------------------------------------------------------------------------------


def read_identity(database: sqlite3.Connection) -> Identity:
    """Whose state it is. Raises Damaged."""
    found = database.execute("SELECT format, identity, crc FROM about").fetchall()
    if len(found) != 1:
        raise Damaged("nothing says whose it is")
    number, raw, crc = found[0]
    if number != FORMAT or not isinstance(raw, bytes) or crc != _crc((FORMAT,), raw):
        raise Damaged("it does not say whose it is in a form that is known here")
    return _identity_of(raw)


def read_totals(database: sqlite3.Connection) -> Totals:
    """The totals that were written. Raises Damaged."""
    found = database.execute("SELECT entries, entries_sum, promises, promises_sum, crc FROM totals").fetchall()
    if len(found) != 1 or found[0][-1] != _crc(found[0][:-1]):
        raise Damaged("its totals are not readable")
    return Totals(*found[0][:-1])


def read_batches(database: sqlite3.Connection) -> Iterator[tuple[int, Batch]]:
    """All batches, by their rows. Raises Damaged."""
    query = "SELECT id, certificate, leaves, counts, crc FROM batches"
    for row, raw, leaves, counts, crc in _checked(database, query, (bytes, bytes, bytes)):
        if crc != _crc((row,), raw, leaves, counts):
            raise Damaged(f"batch {row} is not what was written")
        yield row, Batch(_certificate_of(raw), leaves, counts, row=row)


def read_entries(database: sqlite3.Connection, batches: Mapping[int, Batch]) -> Iterator[tuple[bytes, Held]]:
    """All entries, by their slots. Raises Damaged."""
    query = "SELECT id, header, salted, path, batch, position, crc FROM entries"
    for row, header, salted, path, batch_row, position, crc in _checked(database, query, (bytes, bytes, None)):
        batch = batches.get(batch_row)
        if batch is None or crc != _crc((row, batch_row, position), header, salted, path):
            raise Damaged(f"entry {row} is not what was written")
        yield header_slot(header), Held(digest_of(header), header, salted, batch, position, path, row)


def read_intents(database: sqlite3.Connection) -> Iterator[tuple[int, IntentKey]]:
    """All intents, by their rows. Raises Damaged."""
    query = "SELECT id, batch_group, signature, leaves, crc FROM intents"
    for row, group, signature, leaves, crc in _checked(database, query, (bytes, bytes, bytes)):
        if crc != _crc((row,), group, signature, leaves):
            raise Damaged(f"intent {row} is not what was written")
        yield row, (group, signature, leaves)


def read_promises(database: sqlite3.Connection, intents: Mapping[int, IntentKey]) -> Iterator[tuple[int, Promise]]:
    """All promises, each with its intent's row. Raises Damaged."""
    query = "SELECT id, header, recorded_us, intent, position, crc FROM promises"
    for row, raw, recorded_us, intent, position, crc in _checked(database, query, (bytes,)):
        if intent not in intents or crc != _crc((row, recorded_us, intent, position), raw):
            raise Damaged(f"promise {row} is not what was written")
        group, signature, leaves = intents[intent]
        yield intent, Promise(parse_header(raw), recorded_us, group, signature, leaves, position, row)


def read_shards(database: sqlite3.Connection) -> Iterator[tuple[int, int, bool]]:
    """(number, floor in microseconds, whether it is recovering) of all shards, by number. Raises Damaged."""
    for number, floor_us, recovering, crc in database.execute("SELECT * FROM shards ORDER BY number"):
        if crc != _crc((number, floor_us, recovering)):
            raise Damaged(f"the floor of shard {number} is not what was written")
        yield number, floor_us, bool(recovering)


def _checked(
    database: sqlite3.Connection, query: str, kinds: tuple[type[bytes] | None, ...]
) -> Iterator[tuple[Any, ...]]:
    """The query's rows, of which the columns after the first are of these kinds (None: bytes or NULL)."""
    for row in database.execute(query):
        for value, kind in zip(row[1:], kinds, strict=False):
            if type(value) is not bytes and (kind is not None or value is not None):
                raise Damaged(f"row {row[0]} has a value of another kind")
        yield row
