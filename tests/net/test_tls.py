"""TLS on real sockets: a node is its key; whoever stands between learns nothing and can say nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration, warnings_of
from quorumcache.errors import PermissionDenied
from quorumcache.net import tls
from quorumcache.net.survey import survey
from quorumcache.net.tls import NodePin, certificate_of, server_context
from quorumcache.node import RunningNode
from quorumcache.testing import LocalCluster
from quorumcache.wire.founding import Founded, found_cluster
from quorumcache.wire.handshake import proof
from quorumcache.wire.keys import SigningKey
from tests.raw import open_session, opening_for, websocket_to

STRANGER = SigningKey(bytes(range(32)))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds that happens in the background; 5 seconds at most."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


@dataclass
class Own:
    """A cluster whose first node's address is the test's: `nodes` run, the first of them at a port of its own."""

    founded: Founded
    nodes: list[RunningNode]

    @property
    def signed(self) -> SignedConfiguration:
        return self.founded.signed

    @property
    def writer(self) -> SigningKey:
        return self.founded.writers["default"]

    async def problem(self) -> str:
        """What a client says of the first node, where it can use the other three; checks that it can."""
        async with await Client.connect(self.signed, key=self.writer, timeout=5) as client:
            await client.set("k", b"v")
            assert await client.get("k") == b"v"
            await until(lambda: client.unreachable["n0"] != "not connected yet")
            return client.unreachable["n0"]


@asynccontextmanager
async def own_cluster(port: int, *, encrypted: bool = True) -> AsyncIterator[Own]:
    """A cluster whose configuration says that node 0 is at this port."""
    with ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [port, *(place.getsockname()[1] for place in places)]
    founded = found_cluster(addresses=[f"127.0.0.1:{p}" for p in ports], max_skew_us=50_000, shards=8, tls=encrypted)
    nodes = [RunningNode(founded.configuration, key, port=None if i else 0) for i, key in enumerate(founded.nodes)]
    try:
        for node in nodes:
            await node.start()
        await asyncio.sleep(0.1)
        yield Own(founded, nodes)
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))


@asynccontextmanager
async def listening(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of the test's on loopback, for one connection after another; gives its port."""
    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield running.sockets[0].getsockname()[1]
    finally:
        running.close()


