"""The rows of a node's database: tables, encodings, checksums; what to write for a journal, how to read it all again.

A batch is a row, shared by the entries that refer to it, as in memory. The promises of one prepare are a row, written
once, and again only where some of them go before others. It must not know files or durability.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

import msgspec

from quorumcache.core.certificate import Batch
from quorumcache.core.instances import NONE, Instance
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, digest_of, header_slot, header_value_hash, parse_header, value_hash_of
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.storage.interface import Identity

FORMAT: Final = 1
#: How many values one query reads: one of these, so that the queries are few, and prepared once.
_VALUES_COUNTS: Final = (1, 8, 64, 512)
_SUM_MASK: Final = (1 << 63) - 1
#: Votes and locks of compare-and-set. What was made before there were any lacks the table.
INSTANCES: Final = "CREATE TABLE IF NOT EXISTS instances (slot BLOB PRIMARY KEY, instance BLOB, crc INTEGER)"
_TABLES: Final = (
    "CREATE TABLE about (id INTEGER PRIMARY KEY, format INTEGER, identity BLOB, crc INTEGER)",
    "CREATE TABLE entries (id INTEGER PRIMARY KEY, header BLOB, salted BLOB, batch INTEGER, position INTEGER, "
    "path BLOB, crc INTEGER)",
    "CREATE TABLE batches (id INTEGER PRIMARY KEY, certificate BLOB, leaves BLOB, counts BLOB, crc INTEGER)",
    "CREATE TABLE prepares (id INTEGER PRIMARY KEY, promised BLOB, crc INTEGER)",
    INSTANCES,
    "CREATE TABLE shards (number INTEGER PRIMARY KEY, floor_us INTEGER, recovering INTEGER, crc INTEGER)",
    "CREATE TABLE totals (id INTEGER PRIMARY KEY, entries INTEGER, entries_sum INTEGER, prepares INTEGER, "
    "prepares_sum INTEGER, crc INTEGER)",
    "CREATE TABLE probe (data BLOB)",
)
_certificate_of = msgspec.msgpack.Decoder(Certificate).decode
_identity_of = msgspec.msgpack.Decoder(Identity).decode
_encode = msgspec.msgpack.Encoder().encode


class Promised(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The open promises of one prepare: what they share, and each one's header and its place in the batch."""

    group: bytes
    intent: bytes
    leaves: bytes
    recorded_us: int
    headers: list[tuple[int, bytes]]


_instance_of = msgspec.msgpack.Decoder(Instance).decode
_promised_of = msgspec.msgpack.Decoder(Promised).decode


class Prepare:
    """A row of promises: those of it that are open, and its checksum."""

    __slots__ = ("crc", "promises")

    def __init__(self, promises: dict[Promise, None], crc: int) -> None:
        self.promises = promises
        self.crc = crc


class Damaged(Exception):
    """The database is not what was written; the text says how it shows."""


def term(digest: bytes) -> int:
    """What a header counts for in a sum over all."""
    return int.from_bytes(digest[:8], "big")


class Totals(msgspec.Struct):
    """How many entries and rows of promises and instances there are, and sums (modulo 2^63): of the entries' terms, and
    of the others' checksums."""

    entries: int = 0
    entries_sum: int = 0
    prepares: int = 0
    prepares_sum: int = 0

    def plus(self, entries: int, entries_sum: int, prepares: int, prepares_sum: int) -> Totals:
        """With so much more, or less."""
        return Totals(
            self.entries + entries,
            (self.entries_sum + entries_sum) & _SUM_MASK,
            self.prepares + prepares,
            (self.prepares_sum + prepares_sum) & _SUM_MASK,
        )


def _crc(numbers: tuple[int, ...], *parts: bytes) -> int:
    """A row's checksum: over its numbers and the lengths and bytes of its parts."""
    crc = crc32(repr((*numbers, *map(len, parts))).encode())
    for part in parts:
        crc = crc32(part, crc)
    return crc


