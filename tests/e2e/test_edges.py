"""What sessions and clients do at their edges: handshakes that must fail, limits, cancellation, timeouts, overload."""

import asyncio
import os
import socket

import aiohttp
import pytest

from quorumcache.client import Client
from quorumcache.core import messages as m
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.outcome import Found
from quorumcache.errors import InvalidKey, InvalidValue, Misuse, QuorumCacheError, Unavailable
from quorumcache.node import RunningNode
from quorumcache.testing import LocalCluster
from quorumcache.wire import codec
from quorumcache.wire.keys import SigningKey
from tests.raw import open_session, opening_for, websocket_to


def _kinds_of_tasks() -> set[str]:
    """What runs: by kind, since sessions may come and go meanwhile. An operation that leaks would be another kind.
    Nodes ask each other for their epoch now and then, whatever clients do."""
    kinds = {getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks() if not task.done()}
    return kinds - {RunningNode._talk.__qualname__}


async def _connect(signed: SignedConfiguration) -> None:
    await (await Client.connect(signed, timeout=2.0)).close()


def _changed(cluster: LocalCluster, **changes: object) -> SignedConfiguration:
    """The cluster's configuration with something changed, signed by another administrator."""
    admin = SigningKey.generate()
    fields = {name: getattr(cluster.configuration, name) for name in cluster.configuration.__dataclass_fields__}
    configuration = type(cluster.configuration)(**{**fields, "admins": (admin.public,), **changes})
    unsigned = SignedConfiguration(configuration, ())
    return SignedConfiguration(configuration, ((admin.public, admin.sign(unsigned.signed_message)),))


@pytest.mark.attack
async def test_another_cluster_epoch_or_key_is_a_clear_error_at_the_handshake() -> None:
    async with LocalCluster() as cluster:
        with pytest.raises(Unavailable, match="belongs to cluster 'local', the client asks for 'other'"):
            await _connect(_changed(cluster, cluster_id="other"))
        with pytest.raises(Unavailable, match="must load the newer configuration"):
            await _connect(_changed(cluster, epoch=2, previous=cluster.configuration.digest))
        # Configurations that agree, and yet another node at this address: by hand, since a client would need both.
        node, other = cluster.configuration.nodes[0], cluster.configuration.nodes[1]
        async with aiohttp.ClientSession() as http:
            websocket, binding = await websocket_to(http, cluster.configuration, node)
            opening = opening_for(cluster.configuration, binding, other)
            await websocket.send_bytes(opening.hello)
            refused = opening.finish((await websocket.receive()).data)
            await websocket.close()
        assert "the client expects node key" in getattr(refused, "detail", "")


async def test_keys_values_and_batches_over_their_bounds_are_refused_before_anything_is_sent() -> None:
    async with LocalCluster(value_bytes_max=1000) as cluster, await cluster.client() as client:
        for key in ("", "k" * 1025, "\ud800", 7):
            with pytest.raises(InvalidKey):
                await client.get(key)  # type: ignore[call-overload]
        with pytest.raises(InvalidValue, match="takes at most 1000"):
            await client.set("k", bytes(1001))
        with pytest.raises(InvalidValue):
            await client.set("k", b"v", ttl=-1)
        with pytest.raises(Misuse, match="split it"):
            await client.get_many([f"k{i}" for i in range(100_001)])
        assert not client.counts["write_attempts"]
        await client.set("k" * 1024, bytes(1000))
        assert await client.get("k" * 1024) == bytes(1000)


