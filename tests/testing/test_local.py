"""LocalCluster: what users' tests stand on."""

import asyncio
import os
import signal

import pytest

from quorumcache.client import Client
from quorumcache.errors import Misuse, QuorumCacheError
from quorumcache.testing import LocalCluster
from quorumcache.testing.byzantine import LIES, NAMES

pytest_plugins = ["quorumcache.testing.pytest_plugin"]


async def test_the_fixtures_give_a_cluster_and_a_client(
    quorumcache_cluster: LocalCluster, quorumcache_client: Client
) -> None:
    await quorumcache_client.set("k", b"v")
    async with await quorumcache_cluster.client(None) as reader:
        assert await reader.get("k") == b"v"


async def test_in_process_nodes_are_within_reach_and_have_no_signals() -> None:
    async with LocalCluster() as cluster:
        assert cluster.node(2).info.index == 2
        with pytest.raises(Misuse, match="processes=True"):
            cluster.pause(0)
        with pytest.raises(Misuse, match="no behaviour is called 'rude'"):
            await cluster.make_byzantine(0, "rude")
        with pytest.raises(Misuse, match="no writer 'eve'"):
            await cluster.client("eve")
        await cluster.kill(1)
        with pytest.raises(Misuse, match="node 1 does not run"):
            await cluster.status(1)
        await cluster.restart(1)
        assert (await cluster.status(1))["name"] == "n1"


async def test_node_processes_end_with_the_cluster_even_when_paused_or_killed() -> None:
    async with LocalCluster(processes=True, byzantine={3: "honest"}) as cluster:
        pids = [cluster.pid(i) for i in range(4)]
        cluster.pause(0)
        await cluster.make_byzantine(3, "silent")
        assert (await cluster.status(3))["lying"]["behaviour"] == "silent"
        os.kill(pids[1], signal.SIGKILL)
        with pytest.raises(QuorumCacheError, match="has ended"):
            await cluster.status(1)
        with pytest.raises(Misuse, match="out of reach"):
            cluster.node(2)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_changing_node_goes_through_all_lies() -> None:
    seen = set()
    async with LocalCluster(byzantine={0: "changing"}, change_s=0.02) as cluster:
        while len(seen) < len(LIES):
            seen.add((await cluster.status(0))["lying"]["behaviour"])
            await asyncio.sleep(0.005)
    assert seen == {kind.name for kind in LIES}


def test_every_behaviour_says_its_lie_in_a_line() -> None:
    assert len(NAMES) == len(set(NAMES)) == len(LIES) + 2
    assert len({kind.lie for kind in LIES}) == len(LIES)
    for kind in LIES:
        assert "\n" not in kind.lie
