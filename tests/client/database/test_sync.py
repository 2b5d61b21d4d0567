"""The caching patterns for blocking clients: the same calls, the same results."""

from pathlib import Path

import pytest

from quorumcache.client import SyncClient
from quorumcache.client.database import (
    ReadThrough,
    SqliteStore,
    SyncReadThrough,
    SyncWriteBehind,
    SyncWriteThrough,
    WriteBehind,
    WriteThrough,
)
from quorumcache.errors import InvalidValue, Misuse
from tests.client.database.stores import FakeStore


@pytest.mark.parametrize(
    ("blocking", "other"),
    [(SyncReadThrough, ReadThrough), (SyncWriteThrough, WriteThrough), (SyncWriteBehind, WriteBehind)],
)
def test_the_surface_is_the_same(blocking: type, other: type) -> None:
    own, others = ({name for name in dir(kind) if not name.startswith("_")} for kind in (blocking, other))
    assert own - {"problem", "close_store"} == others - {"source"}


def test_read_through(sync_client: SyncClient) -> None:
    asked = []

    def load(key: str | bytes) -> bytes | None:
        asked.append(key)
        return b"value" if key != "none" else None

    with SyncReadThrough(sync_client, load, ttl=60) as cache:
        assert cache.get("read") == cache.get("read") == b"value"
        assert cache.get("none", b"-") == b"-"
        assert cache.get_many(["read", "none"]) == {"read": b"value"}
        cache.invalidate("read")
        assert cache.get("read") == b"value"
        assert asked.count("read") == 2
        assert cache.counts["loads"] == len(asked)
        assert cache.problem == ""

    async def load_async(key: str | bytes) -> bytes:
        return b""

    with pytest.raises(Misuse, match="async source"):
        SyncReadThrough(sync_client, load_async)


def test_write_through(sync_client: SyncClient, tmp_path: Path) -> None:
    with SyncWriteThrough(sync_client, SqliteStore(tmp_path / "app.db"), ttl=60) as cache:
        cache.set("through", b"1")
        cache.set_many({"through:2": b"2", "through:3": b"3"})
        cache.delete("through")
        cache.delete_many(["through:2"])
        assert cache.get_many(["through", "through:2", "through:3"]) == {"through:3": b"3"}
        assert sync_client.get("through:3") == b"3"
        assert cache.unrepaired == 0
    cache.close_store()


def test_write_behind(sync_client: SyncClient, tmp_path: Path) -> None:
    store = FakeStore()
    store.poison = {b"bad": InvalidValue("no")}
    with SyncWriteBehind(sync_client, store, queue=tmp_path / "queue.db", durability="process") as cache:
        cache.set("behind", b"1")
        cache.set_many({"behind:2": b"2", "bad": b"3"})
        assert cache.get("behind") == sync_client.get("behind") == b"1"
        cache.delete("behind")
        cache.delete_many(["behind:2"])
        cache.flush(10)
        assert (store.value("behind"), store.value("behind:2")) == (None, None)
        assert [one.key for one in cache.dead_letters()] == ["bad"]
        assert cache.status.dead == 1
        assert cache.retry_dead() == 1
        cache.flush(10)
        assert cache.drop_dead() == 1
        assert cache.status[:2] == (0, 0)
