"""A table of a PostgreSQL database as a store, by asyncpg (`pip install "quorumcache[postgres]"`). It must not know the
cache."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from quorumcache.client.database.store import Change, Key, Store, checked_name, key_bytes, key_text, latest
from quorumcache.client.serializers import Serializer, serializer_of
from quorumcache.errors import InvalidValue, Misuse, QuorumCacheError, StoreFailed

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

CLOSE_S: Final = 5.0
_TEXTS: Final = ("text", "varchar", "bpchar", "citext")
_VALUES: Final = ("bytea", "json", "jsonb", *_TEXTS)


class PostgresStore(Store):
    """Keys and values in a table of a PostgreSQL database.

    `database`: a DSN (`postgresql://user@host/name`), or an asyncpg pool, which stays the caller's to close.
    `table`, `key_column`, `value_column`, `version_column`: where; the table is made unless it is there (key text,
    value bytea, version bigint). A table of your own may have keys of text or bytea, and values of bytea, text, json or
    jsonb; the key needs a primary key or unique index. With a version column, an older write never replaces a newer
    one, and a deleted key leaves a row with no value, which `purge` removes; without one, whatever is saved last stays.
    `serializer`: as of a client; give both the same. `timeout`: seconds for each use of the database.
    """

    def __init__(
        self,
        database: str | asyncpg.Pool[Any],
        *,
        table: str = "entries",
        key_column: str = "key",
        value_column: str = "value",
        version_column: str = "version",
        serializer: str | Serializer = "bytes",
        timeout: float = 30.0,
        connections_max: int = 10,
    ) -> None:
        """Nothing is opened before the first use. Raises Misuse for names that are none, and without asyncpg."""
        try:
            import asyncpg
        except ImportError:
            raise Misuse('PostgresStore needs asyncpg: pip install "quorumcache[postgres]"') from None
        self._asyncpg = asyncpg
        self._dsn = database if isinstance(database, str) else None
        self._pool: asyncpg.Pool[Any] | None = None if isinstance(database, str) else database
        self._table = checked_name(table, "a table called")
        self._key = checked_name(key_column, "a key column called")
        self._value = checked_name(value_column, "a value column called")
        self._version = checked_name(version_column, "a version column called")
        self._serializer = serializer_of(serializer)
        self._timeout = timeout
        self._connections_max = connections_max
        self._opening = asyncio.Lock()
        self._is_known = self._is_closed = False
        # Known when the table was looked at.
        self._key_type = self._value_type = ""
        self._is_versioned = False

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        """See `Store.load`. Raises InvalidKey, InvalidValue for values of another serializer, StoreFailed."""
        rows = await self._run(lambda connection: self._load(connection, keys))
        found = {row[0]: row[1] for row in rows}
        loads, values = self._serializer.loads, {}
        for key in keys:
            value = found.get(self._stored(key))
            if value is not None:
                values[key] = loads(value.encode() if isinstance(value, str) else value)
        return values

    async def save(self, changes: Sequence[Change]) -> Collection[Key]:
        """See `Store.save`: one transaction. Raises InvalidKey, InvalidValue, StoreFailed."""
        dumps = self._serializer.dumps
        last = latest(changes).values()
        rows = [(change, None if change.deleted else dumps(change.value)) for change in last]
        return await self._run(lambda connection: self._save(connection, rows))

    def check(self, change: Change) -> None:
        """See `Store.check`."""
        data = b"" if change.deleted else self._serializer.dumps(change.value)
        if self._is_known:
            self._stored(change.key)
            self._written(data)
        elif self._key_type != "bytea":
            key_text(change.key)

    async def purge(self, before_us: int) -> int:
        """Remove the rows of keys that were deleted before that time (microseconds since the epoch): how many. What
        was written before it and has not reached the database yet may come back to life."""

        async def purge(connection: Any) -> int:
            if not self._is_versioned:
                return 0
            status = await connection.execute(
                f"DELETE FROM {self._table} WHERE {self._value} IS NULL AND {self._version} < $1",
                before_us,
                timeout=self._timeout,
            )
            return int(status.split()[-1])

        return await self._run(purge)

    async def close(self) -> None:
        """Close the connections, but for a pool that was given."""
        self._is_closed = True
        pool, self._pool = self._pool, None
        if pool is not None and self._dsn is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    # --- inside ---

    async def _opened(self) -> asyncpg.Pool[Any]:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._asyncpg.create_pool(
                    self._dsn, min_size=0, max_size=self._connections_max, timeout=self._timeout
                )
            if not self._is_known:
                async with self._pool.acquire(timeout=self._timeout) as connection:
                    await self._look(connection)
                self._is_known = True
            return self._pool

    async def _look(self, connection: Any) -> None:
        """Make the table unless it is there, and see what its columns are."""
        if await connection.fetchval("SELECT to_regclass($1)", self._table, timeout=self._timeout) is None:
            try:
                await connection.execute(
                    f'CREATE TABLE IF NOT EXISTS {self._table} ({self._key} text COLLATE "C" PRIMARY KEY, '
                    f"{self._value} bytea, {self._version} bigint NOT NULL)",
                    timeout=self._timeout,
                )
            except (self._asyncpg.UniqueViolationError, self._asyncpg.DuplicateTableError):
                pass  # IF NOT EXISTS does not see who makes it at the same time.
        statement = await connection.prepare(f"SELECT * FROM {self._table} LIMIT 0", timeout=self._timeout)
        columns = {column.name: column.type.name for column in statement.get_attributes()}
        for column, allowed in ((self._key, ("bytea", *_TEXTS)), (self._value, _VALUES)):
            if columns.get(column) not in allowed:
                have = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                raise Misuse(
                    f"the table {self._table} needs a column {column} of {' or '.join(allowed)}; it has {have}"
                )
        self._key_type, self._value_type = columns[self._key], columns[self._value]
        self._is_versioned = self._version in columns

    def _stored(self, key: Key) -> str | bytes:
        return key_bytes(key) if self._key_type == "bytea" else key_text(key)

    def _written(self, data: bytes) -> str | bytes:
        if self._value_type == "bytea":
            return data
        try:
            text = data.decode()
        except UnicodeDecodeError as fault:
            raise InvalidValue(f"a value that a column of {self._value_type} cannot hold: {fault}") from None
        if "\0" in text:
            raise InvalidValue(f"a value with a NUL, which a column of {self._value_type} cannot hold")
        return text

    async def _load(self, connection: Any, keys: Sequence[Key]) -> list[Any]:
        stored = list({self._stored(key) for key in keys})
        kind = "bytea" if self._key_type == "bytea" else "text"
        rows: list[Any] = await connection.fetch(
            f"SELECT {self._key}, {self._value} FROM {self._table} WHERE {self._key} = ANY($1::{kind}[]) "
            f"AND {self._value} IS NOT NULL",
            stored,
            timeout=self._timeout,
        )
        return rows

    async def _save(self, connection: Any, rows: list[tuple[Change, bytes | None]]) -> list[Key]:
        stored = [self._stored(change.key) for change, _ in rows]
        written = [None if data is None else self._written(data) for _, data in rows]
        kind = "bytea" if self._key_type == "bytea" else "text"
        table, key, value, version = self._table, self._key, self._value, self._version
        async with connection.transaction():
            if self._is_versioned:
                done = await connection.fetch(
                    f"INSERT INTO {table} AS held ({key}, {value}, {version}) "
                    f"SELECT * FROM unnest($1::{kind}[], $2::{self._value_type}[], $3::bigint[]) "
                    f"ON CONFLICT ({key}) DO UPDATE SET {value} = excluded.{value}, {version} = excluded.{version} "
                    f"WHERE excluded.{version} >= held.{version} RETURNING {key}",
                    stored,
                    written,
                    [change.version for change, _ in rows],
                    timeout=self._timeout,
                )
                kept = {row[0] for row in done}
                return [change.key for (change, _), name in zip(rows, stored, strict=True) if name not in kept]
            gone = [name for name, data in zip(stored, written, strict=True) if data is None]
            if gone:
                await connection.execute(
                    f"DELETE FROM {table} WHERE {key} = ANY($1::{kind}[])", gone, timeout=self._timeout
                )
            if len(gone) < len(stored):
                await connection.execute(
                    f"INSERT INTO {table} ({key}, {value}) "
                    f"SELECT * FROM unnest($1::{kind}[], $2::{self._value_type}[]) "
                    f"ON CONFLICT ({key}) DO UPDATE SET {value} = excluded.{value}",
                    [name for name, data in zip(stored, written, strict=True) if data is not None],
                    [data for data in written if data is not None],
                    timeout=self._timeout,
                )
        return []

    async def _run(self, work: Callable[[Any], Awaitable[T]]) -> T:
        if self._is_closed:
            raise Misuse("this store is closed")
        asyncpg = self._asyncpg
        try:
            pool = await self._opened()
            async with pool.acquire(timeout=self._timeout) as connection:
                return await work(connection)
        except QuorumCacheError:
            raise
        except asyncpg.PostgresError as fault:
            if fault.sqlstate is not None and fault.sqlstate[:2] in ("22", "23"):
                # Data exceptions and violated constraints: no repetition helps.
                raise InvalidValue(f"the database refuses it: {fault}") from fault
            raise StoreFailed(f"the database cannot be used: {fault}") from fault
        except (asyncpg.InterfaceError, OSError) as fault:
            raise StoreFailed(f"the database cannot be reached: {fault or type(fault).__name__}") from fault
