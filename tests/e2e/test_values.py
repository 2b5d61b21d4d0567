"""Nodes whose storage has more than their memory: values are on the disk, and all goes on as if they were not."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.node import RunningNode
from quorumcache.storage import SqliteStorage
from quorumcache.testing import LocalCluster

COUNT = 120
SIZE = 32 << 10
#: Room for the headers of all, and the values of a few.
MEMORY = 512 << 10


def value_of(number: int) -> bytes:
    return b"%d " % number * (SIZE // 8)


VALUES = {f"k{number}": value_of(number) for number in range(COUNT)}


async def fill(client: Client) -> None:
    keys = list(VALUES)
    for at in range(0, COUNT, 20):
        await client.set_many({key: VALUES[key] for key in keys[at : at + 20]})


def queries_of(node: RunningNode) -> list[int]:
    """Counts the values of each look into a node's database, from now on."""
    storage = node.storage
    assert isinstance(storage, SqliteStorage)
    counts: list[int] = []
    fetch = storage.fetch

    def counted(entries: Any) -> list[bytes]:
        counts.append(len(entries))
        return fetch(entries)

    storage.fetch = counted  # type: ignore[method-assign]
    return counts


async def test_more_values_than_memory_are_all_there_and_after_a_restart() -> None:
    async with LocalCluster(storage="sqlite", bytes_max=MEMORY) as cluster, await cluster.client() as client:
        await fill(client)
        assert await client.get_many(list(VALUES)) == VALUES
        for node in range(4):
            status = await cluster.status(node)
            assert (status["entries"], status["evicted"]) == (COUNT, 0)
            assert status["bytes_used"] <= MEMORY
            assert 0 < status["values_in_memory"] < COUNT
            assert status["stored_bytes"] > 2 * MEMORY
        for node in range(4):
            await cluster.kill(node)
        for node in range(4):
            await cluster.restart(node)
            status = await cluster.status(node)
            assert (status["resumed"], status["entries"]) == (True, COUNT)
            assert status["bytes_used"] <= MEMORY
        async with await cluster.client() as again:
            assert await again.get_many(list(VALUES)) == VALUES
            for key in list(VALUES)[:10]:
                assert await again.get(key) == VALUES[key]


async def test_what_is_read_at_once_is_fetched_at_once() -> None:
    """One look into the database for all values that a frame's answers lack (up to the size of a frame)."""
    async with LocalCluster(storage="sqlite", bytes_max=MEMORY) as cluster, await cluster.client() as client:
        small = {f"s{number}": b"%0100d" % number for number in range(100)}
        await client.set_many(small)
        await fill(client)
        counts = [queries_of(cluster.node(node)) for node in range(4)]
        found = await asyncio.gather(*(client.get(key) for key in small))
        assert found == list(small.values())
        looks = [len(each) for each in counts]
        fetched = sum(map(sum, counts))
        assert fetched
        assert sum(looks) <= 8, "not one by one"


async def test_a_wiped_node_recovers_from_peers_whose_values_are_on_disk() -> None:
    async with (
        LocalCluster(storage="sqlite", bytes_max=MEMORY, op_time=1.0) as cluster,
        await cluster.client() as client,
    ):
        await fill(client)
        await cluster.kill(3)
        (cluster.data_directory(3) / "entries.sqlite").unlink()
        await cluster.restart(3)
        for _ in range(500):
            if not (status := await cluster.status(3))["shards_recovering"]:
                break
            await asyncio.sleep(0.02)
        assert (status["entries"], status["shards_recovering"]) == (COUNT, 0)
        assert status["bytes_used"] <= MEMORY
        # A quorum that needs it: all that it says is true.
        await cluster.kill(0)
        assert await client.get_many(list(VALUES)) == VALUES


async def test_keys_with_fields_are_whole_wherever_their_values_are() -> None:
    spaces = [NamespaceInfo("map", "map"), NamespaceInfo("set", "set")]
    async with (
        LocalCluster(storage="sqlite", bytes_max=MEMORY, namespaces=spaces) as cluster,
        await cluster.client() as client,
    ):
        ages = {f"f{number}": value_of(number)[:2000] for number in range(30)}
        for field, value in ages.items():
            await client.map_("ages").set(field, value)
        await client.set_("members").add("a", "b")
        await fill(client)
        for node in range(4):
            key = next(iter(cluster.node(node).node.slots.keys.values()))
            assert not all(held.salted for held in key.fields.values())
        assert await client.map_("ages").items() == ages
        assert await client.set_("members").members() == {"a", "b"}
        await client.map_("ages").set("f1", b"new")
        assert await client.map_("ages").get("f1") == b"new"
        assert await client.map_("ages").get("f2") == ages["f2"]


async def test_a_value_that_is_not_what_was_written_ends_the_node_and_is_never_shown() -> None:
    """Damage is noticed when it is read, too; the next start does not trust what is left."""
    async with LocalCluster(storage="sqlite", bytes_max=MEMORY) as cluster, await cluster.client() as client:
        await fill(client)
        node = cluster.node(0)
        with sqlite3.connect(cluster.data_directory(0) / "entries.sqlite") as database:
            database.execute("UPDATE entries SET salted = zeroblob(length(salted))")
        database.close()
        assert await client.get_many(list(VALUES)) == VALUES  # Others answer.
        request = next(iter(slot for slot, held in node.node.slots if not held.salted))
        node.node.slots.value_of(node.node.slots.current[request])
        assert not node.fetch()
        assert node.failed.is_set()
        assert "not what was written" in str(node.failure)
        await cluster.kill(0)
        await cluster.restart(0)
        assert not cluster.node(0).resumed
