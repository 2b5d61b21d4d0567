"""Nodes that die, stop and come back while clients work: no read is stale or wrong, and operations go on.

Processes and signals are real. The history's check (protocol 5, 1 to 3) judges every read.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from quorumcache.client import Client
from quorumcache.core.outcome import Failed
from quorumcache.testing import LocalCluster
from quorumcache.testing.history import History, Verdict

KEYS = [f"k{i}" for i in range(20)]


class _Load:
    """Two writers and two readers on the same keys, all recorded."""

    def __init__(self) -> None:
        self.history = History()
        self.done = 0
        self._ended = asyncio.Event()
        self._stopping = False

    async def write(self, client: Client, name: str) -> None:
        writer = client.writer
        assert writer is not None
        number = 0
        while not self._stopping:
            number += 1
            key, value = KEYS[number % len(KEYS)], f"{name} {number}".encode()
            began = self.history.announce(key, value, writer)
            self.history.end(key, began, await client.write(key, value))
            self.done += 1
            self._ended.set()

    async def read(self, client: Client) -> None:
        number = 0
        while not self._stopping:
            number += 1
            key = KEYS[number % len(KEYS)]
            began = self.history.begin()
            self.history.end(key, began, await client.read(key))
            self.done += 1
            self._ended.set()

    async def more(self, count: int) -> None:
        """Wait until that many further operations have ended."""
        goal = self.done + count
        while self.done < goal:
            self._ended.clear()
            await self._ended.wait()

    def stop(self) -> None:
        self._stopping = True


@contextlib.asynccontextmanager
async def _loaded(cluster: LocalCluster) -> AsyncIterator[_Load]:
    load = _Load()
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b"):
            group.create_task(load.write(await cluster.client(name), name))
            group.create_task(load.read(await cluster.client(None)))
        try:
            await load.more(200)
            yield load
        finally:
            load.stop()


def _judge(load: _Load) -> Verdict:
    verdict = load.history.check()
    assert verdict.is_clean, verdict.examples
    assert not verdict.failed, verdict.examples
    assert verdict.reads_found > 100
    assert verdict.writes > 100
    return verdict


async def test_a_node_killed_under_load_is_not_missed() -> None:
    async with LocalCluster(processes=True, writers=("a", "b")) as cluster:
        async with _loaded(cluster) as load:
            await cluster.kill(2)
            await load.more(400)
        _judge(load)


async def test_a_node_stopped_under_load_and_let_go_again_is_not_missed() -> None:
    async with LocalCluster(processes=True, writers=("a", "b")) as cluster:
        async with _loaded(cluster) as load:
            cluster.pause(1)
            await load.more(400)
            cluster.resume(1)
            await load.more(400)
        _judge(load)
        # It took part again, and caught up with what it was sent meanwhile.
        assert (await cluster.status(1))["entries"] == len(KEYS)


async def test_f_nodes_of_seven_killed_one_after_another() -> None:
    async with LocalCluster(f=2, processes=True, writers=("a", "b")) as cluster:
        async with _loaded(cluster) as load:
            await cluster.kill(0)
            await load.more(200)
            await cluster.kill(5)
            await load.more(400)
        _judge(load)


async def test_with_f_plus_one_nodes_gone_operations_fail_and_nothing_is_wrong() -> None:
    async with LocalCluster(processes=True, op_time=1.0) as cluster, await cluster.client() as client:
        await client.set("k", b"v")
        await cluster.kill(0)
        await cluster.kill(1)
        assert isinstance(await client.read("k"), Failed)
        assert isinstance(await client.write("k", b"w"), Failed)


async def test_a_restarted_node_recovers_and_never_makes_a_read_stale() -> None:
    """Protocol 7: it comes back empty under a floor, and takes what its group holds."""
    async with LocalCluster(processes=True, writers=("a", "b"), op_time=2.5) as cluster:
        async with await cluster.client("a") as client:
            await client.set_many({f"quiet {i}": b"kept" for i in range(100)})
        async with _loaded(cluster) as load:
            await cluster.kill(3)
            await load.more(200)
            await cluster.restart(3)
            await load.more(400)
            while (status := await cluster.status(3))["shards_recovering"]:
                await load.more(20)
        _judge(load)
        assert status["recovered"] >= 100
        # Now another goes: the recovered node is needed for every quorum, and holds what it must.
        await cluster.kill(0)
        async with await cluster.client(None) as reader:
            quiet = [f"quiet {i}" for i in range(100)]
            assert await reader.get_many(quiet) == dict.fromkeys(quiet, b"kept")
