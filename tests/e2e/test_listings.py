"""Listings of real clusters: what `scan`, `keys`, `delete_prefix` and `clear` promise (docs/client.md, "Listing")."""

import asyncio

import pytest

from quorumcache.client import Client, SyncClient
from quorumcache.client.cursor import Key
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import Misuse, PermissionDenied, Unavailable
from quorumcache.testing import LocalCluster
from quorumcache.wire.sealing import DataKeys


async def everything(client: Client) -> set[Key]:
    return {key async for key in client.keys("")}


TYPED = tuple(NamespaceInfo(f"{kind}s", type=kind) for kind in ("counter", "set"))


async def test_pages_keys_and_deletion_of_a_prefix() -> None:
    async with LocalCluster(namespaces=(NamespaceInfo("other"),)) as cluster, await cluster.client() as client:
        users = {f"user:{i}" for i in range(1500)}
        await client.set_many(dict.fromkeys(users, b"v"))
        await client.set_many({"use": b"v", "user": b"v", "é": b"v"})
        await client.within("other").set("user:0", b"v")
        await client.set("user:brief", b"v", ttl=0.05)
        await asyncio.sleep(0.1)
        first = await client.scan("user:", limit=100)
        assert len(first.keys) == 100
        assert first.cursor is not None
        rest = await client.scan("user:", limit=2000, cursor=first.cursor)
        assert rest.cursor is None
        listed = first.keys + rest.keys
        assert (len(listed), set(listed)) == (1500, users)
        assert [key async for key in client.keys("user:")] == listed, "the order is fixed"
        assert client.counts["keys_doubted"] == 0
        assert await client.delete_prefix("user:1") == 611
        assert await everything(client) == {u for u in users if not u.startswith("user:1")} | {
            "use",
            "user",
            "é",
        }
        assert await client.get("user:10") is None
        with pytest.raises(Misuse, match="clear"):
            await client.delete_prefix("")
        assert await client.clear() == 1500 - 611 + 3
        assert await client.clear() == 0
        assert await client.within("other").get("user:0") == b"v"


async def test_who_only_reads_can_list_and_not_clear() -> None:
    async with LocalCluster() as cluster, await cluster.client() as writer, await cluster.client(None) as reader:
        assert (await reader.scan()).keys == []
        assert await reader.clear() == 0
        await writer.set("k", b"v")
        assert (await reader.scan()).keys == ["k"]
        with pytest.raises(PermissionDenied):
            await reader.clear()


async def test_keys_with_fields_are_listed_and_deleted_as_a_whole() -> None:
    async with LocalCluster(namespaces=TYPED) as cluster, await cluster.client() as client:
        for i in range(20):
            await client.counter(f"c{i}").add(i)
            await client.set_(f"s{i}").add("a", "b")
        await client.set_("s0").delete()
        sets = client.within("sets")
        assert set((await sets.scan()).keys) == {f"s{i}" for i in range(1, 20)}
        assert set((await client.within("counters").scan("c1")).keys) == {"c1", *(f"c{i}" for i in range(10, 20))}
        assert client.counts["keys_doubted"] == 0
        assert await sets.delete_prefix("s1") == 11
        assert await client.set_("s10").members() == set()
        assert await client.set_("s2").members() == {"a", "b"}
        assert await sets.clear() == 8


async def test_hidden_keys_cannot_be_listed_but_cleared() -> None:
    hidden = (NamespaceInfo("private", encryption="client", hide_keys=True),)
    async with LocalCluster(namespaces=hidden) as cluster:
        keys = DataKeys.generate()
        async with await cluster.client(namespace="private", data_keys=keys) as client:
            await client.set_many({"a": b"1", "b": b"2"})
            for refused in (client.scan(), client.delete_prefix("a")):
                with pytest.raises(Misuse, match="hide"):
                    await refused
            assert await client.clear() == 2
            assert await client.get("a") is None


async def test_with_one_node_lost_and_another_that_got_none_of_the_writes_nothing_is_missing() -> None:
    """2f+1 nodes answer, one of them with nothing: reads settle every key."""
    async with LocalCluster(op_time=0.5) as cluster, await cluster.client() as client:
        names = {f"k{i}" for i in range(50)}
        await client.set_many(dict.fromkeys(names, b"v"))
        slots = cluster.node(2).node.slots
        for slot in list(slots.current):
            slots.put_back(slot, None)
        await cluster.kill(0)
        assert await everything(client) == names
        assert client.counts["keys_doubted"] == 50
        assert await everything(client) == names
        assert client.counts["keys_doubted"] == 50, "the reads wrote them back"
        await cluster.kill(1)
        with pytest.raises(Unavailable):
            await client.scan()


async def test_the_blocking_client_lists_too() -> None:
    async with LocalCluster() as cluster:

        def run() -> None:
            with SyncClient(cluster.signed, key=cluster.writers["default"]) as client:
                client.set_many({f"k{i}": b"v" for i in range(30)})
                assert set(client.keys()) == {f"k{i}" for i in range(30)}
                page = client.scan("k1", 5)
                assert len(page.keys + client.scan("k1", cursor=page.cursor).keys) == 11
                assert client.delete_prefix("k1") == 11
                assert client.clear() == 19

        await asyncio.to_thread(run)
