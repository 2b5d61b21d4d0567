"""Attacks on real sockets (docs/threat-model.md): floods, bombs, hoards and forgeries, by strangers, writers and nodes.

Each tries the attack and then uses the cluster as anybody would. Bounds are lowered where the real ones would only take
longer to reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from quorumcache.client import Client
from quorumcache.core import messages as m
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.evidence import Equivocation, SignedHeader
from quorumcache.core.model import slot_of
from quorumcache.net import listening
from quorumcache.net.audit import Auditor
from quorumcache.net.peers import Peers
from quorumcache.testing import LocalCluster
from quorumcache.wire import codec
from quorumcache.wire.handshake import Channel
from quorumcache.wire.keys import SigningKey
from tests.making import Draft
from tests.raw import open_session, websocket_to

SLOT = slot_of(b"default", b"k")
_ids = itertools.count(1)


async def works(cluster: LocalCluster, writer: str = "default") -> None:
    """A client that was never there before connects, writes and reads."""
    async with await cluster.client(writer) as client:
        value = b"%d" % next(_ids)
        await client.set("works", value)
        assert await client.get("works") == value


@contextlib.asynccontextmanager
async def raw(
    cluster: LocalCluster, key: SigningKey | None = None
) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, Channel]]:
    """A session with node 0 by hand."""
    async with aiohttp.ClientSession() as http:
        websocket, channel = await open_session(http, cluster.configuration, key)
        yield websocket, channel
        await websocket.close()


async def ask(session: tuple[aiohttp.ClientWebSocketResponse, Channel], request: m.Request) -> m.Reply:
    """One request, one reply."""
    websocket, channel = session
    await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(request)])))
    (reply,) = codec.decode_replies(channel.opener.open((await websocket.receive()).data))
    return reply


async def ended(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """The node ends this session."""
    message = await websocket.receive(timeout=20)
    assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)


def draft_of(cluster: LocalCluster, writer: str, key: str = "k", value: bytes = b"v", *, at_us: int) -> Draft:
    """A batch of one, by hand."""
    draft = Draft(cluster.configuration)
    draft.key = cluster.writers[writer]
    return draft.put(value=value, at_us=at_us, slot_bytes=slot_of(b"default", key.encode()))


async def clock_us(cluster: LocalCluster) -> int:
    return int((await cluster.status(0))["clock_us"])


async def everywhere(cluster: LocalCluster, key: SigningKey | None, request: m.Request) -> dict[int, m.Reply]:
    """Every node's answer to one request."""
    replies: dict[int, m.Reply] = {}
    async with Peers(cluster.configuration, range(4), key) as peers:
        peers.on_reply = lambda node, reply: replies.__setitem__(node, reply)
        assert await peers.up(4, wait_s_max=10.0) == 4
        peers.send([((0, 1, 2, 3), request)])
        async with asyncio.timeout(20):
            while len(replies) < 4:
                await peers.heard(5.0)
    return replies


# --- connections and sessions ---


@pytest.mark.attack
async def test_connections_that_never_finish_a_request_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow-loris: a byte of a request's head now and then keeps no connection for longer than it may take."""
    monkeypatch.setattr(listening, "HEAD_S_MAX", 0.3)
    async with LocalCluster(tls=False) as cluster:
        host, _, port = cluster.configuration.nodes[0].address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(20):
            with contextlib.suppress(OSError):
                for byte in itertools.cycle(b"GET / HTTP/1.1\r\nX: "):
                    if reader.at_eof():
                        break
                    writer.write(bytes((byte,)))
                    await asyncio.sleep(0.02)
        writer.close()
        await works(cluster)


@pytest.mark.attack
async def test_of_too_many_silent_connections_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "SILENT_MAX", 8)
    async with LocalCluster(tls=False) as cluster:
        host, _, port = cluster.configuration.nodes[0].address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(24)]
        async with asyncio.timeout(20):
            for reader, _ in silent[:16]:
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read(1) == b""
        await works(cluster)
        for _, writer in silent:
            writer.close()


@pytest.mark.attack
async def test_of_too_many_sessions_that_never_open_the_oldest_go() -> None:
    """Sessions without a Hello: whoever connects meanwhile, opens."""
    async with LocalCluster() as cluster, aiohttp.ClientSession() as http:
        server = cluster.node(0).server
        server._admission._openings_max = 4
        silent = [(await websocket_to(http, cluster.configuration))[0] for _ in range(12)]
        await works(cluster)
        assert server._admission.given_up_count >= 8
        for websocket in silent:
            await websocket.close()