def _entry_crc(row: int, batch: int, position: int, header: bytes, salted: bytes, path: bytes | None) -> int:
    """As `_crc`, for the rows of which there are most: the numbers decide where the checksum begins."""
    begin = row * 0x9E3779B1 + batch * 0x85EBCA6B + position * 0xC2B2AE35 + len(header) * 0x27D4EB2F
    crc = crc32(salted, crc32(header, begin & 0xFFFFFFFF))
    return crc if path is None else crc32(path, crc + 1)


def create(database: sqlite3.Connection, identity: Identity) -> None:
    """Make the tables, empty. In the caller's transaction."""
    for statement in _TABLES:
        database.execute(statement)
    write_identity(database, identity)
    _write_totals(database, Totals())


def write_identity(database: sqlite3.Connection, identity: Identity) -> None:
    """Say whose state it is. In the caller's transaction."""
    raw = _encode(identity)
    database.execute("INSERT OR REPLACE INTO about VALUES (1, ?, ?, ?)", (FORMAT, raw, _crc((FORMAT,), raw)))


def forget_shards(database: sqlite3.Connection, count: int) -> None:
    """There are only so many shards now. In the caller's transaction."""
    database.execute("DELETE FROM shards WHERE number >= ?", (count,))


def _write_totals(database: sqlite3.Connection, totals: Totals) -> None:
    numbers = msgspec.structs.astuple(totals)
    database.execute("INSERT OR REPLACE INTO totals VALUES (1, ?, ?, ?, ?, ?)", (*numbers, _crc(numbers)))


# --- writing ---------------------------------------------------------------------------------------------------------


