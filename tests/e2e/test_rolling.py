"""All nodes restarted one after another, with recovery or repair between: no read is stale, nothing acknowledged is
lost (protocol 7 and 8). In memory, and in SQLite with SIGKILL at random points."""

from __future__ import annotations

import asyncio
import random

import pytest

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import OutcomeUnknown, Unavailable
from quorumcache.net.divergence import diverging
from quorumcache.testing import LocalCluster
from quorumcache.testing.history import History

KEYS = [f"busy {i}" for i in range(20)]
QUIET = {f"quiet {i}": b"%d" % i for i in range(300)}
SPACES = [NamespaceInfo("counters", "counter"), NamespaceInfo("sets", "set")]


class _Load:
    """One writer and one reader of the same keys, recorded; and a set that only grows."""

    def __init__(self, client: Client, reader: Client) -> None:
        self.history = History()
        self.added: set[str] = set()
        self.stopping = False
        self._tasks = [asyncio.ensure_future(work) for work in (self._write(client), self._read(reader))]

    async def _write(self, client: Client) -> None:
        writer = client.writer
        assert writer is not None
        number = 0
        while not self.stopping:
            number += 1
            key, value = KEYS[number % len(KEYS)], b"%d" % number
            began = self.history.announce(key, value, writer)
            self.history.end(key, began, await client.write(key, value))
            if number % 10 == 0:
                try:
                    await client.set_("grows").add(str(number))
                except (Unavailable, OutcomeUnknown):
                    continue
                self.added.add(str(number))
            await asyncio.sleep(0.002)

    async def _read(self, client: Client) -> None:
        number = 0
        while not self.stopping:
            number += 1
            key = KEYS[number % len(KEYS)]
            began = self.history.begin()
            self.history.end(key, began, await client.read(key))
            await asyncio.sleep(0.002)

    async def end(self) -> None:
        self.stopping = True
        await asyncio.gather(*self._tasks)


async def _settled(cluster: LocalCluster, node: int) -> None:
    """Wait until the node has recovered, and differs from no other."""
    for _ in range(300):
        if not (await cluster.status(node))["shards_recovering"]:
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("the node never recovered")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_a_rolling_restart_loses_nothing(storage: str) -> None:
    draw = random.Random(5)
    async with LocalCluster(processes=True, storage=storage, namespaces=SPACES, op_time=2.0, shards=16) as cluster:
        async with await cluster.client() as client, await cluster.client(None) as reader:
            await client.set_many(QUIET)
            await client.set_("grows").add("first")
            load = _Load(client, reader)
            for node in range(4):
                await asyncio.sleep(draw.uniform(0.2, 1.0))
                await cluster.kill(node)
                await asyncio.sleep(draw.uniform(0.2, 1.0))
                await cluster.restart(node)
                await _settled(cluster, node)
            await load.end()
            verdict = load.history.check()
            assert verdict.is_clean, verdict.examples
            assert verdict.reads_found > 200
            assert await client.get_many(list(QUIET), strict=True) == QUIET
            assert load.added <= await client.set_("grows").members(strict=True)
            assert len(load.added) > 20
        for _ in range(100):
            found = await diverging(cluster.configuration, timeout_s=10, looks=1)
            if not found.odd and not found.undecided:
                break
            await asyncio.sleep(0.2)
        assert not found.odd
        assert not found.missing