@pytest.mark.attack
async def test_strangers_leave_half_of_the_sessions_to_those_with_keys() -> None:
    async with LocalCluster() as cluster, aiohttp.ClientSession() as http:
        server = cluster.node(0).server
        server._admission._sessions_max = 16
        taken = [(await open_session(http, cluster.configuration))[0] for _ in range(8)]
        with pytest.raises(AssertionError):
            await open_session(http, cluster.configuration)
        async with await cluster.client() as client:
            await client.set("k", b"v")
            assert not client.unreachable
        for websocket in taken:
            await websocket.close()


@pytest.mark.attack
async def test_one_key_cannot_take_all_sessions() -> None:
    async with LocalCluster(writers=("default", "greedy")) as cluster, aiohttp.ClientSession() as http:
        cluster.node(0).server._admission._sessions_max = 16
        key = cluster.writers["greedy"]
        taken = [(await open_session(http, cluster.configuration, key))[0] for _ in range(4)]
        with pytest.raises(AssertionError):
            await open_session(http, cluster.configuration, key)
        async with await cluster.client() as client:
            await client.set("k", b"v")
            assert not client.unreachable
        for websocket in taken:
            await websocket.close()


# --- frames ---


@pytest.mark.attack
async def test_a_giant_frame_ends_its_session() -> None:
    async with LocalCluster() as cluster:
        async with raw(cluster) as (websocket, _):
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await websocket.send_bytes(bytes(20 << 20))
            await ended(websocket)
        await works(cluster)


@pytest.mark.attack
@pytest.mark.parametrize("stated", [64, 12 << 20, (1 << 32) - 1])
async def test_a_decompression_bomb_ends_its_session(stated: int) -> None:
    """100 MiB of zeros in 100 KiB: inflated to the stated length at most, which has a bound."""
    deflate = zlib.compressobj(9)
    body = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(100)) + deflate.flush()
    async with LocalCluster() as cluster:
        async with raw(cluster) as (websocket, _):
            await websocket.send_bytes(b"\1" + stated.to_bytes(4, "big") + body)
            await ended(websocket)
        await works(cluster)


@pytest.mark.attack
@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdc\xff\xff" + b"\x91" * 1000,
        b"\x91" * 200_000,
        b"\x91\x92\x0c\xc6\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
    ],
)
async def test_payloads_that_claim_to_be_huge_or_deep_end_their_session(payload: bytes) -> None:
    async with LocalCluster() as cluster:
        async with raw(cluster) as (websocket, channel):
            await websocket.send_bytes(channel.sealer.seal(payload))
            await ended(websocket)
        await works(cluster)


# --- what a valid key allows ---


@pytest.mark.attack
async def test_keys_of_one_shard_and_one_bucket_slow_nobody_down() -> None:
    """Hash flooding: CRC-32 is no secret, so anybody can find keys of one shard. They are all there, in pages."""
    async with LocalCluster(shards=64) as cluster, await cluster.client() as client:
        configuration = cluster.configuration
        wanted = configuration.shard_of(slot_of(b"default", b"0"))
        keys = [
            key
            for key in map(str, range(64_000))
            if configuration.shard_of(slot_of(b"default", key.encode())) == wanted
        ][:900]
        assert len(keys) == 900
        await client.set_many(dict.fromkeys(keys, b"v"))
        await works(cluster)
        listed = await client.scan(limit=2000)
        assert set(keys) <= set(listed.keys)


@pytest.mark.attack
@pytest.mark.slow
async def test_a_writer_that_fills_memory_takes_it_from_its_own_namespace() -> None:
    """A quota: what one namespace may take, others keep; and the node stays within its memory."""
    spaces = (NamespaceInfo("evil", writers=("evil",), quota_bytes=1 << 20),)
    async with LocalCluster(
        writers=("default", "evil"), namespaces=spaces, bytes_max=8 << 20, max_skew=0.05
    ) as cluster:
        async with await cluster.client("default") as client, await cluster.client("evil", namespace="evil") as evil:
            await client.set_many({f"k{i}": bytes(1000) for i in range(200)})
            for turn in range(4):
                with contextlib.suppress(Exception):
                    await evil.set_many({f"{turn} {i}": bytes(60_000) for i in range(20)})
            found = await client.get_many([f"k{i}" for i in range(200)])
            assert len(found) == 200
        for index in range(4):
            status = await cluster.status(index)
            assert status["bytes_used"] <= 8 << 20
            assert status["pools"]["evil"]["bytes_used"] <= 1 << 20


