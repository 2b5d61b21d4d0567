"""Read-through and write-through: the database is the truth, whatever happens to the cache (docs/database.md)."""

import asyncio
from typing import Any

import pytest

from quorumcache.client import Client
from quorumcache.client.database import ReadThrough, SqliteStore, WriteThrough
from quorumcache.client.database.store import Key
from quorumcache.errors import InvalidKey, InvalidValue, Misuse, QueueFull, StoreFailed, Unavailable
from quorumcache.testing import LocalCluster
from tests.client.database.stores import FakeStore, put


async def _until(condition: Any) -> None:
    """Wait until something is so; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110 - what is waited for is not always an event
        await asyncio.sleep(0.005)


async def _take_down(cluster: LocalCluster) -> None:
    """More than f nodes: nothing can be read or written."""
    for node in (2, 3):
        await cluster.kill(node)


async def _bring_back(cluster: LocalCluster) -> None:
    for node in (2, 3):
        await cluster.restart(node)


# --- reading ---


async def test_a_key_is_loaded_once_and_then_read_from_the_cache(client: Client) -> None:
    asked: list[Key] = []

    async def load(key: Key) -> bytes | None:
        asked.append(key)
        await asyncio.sleep(0.01)
        return b"value of " + str(key).encode() if key != "none" else None

    async with ReadThrough(client, load, ttl=60, cache_timeout=30) as cache:
        assert set(await asyncio.gather(*[cache.get("k") for _ in range(50)])) == {b"value of k"}
        assert await cache.get("k") == b"value of k"
        await _until(lambda: not len(cache._flights))
        assert await client.get("k") == b"value of k"
        assert 0 < (await client.ttl("k") or 0) <= 60
        assert asked == ["k"]
        assert await cache.get("none") is None
        assert await cache.get("none", b"-") == b"-"
        found = await cache.get_many(["k", "l", "none", "m"])
        assert found == {"k": b"value of k", "l": b"value of l", "m": b"value of m"}
        await _until(lambda: not len(cache._flights))
        assert await client.get_many(["l", "m"]) == {"l": b"value of l", "m": b"value of m"}
        await cache.invalidate("k")
        assert await cache.get("k") == b"value of k"
        assert asked.count("k") == 2
        assert cache.counts["loads"] == len(asked)
        assert cache.counts["cache_failures"] == 0


async def test_many_keys_are_one_question_to_a_store(client: Client) -> None:
    store = FakeStore()
    await store.save([put("a", b"1", 1), put("b", b"2", 1)])
    async with ReadThrough(client, store) as cache:
        await client.set("c", b"3")
        assert await cache.get_many(["a", b"b", "c", "d"]) == {"a": b"1", b"b": b"2", "c": b"3"}
        assert store.loads == [["a", b"b", "d"]]
        assert await cache.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2", "c": b"3"}
        assert len(store.loads) == 1


async def test_a_failing_source_is_the_callers_error_and_nothing_is_cached(client: Client) -> None:
    store = FakeStore()
    store.load_error = StoreFailed("down")
    async with ReadThrough(client, store) as cache:
        for _ in range(2):
            with pytest.raises(StoreFailed):
                await cache.get("k")
        with pytest.raises(StoreFailed):
            await cache.get_many(["k", "l"])
        store.load_error = None
        store.rows[b"k"] = (1, b"v")
        assert await cache.get("k") == b"v"


async def test_a_value_that_the_cache_cannot_hold_is_served_and_counted(client: Client) -> None:
    store = FakeStore()
    store.rows = {b"large": (1, bytes(2 << 20)), b"small": (1, b"v")}
    async with ReadThrough(client, store) as cache:
        assert len(await cache.get("large")) == 2 << 20
        assert set(await cache.get_many(["large", "small"])) == {"large", "small"}
        assert cache.counts["cache_failures"] == 2
        assert "at most" in cache.problem
        assert await client.get("small") == b"v"


async def test_what_another_serializer_wrote_is_loaded_and_replaced(cluster: LocalCluster) -> None:
    client, other = await cluster.client(serializer="json"), await cluster.client()
    store = FakeStore()
    store.rows = {b"k": (1, {"name": "Ada"})}
    async with ReadThrough(client, store) as cache:
        await other.set("k", b"\xff")
        assert await cache.get("k") == {"name": "Ada"}
        await _until(lambda: not len(cache._flights))
        assert await client.get("k") == {"name": "Ada"}
        await other.set("k", b"\xff")
        assert await cache.get_many(["k"]) == {"k": {"name": "Ada"}}
        assert cache.counts["cache_failures"] == 2


async def test_without_the_cache_the_database_serves(failing_cluster: LocalCluster) -> None:
    client = await failing_cluster.client()
    store = FakeStore()
    store.rows = {b"k": (1, b"v")}
    async with ReadThrough(client, store, cache_timeout=1.0) as cache:
        await _take_down(failing_cluster)
        assert await cache.get("k") == b"v"
        assert await cache.get_many(["k", "l"]) == {"k": b"v"}
        await _until(lambda: not len(cache._flights))
        assert cache.counts["cache_failures"] >= 3
        assert cache.problem


async def test_what_is_no_source_is_refused(cluster: LocalCluster, client: Client) -> None:
    async def many(key: Key) -> Any:
        yield b"v"

    def generate(key: Key) -> Any:
        yield b"v"

    for generator in (many, generate):
        with pytest.raises(Misuse, match="generator"):
            ReadThrough(client, generator)
    with pytest.raises(Misuse, match="type dict"):
        ReadThrough(client, {})  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="ttl"):
        ReadThrough(client, FakeStore(), ttl=-1)
    with pytest.raises(Misuse, match="derive it from Store"):
        WriteThrough(client, many)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match="no writer's key"):
        ReadThrough(await cluster.client(None), FakeStore())
    async with ReadThrough(client, lambda key: b"at once") as cache:  # type: ignore[arg-type, return-value]
        with pytest.raises(Misuse, match="make it an async function"):
            await cache.get("k")
        with pytest.raises(InvalidKey):
            await cache.get(7)  # type: ignore[call-overload]


# --- writing ---


async def test_a_write_is_in_the_database_first_and_then_in_the_cache(client: Client) -> None:
    store = FakeStore()
    async with WriteThrough(client, store, ttl=60) as cache:
        store.may_save.clear()
        writing = asyncio.create_task(cache.set("k", b"v"))
        await _until(lambda: store.saves)
        assert await client.get("k") is None
        store.may_save.set()
        await writing
        assert store.value("k") == await client.get("k") == b"v"
        await cache.set_many({"a": b"1", "b": b"2"})
        assert [len(save) for save in store.saves] == [1, 2]
        await cache.delete("k")
        await cache.delete_many(["a"])
        assert await client.get_many(["k", "a", "b"]) == {"b": b"2"}
        assert await cache.get_many(["k", "a", "b"]) == {"b": b"2"}
        assert cache.unrepaired == 0


async def test_with_update_off_a_write_deletes_from_the_cache(client: Client) -> None:
    store = FakeStore()
    async with WriteThrough(client, store, update=False) as cache:
        await client.set("k", b"old")
        await cache.set("k", b"new")
        assert await client.get("k") is None
        assert await cache.get("k") == b"new"
        await _until(lambda: not len(cache._flights))
        assert await client.get("k") == b"new"


async def test_a_failed_or_refused_write(client: Client) -> None:
    """Refused: nothing happened. Failed: it may have, so the key leaves the cache."""
    store = FakeStore()
    async with WriteThrough(client, store) as cache:
        await cache.set("k", b"1")
        store.save_error = InvalidValue("too long")
        with pytest.raises(InvalidValue):
            await cache.set("k", b"2")
        assert await client.get("k") == b"1"
        for error in (StoreFailed("down"), ConnectionResetError("gone"), ZeroDivisionError("a bug")):
            await client.set("k", b"1")
            store.save_error = error
            with pytest.raises(StoreFailed if isinstance(error, OSError) else type(error)):
                await cache.set("k", b"2")
            await _until(lambda: not cache.unrepaired)
            assert await client.get("k") is None
        for key, value in (("k", None), ("k", "no bytes"), ("", b"v"), ("k", bytes(2 << 20))):
            with pytest.raises((InvalidKey, InvalidValue)):
                await cache.set(key, value)
        assert len(store.saves) == 5


async def test_writes_of_a_key_keep_their_order_in_database_and_cache(client: Client) -> None:
    store = FakeStore()
    async with WriteThrough(client, store) as cache:
        await asyncio.gather(*[cache.set("k", b"%d" % i) for i in range(50)], cache.set_many({"k": b"50", "l": b"x"}))
        assert store.value("k") == await client.get("k") == b"50"
        assert [save[0].value for save in store.saves if save[0].key == "k"] == [b"%d" % i for i in range(51)]
        assert not cache._turns


async def test_what_was_loaded_before_a_write_does_not_come_into_the_cache_after_it(client: Client) -> None:
    store = FakeStore()
    store.rows = {b"k": (1, b"old"), b"l": (1, b"old")}
    async with WriteThrough(client, store) as cache:
        store.may_load.clear()
        reading = asyncio.create_task(cache.get("k"))
        reading_many = asyncio.create_task(cache.get_many(["l", "k"]))
        await _until(lambda: len(store.loads) == 2)
        await cache.set("k", b"new")
        store.may_load.set()
        assert await reading == b"old"
        assert await reading_many == {"k": b"old", "l": b"old"}
        await _until(lambda: not len(cache._flights))
        assert await client.get_many(["k", "l"]) == {"k": b"new", "l": b"old"}


async def test_what_the_database_has_newer_leaves_the_cache(client: Client) -> None:
    store = FakeStore()
    store.rows = {b"k": (1 << 60, b"of another, whose clock is ahead")}
    async with WriteThrough(client, store) as cache:
        await cache.set("k", b"mine")
        await _until(lambda: not cache.unrepaired)
        assert await cache.get("k") == b"of another, whose clock is ahead"


async def test_writes_go_on_without_the_cache_which_is_repaired_when_it_is_back(failing_cluster: LocalCluster) -> None:
    client = await failing_cluster.client()
    store = FakeStore()
    async with WriteThrough(client, store, cache_timeout=1.0, repairs_max=2) as cache:
        await cache.set("k", b"1")
        await _take_down(failing_cluster)
        await cache.set("k", b"2")
        assert (cache.unrepaired, store.value("k")) == (1, b"2")
        assert await cache.get("k") == b"2"
        await cache.delete("l")
        with pytest.raises(QueueFull, match="2 keys of the cache wait for repair"):
            await cache.set("m", b"3")
        assert store.value("m") is None
        with pytest.raises(Unavailable, match="may still show older values"):
            await cache.close(timeout=0.05)
        await _bring_back(failing_cluster)
        cache._repairs.note(["k"])  # As the next failed write would.
        await _until(lambda: not cache.unrepaired)
        assert await (await failing_cluster.client()).get("k") is None
        assert await cache.get("k") == b"2"
        await _until(lambda: not len(cache._flights))
        assert await client.get("k") == b"2"


async def test_a_cancelled_write_leaves_no_older_value_in_the_cache(client: Client) -> None:
    store = FakeStore()
    async with WriteThrough(client, store) as cache:
        await cache.set("k", b"1")
        store.may_save.clear()
        writing = asyncio.create_task(cache.set("k", b"2"))
        await _until(lambda: len(store.saves) == 2)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await _until(lambda: not cache.unrepaired)
        assert await client.get("k") is None
        assert not cache._turns


async def test_with_sqlite(client: Client, tmp_path: Any) -> None:
    store = SqliteStore(tmp_path / "app.db")
    async with WriteThrough(client, store) as cache:
        await cache.set_many({f"k{i}": b"%d" % i for i in range(100)})
        await cache.delete("k7")
        await client.delete_many([f"k{i}" for i in range(50)])
        assert await cache.get_many([f"k{i}" for i in range(100)]) == {f"k{i}": b"%d" % i for i in range(100) if i != 7}
    await store.close()