class Change:
    """What has to be written for a journal. Making it numbers the rows of what is new; `settle` (it was written) keeps
    that and brings `prepares` up to date, `forget` (it was not) takes the numbers back. `totals` are those after it.
    `kept`: batches whose rows stay, though nothing in the slots has them."""

    def __init__(
        self,
        journal: Journal,
        slots: Slots,
        totals: Totals,
        prepares: dict[int, Prepare],
        next_row: int,
        kept: Container[Batch] = (),
    ) -> None:
        self.next_row = next_row
        self._prepares = prepares
        self._fresh: list[Held | Promise | Batch] = []
        released = dict.fromkeys(journal.released)
        self._released = [batch for batch in released if batch.row and not batch.held_count and batch not in kept]
        self._shards = [
            (s.number, s.floor_us, state, _crc((s.number, s.floor_us, state)))
            for s, state in ((s, slots.state_of(s)) for s in journal.shards.values())
        ]
        self._entries: list[tuple[Any, ...]] = []
        self._entries_gone: list[tuple[int]] = []
        self._batches: list[tuple[Any, ...]] = []
        self._promised: dict[int, tuple[int, bytes, int]] = {}
        self._changed: dict[int, Prepare] = {}
        self._instances: list[tuple[bytes, bytes, int]] = []
        self._instances_gone: list[tuple[bytes]] = []
        entries, entries_sum = self._entry_changes(journal, slots)
        prepares_count, prepares_sum = self._promise_changes(journal, slots)
        if journal.instances:
            count, total = self._instance_changes(journal, slots)
            prepares_count += count
            prepares_sum += total
        more = (entries, entries_sum, prepares_count, prepares_sum)
        self._totals_before = totals
        self.totals = totals.plus(*more)

    def _entry_changes(self, journal: Journal, slots: Slots) -> tuple[int, int]:
        current = slots.current
        count = total = 0
        for slot, before in journal.entries.items():
            held = current.get(slot)
            if held is before:
                continue
            if before is not None:
                count -= 1
                total -= term(before.digest)
                if held is None:
                    self._entries_gone.append((before.row,))
                    continue
            assert held is not None
            count += 1
            total += term(held.digest)
            batch = held.batch
            batch_row = batch.row or self._new_batch(batch)
            held.row = row = self._row() if before is None else before.row
            self._fresh.append(held)
            header, salted, path, position = held.header, held.salted, held.path, held.position
            assert salted, "what is not written yet is in memory"
            crc = _entry_crc(row, batch_row, position, header, salted, path)
            self._entries.append((row, header, salted, batch_row, position, path, crc))
        return count, total

    def _new_batch(self, batch: Batch) -> int:
        batch.row = row = self._row()
        self._fresh.append(batch)
        raw = _encode(batch.certificate)
        self._batches.append((row, raw, batch.leaves, batch.counts, _crc((row,), raw, batch.leaves, batch.counts)))
        return row

    def _promise_changes(self, journal: Journal, slots: Slots) -> tuple[int, int]:
        open_, changed, prepares = slots.open, self._changed, self._prepares
        new: dict[tuple[bytes, bytes, int], dict[Promise, None]] = {}
        for slot, before in journal.promises.items():
            now = open_.get(slot, ())
            for promise in before:
                if promise not in now:
                    row = promise.row
                    prepare = changed.get(row)
                    if prepare is None:
                        prepare = changed[row] = Prepare(prepares[row].promises.copy(), 0)
                    del prepare.promises[promise]
            for promise in now:
                if not promise.row:
                    key = (promise.intent, promise.leaves, promise.recorded_us)
                    new.setdefault(key, {})[promise] = None
        count = total = 0
        for promises in new.values():
            row = self._row()
            for promise in promises:
                promise.row = row
            self._fresh.extend(promises)
            changed[row] = Prepare(promises, 0)
        for row, prepare in changed.items():
            known = prepares.get(row)
            if known is not None:
                count -= 1
                total -= known.crc
            if prepare.promises:
                count += 1
                promised = _encode(_promised(prepare.promises))
                prepare.crc = crc = _crc((row,), promised)
                total += crc
                self._promised[row] = (row, promised, crc)
        return count, total

    def _instance_changes(self, journal: Journal, slots: Slots) -> tuple[int, int]:
        """Their rows count among those of promises."""
        count = total = 0
        table = slots.instances
        for slot, before in journal.instances.items():
            instance = NONE if table is None else table.get(slot)
            if before is not None:
                count -= 1
                total -= _crc((), slot, _encode(before))
            if instance is NONE:
                self._instances_gone.append((slot,))
                continue
            raw = _encode(instance)
            crc = _crc((), slot, raw)
            count += 1
            total += crc
            self._instances.append((slot, raw, crc))
        return count, total

    def _row(self) -> int:
        row = self.next_row
        self.next_row = row + 1
        return row

    def write(self, database: sqlite3.Connection) -> None:
        """Write it, in the caller's transaction. Raises sqlite3.Error."""
        many = database.executemany
        if self._promised:
            many("INSERT OR REPLACE INTO prepares VALUES (?, ?, ?)", self._promised.values())
        gone = [(row,) for row, prepare in self._changed.items() if not prepare.promises and row in self._prepares]
        if gone:
            many("DELETE FROM prepares WHERE id = ?", gone)
        if self._batches:
            many("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", self._batches)
        if self._entries:
            many("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", self._entries)
        if self._entries_gone:
            many("DELETE FROM entries WHERE id = ?", self._entries_gone)
        if self._released:
            many("DELETE FROM batches WHERE id = ?", [(batch.row,) for batch in self._released])
        if self._instances:
            many("INSERT OR REPLACE INTO instances VALUES (?, ?, ?)", self._instances)
        if self._instances_gone:
            many("DELETE FROM instances WHERE slot = ?", self._instances_gone)
        if self._shards:
            many("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, ?)", self._shards)
        if self.totals != self._totals_before:
            _write_totals(database, self.totals)

    def settle(self) -> None:
        """It was written."""
        for row, prepare in self._changed.items():
            if prepare.promises:
                self._prepares[row] = prepare
            else:
                self._prepares.pop(row, None)
        for batch in self._released:
            batch.row = 0

    def forget(self) -> None:
        """It was not."""
        for thing in self._fresh:
            thing.row = 0


def forget(database: sqlite3.Connection, entries: Sequence[Held], batches: Sequence[Batch], totals: Totals) -> Totals:
    """Delete these rows, which the totals count; returns those after it. In the caller's transaction."""
    database.executemany("DELETE FROM entries WHERE id = ?", [(held.row,) for held in entries])
    database.executemany("DELETE FROM batches WHERE id = ?", [(batch.row,) for batch in batches])
    totals = totals.plus(-len(entries), -sum(term(held.digest) for held in entries), 0, 0)
    _write_totals(database, totals)
    return totals


