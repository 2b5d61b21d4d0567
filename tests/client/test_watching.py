"""Watches as applications have them: over real sockets, with a node that lies; docs/client.md, "Watching"."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from quorumcache.client import Change, Gap, SyncClient
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import InvalidValue, Misuse
from quorumcache.testing import LocalCluster

PATIENCE_S = 20.0


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    spaces = [NamespaceInfo("sets", "set"), NamespaceInfo("counters", "counter")]
    async with LocalCluster(namespaces=spaces, byzantine={1: "forged-value"}) as running:
        yield running


async def test_changes_come_as_they_happen(cluster: LocalCluster) -> None:
    async with await cluster.client() as client, client.watch("user:", interval=0.01) as watch:
        await client.set("user:1", b"one")
        await client.set("other", b"not watched")
        change = await watch.next(PATIENCE_S)
        assert isinstance(change, Change)
        assert (change.key, change.field, change.deleted, change.value) == ("user:1", None, False, None)
        assert change.writer == client.writer
        await client.delete("user:1")
        change = await watch.next(PATIENCE_S)
        assert isinstance(change, Change)
        assert (change.key, change.deleted) == ("user:1", True)
        assert await watch.next(0.05) is None


async def test_values_come_along_where_they_are_asked_for(cluster: LocalCluster) -> None:
    async with await cluster.client(serializer="json") as client:
        async with client.watch(key="k", values=True, interval=0.01) as watch:
            await client.set("k", {"a": 1})
            await client.set("k2", {"a": 2})
            async for change in watch:
                assert isinstance(change, Change)
                assert change.value == {"a": 1}
                break
        with pytest.raises(Misuse, match="plain keys"):
            client.within("sets").watch(values=True)


async def test_a_token_goes_on_where_a_watch_stood(cluster: LocalCluster) -> None:
    async with await cluster.client() as client:
        async with client.watch(b"", interval=0.01) as watch:
            await client.set("a", b"1")
            first = await watch.next(PATIENCE_S)
            assert isinstance(first, Change)
            assert first.key == b"a"
            token = watch.token
        await client.set("b", b"2")
        async with await cluster.client() as another, another.watch(b"", resume=token, interval=0.01) as later:
            change = await later.next(PATIENCE_S)
            assert isinstance(change, Change)
            assert change.key == b"b"
            assert await later.next(0.05) is None
        for wrong in ("", "no token", token[:-4], token + "x" * 100_000):
            with pytest.raises(Misuse):
                client.watch(b"", resume=wrong)
        with pytest.raises(Misuse, match="other keys"):
            client.watch(b"a", resume=token)


async def test_nodes_that_start_anew_make_a_gap(cluster: LocalCluster) -> None:
    async with await cluster.client() as client, client.watch(interval=0.01) as watch:
        for node in (0, 2):
            await cluster.kill(node)
            await cluster.restart(node)
        assert isinstance(await watch.next(PATIENCE_S), Gap)
        await client.set("k", b"v")
        while (change := await watch.next(PATIENCE_S)) is not None:
            if isinstance(change, Change) and change.key == "k" and not change.deleted:
                break
        assert change is not None


async def test_fields_have_their_names(cluster: LocalCluster) -> None:
    async with await cluster.client() as client:
        async with client.within("sets").watch(key="tags", interval=0.01) as watch:
            await client.set_("tags").add("red")
            seen = [await watch.next(PATIENCE_S), await watch.next(PATIENCE_S)]
            assert {(c.key, c.field, c.deleted) for c in seen if isinstance(c, Change)} == {
                ("tags", None, False),
                ("tags", "red", False),
            }
            await client.set_("tags").remove("red")
            change = await watch.next(PATIENCE_S)
            assert isinstance(change, Change)
            assert (change.field, change.deleted) == ("red", True)
        async with client.within("counters").watch(interval=0.01) as watch:
            await client.counter("hits").add()
            change = await watch.next(PATIENCE_S)
            assert isinstance(change, Change)
            assert (change.key, change.field) == ("hits", None)


async def test_the_blocking_client_watches_as_well(cluster: LocalCluster) -> None:
    def use() -> list[object]:
        key = cluster.writers["default"]
        with SyncClient(cluster.signed, key=key) as client, client.watch("a", interval=0.01) as watch:
            client.set("a1", b"v")
            client.set("a2", b"v")
            seen = [next(watch).key, next(watch).key]  # type: ignore[union-attr]
            assert watch.next(0.05) is None
            assert watch.token
            watch.close()
            return [*seen, *watch]

    assert sorted(map(str, await asyncio.to_thread(use))) == ["a1", "a2"]


async def test_what_cannot_be_watched_says_so(cluster: LocalCluster) -> None:
    async with await cluster.client() as client:
        with pytest.raises(Misuse, match="not both"):
            client.watch("a", key="b")
        with pytest.raises(InvalidValue, match="interval"):
            client.watch(interval=0)
        with pytest.raises(Misuse, match="not begun"):
            _ = client.watch().token
