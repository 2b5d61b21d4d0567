"""The SQLite store: what every store does, tables of one's own, and files that are none."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from quorumcache.client.database import SqliteStore
from quorumcache.errors import InvalidKey, InvalidValue, Misuse, StoreFailed
from tests.client.database import stores
from tests.client.database.stores import gone, put


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "app.db")
    yield store
    await store.close()


@pytest.mark.parametrize(
    "check", [stores.check_values, stores.check_order, stores.check_versions, stores.check_refusals]
)
async def test_what_every_store_does(store: SqliteStore, check: object) -> None:
    await check(store)  # type: ignore[operator]


async def test_what_was_saved_is_there_for_the_next_who_opens_the_file(store: SqliteStore, tmp_path: Path) -> None:
    await store.save([put("k", b"v", 1)])
    await store.close()
    with pytest.raises(Misuse, match="closed"):
        await store.load(["k"])
    other = SqliteStore(tmp_path / "app.db")
    assert await other.load(["k"]) == {"k": b"v"}
    await other.close()


async def test_purging_removes_rows_of_deleted_keys_only(store: SqliteStore) -> None:
    await store.save([put("a", b"1", 1), gone("b", 2), gone("c", 9)])
    assert await store.purge(5) == 1
    assert await store.load(["a"]) == {"a": b"1"}
    assert list(await store.save([put("b", b"x", 1), put("c", b"x", 1)])) == ["c"]


async def test_a_table_of_ones_own_without_versions_keeps_what_is_saved_last(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE people (id BLOB PRIMARY KEY, doc TEXT NOT NULL CHECK (length(doc) < 20))")
        connection.execute("INSERT INTO people VALUES (x'ff', '{\"name\":\"Ada\"}')")
    connection.close()
    store = SqliteStore(path, table="people", key_column="id", value_column="doc", serializer="json")
    assert await store.load([b"\xff"]) == {b"\xff": {"name": "Ada"}}
    assert not await store.save([put(b"\xff", [1], 5), put("k", "x", 1)])
    assert not await store.save([put(b"\xff", [2], 4), gone("k", 0)])
    assert await store.load([b"\xff", "k"]) == {b"\xff": [2]}
    with pytest.raises(InvalidValue, match="refuses it: CHECK constraint failed"):
        await store.save([put("ok", 1, 1), put("k", "x" * 30, 1)])
    assert await store.load(["ok"]) == {}
    assert await store.purge(1 << 60) == 0
    await store.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT typeof(id), typeof(doc) FROM people").fetchall() == [("blob", "text")]
    connection.close()


async def test_what_is_no_table_or_database_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="ASCII letters"):
        SqliteStore(tmp_path / "x.db", table="entries; DROP TABLE x")
    (tmp_path / "text.db").write_text("no database at all, but long enough to be looked at" * 100)
    store = SqliteStore(tmp_path / "text.db")
    with pytest.raises(StoreFailed, match="not a database"):
        await store.load(["k"])
    await store.close()
    store = SqliteStore(tmp_path / "no" / "such" / "directory.db")
    with pytest.raises(StoreFailed, match="unable to open"):
        await store.save([put("k", b"v", 1)])
    await store.close()
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE entries (id TEXT)")
    connection.close()
    store = SqliteStore(tmp_path / "other.db")
    with pytest.raises(Misuse, match="no column key: id"):
        await store.load(["k"])
    await store.close()


async def test_a_locked_database_fails_the_save_and_takes_it_later(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorumcache.client.database.sqlite.BUSY_S", 0.05)
    await store.save([put("k", b"1", 1)])
    other = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked"):
        await store.save([put("k", b"2", 2)])
    other.execute("ROLLBACK")
    other.close()
    await store.save([put("k", b"2", 2)])
    assert await store.load(["k"]) == {"k": b"2"}


async def test_a_value_of_another_kind_is_a_clear_error(store: SqliteStore, tmp_path: Path) -> None:
    await store.save([put("k", b"1", 1)])
    with sqlite3.connect(tmp_path / "app.db") as connection:
        connection.execute("INSERT INTO entries VALUES ('n', 7, 1)")
    connection.close()
    with pytest.raises(InvalidValue, match="holds a int"):
        await store.load(["n"])
    with pytest.raises(InvalidKey):
        await store.load([b"\xff"])
