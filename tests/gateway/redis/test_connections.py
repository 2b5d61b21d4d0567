"""Connections: pipelines, transactions, messages, who may come in, and bounds on those who mean no good."""

from __future__ import annotations

import asyncio
import random
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.asyncio import Redis

from quorumcache.client import Client
from quorumcache.errors import Misuse
from quorumcache.gateway.redis import RedisGateway, Settings, running
from quorumcache.gateway.redis.session import CALLS_MAX, QUEUE_MAX, SUBSCRIPTIONS_MAX
from quorumcache.gateway.redis.settings import DatabaseNames
from quorumcache.testing import LocalCluster
from tests.gateway.redis.conftest import NAMESPACES, Raw, refused, serving, words

pytestmark = pytest.mark.asyncio(loop_scope="module")


# --- pipelines ---


async def test_a_pipeline_is_a_batch_and_keeps_the_order_of_each_key(
    gateway: RedisGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    begin_mixed = running.begin_mixed

    def counted(client: Client, parts: Any, receiver: Any) -> bool:
        steps.append(len(parts))
        return begin_mixed(client, parts, receiver)

    monkeypatch.setattr(running, "begin_mixed", counted)
    async with Redis(port=gateway.port) as r:
        pipe = r.pipeline(transaction=False)
        for i in range(40):
            pipe.set(f"p{i}", i)
        for i in range(40):
            pipe.get(f"p{i}")
        assert await pipe.execute() == [True] * 40 + [b"%d" % i for i in range(40)]
        assert len(steps) < 10
        assert sum(steps) >= 80
        pipe.set("k", "1").get("k").set("k", "2").get("k").strlen("k").delete("k").get("k").exists("k").set("k", "3")
        assert await pipe.execute() == [True, b"1", True, b"2", 1, 1, None, 0, True]
        assert await r.get("k") == b"3"
        pipe.hset("k", "f", "v").sadd("ps", "a").sadd("ps", "b").smembers("ps")
        *_, members = await pipe.execute(raise_on_error=False)
        assert set(members) == {b"a", b"b"}


async def test_a_pipeline_longer_than_any_batch(raw: Any) -> None:
    connection: Raw = await raw()
    count = 3 * CALLS_MAX + 7
    await connection.ask(words(b"SET", b"n", b"v") + words(b"GET", b"n") * count, b"+OK\r\n" + b"$1\r\nv\r\n" * count)


# --- transactions ---


async def test_transactions(raw: Any) -> None:
    connection: Raw = await raw()
    await connection.ask(
        words(b"MULTI") + words(b"SET", b"t", b"1") + words(b"GET", b"t") + words(b"PING") + words(b"EXEC"),
        b"+OK\r\n" + b"+QUEUED\r\n" * 3 + b"*3\r\n+OK\r\n$1\r\n1\r\n+PONG\r\n",
    )
    await connection.ask(
        words(b"MULTI") + words(b"MULTI") + words(b"GET") + words(b"SET", b"t", b"2") + words(b"EXEC"),
        b"+OK\r\n-ERR MULTI calls can not be nested\r\n-ERR wrong number of arguments for 'get' command\r\n+QUEUED\r\n"
        b"-EXECABORT Transaction discarded because of previous errors.\r\n",
    )
    await connection.ask(
        words(b"MULTI") + words(b"SET", b"t", b"3") + words(b"DISCARD") + words(b"GET", b"t"),
        b"+OK\r\n+QUEUED\r\n+OK\r\n$1\r\n1\r\n",
    )
    await connection.ask(
        words(b"EXEC") + words(b"DISCARD") + words(b"UNWATCH"),
        b"-ERR EXEC without MULTI\r\n-ERR DISCARD without MULTI\r\n+OK\r\n",
    )
    # An error of one command when it runs is its own.
    await connection.ask(
        words(b"MULTI") + words(b"HGET", b"t", b"f") + words(b"GET", b"t") + words(b"EXEC"),
        b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        b"$1\r\n1\r\n",
    )
    # The database of each command is the one that it was selected for.
    await connection.ask(
        words(b"MULTI") + words(b"SELECT", b"5") + words(b"SET", b"t", b"5") + words(b"EXEC") + words(b"GET", b"t"),
        b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+OK\r\n+OK\r\n$1\r\n5\r\n",
    )


async def test_expire_right_behind_a_write_is_one_write_that_expires(gateway: RedisGateway) -> None:
    """As Django's set_many sends it: MULTI, MSET, EXPIRE each, EXEC."""
    async with Redis(port=gateway.port) as r:
        pipe = r.pipeline(transaction=True)
        pipe.mset({"e1": "1", "e2": "2"})
        pipe.expire("e1", 1000)
        pipe.pexpire("e2", 2_000_000)
        pipe.expire("e2", 500)
        assert await pipe.execute() == [True, True, True, True]
        assert 400 < await r.ttl("e1") <= 1000
        assert 400 < await r.ttl("e2") <= 500
        # What has been read in between, or written with conditions, is no longer what this connection wrote.
        pipe = r.pipeline(transaction=False)
        pipe.set("e1", "1").get("e1").expire("e1", 10)
        replies = await pipe.execute(raise_on_error=False)
        assert replies[:2] == [True, b"1"]
        assert "needs compare-and-set" in str(replies[2])
        pipe.set("e1", "2", nx=True).expire("e1", 10)
        assert ["needs compare-and-set" in str(reply) for reply in await pipe.execute(raise_on_error=False)] == [
            True
        ] * 2


async def test_a_transaction_has_a_bound(raw: Any) -> None:
    connection: Raw = await raw()
    await connection.ask(words(b"MULTI") + b"PING\r\n" * QUEUE_MAX, b"+OK\r\n" + b"+QUEUED\r\n" * QUEUE_MAX)
    assert (await connection.line(b"PING\r\n")).startswith(b"-ERR a transaction has at most")
    assert (await connection.line(b"EXEC\r\n")).startswith(b"-EXECABORT")


# --- messages ---


@pytest.mark.parametrize("protocol", [2, 3])
async def test_messages_reach_those_who_listen(gateway: RedisGateway, protocol: int) -> None:
    async with Redis(port=gateway.port, protocol=protocol) as r, r.pubsub() as listening:
        await listening.subscribe("news")
        await listening.psubscribe("n*")
        told = []
        for _ in range(2):
            told.append(await listening.get_message(timeout=10))
        assert [each["type"] for each in told if each] == ["subscribe", "psubscribe"]
        assert await r.publish("news", "hello") == 2
        assert await r.publish("other", "hello") == 0
        heard = [await listening.get_message(timeout=10) for _ in range(2)]
        assert {(each["type"], each["channel"], each["data"]) for each in heard if each} == {
            ("message", b"news", b"hello"),
            ("pmessage", b"news", b"hello"),
        }
        assert await r.pubsub_channels() == [b"news"]
        assert dict(await r.pubsub_numsub("news", "x")) == {b"news": 1, b"x": 0}
        assert await r.pubsub_numpat() == 1
    for _ in range(200):
        if not gateway.channels.channels and not gateway.channels.patterns:
            break
        await asyncio.sleep(0.02)
    assert (gateway.channels.channels, gateway.channels.patterns) == ({}, {})


async def test_changes_of_keys_reach_those_who_listen(gateway: RedisGateway, client: Client) -> None:
    """Keyspace notifications, also of what others write; and the watches end with the last who listens."""
    async with Redis(port=gateway.port) as r, r.pubsub() as listening:
        await listening.psubscribe("__key*@0__:*")
        assert (await listening.get_message(timeout=10) or {})["type"] == "psubscribe"
        await client.set("watched", b"v")
        await r.hset("watched:h", "f", "v")
        await r.sadd("watched:s", "m")
        await r.delete("watched:h")
        async with Redis(port=gateway.port, db=1) as other:
            await other.set("not of this database", "v")
        await r.delete("watched")
        wanted = {
            (b"__keyspace@0__:watched", b"del"),
            (b"__keyspace@0__:watched:s", b"sadd"),
            (b"__keyspace@0__:watched:h", b"del"),
        }
        # (A key that is written and deleted at once may be told of by its deletion alone.)
        heard = set()
        for _ in range(100):
            message = await listening.get_message(timeout=1)
            if message is not None:
                heard.add((message["channel"], message["data"]))
            if wanted <= heard:
                break
        assert wanted <= heard
        assert not any(b"not of this" in channel + data for channel, data in heard)
    for _ in range(500):
        if not gateway.notifications.are_running:
            break
        await asyncio.sleep(0.02)
    assert not gateway.notifications.are_running


async def test_a_listener_in_resp2_does_nothing_else(raw: Any) -> None:
    connection: Raw = await raw()
    await connection.ask(words(b"SUBSCRIBE", b"c"), b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert (await connection.line(words(b"GET", b"k"))).startswith(b"-ERR Can't execute 'get': only")
    await connection.ask(words(b"PING"), b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    await connection.ask(words(b"UNSUBSCRIBE"), b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n")
    await connection.ask(words(b"UNSUBSCRIBE"), b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n")
    await connection.ask(words(b"PING"), b"+PONG\r\n")
    too_many = words(b"SUBSCRIBE", *(b"%d" % i for i in range(SUBSCRIPTIONS_MAX + 1)))
    assert (await connection.line(too_many)).startswith(b"-ERR a connection listens to")


async def test_a_listener_who_does_not_read_is_let_go(client: Client) -> None:
    async with serving(client, output_bytes_max=1 << 20) as gateway, Redis(port=gateway.port) as r:
        deaf = await Raw.open(gateway.port)
        await deaf.line(words(b"SUBSCRIBE", b"c"))
        for _ in range(200):
            if not await r.publish("c", bytes(1 << 18)):
                break
        assert await r.publish("c", "x") == 0
        await deaf.close()


# --- bounds ---


async def test_junk_ends_its_connection_and_nothing_else(gateway: RedisGateway, raw: Any) -> None:
    draw = random.Random(8)
    for data in (
        b"*100000000\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$999999999\r\n",
        b"*1\r\n%1\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:6379\r\n\r\n",
        *(draw.randbytes(200) + b"\n" for _ in range(20)),
    ):
        connection = await raw()
        connection.writer.write(data)
        connection.writer.write_eof()
        said = await connection.rest()
        assert not said or said.startswith((b"-ERR ", b"-NOAUTH")), said
    connection = await raw()
    assert (
        await connection.rest(words(b"PING") + b"*x\r\n")
        == b"+PONG\r\n-ERR Protocol error: invalid multibulk length\r\n"
    )
    assert not gateway.held_bytes
    await (await raw()).ask(b"PING\r\n", b"+PONG\r\n")


async def test_what_was_asked_for_is_answered_where_the_other_side_has_ended(raw: Any) -> None:
    connection: Raw = await raw()
    connection.writer.write(words(b"SET", b"half", b"v") + words(b"GET", b"half"))
    connection.writer.write_eof()
    assert await connection.rest() == b"+OK\r\n$1\r\nv\r\n"


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(gateway: RedisGateway, raw: Any) -> None:
    before = len(gateway.connections)
    for _ in range(20):
        connection = await Raw.open(gateway.port)
        connection.writer.write(words(b"GET", b"k") * 50 + b"*2\r\n$3\r\nGET\r\n$100\r\nabc")
        connection.writer.transport.abort()
    for _ in range(500):
        if len(gateway.connections) <= before and not gateway.held_bytes:
            break
        await asyncio.sleep(0.02)
    assert (len(gateway.connections) <= before, gateway.held_bytes) == (True, 0)


async def test_connections_have_a_bound(client: Client) -> None:
    async with serving(client, connections_max=3) as gateway:
        held = [await Raw.open(gateway.port) for _ in range(3)]
        for each in held:
            await each.ask(b"PING\r\n", b"+PONG\r\n")
        extra = await Raw.open(gateway.port)
        assert await extra.rest() == b"-ERR max number of clients reached\r\n"
        assert await held[0].rest(b"QUIT\r\n") == b"+OK\r\n"
        for _ in range(200):
            if len(gateway.connections) < 3:
                break
            await asyncio.sleep(0.02)
        again = await Raw.open(gateway.port)
        await again.ask(b"PING\r\n", b"+PONG\r\n")
        for each in (*held, extra, again):
            await each.close()


async def test_many_connections_at_once(gateway: RedisGateway) -> None:
    opened = await asyncio.gather(*(Raw.open(gateway.port) for _ in range(300)))
    await asyncio.gather(*(each.ask(words(b"SET", b"m%d" % i, b"v"), b"+OK\r\n") for i, each in enumerate(opened)))
    await asyncio.gather(*(each.ask(words(b"GET", b"m%d" % i), b"$1\r\nv\r\n") for i, each in enumerate(opened)))
    await asyncio.gather(*(each.close() for each in opened))


async def test_memory_for_requests_has_a_bound(client: Client) -> None:
    async with serving(client, requests_bytes_max=1 << 20) as gateway:
        large = await Raw.open(gateway.port)
        # In two parts: what is still on its way when the gateway closes may undo what it said.
        large.writer.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000000\r\n" + bytes(1 << 20))
        assert (await large.rest()).startswith(b"-ERR the gateway's memory for requests is full")
        small = await Raw.open(gateway.port)
        await small.ask(b"PING\r\n", b"+PONG\r\n")
        for each in (large, small):
            await each.close()


async def test_idle_connections_and_slow_readers_are_closed_where_asked_for(client: Client) -> None:
    async with serving(client, idle_s=0.2, output_s_max=0.2) as gateway, Redis(port=gateway.port) as r:
        await r.set("big", bytes(1 << 20))
        slow = await Raw.open(gateway.port)
        slow.writer.write(words(b"GET", b"big") * 60)
        idle = await Raw.open(gateway.port)
        assert await idle.rest() == b""
        for _ in range(500):
            if len(gateway.connections) <= 1:
                break
            await asyncio.sleep(0.02)
        assert len(gateway.connections) <= 1
        for each in (slow, idle):
            await each.close()


# --- who may come in ---


async def test_a_database_needs_namespaces_of_its_types(client: Client) -> None:
    for databases, said in (
        ({0: DatabaseNames("maps")}, "needs a namespace of type register, and 'maps' is of type map"),
        ({0: DatabaseNames("default", "nothing")}, "needs a namespace of type map, and 'nothing' is not there"),
        ({1: DatabaseNames("default")}, "database 0 is where each connection begins"),
        ({0: DatabaseNames("default"), 16: DatabaseNames("default")}, "there is no database 16"),
    ):
        with pytest.raises(Misuse, match=said):
            RedisGateway(client, Settings(databases=databases))


async def test_a_password(client: Client) -> None:
    async with serving(client, password="secret") as gateway:
        raw = await Raw.open(gateway.port)
        for data in (words(b"GET", b"k"), words(b"PING"), words(b"CLIENT", b"LIST"), words(b"MULTI")):
            assert await raw.line(data) == b"-NOAUTH Authentication required."
        assert (await raw.line(words(b"HELLO", b"3"))).startswith(b"-NOAUTH HELLO must be called")
        assert (await raw.line(words(b"AUTH", b"wrong"))).startswith(b"-WRONGPASS")
        assert (await raw.line(words(b"AUTH", b"other", b"secret"))).startswith(b"-WRONGPASS")
        await raw.ask(words(b"AUTH", b"secret") + words(b"GET", b"nothing"), b"+OK\r\n$-1\r\n")
        await raw.ask(words(b"RESET"), b"+RESET\r\n")
        assert await raw.line(words(b"GET", b"k")) == b"-NOAUTH Authentication required."
        guessing = await Raw.open(gateway.port)
        assert (await guessing.rest(words(b"AUTH", b"guess") * 50)).count(b"-WRONGPASS") == 10
        for protocol in (2, 3):
            async with Redis(port=gateway.port, password="secret", protocol=protocol) as r:
                assert await r.ping()
        for each in (raw, guessing):
            await each.close()
    async with serving(client) as gateway:
        raw = await Raw.open(gateway.port)
        assert b"without any password configured" in await raw.line(words(b"AUTH", b"secret"))
        await raw.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def test_tls(client: Client, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    async with serving(client, tls=context, password="secret", host="0.0.0.0") as gateway:
        r = Redis(host="localhost", port=gateway.port, ssl=True, ssl_ca_certs=str(certificate[0]), password="secret")
        async with r:
            await r.set("tls", "v")
            assert await r.get("tls") == b"v"
        plain = await Raw.open(gateway.port)
        assert b"PONG" not in await plain.rest(b"PING\r\n")
        await plain.close()


# --- when the cluster cannot ---


async def test_without_enough_nodes_commands_end_with_an_error_and_the_gateway_goes_on() -> None:
    async with LocalCluster(namespaces=NAMESPACES, op_time=0.3) as cluster:
        client = await cluster.client()
        async with serving(client) as gateway, Redis(port=gateway.port) as r:
            await r.set("k", "v")
            await cluster.kill(2)
            await r.set("k", "w")
            assert await r.get("k") == b"w"
            await cluster.kill(3)
            pipe = r.pipeline(transaction=False)
            pipe.set("k", "x").get("k").ping().hset("h", "f", "v").mset({"a": "1", "b": "2"})
            replies = await pipe.execute(raise_on_error=False)
            assert [str(replies[i]).partition(" ")[0] for i in (0, 1, 3, 4)] == ["UNAVAILABLE"] * 4, replies
            assert replies[2] is True
            for attempt in (r.dbsize, r.flushdb):
                with refused("UNAVAILABLE"):
                    await attempt()
            assert await r.ping()
            await cluster.restart(2)
            for _ in range(200):
                if not await r.execute_command("INFO", "quorumcache") or len(client.unreachable) < 2:
                    break
                await asyncio.sleep(0.05)
            assert await r.get("k") in (b"w", None)


async def test_a_gateway_without_a_key_only_reads(cluster: LocalCluster, client: Client) -> None:
    await client.set("mine", b"v")
    async with serving(await cluster.client(None)) as gateway, Redis(port=gateway.port) as r:
        assert await r.get("mine") == b"v"
        for attempt in (lambda: r.set("mine", "w"), lambda: r.hset("h", "f", "v"), lambda: r.delete("mine")):
            with refused("no writer's key"):
                await attempt()
        assert await r.get("mine") == b"v"
