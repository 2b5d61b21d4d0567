"""Nodes with storage that are killed, cut short of disk space, stopped and started again, as real processes.

Nothing acknowledged is gone, nothing granted forgotten (protocol 3, end); what cannot be stored is refused.
"""

from __future__ import annotations

import asyncio
import random
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.outcome import Failed, Found, Written
from quorumcache.errors import Misuse
from quorumcache.storage import SqliteStorage
from quorumcache.storage.syncing import Syncer
from quorumcache.testing import LocalCluster
from quorumcache.testing.history import History

KEYS = [f"k{i}" for i in range(12)]
ROUNDS = 3


class _Load:
    """Writers and readers that go on, whatever happens to the cluster; all is recorded."""

    def __init__(self) -> None:
        self.history = History()
        self.stopping = False
        self._written = 0
        self._more = asyncio.Event()

    async def write(self, client: Client, name: str) -> None:
        assert client.writer is not None
        number = 0
        while not self.stopping:
            number += 1
            key, value = KEYS[number % len(KEYS)], f"{name} {number}".encode()
            began = self.history.announce(key, value, client.writer)
            outcome = await client.write(key, value)
            self.history.end(key, began, outcome)
            if isinstance(outcome, Written):
                self._written += 1
                self._more.set()

    async def more(self, count: int) -> None:
        """Wait until so many further writes are acknowledged."""
        goal = self._written + count
        while self._written < goal:
            self._more.clear()
            await self._more.wait()

    async def read(self, client: Client) -> None:
        number = 0
        while not self.stopping:
            number += 1
            await self.read_once(client, KEYS[number % len(KEYS)])

    async def read_once(self, client: Client, key: str) -> bool:
        began = self.history.begin()
        outcome = await client.read(key)
        self.history.end(key, began, outcome)
        return isinstance(outcome, Found)


