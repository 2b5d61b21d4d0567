"""Rights and limits on real sockets: on every path to a node, and at the HTTP API."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from quorumcache.core import messages as m
from quorumcache.core.config import Limits, NamespaceInfo, RightInfo
from quorumcache.core.model import slot_of
from quorumcache.errors import PermissionDenied
from quorumcache.gateway.http import HttpGateway
from quorumcache.testing import LocalCluster
from quorumcache.wire import codec
from quorumcache.wire.keys import SigningKey
from tests.raw import open_session

SPACES = (NamespaceInfo("closed", writers=("owner",), readers=("owner",)),)
RIGHTS = (
    RightInfo(("guest",), "closed", ("read", "write"), "shared/"),
    RightInfo(("busy",), "closed", ("write",)),
)
WRITERS = ("owner", "guest", "busy")
LIMITS = {"busy": Limits(writes_per_s=50, keys_max=100, value_bytes_max=100)}
SECRET = b"nobody is to read this"


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(namespaces=SPACES, rights=RIGHTS, limits=LIMITS, writers=WRITERS) as cluster:
        owner = await cluster.client("owner", namespace="closed")
        await owner.set_many({"mine": SECRET, "shared/a": b"for guests"})
        yield cluster


@pytest.mark.attack
async def test_each_may_do_what_the_configuration_says(cluster: LocalCluster) -> None:
    owner = await cluster.client("owner", namespace="closed")
    guest = await cluster.client("guest", namespace="closed")
    stranger = await cluster.client(None, namespace="closed")
    assert await owner.get("mine") == SECRET
    assert await guest.get("shared/a") == b"for guests"
    await guest.set("shared/b", b"from a guest")
    assert await owner.get_many(["mine", "shared/b"]) == {"mine": SECRET, "shared/b": b"from a guest"}
    for denied, words in (
        (lambda: guest.get("mine"), "guest has no right to read in namespace closed"),
        (lambda: guest.get_many(["shared/a", "mine"]), "guest has no right to read in namespace closed"),
        (lambda: guest.ttl("mine"), "guest has no right to read"),
        (lambda: guest.get_or_set("mine", lambda: b"mine"), "guest has no right to read"),
        (lambda: guest.set("mine", b"x"), "guest has no right to write in namespace closed"),
        (lambda: guest.delete("shared/a"), "guest has no right to delete in namespace closed and has read, write"),
        (lambda: stranger.get("shared/a"), "a client without a key has no right to read"),
    ):
        with pytest.raises(PermissionDenied, match=words):
            await denied()
    assert await owner.get("mine") == SECRET
    assert set((await owner.scan()).keys) == {"mine", "shared/a", "shared/b"}
    assert set((await guest.scan("shared/")).keys) == {"shared/a", "shared/b"}
    for client, prefix in ((guest, ""), (guest, "share"), (guest, "mine"), (stranger, "shared/")):
        with pytest.raises(PermissionDenied, match="no right to read in namespace closed"):
            await client.scan(prefix)
        with pytest.raises(PermissionDenied, match="no right to read in namespace closed"):
            await client.watch(prefix).next(20)
    # What is not closed is as open as ever.
    await guest.within("default").set("k", b"v")
    assert await stranger.within("default").get("k") == b"v"


@pytest.mark.attack
@pytest.mark.parametrize("who", ["guest", "", "busy"])
async def test_a_node_gives_nothing_to_whoever_asks_by_hand(cluster: LocalCluster, who: str) -> None:
    """A client of one's own, that does not ask itself first, and then one message after another."""
    configuration = cluster.configuration
    key: SigningKey | None = cluster.writers.get(who)
    slot = slot_of(b"closed", b"mine")
    digest = configuration.digest
    requests: list[m.Request] = [
        m.Read(1, digest, [slot], 0, 1),
        m.Read(2, digest, [slot_of(b"default", b"k"), slot], 0, 0),
        m.ReadFull(3, digest, [slot]),
        m.Outline(4, digest, slot),
        m.Witness(40, digest, slot, bytes(32)),
        m.Fields(5, digest, slot, b"\0", b"", b""),
        *(
            m.Scan(500 + i, digest, configuration.shard_groups[0].id, b"closed", prefix, m.Position(0), 9)
            for i, prefix in enumerate((b"", b"m", b"mine", b"share"))
        ),
        *(
            m.Changes(600 + i, digest, b"closed", prefix, whole, 0, 0)
            for i, (prefix, whole) in enumerate(((b"", False), (b"m", False), (b"mine", True), (b"share", False)))
        ),
        *(m.Report(6 + shard, digest, shard, b"") for shard in range(configuration.shards)),
    ]
    async with aiohttp.ClientSession() as http:
        websocket, channel = await open_session(http, configuration, key)
        for request in requests:
            await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(request)])))
            payload = channel.opener.open((await websocket.receive()).data)
            assert SECRET not in payload
            (reply,) = codec.decode_replies(payload)
            assert isinstance(reply, m.Reject)
            assert reply.code == m.NOT_ALLOWED
        await websocket.close()
    node = cluster.node(0)
    assert sum(node.node.denied_counts.values()) == len(requests)
    told = node.status()["denied"]
    assert told[f"{who or 'a client without a key'}: read"] == 14