class Between:
    """Somebody on the way to a node: passes bytes on, keeps a copy, and may alter what goes to the node."""

    def __init__(self) -> None:
        self.seen = bytearray()
        self.connections = 0
        self.port = 0
        self.alter: Callable[[bytes], bytes] = bytes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one connection and open another to the node."""
        self.connections += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._pass(reader, there_writer, True), self._pass(there_reader, writer, False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_node: bool) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.seen += data
                writer.write(self.alter(data) if to_node else data)
                await writer.drain()
        except OSError:
            pass  # One of the two went away: so does the other.
        finally:
            writer.close()


class Impostor:
    """Answers at a node's address, over TLS with whatever certificate; keeps what it is told."""

    def __init__(self) -> None:
        self.told = bytearray()
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take what comes."""
        self.connections += 1
        try:
            while data := await reader.read(1 << 16):
                self.told += data
        except OSError:
            pass  # Reset: the client was not polite, and need not be.
        finally:
            writer.close()


# --- who stands between ---


@pytest.mark.attack
async def test_whoever_passes_bytes_on_sees_nothing() -> None:
    between = Between()
    async with listening(between.serve) as port, own_cluster(port) as own:
        assert own.signed.configuration.tls, "TLS is the default"
        between.port = own.nodes[0].server.port
        async with await Client.connect(own.signed, key=own.writer) as client:
            await until(lambda: not client.unreachable)
            await client.set("a key that is secret", b"a value that is secret" * 10)
            assert await client.get("a key that is secret") == b"a value that is secret" * 10
        assert len(between.seen) > 1000
        for word in (b"secret", b"/v1/session", b"default", own.writer.public):
            assert word not in between.seen


@pytest.mark.attack
async def test_whoever_alters_a_byte_ends_a_connection_and_no_more() -> None:
    between = Between()
    async with listening(between.serve) as port, own_cluster(port) as own:
        between.port = own.nodes[0].server.port
        async with await Client.connect(own.signed, key=own.writer) as client:
            await until(lambda: not client.unreachable)
            between.alter = lambda data: data[:-1] + bytes((data[-1] ^ 1,))
            await client.set("k", b"v")
            between.alter = bytes
            await until(lambda: not client.unreachable and between.connections > 1)
            assert await client.get("k") == b"v"
            assert not client.counts["lies_rejected"]


@pytest.mark.attack
async def test_whoever_ends_tls_with_a_key_of_its_own_is_told_nothing() -> None:
    """The message names the key that was expected and the one that was shown."""
    impostor = Impostor()
    context = server_context(STRANGER, certificate_of(STRANGER))
    async with listening(impostor.serve, context) as port, own_cluster(port) as own:
        problem = await own.problem()
        node_key = own.signed.configuration.nodes[0].key
        assert f"it showed the key {STRANGER.public.hex()}" in problem
        assert f"names {node_key.hex()} for n0" in problem
        report = (await survey(own.signed.configuration, timeout_s=5))[0]
        assert report.status is None
        assert STRANGER.public.hex() in report.problem
    assert impostor.connections >= 2
    assert not impostor.told, "a client spoke before it knew to whom"


@pytest.mark.attack
async def test_a_node_at_another_nodes_address_is_not_that_node() -> None:
    between = Between()
    async with listening(between.serve) as port, own_cluster(port) as own:
        between.port = own.nodes[1].server.port
        problem = await own.problem()
        assert f"it showed the key {own.signed.configuration.nodes[1].key.hex()}" in problem
        assert own.nodes[1].server.sessions_refused_count == 0, "it did not even come to a session"


async def test_a_pin_that_the_library_forgets_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodePin, "check", lambda *_: None)
    between = Between()
    async with listening(between.serve) as port, own_cluster(port) as own:
        between.port = own.nodes[1].server.port
        assert "it showed the key" in await own.problem()
        assert own.nodes[1].server.sessions_refused_count == 0, "it was told the client's key"


def _elliptic(_: SigningKey, directory: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "n0")])
    day = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(day.replace(year=2020)).not_valid_after(day)
    pem = directory / "node.pem"
    plain = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(plain + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def _old_version(key: SigningKey, _: Path) -> ssl.SSLContext:
    context = server_context(key, certificate_of(key))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


@pytest.mark.attack
@pytest.mark.parametrize(
    ("make", "words"),
    [(_elliptic, "it showed no ed25519 key"), (_old_version, "has TLSv1.2, and TLS 1.3 is needed")],
    ids=["another kind of key", "TLS 1.2 with the right key"],
)
async def test_no_less_will_do(make: Callable[[SigningKey, Path], ssl.SSLContext], words: str, tmp_path: Path) -> None:
    impostor = Impostor()
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    async with own_cluster(port) as own:
        running = await asyncio.start_server(
            impostor.serve, "127.0.0.1", port, ssl=make(own.founded.nodes[0], tmp_path)
        )
        try:
            assert words in await own.problem()
        finally:
            running.close()
    assert not impostor.told


async def test_dates_of_certificates_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients need no exact clock, and a key ends with the configuration that names it."""
    past = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC)
    monkeypatch.setattr(tls, "_NOT_AFTER", past)
    async with LocalCluster() as cluster, await cluster.client() as client:
        await client.set("k", b"v")
        assert await client.get("k") == b"v"


async def test_each_start_has_a_certificate_of_its_own() -> None:
    async with LocalCluster() as cluster, aiohttp.ClientSession() as http:
        bindings = set()
        for _ in range(2):
            websocket, binding = await websocket_to(http, cluster.configuration)
            await websocket.close()
            bindings.add(binding)
            await cluster.restart(0)
        assert len(bindings) == 2


# --- with and without ---


async def test_a_client_without_tls_at_a_node_with_it_is_told_so() -> None:
    between = Between()
    async with listening(between.serve) as port, own_cluster(port, encrypted=False) as own:
        plain = RunningNode(dataclasses.replace(own.founded.configuration, tls=True), own.founded.nodes[0], port=0)
        await plain.start()
        between.port = plain.server.port
        try:
            assert "it works under another configuration, with tls = true" in await own.problem()
        finally:
            await plain.stop()


async def test_a_client_with_tls_at_a_node_without_it_is_told_so() -> None:
    between = Between()
    async with listening(between.serve) as port, own_cluster(port) as own:
        plain = RunningNode(dataclasses.replace(own.founded.configuration, tls=False), own.founded.nodes[0], port=0)
        await plain.start()
        between.port = plain.server.port
        try:
            assert "it works under another configuration, with tls = false" in await own.problem()
        finally:
            await plain.stop()


async def test_without_tls_a_cluster_works_and_says_what_that_means() -> None:
    async with LocalCluster(tls=False) as cluster, await cluster.client() as client:
        await client.set("k", b"v")
        assert await client.get("k") == b"v"
        assert warnings_of(cluster.configuration) == [], "on loopback there is nothing to warn of"
        remote = found_cluster(host="192.0.2.7", tls=False).configuration
        assert "keys and values travel readable" in warnings_of(remote)[0]
        assert warnings_of(found_cluster(host="192.0.2.7").configuration) == []


# --- clients ---