def _promised(promises: dict[Promise, None]) -> Promised:
    first = next(iter(promises))
    headers = [(promise.position, promise.header.raw) for promise in promises]
    return Promised(first.group, first.intent, first.leaves, first.recorded_us, headers)


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
    found = database.execute("SELECT entries, entries_sum, prepares, prepares_sum, crc FROM totals").fetchall()
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
        if batch is None or crc != _entry_crc(row, batch_row, position, header, salted, path):
            raise Damaged(f"entry {row} is not what was written")
        yield header_slot(header), Held(digest_of(header), header, salted, batch, position, path, row)


def read_values(database: sqlite3.Connection, entries: Sequence[Held]) -> list[bytes]:
    """Salt and value of each of these entries, in its order. Raises Damaged."""
    found: dict[int, bytes] = {}
    for at in range(0, len(entries), _VALUES_COUNTS[-1]):
        part = [held.row for held in entries[at : at + _VALUES_COUNTS[-1]]]
        count = next(count for count in _VALUES_COUNTS if count >= len(part))
        part += [0] * (count - len(part))  # Which is no row.
        found.update(database.execute(f"SELECT id, salted FROM entries WHERE id IN (?{',?' * (count - 1)})", part))
    values = []
    for held in entries:
        salted = found.get(held.row)
        if type(salted) is not bytes or value_hash_of(salted) != header_value_hash(held.header):
            raise Damaged(f"the value of entry {held.row} is not what was written")
        values.append(salted)
    return values


def read_prepares(database: sqlite3.Connection) -> Iterator[tuple[int, Prepare]]:
    """All promises, by the rows they share. Raises Damaged."""
    for row, promised, crc in _checked(database, "SELECT id, promised, crc FROM prepares", (bytes,)):
        if crc != _crc((row,), promised):
            raise Damaged(f"prepare {row} is not what was written")
        raw = _promised_of(promised)
        shared = (raw.recorded_us, raw.group, raw.intent, raw.leaves)
        promises = [Promise(parse_header(header), *shared, position, row) for position, header in raw.headers]
        yield row, Prepare(dict.fromkeys(promises), crc)


def read_instances(database: sqlite3.Connection) -> Iterator[tuple[bytes, Instance, int]]:
    """(slot, instance, checksum) of all votes and locks of compare-and-set. Raises Damaged."""
    for slot, raw, crc in database.execute("SELECT slot, instance, crc FROM instances"):
        if type(slot) is not bytes or type(raw) is not bytes or crc != _crc((), slot, raw):
            raise Damaged("a vote or lock is not what was written")
        yield slot, _instance_of(raw), crc


def read_shards(database: sqlite3.Connection) -> Iterator[tuple[int, int, int]]:
    """(number, floor in microseconds, state as `Slots.state_of` has it) of all shards, by number. Raises Damaged."""
    for number, floor_us, state, crc in database.execute(
        "SELECT number, floor_us, recovering, crc FROM shards ORDER BY number"
    ):
        if crc != _crc((number, floor_us, state)):
            raise Damaged(f"the floor of shard {number} is not what was written")
        yield number, floor_us, state


def _checked(
    database: sqlite3.Connection, query: str, kinds: tuple[type[bytes] | None, ...]
) -> Iterator[tuple[Any, ...]]:
    """The query's rows: a number, columns of these kinds (None: bytes or NULL), and numbers. In a damaged database any
    column may hold anything."""
    end = 1 + len(kinds)
    for row in database.execute(query):
        for value, kind in zip(row[1:end], kinds, strict=True):
            if type(value) is not bytes and (kind is not None or value is not None):
                raise Damaged(f"row {row[0]} has a value of another kind")
        if type(row[0]) is not int or any(type(value) is not int for value in row[end:]):
            raise Damaged(f"row {row[0]} has something else for a number")
        yield row
