"""Storage in SQLite, in WAL mode: one transaction for each frame that changed something.

Transactions run on the event loop's thread: they only append to the log in the system's page cache, which takes tens
of microseconds; handing them to a thread takes longer, for Python's lock. What is slow runs in threads: syncing the
log where state has to survive a power cut, and moving the log into the database file.

Every row has a checksum; counts and sums of digests over all rows tell whether one is missing. It must not know what
the rules of the protocol are, nor who asks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

import msgspec

from quorumcache.core.journal import Journal
from quorumcache.core.model import Malformed
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.errors import DiskFailed, Misuse
from quorumcache.storage import rows
from quorumcache.storage.directory import BROKEN, RUNNING, STOPPED, Directory, sync
from quorumcache.storage.interface import DURABILITIES, Earlier, Identity, NotStored
from quorumcache.storage.left import Left
from quorumcache.storage.rows import Damaged
from quorumcache.storage.syncing import Syncer
from quorumcache.storage.wal import frames_beyond

#: Each time the log grew by so much, a thread moves it into the database file. Where the thread has caught up, the log
#: begins anew; under load it may not, and at the second size everyone waits for that once.
LOG_BYTES_STEP: Final = 8 << 20
LOG_BYTES_MAX: Final = 64 << 20
#: Small transactions write few rows in few places: small pages make them cheap.
_PAGE_BYTES: Final = 2048
_PROBE_BYTES: Final = 256 << 10
_CACHE_KIB: Final = 4 << 10

_log = logging.getLogger("quorumcache.storage")

#: Errors that say nothing about what is stored: no room, no right, no disk.
_NOT_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
    }
)
_READ_ERRORS: Final = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ})


class SqliteStorage:
    """Entries, promises and floors in `directory`. `durability`: see `DURABILITIES`. `boot`: what tells this boot of
    the machine from others, if not what the system says."""

    keeps = True

    def __init__(self, directory: Path, *, durability: str = "process", boot: str | None = None) -> None:
        if durability not in DURABILITIES:
            raise Misuse(f"durability {durability!r}: is one of {', '.join(DURABILITIES)}")
        self.durability = durability
        self._path = directory
        self._boot = boot
        self._directory: Directory | None = None
        self._database: sqlite3.Connection | None = None
        self._file: int | None = None
        self._log_file: int | None = None
        self._syncer: Syncer | None = None
        self._mover: ThreadPoolExecutor | None = None
        self._moving: Future[None] | None = None
        self._moved_bytes = 0
        self._totals = rows.Totals()
        self._prepares: dict[int, rows.Prepare] = {}
        self._left = Left()
        self._next_row = 1
        self._failed = False
        self._damaged = False
        #: What became of earlier state at the start: "", or why it does not count.
        self.set_aside = ""
        self.transactions_count = 0
        self.fetched_count = 0
        self.loaded_s = 0.0

    # --- opening ---

    def open(self, identity: Identity, slots: Slots, earlier: Earlier | None = None) -> bool:
        """See `Storage.open`."""
        directory = self._directory = Directory(self._path, boot=self._boot)
        try:
            return self._open(directory, identity, slots, earlier)
        except OSError as fault:
            self._let_go()
            raise DiskFailed(f"{self._path}: {fault.strerror or fault}") from None
        except sqlite3.Error as fault:
            self._let_go()
            raise DiskFailed(f"{directory.database}: {fault}") from None
        except BaseException:
            self._let_go()
            raise

    def _open(self, directory: Directory, identity: Identity, slots: Slots, earlier: Earlier | None) -> bool:
        found = directory.database.exists()
        if found and (why := directory.distrust()):
            _log.warning("%s does not count, and is removed: %s", directory.database, why)
            self.set_aside, found = why, False
        if not found:
            directory.remove()
        else:
            found = self._load(directory, identity, slots, earlier)
        database = self._connect(directory) if self._database is None else self._database
        if not found:
            self._totals = rows.Totals()
            self._prepares.clear()
            self._create(database, identity)
        directory.sync_names()
        self._log_file = os.open(f"{directory.database}-wal", os.O_RDWR)
        if self.durability == "power":
            # An earlier run may have been content with less.
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            assert self._file is not None
            sync(self._file)
            sync(self._log_file)
            log_file = self._log_file
            self._syncer = Syncer(lambda: sync(log_file))
        self._mover = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        directory.mark(RUNNING, self.durability)
        return found

    def _load(self, directory: Directory, identity: Identity, slots: Slots, earlier: Earlier | None) -> bool:
        try:
            database = self._connect(directory)
            self._check(database, directory)
            stored = rows.read_identity(database)
            if (stored.cluster_id, stored.key) != (identity.cluster_id, identity.key):
                raise Misuse(
                    f"{directory.path}: keeps the entries of the node with key {stored.key.hex()} in cluster "
                    f"{stored.cluster_id}, not of this one (key {identity.key.hex()}, cluster {identity.cluster_id}): "
                    "each node needs a data directory of its own"
                )
            of_before = None
            if stored.configuration != identity.configuration and earlier is not None:
                of_before = earlier(stored.configuration)
            if of_before is not None or stored.configuration == identity.configuration:
                database.execute(rows.INSTANCES)
                self._fill(database, slots if of_before is None else of_before)
                return True
            why, kind = "it was kept under another configuration", "other-configuration"
        except (Damaged, Malformed, msgspec.MsgspecError, UnicodeDecodeError) as fault:
            why, kind = f"it is damaged ({fault})", "damaged"
        except sqlite3.Error as fault:
            if not _is_damage(fault):
                raise
            why, kind = f"it is damaged ({fault})", "damaged"
        self._disconnect()
        aside = directory.set_aside(kind)
        _log.warning("%s does not count, and is now %s: %s", directory.database, aside.name, why)
        self.set_aside = why
        return False

    def _connect(self, directory: Directory) -> sqlite3.Connection:
        # For its owner only; the log and its index take after it.
        self._file = os.open(directory.database, os.O_RDWR | os.O_CREAT, 0o600)
        database = sqlite3.connect(directory.database, isolation_level=None, cached_statements=64, timeout=5.0)
        self._database = database
        database.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        # Consistent after a power cut, if not complete: the log is synced before it is moved. Completeness is ours.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        database.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_STEP // 2}").fetchall()
        database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        database.execute("PRAGMA cell_size_check = ON")
        return database

    def _check(self, database: sqlite3.Connection, directory: Directory) -> None:
        # Reading takes the log's valid frames; the passive checkpoint tells how many these are.
        database.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        (_, valid_count, _), *_ = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        beyond = frames_beyond(Path(f"{directory.database}-wal"), max(0, valid_count))
        # Without the machine's end in between, what was written later is never there without the earlier.
        if beyond and directory.is_same_boot:
            raise Damaged("its log holds transactions that can no longer be read")
        (verdict,), *_ = database.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise Damaged(verdict)

    def _create(self, database: sqlite3.Connection, identity: Identity) -> None:
        database.execute("BEGIN IMMEDIATE")
        rows.create(database, identity)
        database.execute("COMMIT")

    def _fill(self, database: sqlite3.Connection, slots: Slots) -> None:
        batches = dict(rows.read_batches(database))
        count = total = 0
        entries = rows.read_entries(database, batches)
        # Of keys with fields the base has to come first, and its slot is the lowest.
        for slot, held in sorted(entries, key=lambda entry: entry[0]) if slots.types else entries:
            if slot in slots.current:
                raise Damaged("a slot occurs twice")
            values = slots.values
            if values is not None and slots.memory.bytes_used > slots.memory.bytes_max and values.may_leave(held):
                held.salted = b""  # Read, and checked, but not to stay.
            slots.put_back(slot, held)
            if slot not in slots.current:
                raise Damaged("a field without its key")
            count += 1
            total += rows.term(held.digest)
            self._next_row = max(self._next_row, held.row + 1)
        self._prepares = dict(rows.read_prepares(database))
        self._next_row = max(self._next_row, max(batches, default=0) + 1, max(self._prepares, default=0) + 1)
        open_: dict[bytes, list[Promise]] = {}
        for prepare in self._prepares.values():
            for promise in prepare.promises:
                open_.setdefault(promise.header.slot, []).append(promise)
        for slot, promises in open_.items():
            slots.put_back_promises(slot, promises)
        # As they were made: the oldest are dropped first.
        slots.promises = type(slots.promises)(
            (promise, None) for promise in sorted(slots.promises, key=lambda promise: promise.recorded_us)
        )
        shards = list(rows.read_shards(database))
        if [number for number, _, _ in shards] != list(range(len(slots.shards))):
            raise Damaged("floors are missing")
        for number, floor_us, state in shards:
            slots.put_back_shard(number, floor_us, state)
        crcs = [prepare.crc for prepare in self._prepares.values()]
        for slot, instance, crc in rows.read_instances(database):
            if slots.instances is None:
                raise Damaged("it has votes, and the configuration no exact namespace")
            slots.instances.put_back(slot, instance)
            crcs.append(crc)
        self._totals = rows.Totals().plus(count, total, len(crcs), sum(crcs))
        if self._totals != rows.read_totals(database):
            raise Damaged("rows are missing")
        # What a batch outlived by an accident of ours would stay for ever.
        unused = [(row,) for row, batch in batches.items() if not batch.held_count]
        if unused:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM batches WHERE id = ?", unused)
            database.execute("COMMIT")

    # --- writing ---

    def write(self, journal: Journal, slots: Slots) -> None:
        """See `Storage.write`."""
        self._write(rows.Change(journal, slots, self._totals, self._prepares, self._next_row, self._left.batches))

    def move(self, identity: Identity, journal: Journal, slots: Slots, left: Sequence[Held] = ()) -> None:
        """See `Storage.move`."""
        self._left.move(journal, left)
        again = self._left.come_again(slots.configuration, identity.key)

        def also(database: sqlite3.Connection, totals: rows.Totals) -> rows.Totals:
            rows.forget_shards(database, len(slots.shards))
            rows.write_identity(database, identity)
            batches = self._left.free_after(again)
            self._left.forget(again)
            return rows.forget(database, again, batches, totals) if again else totals

        kept = self._left.batches
        self._write(rows.Change(journal, slots, self._totals, self._prepares, self._next_row, kept), also)

    def _write(
        self,
        change: rows.Change,
        also: Callable[[sqlite3.Connection, rows.Totals], rows.Totals] | None = None,
    ) -> None:
        database = self._database
        assert database is not None
        try:
            database.execute("BEGIN IMMEDIATE")
            change.write(database)
            if also is not None:
                change.totals = also(database, change.totals)
            database.execute("COMMIT")
        except sqlite3.Error as fault:
            change.forget()
            raise self._not_stored(database, fault) from fault
        change.settle()
        self._next_row = change.next_row
        self._wrote(database, change.totals)

    def _not_stored(self, database: sqlite3.Connection, fault: sqlite3.Error) -> NotStored:
        self._failed = True
        with contextlib.suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        return NotStored(f"{self._path}: {fault}")

    def _wrote(self, database: sqlite3.Connection, totals: rows.Totals) -> None:
        self._totals = totals
        self.transactions_count += 1
        if self._syncer is not None:
            self._syncer.wrote()
        if self.transactions_count % 64 == 0:
            self._keep_log_short(database)

    def forget_left(self, count: int, *, latest: bool) -> int:
        """See `Storage.forget_left`."""
        database = self._database
        gone = self._left.first(count, latest=latest)
        if not gone:
            return 0
        assert database is not None
        batches = self._left.free_after(gone)
        try:
            database.execute("BEGIN IMMEDIATE")
            totals = rows.forget(database, gone, batches, self._totals)
            database.execute("COMMIT")
        except sqlite3.Error as fault:
            raise self._not_stored(database, fault) from fault
        self._left.forget(gone)
        self._wrote(database, totals)
        return len(gone)

    def fetch(self, entries: Sequence[Held]) -> list[bytes]:
        """See `Storage.fetch`."""
        database, directory = self._database, self._directory
        assert database is not None
        assert directory is not None
        try:
            values = rows.read_values(database, entries)
        except (Damaged, sqlite3.Error) as fault:
            self._damaged = True
            with contextlib.suppress(OSError):
                directory.mark(BROKEN, self.durability)  # Now: who knows how the node ends.
            raise DiskFailed(f"{directory.database} cannot be read: {fault}") from fault
        self.fetched_count += len(values)
        return values

    def synced(self) -> Awaitable[None] | None:
        """See `Storage.synced`."""
        return None if self._syncer is None else self._syncer.wait()

    def probe(self) -> None:
        """See `Storage.probe`."""
        database = self._database
        assert database is not None
        try:
            self._keep_log_short(database)
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO probe VALUES (zeroblob(?))", (_PROBE_BYTES,))
            database.execute("DELETE FROM probe")
            database.execute("COMMIT")
        except sqlite3.Error as fault:
            with contextlib.suppress(sqlite3.Error):
                database.execute("ROLLBACK")
            raise NotStored(f"{self._path}: {fault}") from fault
        self._failed = False

    def status(self) -> dict[str, Any]:
        """See `Storage.status`."""
        database = self._directory.database if self._directory is not None else self._path
        sizes = {}
        for name, suffix in (("storage_bytes", ""), ("storage_log_bytes", "-wal")):
            path = Path(f"{database}{suffix}")
            sizes[name] = path.stat().st_size if path.is_file() else 0
        return {
            "storage": "sqlite",
            "durability": self.durability,
            "storage_takes_writes": not self._failed,
            "storage_set_aside": self.set_aside,
            "storage_values_read": self.fetched_count,
            **sizes,
        }

    # --- the log ---

    def _keep_log_short(self, database: sqlite3.Connection) -> None:
        assert self._log_file is not None
        assert self._mover is not None
        assert self._directory is not None
        size = os.fstat(self._log_file).st_size
        self._moved_bytes = min(self._moved_bytes, size)
        if size - self._moved_bytes < LOG_BYTES_STEP:
            return
        if size > LOG_BYTES_MAX:
            # The thread does not catch up: this once, everyone waits, and first for what it is at.
            self._moved_bytes = size
            if self._moving is not None:
                wait([self._moving])
            with contextlib.suppress(sqlite3.Error):
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return
        if self._moving is not None and not self._moving.done():
            return
        self._moved_bytes = size
        self._moving = self._mover.submit(_move, self._directory.database)

    # --- closing ---

    def close(self) -> None:
        """See `Storage.close`."""
        directory, database = self._directory, self._database
        if directory is None or database is None:
            return
        failed = self._damaged or (self._syncer is not None and self._syncer.failure is not None)
        self._stop_threads()
        try:
            if failed:
                directory.mark(BROKEN, self.durability)
            else:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                assert self._file is not None
                assert self._log_file is not None
                sync(self._log_file)
                sync(self._file)
                directory.mark(STOPPED, self.durability)
        except (OSError, sqlite3.Error) as fault:
            _log.warning("%s: not stopped in order: %s", directory.path, fault)
        self._let_go()

    def _stop_threads(self) -> None:
        if self._mover is not None:
            self._mover.shutdown()
        if self._syncer is not None:
            self._syncer.close()
        self._mover = None

    def _disconnect(self) -> None:
        if self._log_file is not None:
            os.close(self._log_file)
            self._log_file = None
        if self._database is not None:
            self._database.close()
            self._database = None
        # Not before: with any descriptor of it, a process lets go of all its locks on a file.
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _let_go(self) -> None:
        self._disconnect()
        if self._directory is not None:
            self._directory.close()
            self._directory = None


def _is_damage(fault: sqlite3.Error) -> bool:
    code = getattr(fault, "sqlite_errorcode", None)
    if code is None:
        # Not from SQLite but from what hands its rows on: a text that is no UTF-8, where only blobs were written.
        return isinstance(fault, sqlite3.OperationalError)
    return code in _READ_ERRORS or code & 0xFF not in _NOT_DAMAGE


def _move(path: Path) -> None:
    """Move what the log holds into the database file, beside the writer."""
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as database:
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error as fault:
        # Nothing is lost: it stays in the log, and is tried again.
        _log.warning("%s: the log could not be moved into the database: %s", path, fault)
