"""A table of an SQLite database as a store. It must not know the cache."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from quorumcache.client.database.store import Change, Key, Store, checked_name, key_bytes, key_text, latest
from quorumcache.client.serializers import Serializer, serializer_of
from quorumcache.errors import InvalidValue, Misuse, StoreFailed

T = TypeVar("T")

PARAMETERS_MAX: Final = 500
BUSY_S: Final = 5.0


class SqliteStore(Store):
    """Keys and values in a table of an SQLite file.

    `table`, `key_column`, `value_column`, `version_column`: where; the table is made unless it is there (key TEXT,
    value BLOB, version INTEGER). A table of your own may have keys of TEXT or BLOB and values of TEXT or BLOB. With a
    version column, an older write never replaces a newer one, and a deleted key leaves a row with no value, which
    `purge` removes; without one, whatever is saved last stays.
    `serializer`: as of a client; give both the same.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        table: str = "entries",
        key_column: str = "key",
        value_column: str = "value",
        version_column: str = "version",
        serializer: str | Serializer = "bytes",
    ) -> None:
        """Nothing is opened before the first use. Raises Misuse for names that are none."""
        self._path = os.fspath(path)
        self._table = checked_name(table, "a table called")
        self._key = checked_name(key_column, "a key column called")
        self._value = checked_name(value_column, "a value column called")
        self._version = checked_name(version_column, "a version column called")
        self._serializer = serializer_of(serializer)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quorumcache sqlite store")
        self._connection: sqlite3.Connection | None = None
        self._is_closed = False
        # Known when the table was looked at.
        self._keys_are_text = self._values_are_text = self._is_versioned = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        """See `Store.load`. Raises InvalidKey, InvalidValue for values of another serializer, StoreFailed."""
        found = await self._run(lambda: self._load(list(keys)))
        loads = self._serializer.loads
        return {key: loads(data) for key, data in found.items()}

    async def save(self, changes: Sequence[Change]) -> Collection[Key]:
        """See `Store.save`: one transaction. Raises InvalidKey, InvalidValue, StoreFailed."""
        rows = [(change, None if change.deleted else self._serializer.dumps(change.value)) for change in changes]
        return await self._run(lambda: self._save(rows))

    def check(self, change: Change) -> None:
        """See `Store.check`."""
        if not change.deleted:
            self._serializer.dumps(change.value)
        if self._connection is None or self._keys_are_text:
            key_text(change.key)

    async def purge(self, before_us: int) -> int:
        """Remove the rows of keys that were deleted before that time (microseconds since the epoch): how many. What
        was written before it and has not reached the database yet may come back to life."""
        return await self._run(lambda: self._purge(before_us))

    async def close(self) -> None:
        """Close the file."""
        if not self._is_closed:
            self._is_closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    # --- in the thread ---

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} ({self._key} TEXT PRIMARY KEY, {self._value} BLOB, "
                f"{self._version} INTEGER NOT NULL)"
            )
            schema, _, table = self._table.rpartition(".")
            where = f"{schema}." if schema else ""
            columns = {row[1]: str(row[2]).upper() for row in connection.execute(f"PRAGMA {where}table_info({table})")}
            for column in (self._key, self._value):
                if column not in columns:
                    raise Misuse(
                        f"the table {self._table} in {self._path} has no column {column}: {', '.join(columns)}"
                    )
        except BaseException:
            connection.close()
            raise
        self._keys_are_text = columns[self._key] != "BLOB"
        self._values_are_text = columns[self._value] in ("TEXT", "JSON")
        self._is_versioned = self._version in columns
        self._connection = connection
        return connection

    def _stored(self, key: Key) -> str | bytes:
        return key_text(key) if self._keys_are_text else key_bytes(key)

    def _load(self, keys: list[Key]) -> dict[Key, bytes]:
        connection = self._open()
        # The same key may be asked for as str and as bytes.
        asked = {key: self._stored(key) for key in keys}
        stored = list(dict.fromkeys(asked.values()))
        found: dict[str | bytes, bytes] = {}
        for i in range(0, len(stored), PARAMETERS_MAX):
            part = stored[i : i + PARAMETERS_MAX]
            for name, value in connection.execute(
                f"SELECT {self._key}, {self._value} FROM {self._table} WHERE {self._key} IN "
                f"({','.join('?' * len(part))}) AND {self._value} IS NOT NULL",
                part,
            ):
                if not isinstance(value, (str, bytes)):
                    raise InvalidValue(
                        f"the row of {name!r} in {self._table} holds a {type(value).__name__}, not bytes"
                    )
                found[name] = value.encode() if isinstance(value, str) else value
        return {key: found[name] for key, name in asked.items() if name in found}

    def _save(self, rows: list[tuple[Change, bytes | None]]) -> list[Key]:
        connection = self._open()
        last = latest(change for change, _ in rows)
        data = {key_bytes(change.key): value for change, value in rows}
        table, key, value, version = self._table, self._key, self._value, self._version
        upsert = (
            f"INSERT INTO {table} ({key}, {value}, {version}) VALUES (?, ?, ?) ON CONFLICT ({key}) DO UPDATE SET "
            f"{value} = excluded.{value}, {version} = excluded.{version} WHERE excluded.{version} >= {version}"
            if self._is_versioned
            else f"INSERT INTO {table} ({key}, {value}) VALUES (?, ?) ON CONFLICT ({key}) DO UPDATE SET "
            f"{value} = excluded.{value}"
        )
        overtaken: list[Key] = []
        connection.execute("BEGIN IMMEDIATE")
        try:
            for name, change in last.items():
                stored, held = self._stored(change.key), data[name]
                written = held.decode() if held is not None and self._values_are_text else held
                if self._is_versioned:
                    if not connection.execute(upsert, (stored, written, change.version)).rowcount:
                        overtaken.append(change.key)
                elif change.deleted:
                    connection.execute(f"DELETE FROM {table} WHERE {key} = ?", (stored,))
                else:
                    connection.execute(upsert, (stored, written))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return overtaken

    def _purge(self, before_us: int) -> int:
        connection = self._open()
        if not self._is_versioned:
            return 0
        return connection.execute(
            f"DELETE FROM {self._table} WHERE {self._value} IS NULL AND {self._version} < ?", (before_us,)
        ).rowcount

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self, work: Callable[[], T]) -> T:
        if self._is_closed:
            raise Misuse("this store is closed")

        def guarded() -> T:
            try:
                return work()
            except UnicodeDecodeError as fault:
                raise InvalidValue(f"a value that a column of text cannot hold: {fault}") from None
            except (
                sqlite3.IntegrityError,
                sqlite3.DataError,
                sqlite3.InterfaceError,
                sqlite3.ProgrammingError,
            ) as fault:
                raise InvalidValue(f"the database {self._path} refuses it: {fault}") from fault
            except sqlite3.Error as fault:
                raise StoreFailed(f"the database {self._path} cannot be used: {fault}") from fault

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)
