"""Writes that wait for the database, in an SQLite file that outlives the process.

What is asked for while a commit runs shares the next one. It must not know databases, the cache, or what values mean.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, NamedTuple

from quorumcache.client.database.store import Key
from quorumcache.errors import Misuse, Unavailable

Durability = Literal["process", "power"]

APPLICATION_ID: Final = 0x71637762  # "qcwb"
FORMAT: Final = 1
JOBS_MAX: Final = 4096

_SCHEMA: Final = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE pending (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, is_text INTEGER NOT NULL, value BLOB,
                      version INTEGER NOT NULL);
CREATE TABLE dead (seq INTEGER PRIMARY KEY, key BLOB NOT NULL, is_text INTEGER NOT NULL, value BLOB,
                   version INTEGER NOT NULL, message TEXT NOT NULL);
CREATE TABLE unsettled (key BLOB PRIMARY KEY);
"""


class Queued(NamedTuple):
    """One write in the file. `data`: the value's bytes; None is a delete. `seq` orders all writes."""

    seq: int
    key: bytes
    is_text: bool
    data: bytes | None
    version: int

    @property
    def name(self) -> Key:
        """The key as it was given."""
        return self.key.decode() if self.is_text else self.key

    @property
    def size(self) -> int:
        """What it counts for in bytes."""
        return len(self.key) + len(self.data or b"")


class DeadLetter(NamedTuple):
    """A write that the database refused, with its reason. `data`: the value's bytes; None is a delete."""

    seq: int
    key: Key
    data: bytes | None
    version: int
    message: str


class _Job(NamedTuple):
    statements: Sequence[tuple[str, Sequence[Sequence[Any]]]]
    done: Callable[[], None]
    failed: Callable[[], None]
    future: asyncio.Future[None]