@pytest.mark.attack
async def test_a_session_has_the_rights_of_the_key_that_it_proved_and_no_others(cluster: LocalCluster) -> None:
    """A proven key stays with its session, also where another's session comes and goes beside it."""
    configuration, slot = cluster.configuration, slot_of(b"closed", b"mine")
    request = codec.join([codec.encode(m.ReadFull(1, configuration.digest, [slot]))])
    async with aiohttp.ClientSession() as http:
        sessions = [await open_session(http, configuration, cluster.writers.get(who)) for who in ("guest", "owner", "")]
        for (websocket, channel), may in [*zip(sessions, (False, True, False), strict=True)] * 2:
            await websocket.send_bytes(channel.sealer.seal(request))
            assert (SECRET in channel.opener.open((await websocket.receive()).data)) == may
        for websocket, _ in sessions:
            await websocket.close()


@pytest.mark.attack
async def test_limits_of_a_writer_hold_it_back_and_nobody_else(cluster: LocalCluster) -> None:
    busy = await cluster.client("busy", namespace="closed")
    with pytest.raises(PermissionDenied, match="values of the writer busy have at most 100 bytes"):
        await busy.set("k", bytes(101))
    start_s = time.monotonic()
    await busy.set_many({f"k{i}": b"v" for i in range(100)})
    assert time.monotonic() - start_s > 0.8, "50 at once, and 50 more take a second"
    with pytest.raises(PermissionDenied, match="the writer busy is at its limit of 100 keys"):
        await busy.set("one more", b"v")
    await busy.set("k7", b"again")
    owner = await cluster.client("owner", namespace="closed")
    await owner.set_many({f"o{i}": bytes(200) for i in range(200)})
    assert cluster.node(0).status()["denied"]["busy: limit"] > 0


@pytest.mark.attack
async def test_the_http_api_has_the_rights_of_its_key(cluster: LocalCluster) -> None:
    guest = await cluster.client("guest", namespace="closed")
    gateway = HttpGateway(guest, host="127.0.0.1", port=0)
    await gateway.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as http:
            for method, key, status in (
                ("GET", "shared/a", 200),
                ("GET", "mine", 403),
                ("PUT", "mine", 403),
                ("PUT", "shared/c", 204),
                ("DELETE", "shared/c", 403),
            ):
                body = b"v" if method == "PUT" else None
                async with http.request(method, f"/v1/closed/{key}", data=body) as response:
                    text = await response.text()
                    assert response.status == status, (method, key, text)
                    assert SECRET.decode() not in text
                    if status == 403:
                        assert "guest has no right to" in text
    finally:
        await gateway.stop()


async def test_recovery_still_gets_everything(cluster: LocalCluster) -> None:
    """Nodes hold what nobody else may read, and so they may ask each other for it."""
    assert len(cluster.node(1).node.slots.current) == 2
    reader = m.Report(1, cluster.configuration.digest, 0, b"")
    node_key = cluster._keys[1]
    async with aiohttp.ClientSession() as http:
        websocket, channel = await open_session(http, cluster.configuration, node_key)
        await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(reader)])))
        (reply,) = codec.decode_replies(channel.opener.open((await websocket.receive()).data))
        assert isinstance(reply, m.ReportReply)
        await websocket.close()


@pytest.mark.attack
async def test_rights_and_limits_hold_for_fields_too() -> None:
    """Elements of sets are fields: each added is a write, each removed a delete, and they are counted."""
    spaces = (NamespaceInfo("tags", type="set", writers=("owner",)),)
    rights = (RightInfo(("guest",), "tags", ("write",), "open/"), RightInfo(("busy",), "tags", ("write",)))
    limits = {"busy": Limits(fields_max=3)}
    async with LocalCluster(namespaces=spaces, rights=rights, limits=limits, writers=WRITERS) as cluster:
        owner, guest, busy = [await cluster.client(who, namespace="tags") for who in WRITERS]
        await guest.set_("open/a").add("x", "y")
        with pytest.raises(PermissionDenied, match="guest has no right to write in namespace tags"):
            await guest.set_("closed").add("x")
        with pytest.raises(PermissionDenied, match="guest has no right to delete in namespace tags"):
            await guest.set_("open/a").remove("x")
        await owner.set_("open/a").remove("x")
        assert await guest.set_("open/a").members() == {"y"}
        for element in ("1", "2", "3"):
            await busy.set_("s").add(element)
        with pytest.raises(PermissionDenied, match="the writer busy is at its limit of 3 fields"):
            await busy.set_("s").add("4")
        assert await owner.set_("s").members() == {"1", "2", "3"}