async def _when(cluster: LocalCluster, node: int, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The node's status, once it fits."""
    for _ in range(2000):
        if fits(status := await cluster.status(node)):
            return status
        await asyncio.sleep(0.02)
    raise AssertionError(f"node {node} does not get there: {status}")


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_all_nodes_killed_at_random_points_under_load_lose_nothing_acknowledged(durability: str) -> None:
    """Every node at once, so that nobody can make up for what another lost."""
    chance = random.Random(7)
    load = _Load()
    async with LocalCluster(
        # A read may miss where a correct node needs longer than the grace time, and a busy machine may take a while.
        processes=True,
        writers=("a", "b"),
        op_time=1.0,
        grace=1.0,
        storage="sqlite",
        durability=durability,
    ) as cluster:
        clients = [await cluster.client(name) for name in ("a", "b", None)]
        for key in KEYS:
            began = load.history.announce(key, b"first", clients[0].writer or b"")
            load.history.end(key, began, await clients[0].write(key, b"first"))
        async with asyncio.TaskGroup() as group:
            for client, name in zip(clients, ("a", "b", None), strict=True):
                group.create_task(load.read(client) if name is None else load.write(client, name))
            try:
                for _ in range(ROUNDS):
                    await load.more(chance.randint(10, 40))
                    await asyncio.sleep(chance.random() / 100)
                    await asyncio.gather(*(cluster.kill(node) for node in range(4)))
                    await asyncio.gather(*(cluster.restart(node) for node in range(4)))
                    assert all([(await cluster.status(node))["resumed"] for node in range(4)])
                await load.more(10)
            finally:
                load.stopping = True
        # Whoever connects anew finds every key, and none older than what was acknowledged.
        async with await cluster.client(None) as reader:
            for key in KEYS:
                assert await load.read_once(reader, key), key
    verdict = load.history.check()
    assert verdict.is_clean, verdict.examples
    assert verdict.reads_missed == 0
    assert verdict.writes > 10 * ROUNDS


async def test_nodes_stopped_in_order_go_on_with_what_they_had() -> None:
    async with LocalCluster(storage="sqlite") as cluster:
        async with await cluster.client() as client:
            await client.set_many(dict.fromkeys(KEYS, b"kept"))
            await client.delete(KEYS[0])
        for node in range(4):
            await cluster.kill(node)  # Within this process, that is a stop.
        for node in range(4):
            await cluster.restart(node)
        assert all([(await cluster.status(node))["resumed"] for node in range(4)])
        async with await cluster.client() as client:
            assert await client.get_many(KEYS) == dict.fromkeys(KEYS[1:], b"kept")
            await client.set(KEYS[0], b"at once: no floor was raised")


async def test_keys_with_fields_come_back_as_they_were() -> None:
    """Bases, fields and their generations: a counter does not run backwards, a set loses no member."""
    spaces = [NamespaceInfo(kind, kind) for kind in ("counter", "set", "map", "siblings")]
    async with LocalCluster(processes=True, storage="sqlite", namespaces=spaces, writers=("a", "b")) as cluster:
        for name in ("a", "b"):
            async with await cluster.client(name) as client:
                await client.counter("hits").add(20)
                await client.set_("members").add(name, "both")
                await client.map_("ages").set(name, b"7")
        await asyncio.gather(*(cluster.kill(node) for node in range(4)))
        await asyncio.gather(*(cluster.restart(node) for node in range(4)))
        async with await cluster.client("a") as client:
            assert await client.counter("hits").value() == 40
            assert await client.set_("members").members() == {"a", "b", "both"}
            assert await client.map_("ages").items() == {"a": b"7", "b": b"7"}
            await client.counter("hits").add(2)
            await client.set_("members").remove("both")
            assert await client.counter("hits").value() == 42
            assert await client.set_("members").members() == {"a", "b"}


async def test_a_wiped_or_damaged_node_starts_as_one_without_stored_state() -> None:
    """Protocol 7: it takes the floor and recovers, and reads go on meanwhile."""
    async with LocalCluster(processes=True, storage="sqlite", op_time=1.0) as cluster, await cluster.client() as client:
        await client.set_many(dict.fromkeys(KEYS, b"kept"))
        await cluster.kill(2)
        database = cluster.data_directory(2) / "entries.sqlite"
        for path in (database, Path(f"{database}-wal")):
            path.write_bytes(b"\xff" * path.stat().st_size)
        await cluster.restart(2)
        status = await cluster.status(2)
        assert not status["resumed"]
        assert "damaged" in status["storage_set_aside"]
        assert status["shards_recovering"]
        assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"kept")
        status = await _when(cluster, 2, lambda status: not status["shards_recovering"])
        assert status["recovered"] == len(KEYS)
        # What it recovered is stored: the next time it has it at once.
        await cluster.kill(2)
        await cluster.restart(2)
        status = await cluster.status(2)
        assert (status["resumed"], status["entries"], status["shards_recovering"]) == (True, len(KEYS), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit")
async def test_with_full_disks_writes_are_refused_reads_go_on_and_room_ends_it() -> None:
    """Two of four: writes have no quorum, reads do. Nothing that was refused shows up later."""
    async with LocalCluster(processes=True, storage="sqlite", op_time=1.0) as cluster, await cluster.client() as client:
        await client.set_many(dict.fromkeys(KEYS, b"before"))
        no_limit = resource.prlimit(cluster.pid(0), resource.RLIMIT_FSIZE)
        for node in (0, 1):
            # A write ends with three of four; what the fourth missed could not be written back to it.
            await _when(cluster, node, lambda status: status["entries"] == len(KEYS))
            log = cluster.data_directory(node) / "entries.sqlite-wal"
            resource.prlimit(cluster.pid(node), resource.RLIMIT_FSIZE, (log.stat().st_size, no_limit[1]))
        refused = await client.write(KEYS[0], b"refused")
        assert isinstance(refused, Failed)
        assert "storage" in refused.detail
        for node in (0, 1):
            status = await cluster.status(node)
            assert not status["storage_takes_writes"]
            assert status["refused"]["FULL"]
        assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
        await cluster.kill(2)  # Those with full disks are needed for every read now.
        assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
        await cluster.restart(2)
        for node in (0, 1):
            resource.prlimit(cluster.pid(node), resource.RLIMIT_FSIZE, no_limit)
        for node in (0, 1):
            await _when(cluster, node, lambda status: bool(status["storage_takes_writes"]))
        await client.set_many(dict.fromkeys(KEYS, b"after"))
        for node in range(4):
            await cluster.kill(node)
        for node in range(4):
            await cluster.restart(node)
        async with await cluster.client(None) as reader:
            assert await reader.get_many(KEYS) == dict.fromkeys(KEYS, b"after")


def _syncer(cluster: LocalCluster, node: int) -> Syncer:
    storage = cluster.node(node).storage
    assert isinstance(storage, SqliteStorage)
    assert storage._syncer is not None
    return storage._syncer


async def test_with_power_no_reply_leaves_before_the_disk_has_what_it_says() -> None:
    """Reads wait too: what one has returned must not be forgotten."""
    async with LocalCluster(f=0, storage="sqlite", durability="power") as cluster, await cluster.client() as client:
        await client.set("k", b"before")
        syncer, disk = _syncer(cluster, 0), threading.Event()
        at_once = syncer._sync

        def wait() -> None:
            assert disk.wait(30)

        syncer._sync = wait
        writing = asyncio.create_task(client.set("k", b"after"))
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done
        reading = asyncio.create_task(client.get("k"))
        done, _ = await asyncio.wait([reading], timeout=0.3)
        assert not done
        disk.set()
        await writing
        await reading
        syncer._sync = at_once
        assert await client.get("k") == b"after"


async def test_a_node_whose_disk_fails_to_sync_ends_and_does_not_trust_it_again() -> None:
    async with LocalCluster(storage="sqlite", durability="power") as cluster, await cluster.client() as client:
        await client.set_many(dict.fromkeys(KEYS, b"kept"))

        def fail() -> None:
            raise OSError(5, "Input/output error")

        node = cluster.node(1)
        _syncer(cluster, 1)._sync = fail
        await client.set_many(dict.fromkeys(KEYS, b"newer"))  # The other three suffice.
        async with asyncio.timeout(20):
            await node.failed.wait()
        assert "Input/output" in str(node.failure)
        await cluster.restart(1)
        assert not cluster.node(1).resumed
        assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"newer")


async def test_a_node_does_not_start_where_another_keeps_its_entries() -> None:
    async with LocalCluster(storage="sqlite") as cluster:
        taken = cluster.data_directory(1)
        await cluster.kill(0)
        cluster.data_directory = lambda node: taken  # type: ignore[method-assign]
        with pytest.raises(Misuse, match="another process"):
            await cluster.restart(0)