@pytest.mark.attack
async def test_promises_that_are_never_kept_block_nobody() -> None:
    """Prepares without commits: a few open per writer and slot, then BUSY; others go on."""
    async with LocalCluster(writers=("default", "evil")) as cluster:
        now_us = await clock_us(cluster)
        async with raw(cluster, cluster.writers["evil"]) as session:
            codes = []
            for number in range(8):
                draft = draft_of(cluster, "evil", "works", at_us=now_us + number)
                reply = await ask(session, draft.prepare(next(_ids)))
                assert isinstance(reply, m.PrepareReply)
                codes.append(reply.refusals[0].code if reply.refusals else 0)
        assert codes == [0, 0, 0, 0, m.BUSY, m.BUSY, m.BUSY, m.BUSY]
        await works(cluster)


@pytest.mark.attack
async def test_a_stamp_of_the_far_future_is_refused_everywhere() -> None:
    """Clock lies of a writer: it would win over everybody for an hour."""
    async with LocalCluster(writers=("default", "evil")) as cluster:
        draft = draft_of(cluster, "evil", "works", at_us=await clock_us(cluster) + 3_600_000_000)
        replies = await everywhere(cluster, cluster.writers["evil"], draft.prepare(next(_ids)))
        assert [reply.refusals[0].code for reply in replies.values()] == [m.AHEAD] * 4  # type: ignore[attr-defined]
        await works(cluster)


@pytest.mark.attack
async def test_a_certificate_with_made_up_grants_is_rejected_everywhere() -> None:
    async with LocalCluster(writers=("default", "evil")) as cluster:
        draft = draft_of(cluster, "evil", "works", at_us=await clock_us(cluster))
        forged = draft.commit(next(_ids))  # Its grants are signed by keys that are not the nodes'.
        replies = await everywhere(cluster, cluster.writers["evil"], forged)
        assert all(isinstance(reply, m.Reject) for reply in replies.values())
        await works(cluster)


@pytest.mark.attack
async def test_a_batch_that_hides_anothers_header_is_rejected() -> None:
    """A header whose stamp names another writer, in a batch that the attacker signs; and a slot twice."""
    async with LocalCluster(writers=("default", "evil")) as cluster:
        now_us = await clock_us(cluster)
        draft, other = (draft_of(cluster, name, at_us=now_us) for name in ("evil", "default"))
        draft.headers += other.headers
        twice = draft_of(cluster, "evil", at_us=now_us)
        twice.headers.append(draft_of(cluster, "evil", at_us=now_us + 1).headers[0])
        async with raw(cluster, cluster.writers["evil"]) as session:
            for batch in (draft, twice):
                reply = await ask(session, batch.prepare(next(_ids)))
                assert isinstance(reply, m.Reject)
                assert reply.code == m.BAD_FORM
        await works(cluster)


@pytest.mark.attack
async def test_an_intent_that_somebody_else_passes_on_gives_nothing_away() -> None:
    """Anyone may show a node what a writer signed: it is promised once, and its value is its writer's to commit."""
    async with LocalCluster(writers=("default", "evil")) as cluster:
        draft = draft_of(cluster, "default", "works", b"secret", at_us=await clock_us(cluster))
        async with raw(cluster, cluster.writers["evil"]) as session:
            first, second = [await ask(session, draft.prepare(next(_ids))) for _ in range(2)]
            assert isinstance(first, m.PrepareReply)
            assert isinstance(second, m.PrepareReply)
            assert first.signature == second.signature
            spoiled = draft_of(cluster, "default", "works", b"other!", at_us=await clock_us(cluster))
            reply = await ask(session, msgspec.structs.replace(spoiled.prepare(9), signature=bytes(64)))
            assert isinstance(reply, m.Reject)
            assert reply.code == m.BAD_SIGNATURE
        await works(cluster)
        findings = await Auditor(cluster.configuration, None, timeout_s=10.0).run()
        assert not findings.proofs


@pytest.mark.attack
async def test_an_old_entry_that_is_committed_again_stays_old() -> None:
    """Replaying what was once true, with its valid certificate."""
    async with LocalCluster() as cluster, await cluster.client() as client:
        await client.set("k", b"old")
        async with raw(cluster) as session:
            reply = await ask(session, m.ReadFull(next(_ids), cluster.configuration.digest, [SLOT]))
            assert isinstance(reply, m.ReadFullReply)
            entry = reply.answers[0].entry
            assert entry is not None
            await client.set("k", b"new")
            item = m.Item(entry.position, entry.header, entry.salted, entry.path)
            bundle = m.Bundle(entry.certificate, b"", [item])
            await ask(session, m.Commit(next(_ids), cluster.configuration.digest, [bundle]))
        assert await client.get("k") == b"new"
        await client.delete("k")
        async with raw(cluster) as session:
            await ask(session, m.Commit(next(_ids), cluster.configuration.digest, [bundle]))
        assert await client.get("k") is None


