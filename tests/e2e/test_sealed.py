"""Namespaces whose values clients seal, on real sockets: what nodes keep, what writers without the key can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from quorumcache.client import Client, DataKeys
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.outcome import Found
from quorumcache.errors import CannotOpen, InvalidValue, Misuse
from quorumcache.gateway.http import HttpGateway
from quorumcache.testing import LocalCluster
from quorumcache.wire.proof import check_proof
from quorumcache.wire.sealing import SEALED_BYTES_MORE, write_data_keys

KEYS = DataKeys([bytes(range(32))], names=bytes(range(1, 33)))
OTHERS = DataKeys([bytes(range(2, 34))], names=bytes(range(3, 35)))
SPACES = (
    NamespaceInfo("sealed", encryption="client", value_bytes_max=1000),
    NamespaceInfo("hidden", encryption="client", hide_keys=True),
)


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(namespaces=SPACES, writers=("default", "mallory")) as cluster:
        yield cluster


async def client_of(cluster: LocalCluster, namespace: str = "sealed", keys: object = KEYS, **more: object) -> Client:
    return await cluster.client(namespace=namespace, data_keys=keys, **more)


def kept(cluster: LocalCluster) -> bytes:
    """Everything that the nodes hold."""
    found = bytearray()
    for node in range(4):
        for slot, held in cluster.node(node).node.slots.current.items():
            found += slot + held.header + held.salted
    return bytes(found)


@pytest.mark.attack
async def test_nodes_cannot_read_values(cluster: LocalCluster) -> None:
    client = await client_of(cluster)
    await client.set("a key in sight", b"a value out of sight")
    await client.set_many({f"many {i}": b"a value out of sight" for i in range(20)})
    assert await client.get("a key in sight") == b"a value out of sight"
    assert set((await client.get_many([f"many {i}" for i in range(20)])).values()) == {b"a value out of sight"}
    assert await client.touch("a key in sight", 60)
    assert await client.get("a key in sight") == b"a value out of sight"
    assert 0 < (await client.ttl("a key in sight") or 0) <= 60
    everything = kept(cluster)
    assert b"out of sight" not in everything
    assert b"a key in sight" in everything
    await client.delete("a key in sight")
    assert await client.get("a key in sight") is None


@pytest.mark.attack
async def test_nodes_cannot_read_hidden_keys_either(cluster: LocalCluster) -> None:
    client = await client_of(cluster, "hidden")
    await client.set_many({"a key out of sight": b"1", b"another" * 100: b"2"})
    assert await client.get_many(["a key out of sight", b"another" * 100]) == {
        "a key out of sight": b"1",
        b"another" * 100: b"2",
    }
    # With the same keys, another client finds them; nodes see neither keys nor their lengths.
    assert await (await client_of(cluster, "hidden")).get("a key out of sight") == b"1"
    everything = kept(cluster)
    assert b"out of sight" not in everything
    assert b"another" not in everything
    assert {len(slot) for slot in cluster.node(0).node.slots.current} == {1 + len("hidden") + 2 + 32 + 2}


async def test_a_reader_with_another_key_is_told_which_it_lacks(cluster: LocalCluster) -> None:
    await (await client_of(cluster)).set("k", b"v")
    with pytest.raises(CannotOpen, match=f"under the data key {KEYS.ids[0]}, and this client has {OTHERS.ids[0]}"):
        await (await client_of(cluster, keys=OTHERS)).get("k")


async def test_keys_are_rotated_while_everybody_reads(cluster: LocalCluster) -> None:
    new = bytes(range(4, 36))
    old_client, learnt = await client_of(cluster), await client_of(cluster, keys=KEYS.with_key(new))
    turned = await client_of(cluster, keys=KEYS.with_key(new, first=True))
    await old_client.set("old", b"1")
    await turned.set("new", b"2")
    for client in (learnt, turned):
        assert await client.get_many(["old", "new"]) == {"old": b"1", "new": b"2"}
    with pytest.raises(CannotOpen, match="data key"):
        await old_client.get("new")


async def _as_they_are(cluster: LocalCluster) -> Client:
    """An authorised writer that puts bytes as they are, as one without data keys could."""
    client = await client_of(cluster, writer="mallory")
    client._seal = None
    return client


@pytest.mark.attack
async def test_a_writer_without_the_key_cannot_swap_or_bring_back_values(cluster: LocalCluster) -> None:
    """What the associated data adds to the certificate: a right to write is not enough to move what others sealed."""
    client, mallory = await client_of(cluster), await _as_they_are(cluster)
    await client.set("poor", b"1")
    await client.set("rich", b"1000000")
    rich = await client.read("rich")
    assert isinstance(rich, Found)
    await mallory.set("poor", rich.salted[16:])
    with pytest.raises(CannotOpen, match="sealed for another key of the cache"):
        await client.get("poor")
    await client.set("rich", b"0")
    await mallory.set("rich", rich.salted[16:])
    with pytest.raises(CannotOpen, match="another write"):
        await client.get("rich")
    await mallory.set("rich", b"no seal at all")
    with pytest.raises(CannotOpen, match="is not sealed"):
        await client.get("rich")
    await client.set("rich", b"7")
    assert await client.get("rich") == b"7"


async def test_keys_that_are_missing_or_of_no_use_are_misuse(cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="data_keys="):
        await cluster.client(namespace="sealed")
    with pytest.raises(Misuse, match="data keys of type bytes"):
        await client_of(cluster, keys=b"secret")
    with pytest.raises(Misuse, match="names"):
        await client_of(cluster, "hidden", DataKeys([bytes(32)]))
    plain = await cluster.client()
    with pytest.raises(Misuse, match="data_keys="):
        plain.within("sealed")
    path = tmp_path / "data.keys"
    write_data_keys(path, KEYS)
    asked: list[str] = []

    def source(namespace: str) -> Path:
        asked.append(namespace)
        return path

    # From a file, or from a function of the namespace; namespaces that are not sealed go without.
    both = await client_of(cluster, "default", source)
    await both.set("k", b"in sight")
    await both.within("sealed").set("k", b"out of sight")
    assert asked == ["sealed"]
    assert await (await client_of(cluster, keys=path)).get("k") == b"out of sight"
    assert b"in sight" in kept(cluster)
    async with LocalCluster() as other:
        with pytest.raises(Misuse, match="no namespace of the cluster has encryption"):
            await other.client(data_keys=KEYS)


async def test_limits_count_what_sealing_adds(cluster: LocalCluster) -> None:
    client = await client_of(cluster)
    await client.set("k", bytes(1000 - SEALED_BYTES_MORE))
    with pytest.raises(InvalidValue, match=f"at most {1000 - SEALED_BYTES_MORE}"):
        await client.set("k", bytes(1001 - SEALED_BYTES_MORE))


async def test_a_proof_shows_the_sealed_value_only(cluster: LocalCluster) -> None:
    client = await client_of(cluster)
    await client.set("k", b"out of sight")
    found = await client.get("k", with_proof=True)
    assert found is not None
    value, proof = found
    assert value == b"out of sight"
    assert b"out of sight" not in proof
    proven = check_proof(proof, trusted_admins=cluster.configuration.admins)
    assert len(proven.value or b"") == len(value) + SEALED_BYTES_MORE


async def test_the_http_api_serves_what_its_client_can_open(cluster: LocalCluster) -> None:
    gateway = HttpGateway(await cluster.client(), host="127.0.0.1", port=0)
    sealing = HttpGateway(await client_of(cluster, "default"), host="127.0.0.1", port=0)
    await gateway.start()
    await sealing.start()
    try:
        async with aiohttp.ClientSession() as http:
            for port, status in ((sealing.port, 204), (gateway.port, 400)):
                async with http.put(f"http://127.0.0.1:{port}/v1/sealed/k", data=b"out of sight") as response:
                    assert response.status == status
                    text = await response.text()
            assert "clients seal the values of the namespace 'sealed'" in text
            async with http.put(f"http://127.0.0.1:{gateway.port}/v1/default/k", data=b"v") as response:
                assert response.status == 204
    finally:
        await gateway.stop()
        await sealing.stop()
    assert b"out of sight" not in kept(cluster)