@pytest.mark.attack
async def test_a_key_that_the_cluster_does_not_know_is_refused_by_name() -> None:
    async with LocalCluster() as cluster:
        with pytest.raises(PermissionDenied, match=STRANGER.public.hex()):
            await cluster_client(cluster, STRANGER)
        # A node says so too, to whoever does not ask itself first.
        async with aiohttp.ClientSession() as http:
            websocket, binding = await websocket_to(http, cluster.configuration)
            opening = opening_for(cluster.configuration, binding, key=STRANGER)
            await websocket.send_bytes(opening.hello)
            refused = opening.finish((await websocket.receive()).data)
            await websocket.close()
        assert f"the key {STRANGER.public.hex()} is none of the 1 writers' of epoch 1" in getattr(refused, "detail", "")
        assert cluster.node(0).server.sessions_refused_count == 1


async def cluster_client(cluster: LocalCluster, key: SigningKey) -> None:
    """Connect with a key, and leave."""
    await (await Client.connect(cluster.signed, key=key, timeout=2)).close()


@pytest.mark.attack
@pytest.mark.parametrize("encrypted", [True, False], ids=["TLS", "no TLS"])
async def test_naming_a_writers_key_without_having_it_ends_the_session(encrypted: bool) -> None:
    async with LocalCluster(tls=encrypted) as cluster, aiohttp.ClientSession() as http:
        writer = next(iter(cluster.writers.values()))
        websocket, binding = await websocket_to(http, cluster.configuration)
        opening = opening_for(cluster.configuration, binding, key=writer)
        await websocket.send_bytes(opening.hello)
        opened = opening.finish((await websocket.receive()).data)
        assert isinstance(opened, tuple)
        await websocket.send_bytes(proof(opened[0], STRANGER.sign))
        closed = await websocket.receive()
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert f"did not prove its key {writer.public.hex()}" in str(closed.extra)
        assert cluster.node(0).server.sessions_refused_count == 1
        # Nor is a proof from another session one, even of the very same client and node.
        other, channel = await open_session(http, cluster.configuration, writer)
        again, binding = await websocket_to(http, cluster.configuration)
        opening = opening_for(cluster.configuration, binding, key=writer)
        await again.send_bytes(opening.hello)
        assert isinstance(opening.finish((await again.receive()).data), tuple)
        await again.send_bytes(proof(channel, writer.sign))
        assert (await again.receive()).type is aiohttp.WSMsgType.CLOSE
        await other.close()


@pytest.mark.attack
async def test_a_client_that_never_proves_its_key_loses_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorumcache.net.server.HELLO_S_MAX", 0.1)
    async with LocalCluster() as cluster, aiohttp.ClientSession() as http:
        writer = next(iter(cluster.writers.values()))
        websocket, binding = await websocket_to(http, cluster.configuration)
        opening = opening_for(cluster.configuration, binding, key=writer)
        await websocket.send_bytes(opening.hello)
        assert isinstance(opening.finish((await websocket.receive()).data), tuple)
        closed = await websocket.receive()
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert "silent for too long" in str(closed.extra)


# --- junk ---


@pytest.mark.attack
async def test_junk_below_tls_harms_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Random bytes, records that lie about their length, hellos cut short, and silence: all end, nothing is kept."""
    monkeypatch.setattr(tls, "HANDSHAKE_S_MAX", 0.5)
    randomness = random.Random(11)
    async with LocalCluster() as cluster, await cluster.client() as client:
        host, _, port = cluster.configuration.nodes[0].address.rpartition(":")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with pytest.raises(ssl.SSLWantReadError):
            context.wrap_bio(incoming, outgoing).do_handshake()
        hello = outgoing.read()
        junk = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(50), hello[:-7], hello + b"\0" * 99]
        junk += [randomness.randbytes(randomness.randrange(1, 3000)) for _ in range(20)]
        for _ in range(20):
            altered = bytearray(hello)
            altered[randomness.randrange(len(hello))] ^= randomness.randrange(1, 256)
            junk.append(bytes(altered))

        async def throw(data: bytes) -> None:
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(data)
                async with asyncio.timeout(5):
                    while await reader.read(1 << 16):
                        pass
            except ConnectionResetError:
                pass  # As good an end as any.
            finally:
                writer.close()

        await asyncio.gather(*(throw(data) for data in junk))
        await client.set("k", b"v")
        assert await client.get("k") == b"v"
        assert cluster.node(0).server.sessions_count == 1
        assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.attack
async def test_a_certificate_that_is_none_is_no_key() -> None:
    """Whatever a peer shows as a certificate, the answer is a key or none."""
    randomness = random.Random(5)
    whole = certificate_of(STRANGER).public_bytes(serialization.Encoding.DER)
    assert tls._key_in(whole) == STRANGER.public
    for data in (None, b"", os.urandom(5000), whole + b"\0", whole[:-1]):
        assert tls._key_in(data) is None
    for _ in range(500):
        altered = bytearray(whole)
        altered[randomness.randrange(len(whole))] ^= randomness.randrange(1, 256)
        found = tls._key_in(bytes(altered))
        assert found is None or len(found) == 32