# --- floods ---


async def flood(client: Client, stop: asyncio.Event, batch: dict[str, bytes]) -> None:
    while not stop.is_set():
        with contextlib.suppress(Exception):
            await client.set_many(batch)
            await client.get_many(list(batch))


@pytest.mark.attack
@pytest.mark.slow
async def test_whoever_floods_waits_and_others_do_not() -> None:
    """Rights for one namespace, many sessions, full batches: the attacker's sessions wait for their turns at the nodes;
    the other writer's do not, and all that it does succeeds."""
    spaces = (NamespaceInfo("evil", writers=("evil",)),)
    async with LocalCluster(writers=("default", "evil"), namespaces=spaces) as cluster:
        attackers = [await cluster.client("evil", namespace="evil") for _ in range(6)]
        stop = asyncio.Event()
        tasks = [
            asyncio.create_task(flood(client, stop, {f"{number} {i}": b"x" * 50 for i in range(200)}))
            for number, client in enumerate(attackers)
        ]
        async with await cluster.client("default") as client:
            for number in range(10):
                await client.set("k", b"%d" % number)
                assert await client.get("k") == b"%d" % number
        stop.set()
        await asyncio.gather(*tasks)
        evil, good = cluster.writers["evil"].public, cluster.writers["default"].public
        waited = [cluster.node(index).server.turns.waited_counts for index in range(4)]
        assert any(counts.get(evil) for counts in waited)
        assert 10 * sum(counts.get(good, 0) for counts in waited) < sum(counts.get(evil, 0) for counts in waited)


@pytest.mark.attack
@pytest.mark.slow
async def test_a_reader_that_asks_for_everything_gets_bounded_replies() -> None:
    """All values again and again, by a stranger: each reply has a bound, and others are served in between."""
    async with LocalCluster() as cluster, await cluster.client() as client:
        await client.set_many({f"k{i}": bytes(100_000) for i in range(100)})
        slots = [slot_of(b"default", b"k%d" % i) for i in range(100)]
        async with raw(cluster) as (websocket, channel):
            for number in range(20):
                request = m.Read(number, cluster.configuration.digest, slots, 0, 100)
                await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(request)])))
            for number in range(5):
                await client.set("k", b"%d" % number)
                assert await client.get("k") == b"%d" % number
            for _ in range(20):
                payload = channel.opener.open((await websocket.receive(timeout=20)).data)
                assert len(payload) < m.REPLY_VALUES_BYTES_MAX + (1 << 20)


@pytest.mark.attack
async def test_a_node_that_floods_its_peers_gets_its_share_and_no_more() -> None:
    """With a node's key: reports and lists of all shards, over and over."""
    async with LocalCluster() as cluster:
        key = cluster._keys[3]
        digest, shards = cluster.configuration.digest, cluster.configuration.shards
        async with raw(cluster, key) as (websocket, channel):
            for _ in range(30):
                requests = [m.Report(next(_ids), digest, shard) for shard in range(shards)]
                requests += [m.ShardList(next(_ids), digest, shard) for shard in range(shards)]  # type: ignore[arg-type]
                await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(r) for r in requests])))
            await works(cluster)


@pytest.mark.attack
async def test_a_flood_of_questions_for_signatures_is_one_among_others() -> None:
    """Signing is the dearest answer there is; strangers may ask for it."""
    async with LocalCluster() as cluster:
        digest = cluster.configuration.digest
        async with raw(cluster) as (websocket, channel):
            for _ in range(10):
                requests = [m.Witness(next(_ids), digest, SLOT, bytes(32)) for _ in range(250)]
                await websocket.send_bytes(channel.sealer.seal(codec.join([codec.encode(r) for r in requests])))
            await works(cluster)


# --- accountability ---


@pytest.mark.attack
async def test_a_node_that_hands_out_false_proofs_convicts_nobody() -> None:
    async with LocalCluster(writers=("default", "good")) as cluster:
        drafts = [draft_of(cluster, "good", value=value, at_us=1) for value in (b"1", b"2")]
        parts = [SignedHeader(d.headers[0], d.group, 1, 0, b"", bytes(64)) for d in drafts]
        node = cluster.node(1).node
        node.evidence.append(Equivocation(cluster.configuration.digest, parts[0], parts[1]))
        findings = await Auditor(cluster.configuration, None, timeout_s=10.0).run(probe=True)
        assert not findings.proofs
        assert [text for text in findings.troubles if text.startswith("n1 ")]
