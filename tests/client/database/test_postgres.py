"""The PostgreSQL store on a real server: what every store does, tables of one's own, and a server that goes away."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from quorumcache.client.database import PostgresStore, WriteBehind
from quorumcache.errors import InvalidKey, InvalidValue, Misuse, StoreFailed
from tests import postgres
from tests.client.database import stores
from tests.client.database.fake_client import FakeCache, FakeClient
from tests.client.database.stores import gone, put

asyncpg = pytest.importorskip("asyncpg", reason='PostgresStore needs asyncpg: pip install "quorumcache[postgres]"')

pytestmark = [pytest.mark.slow, pytest.mark.postgres]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Postgres]:
    with postgres.running() as server:
        if isinstance(server, str):
            pytest.skip(f"no PostgreSQL on this machine, and none could be installed: {server}")
        yield server


@pytest.fixture
async def connection(server: postgres.Postgres) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    yield connection
    await connection.close()


@pytest.fixture
async def store(server: postgres.Postgres, connection: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(server.dsn, timeout=10.0)
    yield store
    await store.close()


@pytest.mark.parametrize(
    "check", [stores.check_values, stores.check_order, stores.check_versions, stores.check_refusals]
)
async def test_what_every_store_does(store: PostgresStore, check: Any) -> None:
    await check(store)


async def test_purging_removes_rows_of_deleted_keys_only(store: PostgresStore) -> None:
    await store.save([put("a", b"1", 1), gone("b", 2), gone("c", 9)])
    assert await store.purge(5) == 1
    assert await store.load(["a"]) == {"a": b"1"}
    assert list(await store.save([put("b", b"x", 1), put("c", b"x", 1)])) == ["c"]


@pytest.mark.parametrize("kind", ["jsonb", "json", "text"])
async def test_a_table_of_ones_own(server: postgres.Postgres, connection: Any, kind: str) -> None:
    await connection.execute(
        f"CREATE TABLE people (id varchar(20) PRIMARY KEY, doc {kind} NOT NULL, seen int DEFAULT 3)"
    )
    await connection.execute("INSERT INTO people VALUES ('ada', '{\"name\": \"Ada\"}')")
    options = {"table": "public.people", "key_column": "id", "value_column": "doc", "serializer": "json"}
    store = PostgresStore(server.dsn, **options)
    assert await store.load(["ada", "bob"]) == {"ada": {"name": "Ada"}}
    assert not await store.save([put("ada", {"name": "Ada L."}, 5), put("bob", [1], 1), gone("eve", 1)])
    assert not await store.save([gone("bob", 0), put("cyd", 7, 0)])
    assert await store.load(["ada", "bob", "cyd"]) == {"ada": {"name": "Ada L."}, "cyd": 7}
    with pytest.raises(InvalidValue, match="too long"):
        await store.save([put("dan", 1, 1), put("k" * 21, 1, 1)])
    assert await store.load(["dan"]) == {}
    assert await store.purge(1 << 60) == 0
    await store.close()
    assert await connection.fetchval("SELECT seen FROM people WHERE id = 'ada'") == 3


async def test_a_table_with_keys_of_bytes(server: postgres.Postgres, connection: Any) -> None:
    await connection.execute("CREATE TABLE raw (key bytea PRIMARY KEY, value text, version bigint)")
    async with asyncpg.create_pool(server.dsn, min_size=1, max_size=1) as pool:
        store = PostgresStore(pool, table="raw")
        assert not await store.save([put(b"\xff\x00", b"x", 5), put("k", b"y", 5)])
        assert list(await store.save([put(b"\xff\x00", b"old", 4)])) == [b"\xff\x00"]
        assert await store.load([b"\xff\x00", "k"]) == {b"\xff\x00": b"x", "k": b"y"}
        for value in (b"\xff", b"a\0b"):
            with pytest.raises(InvalidValue, match=r"column of text cannot hold|NUL"):
                store.check(put("k", value, 6))
        await store.close()
        assert await pool.fetchval("SELECT 1") == 1  # A pool that was given stays open.


async def test_what_does_not_fit_is_a_clear_error(server: postgres.Postgres, connection: Any) -> None:
    await connection.execute("CREATE TABLE numbers (key int PRIMARY KEY, value bytea)")
    store = PostgresStore(server.dsn, table="numbers")
    with pytest.raises(Misuse, match=r"needs a column key of bytea or text .*; it has key int4, value bytea"):
        await store.load(["k"])
    await store.close()
    with pytest.raises(Misuse, match="closed"):
        await store.load(["k"])
    with pytest.raises(Misuse, match="ASCII"):
        PostgresStore(server.dsn, key_column='"key"')
    store = PostgresStore(server.dsn, serializer="str")
    await connection.execute("CREATE TABLE entries (key text PRIMARY KEY, value bytea, version bigint)")
    await connection.execute("INSERT INTO entries VALUES ('k', '\\xff', 1)")
    with pytest.raises(InvalidValue, match="not UTF-8"):
        await store.load(["k"])
    with pytest.raises(InvalidKey):
        await store.load(["a\0b"])
    await store.close()


async def test_two_processes_that_save_the_same_keys_in_other_orders_do_not_block_each_other(
    server: postgres.Postgres, connection: Any
) -> None:
    # Both also make the table.
    first, second = PostgresStore(server.dsn), PostgresStore(server.dsn)
    keys = [f"k{i}" for i in range(200)]
    for turn in range(5):
        await asyncio.gather(
            first.save([put(key, b"1", 2 * turn) for key in keys]),
            second.save([put(key, b"2", 2 * turn + 1) for key in reversed(keys)]),
        )
    assert set((await first.load(keys)).values()) == {b"2"}
    await first.close()
    await second.close()


async def test_a_server_that_crashes_is_a_clear_error_and_is_found_again(
    server: postgres.Postgres, store: PostgresStore
) -> None:
    await store.save([put("k", b"1", 1)])
    server.stop(signal.SIGQUIT)
    try:
        for _ in range(3):
            with pytest.raises(StoreFailed, match=r"cannot be (reached|used)"):
                await store.save([put("k", b"2", 2)])
    finally:
        server.start()
    for attempt in range(10):
        try:
            await store.save([put("k", b"2", 2)])
            break
        except StoreFailed:  # A connection of the pool that broke with the server.
            assert attempt < 9
    assert await store.load(["k"]) == {"k": b"2"}


async def test_write_behind_a_server_that_crashes_and_refuses(
    server: postgres.Postgres, connection: Any, tmp_path: Path
) -> None:
    await connection.execute(
        "CREATE TABLE entries (key text PRIMARY KEY, value bytea CHECK (length(value) < 10), version bigint NOT NULL)"
    )
    store = PostgresStore(server.dsn, timeout=10.0)
    client = FakeClient(FakeCache())
    async with WriteBehind(client.as_client(), store, queue=tmp_path / "queue.db", durability="process") as cache:
        await cache.set_many({f"k{i}": b"1" for i in range(300)})
        await cache.flush(10.0)
        server.stop(signal.SIGQUIT)
        try:
            await cache.set_many({f"k{i}": b"2" for i in range(100)} | {"long": b"x" * 11})
            with pytest.raises(StoreFailed, match="101 writes are not in the database yet"):
                await cache.flush(0.3)
            assert "the database cannot be" in cache.status.problem
        finally:
            server.start()
        await cache.flush(20.0)
        (letter,) = await cache.dead_letters()
        assert (letter.key, "check constraint" in letter.message) == ("long", True)
    expected = {f"k{i}": b"2" if i < 100 else b"1" for i in range(300)}
    assert await store.load([*expected, "long"]) == expected
    await store.close()


async def test_an_address_where_nothing_answers_is_a_clear_error() -> None:
    store = PostgresStore("postgresql://nobody@127.0.0.1:1/none", timeout=2.0)
    with pytest.raises(StoreFailed, match="cannot be reached"):
        await store.load(["k"])
    await store.close()
