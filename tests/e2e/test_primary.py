"""Mode primary on real sockets and processes (protocol 10): what was acknowledged and forwarded survives its primary.

What is promised is weaker than elsewhere: a read is what a writer signed, and the latest as long as nothing fails.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quorumcache.client import Client, SyncClient
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import InvalidValue, PermissionDenied
from quorumcache.net.divergence import diverging
from quorumcache.testing import LocalCluster

FAST = NamespaceInfo("fast", mode="primary")
KEYS = [f"k{i}" for i in range(40)]


async def _confirmed(cluster: LocalCluster, nodes: range | list[int] = range(4)) -> None:
    """Wait until nodes have nothing left to forward to each other."""
    names = {cluster.configuration.nodes[node].name for node in nodes}
    for _ in range(1500):
        lags = [(await cluster.status(node))["forward_lag"] for node in nodes]
        if not any(name in lag for lag in lags for name in names):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"forwarding never ends: {lags}")


async def test_what_clients_do_elsewhere_they_do_here() -> None:
    async with LocalCluster(namespaces=[FAST]) as cluster, await cluster.client(namespace="fast") as client:
        await client.set("k", b"v", ttl=60)
        assert await client.get("k") == b"v"
        assert 50 < (await client.ttl("k") or 0) <= 60
        await client.set_many({key: key.encode() for key in KEYS})
        assert await client.get_many(KEYS) == {key: key.encode() for key in KEYS}
        value, proof = await client.get("k1", with_proof=True)  # type: ignore[misc]
        assert value == b"k1"
        assert proof
        await client.delete("k1")
        assert await client.get("k1") is None
        await _confirmed(cluster)
        assert set((await client.scan("k")).keys) == {"k", *KEYS} - {"k1"}
        async with client.watch("k", interval=0.01) as watch:
            await client.set("k2", b"new")
            change: Any = await watch.next(20)
            assert change.key == "k2"
        assert await client.delete_prefix("k") == 40
        assert await client.get_many(KEYS) == {}
        # What is right elsewhere is still done elsewhere.
        await client.within("default").set("k", b"certified")
        assert await client.within("default").get("k") == b"certified"


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_what_was_forwarded_survives_the_loss_of_any_node(storage: str) -> None:
    async with LocalCluster(processes=True, namespaces=[FAST], storage=storage, op_time=10.0) as cluster:
        client = await cluster.client(namespace="fast")
        await client.set_many(dict.fromkeys(KEYS, b"before"))
        await _confirmed(cluster)
        for node in (0,) if storage == "sqlite" else (1, 2):
            await cluster.kill(node)
            assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
            # Writes go on, by the next in order, and reach who was away once it is back.
            await client.set_many(dict.fromkeys(KEYS, b"during %d" % node))
            assert await client.get_many(KEYS) == dict.fromkeys(KEYS, b"during %d" % node)
            await cluster.restart(node)
            await _confirmed(cluster)
            await client.set_many(dict.fromkeys(KEYS, b"before"))
            await _confirmed(cluster)
        reader = await cluster.client(None, namespace="fast")
        assert await reader.get_many(KEYS) == dict.fromkeys(KEYS, b"before")
        found = None
        for _ in range(300):
            found = await diverging(cluster.configuration, timeout_s=10, looks=1)
            if not found.odd and not found.undecided:
                break
            await asyncio.sleep(0.05)
        assert found is not None
        assert not found.odd, found


async def test_with_ack_2_a_write_survives_its_primary_at_once() -> None:
    """The primary is killed as soon as a write is acknowledged: another node has it, whatever was forwarded."""
    space = NamespaceInfo("fast", mode="primary", ack=2)
    async with LocalCluster(processes=True, namespaces=[space], op_time=10.0) as cluster:
        client: Client = await cluster.client(namespace="fast")
        await client.set_many(dict.fromkeys(KEYS, b"kept"))
        await cluster.kill(0)
        reader = await cluster.client(None, namespace="fast")
        assert await reader.get_many(KEYS) == dict.fromkeys(KEYS, b"kept")


async def test_a_lying_node_forges_nothing() -> None:
    async with (
        LocalCluster(namespaces=[FAST], byzantine={2: "forged-value"}) as cluster,
        await cluster.client(namespace="fast") as client,
    ):
        await client.set_many({key: key.encode() for key in KEYS})
        await _confirmed(cluster, [0, 1, 3])
        assert await client.get_many(KEYS) == {key: key.encode() for key in KEYS}


async def test_rights_and_limits_hold_here_too() -> None:
    space = NamespaceInfo("fast", mode="primary", writers=("owner",), ttl_s_max=60)
    async with LocalCluster(namespaces=[space], writers=("owner", "guest")) as cluster:
        owner = await cluster.client("owner", namespace="fast")
        guest = await cluster.client("guest", namespace="fast")
        await owner.set("k", b"v", ttl=10)
        with pytest.raises(InvalidValue):
            await owner.set("k", b"v")
        with pytest.raises(PermissionDenied, match="no right to write"):
            await guest.set("k", b"w", ttl=10)
        assert await guest.get("k") == b"v"


async def test_the_blocking_client_as_well() -> None:
    async with LocalCluster(namespaces=[FAST]) as cluster:

        def use() -> Any:
            with SyncClient(cluster.signed, key=cluster.writers["default"], namespace="fast") as client:
                client.set("k", b"v")
                return client.get("k")

        assert await asyncio.to_thread(use) == b"v"
