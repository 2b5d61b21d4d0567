"""Write-behind: what is acknowledged reaches the database, in order, whatever happens (docs/database.md)."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from quorumcache.client import Client
from quorumcache.client.database import SqliteStore, Store, WriteBehind
from quorumcache.errors import InvalidValue, Misuse, QueueFull, StoreFailed, Unavailable
from quorumcache.testing import LocalCluster
from tests.client.database.fake_client import FakeCache, FakeClient
from tests.client.database.stores import FakeStore


@pytest.fixture
def fake() -> FakeClient:
    return FakeClient(FakeCache())


def opened(client: Client | FakeClient, store: Store, path: Path, **options: Any) -> WriteBehind:
    if isinstance(client, FakeClient):
        client = client.as_client()
    return WriteBehind(client, store, queue=path / "queue.db", **{"delay": 0.0, "durability": "process", **options})


async def _until(condition: Any) -> None:
    """Wait until something is so; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110 - what is waited for is not always an event
        await asyncio.sleep(0.002)


async def test_a_write_is_seen_at_once_and_saved_in_the_background(client: Client, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(client, store, tmp_path, ttl=60) as cache:
        store.may_save.clear()
        await cache.set("k", b"v")
        await cache.set_many({"a": b"1", b"b": b"2"})
        assert await client.get_many(["k", "a", "b"]) == {"k": b"v", "a": b"1", "b": b"2"}
        assert await cache.get_many(["k", "a", "b", "c"]) == {"k": b"v", "a": b"1", "b": b"2"}
        assert store.value("k") is None
        await cache.delete("a")
        assert await cache.get("a", b"-") == b"-"
        assert cache.status.waiting == 4
        assert cache.status.waiting_bytes == len("kva1b2a")
        store.may_save.set()
        await cache.flush(5.0)
        assert {key: row[1] for key, row in store.rows.items()} == {b"k": b"v", b"a": None, b"b": b"2"}
        assert cache.status[:2] == (0, 0)
        assert cache.status.saved == 4
        assert await cache.get_many(["k", "a", "b"]) == {"k": b"v", "b": b"2"}
        assert await client.get("k") == b"v"


async def test_writes_share_batches_and_keep_their_order(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path, batch_max=50) as cache:
        store.may_save.clear()
        await cache.set("first", b"x")
        await _until(lambda: store.saves)
        await asyncio.gather(*[cache.set(f"k{i % 7}", b"%d" % i) for i in range(200)])
        store.may_save.set()
        await cache.flush(5.0)
        assert [len(save) for save in store.saves] == [1, 50, 50, 50, 50]
        assert [change.value for save in store.saves[1:] for change in save] == [b"%d" % i for i in range(200)]
        versions = [change.version for save in store.saves for change in save]
        assert versions == sorted(set(versions))


async def test_an_outage_is_waited_out_and_told(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path) as cache:
        store.save_error = StoreFailed("no route to the database")
        await cache.set("k", b"1")
        await _until(lambda: len(store.saves) > 1)
        assert cache.status.problem == "no route to the database"
        assert cache.status.oldest_s > 0
        with pytest.raises(StoreFailed, match=r"1 writes are not in the database yet.*safe in .*queue\.db"):
            await cache.flush(0.01)
        store.save_error, saves = None, len(store.saves)
        store.may_save.clear()
        cache._flusher._save_timeout = 0.1
        await _until(lambda: len(store.saves) > saves)
        await _until(lambda: "longer than 0.1 s" in cache.status.problem)
        store.may_save.set()
        await cache.flush(5.0)
        assert store.value("k") == b"1"
        await _until(lambda: cache.status.problem == "")


async def test_what_the_database_refuses_becomes_a_dead_letter_and_the_rest_is_saved(
    fake: FakeClient, tmp_path: Path
) -> None:
    store = FakeStore()
    store.poison = {b"bad": InvalidValue("too long for the column")}
    async with opened(fake, store, tmp_path) as cache:
        await cache.set_many({f"k{i}": b"%d" % i for i in range(20)} | {"bad": b"!"} | {"last": b"x"})
        await cache.set("bad", b"!!")
        await cache.flush(5.0)
        assert len(store.rows) == 21
        letters = await cache.dead_letters()
        assert [(one.key, one.data, one.message) for one in letters] == [
            ("bad", b"!", "too long for the column"),
            ("bad", b"!!", "too long for the column"),
        ]
        assert cache.status.dead == 2
        # The database is the truth: the cache no longer shows what it refused.
        await _until(lambda: not cache.status.unrepaired)
        assert await cache.get("bad") is None
    # They outlive the process, and can be tried again, or dropped.
    async with opened(fake, store, tmp_path) as cache:
        assert cache.status.dead == 2
        store.poison.clear()
        assert await cache.retry_dead(limit=1) == 1
        await cache.flush(5.0)
        assert (cache.status.dead, store.value("bad")) == (1, b"!")
        assert await cache.drop_dead() == 1
        assert await cache.dead_letters() == []
        assert cache.status.dead == 0


async def test_an_error_of_unknown_kind_holds_back_its_key_only_and_ends_as_a_dead_letter(
    fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quorumcache.client.database.flusher.RETRY_S_MAX", 0.01)
    store = FakeStore()
    store.poison = {b"odd": ZeroDivisionError("a bug of the store")}
    async with opened(fake, store, tmp_path, attempts_max=4) as cache:
        store.may_save.clear()
        await cache.set("other", b"0")
        await cache.set("odd", b"1")
        await cache.set("odd", b"2")
        await cache.set("other", b"3")
        store.may_save.set()
        await _until(lambda: store.value("other") == b"3")
        assert "a bug of the store" in cache.status.problem
        await cache.flush(5.0)
        first, second = await cache.dead_letters()
        assert (first.data, second.data) == (b"1", b"2")
        assert first.message == "4 attempts failed, the last one so: a bug of the store"
        tried = [change.value for save in store.saves for change in save if change.key == "odd" and len(save) == 1]
        assert tried == sorted(tried), "a later write was tried before an earlier one had its end"


async def test_a_full_queue_waits_and_then_says_why(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path, entries_max=5, bytes_max=1000, full_timeout=0.02) as cache:
        store.save_error = StoreFailed("the database is away")
        await cache.set_many({f"k{i}": b"v" for i in range(5)})
        with pytest.raises(
            QueueFull, match=r"5 writes .* no more are taken, and nothing happened. the database is away"
        ):
            await cache.set("one more", b"v")
        assert await cache.get("one more") is None
        with pytest.raises(Misuse, match="split it"):
            await cache.set_many({f"m{i}": b"v" for i in range(6)})
        store.save_error = None
        await cache.flush(5.0)
        with pytest.raises(Misuse, match="split it"):
            await cache.set("k", bytes(1000))
        # While it is full, writes wait for room rather than fail.
        cache._full_timeout = 30.0
        store.may_save.clear()
        writing = [asyncio.create_task(cache.set(f"n{i}", b"v")) for i in range(20)]
        await _until(lambda: cache.status.waiting == 5)
        store.may_save.set()
        await asyncio.gather(*writing)
        await cache.flush(5.0)
        assert all(store.value(f"n{i}") == b"v" for i in range(20))
        assert (cache._count, cache._bytes) == (0, 0)


async def test_dead_letters_count_for_the_bound(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    store.poison = {b"%d" % i: InvalidValue("no") for i in range(3)}
    async with opened(fake, store, tmp_path, entries_max=3, full_timeout=0.01) as cache:
        await cache.set_many({str(i): b"v" for i in range(3)})
        await cache.flush(5.0)
        with pytest.raises(QueueFull, match="3 dead letters"):
            await cache.set("k", b"v")
        await cache.drop_dead()
        await cache.set("k", b"v")


async def test_closing_saves_what_waits_or_says_what_is_left(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path, delay=3600.0) as cache:
        await cache.set("k", b"1")
    assert store.value("k") == b"1"
    store.save_error = StoreFailed("away")
    cache = opened(fake, store, tmp_path)
    await cache.set("k", b"2")
    await cache.set("l", b"3")
    with pytest.raises(StoreFailed, match="2 writes are not in the database yet"):
        await cache.close(timeout=0.05)
    with pytest.raises(Misuse, match="closed"):
        await cache.set("k", b"4")
    await cache.close()
    store.save_error = None
    async with opened(fake, store, tmp_path) as cache:
        assert await cache.get("k") == b"2"  # Before it is saved: what waits is seen.
        await cache.flush(5.0)
    assert (store.value("k"), store.value("l")) == (b"2", b"3")


async def test_a_cancelled_write_is_saved_if_it_was_in_the_file_and_leaves_no_place_taken(
    fake: FakeClient, tmp_path: Path
) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path) as cache:
        for turns in range(8):
            writing = asyncio.create_task(cache.set(f"k{turns}", b"v"))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        await cache._queue.idle()
        await cache.flush(5.0)
        assert (cache._count, cache._bytes, cache.status.waiting) == (0, 0, 0)
        # Whatever became of each: the cache shows nothing that the database lacks.
        await _until(lambda: not cache.status.unrepaired)
        for key, value in fake.cache.rows.items():
            assert store.value(key.decode()) == value


async def test_without_the_cache_writes_are_taken_and_saved_and_it_is_repaired_later(
    failing_cluster: LocalCluster, tmp_path: Path
) -> None:
    client = await failing_cluster.client()
    store = FakeStore()
    async with opened(client, store, tmp_path, cache_timeout=1.0) as cache:
        await cache.set("k", b"1")
        await cache.flush(5.0)
        for node in (2, 3):
            await failing_cluster.kill(node)
        await cache.set("k", b"2")
        await cache.flush(5.0)
        assert store.value("k") == b"2"
        assert await cache.get("k") == b"2"
        assert cache.status.unrepaired == 1
        assert cache.counts["cache_failures"]
        for node in (2, 3):
            await failing_cluster.restart(node)
        await _until(lambda: not cache.status.unrepaired)
        assert await client.get("k") in (None, b"2")


async def test_whoever_saves_last_looks_whether_the_cache_shows_it(fake: FakeClient, tmp_path: Path) -> None:
    """Another process wrote the key to the cache and the database in different orders."""
    store, other = FakeStore(), FakeClient(fake.cache)
    async with opened(fake, store, tmp_path) as cache:
        store.may_save.clear()
        await cache.set_many({"k": b"mine", "l": b"mine"})
        await other.set_many({"k": b"of another"})
        store.may_save.set()
        await cache.flush(5.0)
        await _until(lambda: not cache.status.unrepaired)
        assert fake.cache.rows == {b"l": b"mine"}
        assert await cache.get("k") == b"mine"
        # And what the database holds that is newer makes the own write leave the cache.
        store.rows[b"m"] = (1 << 60, b"newer")
        await cache.set("m", b"mine")
        await cache.flush(5.0)
        await _until(lambda: not cache.status.unrepaired)
        assert await cache.get("m") == b"newer"


async def test_a_write_to_the_cache_that_was_unknown_cannot_come_back_later(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path) as cache:
        fake.failure = "unknown, late"
        await cache.set("k", b"1")
        await cache.flush(5.0)
        fake.failure = ""
        await _until(lambda: not cache.status.unrepaired)
        store.rows[b"k"] = (1 << 60, b"2")  # Another process writes the database.
        fake.cache.deliver()
        assert fake.cache.rows == {}


async def test_what_was_loaded_before_a_write_does_not_come_into_the_cache_after_it(
    fake: FakeClient, tmp_path: Path
) -> None:
    store = FakeStore()
    store.rows = {b"k": (1, b"old"), b"l": (1, b"old")}
    async with opened(fake, store, tmp_path) as cache:
        store.may_load.clear()
        reading = [asyncio.create_task(cache.get("k")), asyncio.create_task(cache.get_many(["l"]))]
        await _until(lambda: len(store.loads) == 2)
        await cache.set_many({"k": b"new", "l": b"new"})
        await cache.flush(5.0)
        store.may_load.set()
        await asyncio.gather(*reading)
        await _until(lambda: not len(cache._flights))
        assert fake.cache.rows == {b"k": b"new", b"l": b"new"}


async def test_what_the_cache_has_to_forget_is_not_forgotten_with_the_process(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    cache = opened(fake, store, tmp_path)
    await cache.set("k", b"1")
    await cache.flush(5.0)
    fake.failure = "down"
    await cache.set("k", b"2")
    await cache.flush(5.0)
    assert fake.cache.rows == {b"k": b"1"}
    with pytest.raises(StoreFailed, match=r"0 writes .* 1 keys of the cache may show older values"):
        await cache.close(timeout=0.05)
    fake.failure = ""
    async with opened(fake, store, tmp_path) as cache:
        assert await cache.get("k") == b"2"
        await _until(lambda: not cache.status.unrepaired)
    assert fake.cache.rows.get(b"k") in (None, b"2")


async def test_files_that_are_no_queue_or_in_use_are_refused(fake: FakeClient, tmp_path: Path) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path):
        with pytest.raises(Misuse, match="is in use, by another process or object"):
            opened(fake, store, tmp_path)
    fake.namespace_name = "other"
    with pytest.raises(Misuse, match=r"belongs to cluster 'fake', namespace 'default', not .* 'other'"):
        opened(fake, store, tmp_path)
    (tmp_path / "queue.db").write_bytes(b"no database, but of some length" * 100)
    with pytest.raises(Misuse, match="is damaged, or no queue"):
        opened(fake, store, tmp_path)
    (tmp_path / "queue.db").unlink()
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with pytest.raises(Misuse, match="another program's database"):
        opened(fake, store, tmp_path)
    with pytest.raises(Misuse, match=r"cannot be opened|cannot be used"):
        opened(fake, store, tmp_path / "missing")
    with pytest.raises(Misuse, match="there are process, power"):
        opened(fake, store, tmp_path, durability="luck")


async def test_a_queue_that_cannot_be_written_acknowledges_nothing(
    fake: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FakeStore()
    async with opened(fake, store, tmp_path, durability="power") as cache:
        await cache.set("k", b"1")
        await cache.flush(5.0)
        cache._queue._connection.execute("PRAGMA max_page_count=1")  # As a full disk.
        with pytest.raises(Unavailable, match=r"queue\.db cannot be written: database or disk is full"):
            await cache.set("k", bytes(50_000))
        assert await cache.get("k") == b"1"
        assert (cache._count, cache._bytes) == (0, 0)
        cache._queue._connection.execute("PRAGMA max_page_count=1000000")
        await cache.set("k", b"2")
    assert store.value("k") == b"2"


async def test_with_sqlite_on_a_cluster(client: Client, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "app.db")
    async with opened(client, store, tmp_path, durability="power") as cache:
        await asyncio.gather(*[cache.set(f"k{i % 100}", b"%d" % i) for i in range(1000)])
        await cache.delete_many([f"k{i}" for i in range(50)])
        with pytest.raises(InvalidValue):
            await cache.set("k", "no bytes")
        await cache.flush(10.0)
        expected = {f"k{i}": b"%d" % (900 + i) for i in range(50, 100)}
        assert await store.load([f"k{i}" for i in range(100)]) == expected
        assert await cache.get_many([f"k{i}" for i in range(100)]) == expected
    await store.close()