@pytest.mark.attack
async def test_a_replayed_frame_ends_its_session_only() -> None:
    """Without TLS, where others than the client could do that."""
    async with LocalCluster(tls=False) as cluster, await cluster.client() as client, aiohttp.ClientSession() as http:
        websocket, channel = await open_session(http, cluster.configuration)
        frame = channel.sealer.seal(codec.join([codec.encode(m.Ping(1, cluster.configuration.digest))]))
        await websocket.send_bytes(frame)
        assert isinstance(codec.decode_replies(channel.opener.open((await websocket.receive()).data))[0], m.Pong)
        await websocket.send_bytes(frame)
        closed = await websocket.receive()
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert "repeated" in str(closed.extra)
        await client.set("k", b"v")
        assert await client.get("k") == b"v"
        assert cluster.node(0).server.sessions_broken_count == 1


async def test_cancellation_leaves_no_task_and_no_stuck_key() -> None:
    async with LocalCluster() as cluster, await cluster.client() as client:
        await client.set("k", b"0")
        tasks = _kinds_of_tasks()
        for turns in range(12):
            # Cancelled after 0, 1, 2 ... turns of the loop: before it was sent, between prepare and commit, after.
            work = [asyncio.create_task(client.set("k", b"%d" % turns)), asyncio.create_task(client.get("k"))]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        await client.set("k", b"after")
        assert await client.get("k") == b"after"
        assert _kinds_of_tasks() == tasks
        assert client._engine.core.is_idle


async def test_a_callers_timeout_and_a_silent_quorum_leave_nothing_behind() -> None:
    async with LocalCluster(op_time=0.5, byzantine={2: "honest", 3: "honest"}) as cluster:
        client = await cluster.client()
        await client.set("k", b"0")
        tasks = _kinds_of_tasks()
        for node in (2, 3):
            await cluster.make_byzantine(node, "silent")
        for work in (client.get("k"), client.set("k", b"1")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await work
        with pytest.raises(Unavailable, match="answered in time"):
            await client.get("k")
        with pytest.raises(QuorumCacheError):
            await client.set("k", b"2")
        for node in (2, 3):
            await cluster.make_byzantine(node, "honest")
        await client.set("k", b"3")
        assert await client.get("k") == b"3"
        assert _kinds_of_tasks() == tasks
        assert client._engine.core.is_idle


@pytest.mark.attack
async def test_a_client_that_reads_no_replies_is_not_read_from_and_costs_no_memory() -> None:
    """Flow control: a node stops taking requests from who does not take its replies, and serves the others."""
    async with LocalCluster() as cluster, await cluster.client() as client, aiohttp.ClientSession() as http:
        await client.set("large", bytes(1 << 20))
        slot = client._slot("large")
        websocket, channel = await open_session(http, cluster.configuration)
        # Read nothing: the socket's buffers fill, then the node's send waits.
        transport = websocket._conn.transport if websocket._conn is not None else None  # type: ignore[attr-defined]
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        before = cluster.node(0).node.request_counts.get("Read", 0)
        for number in range(200):
            request = m.Read(number, cluster.configuration.digest, [slot], 0, 1)
            await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(request)])))
        for number in range(20):
            await client.set("k", b"%d" % number)
            assert await client.get("k") == b"%d" % number
        served = cluster.node(0).node.request_counts["Read"] - before - 20
        assert served < 100, "the node kept making replies that nobody reads"
        transport.abort()
        await websocket.close()


@pytest.mark.attack
async def test_flooding_beyond_the_credit_waits_and_ends_well() -> None:
    """More under way than the node's credit window and the client's backlog bound the memory of; all of it ends."""
    async with LocalCluster() as cluster, await cluster.client() as client:
        value = os.urandom(256 << 10)
        peak = 0

        async def one(number: int) -> None:
            nonlocal peak
            await client.set(f"k{number}", value)
            peak = max(peak, *(link._under_way_bytes for link in client._engine.links.values()))

        await asyncio.gather(*(one(number) for number in range(100)))
        assert peak <= (16 << 20) + (5 << 20), "more under way than the credit and one request"
        outcome = await client.read("k99")
        assert isinstance(outcome, Found)
        assert outcome.salted[16:] == value
        assert all(not link._backlog for link in client._engine.links.values())