class DurableQueue:
    """The file. One object at a time may have it open, in this process or another.

    `durability`: "process" survives the end of the process however it comes; "power" also that of the machine, at the
    price of waiting for the disk.
    """

    def __init__(self, path: str | os.PathLike[str], *, durability: Durability, owner: str) -> None:
        """Open the file, or make it. `owner`: what it belongs to, in words.

        Raises Misuse where another has it open, or where it is damaged, or belongs to something else.
        """
        if durability not in ("process", "power"):
            raise Misuse(f"no durability is called {durability!r}; there are process, power")
        self.path = os.fspath(path)
        try:
            self._connection = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as fault:
            raise Misuse(f"the queue {self.path} cannot be opened: {fault}") from fault
        try:
            self._prepare(durability, owner)
            rows = self._connection.execute("SELECT seq, key, is_text, value, version FROM pending ORDER BY seq")
            #: What was in the file when it was opened: the writes that wait, and the keys that the cache has to forget.
            self.found = [Queued(seq, key, bool(is_text), data, version) for seq, key, is_text, data, version in rows]
            self.unsettled = [key for (key,) in self._connection.execute("SELECT key FROM unsettled")]
            last = self._connection.execute(
                "SELECT count(*), coalesce(sum(length(key) + coalesce(length(value), 0)), 0), "
                "coalesce(max(seq), 0), coalesce(max(version), 0) FROM dead"
            ).fetchone()
            #: How many writes the database has refused, and their bytes.
            self.dead, self.dead_bytes = int(last[0]), int(last[1])
            #: The highest number and version that were ever given out, as far as the file knows.
            self.last_seq = max(int(last[2]), *(one.seq for one in self.found[-1:]), 0)
            self.last_version = max([int(last[3]), *(one.version for one in self.found)])
        except sqlite3.OperationalError as fault:
            self._connection.close()
            if "locked" in str(fault):
                raise Misuse(
                    f"the queue {self.path} is in use, by another process or object: give each a file of its own"
                ) from None
            raise Misuse(f"the queue {self.path} cannot be used: {fault}") from fault
        except sqlite3.DatabaseError as fault:
            self._connection.close()
            raise Misuse(
                f"{self.path} is damaged, or no queue ({fault}). It may hold writes that the database lacks: set it "
                "aside, and look"
            ) from fault
        except BaseException:
            self._connection.close()
            raise
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quorumcache queue")
        self._jobs: list[_Job] = []
        self._committing: asyncio.Task[None] | None = None
        self._is_closed = False

    def _prepare(self, durability: Durability, owner: str) -> None:
        connection = self._connection
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (form,) = connection.execute("PRAGMA user_version").fetchone()
            (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version={FORMAT}")
                connection.execute("INSERT INTO about VALUES ('owner', ?)", (owner,))
            elif (application, form) != (APPLICATION_ID, FORMAT):
                raise Misuse(f"{self.path} is another program's database, or of another version: no queue of this one")
            (before,) = connection.execute("SELECT value FROM about WHERE name = 'owner'").fetchone()
            if before != owner:
                raise Misuse(f"the queue {self.path} belongs to {before}, not {owner}: give each a file of its own")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    # --- changes, each durable when it returns ---

    async def append(self, writes: Sequence[Queued], done: Callable[[], None], failed: Callable[[], None]) -> None:
        """Add writes. `done` is called when they are in the file, and `failed` when they are not and never will be,
        also where the caller was cancelled meanwhile. Raises Unavailable where the file cannot be written."""
        rows = [(one.seq, one.key, one.is_text, one.data, one.version) for one in writes]
        await self._commit([("INSERT INTO pending VALUES (?, ?, ?, ?, ?)", rows)], done, failed)

    async def remove(
        self,
        seqs: Iterable[int],
        *,
        dead: Iterable[tuple[Queued, str]] = (),
        unsettled: Iterable[bytes] = (),
        settled: Iterable[bytes] = (),
    ) -> None:
        """Take writes out: into the table of dead letters those in `dead`, with their messages. Note the keys of which
        the cache may show something else, or no longer does. Raises Unavailable."""
        dead = list(dead)
        letters = [(one.seq, one.key, one.is_text, one.data, one.version, message) for one, message in dead]
        await self._commit(
            [
                ("DELETE FROM pending WHERE seq = ?", [(seq,) for seq in seqs]),
                ("DELETE FROM pending WHERE seq = ?", [letter[:1] for letter in letters]),
                ("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?, ?, ?)", letters),
                ("DELETE FROM unsettled WHERE key = ?", [(key,) for key in settled]),
                ("INSERT OR IGNORE INTO unsettled VALUES (?)", [(key,) for key in unsettled]),
            ]
        )
        self.dead += len(letters)
        self.dead_bytes += sum(one.size for one, _ in dead)

    async def revive(self, letters: Sequence[Queued], seqs: Sequence[int]) -> None:
        """Put dead letters (their numbers in `seqs`) behind what waits, as `letters` with new numbers."""
        rows = [(one.seq, one.key, one.is_text, one.data, one.version) for one in letters]
        await self._commit(
            [
                ("DELETE FROM dead WHERE seq = ?", [(seq,) for seq in seqs]),
                ("INSERT INTO pending VALUES (?, ?, ?, ?, ?)", rows),
            ]
        )
        self.dead -= len(letters)
        self.dead_bytes -= sum(one.size for one in letters)

    async def bury(self, letters: Sequence[Queued]) -> None:
        """Forget dead letters for good."""
        await self._commit([("DELETE FROM dead WHERE seq = ?", [(one.seq,) for one in letters])])
        self.dead -= len(letters)
        self.dead_bytes -= sum(one.size for one in letters)

    async def letters(self, limit: int) -> list[tuple[Queued, str]]:
        """The oldest dead letters, with their messages."""

        def read() -> list[tuple[Queued, str]]:
            rows = self._connection.execute("SELECT * FROM dead ORDER BY seq LIMIT ?", (limit,)).fetchall()
            return [(Queued(row[0], row[1], bool(row[2]), row[3], row[4]), row[5]) for row in rows]

        return await asyncio.get_running_loop().run_in_executor(self._thread, read)

    async def idle(self) -> None:
        """Wait until nothing is on its way into the file."""
        while self._committing is not None and not self._committing.done():
            await asyncio.wait([self._committing])

    async def close(self) -> None:
        """Finish what is under way, and let go of the file."""
        if self._is_closed:
            return
        self._is_closed = True
        await self.idle()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown(wait=False)

    # --- inside ---

    async def _commit(
        self,
        statements: Sequence[tuple[str, Sequence[Sequence[Any]]]],
        done: Callable[[], None] = lambda: None,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        if self._is_closed:
            failed()
            raise Misuse("this queue is closed")
        loop = asyncio.get_running_loop()
        job = _Job([(sql, rows) for sql, rows in statements if rows], done, failed, loop.create_future())
        self._jobs.append(job)
        if self._committing is None or self._committing.done():
            self._committing = loop.create_task(self._commit_all())
        await job.future

    async def _commit_all(self) -> None:
        """Commit what is there, in order, until there is no more: all that came during one commit is the next."""
        loop = asyncio.get_running_loop()
        while self._jobs:
            jobs, self._jobs = self._jobs[:JOBS_MAX], self._jobs[JOBS_MAX:]
            try:
                await loop.run_in_executor(self._thread, self._execute, jobs)
            except sqlite3.Error as fault:
                for job in jobs:
                    job.failed()
                    if not job.future.done():
                        job.future.set_exception(Unavailable(f"the queue {self.path} cannot be written: {fault}"))
            else:
                for job in jobs:
                    job.done()
                    if not job.future.done():
                        job.future.set_result(None)

    def _execute(self, jobs: list[_Job]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for job in jobs:
                for sql, rows in job.statements:
                    connection.executemany(sql, rows)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
