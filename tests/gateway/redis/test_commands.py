"""Commands through redis-py, in both protocols, on a cluster with a lying node (docs/redis.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import redis
import valkey
from redis.asyncio import Redis

from quorumcache.client import Client
from quorumcache.gateway.redis import RedisGateway
from quorumcache.gateway.redis.table import COMMANDS
from tests.gateway.redis.conftest import Raw, refused, serving, words

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", params=[2, 3], ids=["RESP2", "RESP3"])
async def r(gateway: RedisGateway, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with Redis(port=gateway.port, protocol=request.param) as connected:
        await connected.flushall()
        yield connected


async def test_strings(r: Any) -> None:
    value = bytes(range(256))
    assert await r.set("k", value) is True
    assert await r.get("k") == value
    assert await r.get("nothing") is None
    assert await r.strlen("k") == 256
    assert (await r.getrange("k", 1, 3), await r.getrange("k", -2, -1)) == (b"\1\2\3", b"\xfe\xff")
    assert (await r.getrange("k", 5, 2), await r.getrange("nothing", 0, -1)) == (b"", b"")
    assert await r.execute_command("SUBSTR", "k", 0, 1) == b"\0\1"
    assert await r.mset({"a": "1", "b": "2"}) is True
    assert await r.mget("a", "nothing", "b", "a") == [b"1", None, b"2", b"1"]
    assert await r.getex("a") == b"1"
    assert await r.set("empty", b"") is True
    assert await r.get("empty") == b""


async def test_times_to_live(r: Any) -> None:
    await r.set("k", "v")
    assert (await r.ttl("k"), await r.pttl("k"), await r.expiretime("k")) == (-1, -1, -1)
    assert (await r.ttl("nothing"), await r.pttl("nothing"), await r.pexpiretime("nothing")) == (-2, -2, -2)
    await r.set("k", "v", ex=1000)
    assert 900 <= await r.ttl("k") <= 1000
    await r.set("k", "v", px=500_000)
    assert 400_000 <= await r.pttl("k") <= 500_000
    now_s = int((await r.time())[0])
    await r.set("k", "v", exat=now_s + 1000)
    assert await r.expiretime("k") == now_s + 1000
    await r.set("k", "v", pxat=(now_s + 1000) * 1000 + 7)
    assert await r.pexpiretime("k") == (now_s + 1000) * 1000 + 7
    await r.set("k", "v", exat=now_s - 10)
    assert await r.exists("k") == 0
    assert await r.execute_command("SETEX", "k", 1000, "v") in (True, b"OK")
    assert 900 <= await r.ttl("k") <= 1000
    assert await r.execute_command("PSETEX", "k", 60, "v") in (True, b"OK")
    for _ in range(500):
        if await r.get("k") is None:
            break
        await asyncio.sleep(0.02)
    assert await r.exists("k") == 0
    for bad in (("SET", "k", "v", "EX", "0"), ("SETEX", "k", "-1", "v"), ("SET", "k", "v", "PXAT", str(2**62))):
        with refused("invalid expire time in '(set|setex)' command"):
            await r.execute_command(*bad)


async def test_keys_of_any_type(r: Any) -> None:
    await r.set("a", "1")
    await r.hset("h", "f", "v")
    await r.sadd("s", "m")
    assert [await r.type(key) for key in ("a", "h", "s", "nothing")] == [b"string", b"hash", b"set", b"none"]
    assert await r.exists("a", "h", "s", "a", "nothing") == 4
    assert await r.touch("a", "nothing") == 1
    assert await r.delete("a", "h", "nothing", "a") == 2
    assert await r.unlink("s") == 1
    assert await r.exists("a", "h", "s") == 0
    assert await r.expire("nothing", 10) is False
    await r.set("a", "1")
    assert await r.expire("a", -1) is True
    assert await r.exists("a") == 0


async def test_a_key_of_another_type(r: Any) -> None:
    """A database is one space of keys: each has one type, and SET gives it that of strings."""
    await r.set("a", "1")
    await r.hset("h", "f", "v")
    await r.sadd("s", "m")
    for attempt in (
        lambda: r.get("h"),
        lambda: r.strlen("s"),
        lambda: r.hget("a", "f"),
        lambda: r.hset("s", "f", "v"),
        lambda: r.hgetall("s"),
        lambda: r.sadd("a", "m"),
        lambda: r.smembers("h"),
        lambda: r.sunion("s", "h"),
    ):
        with refused("WRONGTYPE|wrong kind of value"):
            await attempt()
    assert await r.mget("a", "h") == [b"1", None]
    await r.set("h", "now a string", ex=100)
    assert (await r.type("h"), await r.get("h")) == (b"string", b"now a string")
    assert await r.delete("h") == 1
    assert (await r.type("h"), await r.hgetall("h")) == (b"none", {})


async def test_hashes(r: Any) -> None:
    assert await r.hset("h", mapping={"a": "1", "b": "2"}) == 2
    assert await r.hset("h", mapping={"b": "3", "c": b"\xff"}) == 1
    assert await r.execute_command("HMSET", "h", "d", "4") in (b"OK", True)
    assert (await r.hget("h", "b"), await r.hget("h", "nothing")) == (b"3", None)
    assert await r.hmget("h", "a", "nothing", "c", "a") == [b"1", None, b"\xff", b"1"]
    assert await r.hgetall("h") == {b"a": b"1", b"b": b"3", b"c": b"\xff", b"d": b"4"}
    assert (await r.hkeys("h"), await r.hvals("h"), await r.hlen("h")) == (
        [b"a", b"b", b"c", b"d"],
        [b"1", b"3", b"\xff", b"4"],
        4,
    )
    assert (await r.hexists("h", "a"), await r.hexists("h", "nothing"), await r.hstrlen("h", "a")) == (True, False, 1)
    assert await r.hdel("h", "a", "nothing", "b") == 2
    cursor, fields = await r.hscan("h", match="c*")
    assert (cursor, fields) == (0, {b"c": b"\xff"})
    assert await r.hrandfield("h") in (b"c", b"d")
    assert sorted(await r.hrandfield("h", 5)) == [b"c", b"d"]
    assert await r.expire("h", 1000) is True
    assert 900 <= await r.ttl("h") <= 1000
    assert await r.hdel("h", "c", "d") == 2
    assert (await r.exists("h"), await r.type("h"), await r.keys("*"), await r.dbsize()) == (0, b"none", [], 0)
    assert await r.ttl("h") == -2


async def test_sets(r: Any) -> None:
    assert await r.sadd("s", "a", "b", "a") == 2
    assert await r.sadd("s", "b", "c") == 1
    assert set(await r.smembers("s")) == {b"a", b"b", b"c"}
    assert (await r.scard("s"), await r.sismember("s", "a"), await r.sismember("s", "x")) == (3, 1, 0)
    assert await r.smismember("s", ["a", "x"]) == [1, 0]
    assert await r.srem("s", "a", "x") == 1
    await r.sadd("t", "c", "d")
    assert set(await r.sunion("s", "t")) == {b"b", b"c", b"d"}
    assert (set(await r.sinter("s", "t")), set(await r.sdiff("s", "t"))) == ({b"c"}, {b"b"})
    assert await r.sinter("s", "nothing") in (set(), [])
    assert await r.srandmember("s") in (b"b", b"c")
    assert len(await r.srandmember("s", -5)) == 5
    assert await r.sscan("s", match="b") == (0, [b"b"])


async def test_listings(r: Any) -> None:
    names = [f"user:{i}" for i in range(25)]
    await r.mset(dict.fromkeys(names, "v"))
    await r.hset("user:hash", "f", "v")
    await r.sadd("other", "m")
    assert sorted(await r.keys("user:*")) == sorted(name.encode() for name in [*names, "user:hash"])
    assert await r.keys("user:1?") == [f"user:1{i}".encode() for i in range(10)]
    assert sorted([key async for key in r.scan_iter(count=7)]) == sorted(await r.keys("*"))
    assert [key async for key in r.scan_iter(match="u*", _type="hash")] == [b"user:hash"]
    assert await r.dbsize() == 27
    assert await r.randomkey() in await r.keys("*")
    with refused("invalid cursor"):
        await r.scan(12345)
    assert await r.flushdb() is True
    assert (await r.dbsize(), await r.randomkey()) == (0, None)


async def test_databases_are_apart_and_keys_of_the_first_are_those_of_the_library(r: Any, client: Client) -> None:
    await r.set("k", "0")
    await r.set(b"\0\1k", "also of database 0")
    connection = r.connection_pool.connection_kwargs
    async with Redis(port=connection["port"], db=1) as other:
        assert await other.get("k") is None
        await other.set("k", "1")
        await other.hset("h", "f", "1")
        assert sorted(await other.keys("*")) == [b"h", b"k"]
        assert sorted(await r.keys("*")) == [b"\0\1k", b"k"]
        assert (await r.get("k"), await r.get(b"\0\1k")) == (b"0", b"also of database 0")
        await r.flushdb()
        assert await r.dbsize() == 0
        assert sorted(await other.keys("*")) == [b"h", b"k"]
        with refused("out of range"):
            await other.execute_command("SELECT", 16)
    await client.set("k", b"by the library")
    await client.map_("m").set("f", b"v")
    assert await r.get("k") == b"by the library"
    assert await r.hgetall("m") == {b"f": b"v"}
    await r.set("k", b"\xc1qc\x01 looks like the library's own")
    assert await client.get("k") == b"\xc1qc\x01 looks like the library's own"


EXACT = [
    ("INCR", "k"),
    ("INCRBY", "k", "1"),
    ("DECR", "k"),
    ("INCRBYFLOAT", "k", "1"),
    ("APPEND", "k", "x"),
    ("SETNX", "k", "x"),
    ("GETSET", "k", "x"),
    ("GETDEL", "k"),
    ("SETRANGE", "k", "0", "x"),
    ("SET", "k", "x", "NX"),
    ("SET", "k", "x", "XX"),
    ("SET", "k", "x", "GET"),
    ("SET", "k", "x", "KEEPTTL"),
    ("GETEX", "k", "EX", "10"),
    ("EXPIRE", "k", "10"),
    ("PEXPIREAT", "k", "99999999999999"),
    ("PERSIST", "k"),
    ("RENAME", "k", "l"),
    ("HSETNX", "h", "f", "v"),
    ("HINCRBY", "h", "f", "1"),
    ("SPOP", "s"),
    ("WATCH", "k"),
]


async def test_what_needs_compare_and_set_is_refused_and_changes_nothing(r: Any) -> None:
    await r.set("k", "1")
    for words_ in EXACT:
        with refused(f"{words_[0]}.* needs compare-and-set"):
            await r.execute_command(*words_)
    assert (await r.get("k"), await r.ttl("k"), await r.keys("*")) == (b"1", -1, [b"k"])
    with refused("MSETNX is all or nothing"):
        await r.msetnx({"k": "1"})


async def test_errors_are_those_of_redis(r: Any) -> None:
    for words_, error in (
        (("NOPE", "a", "b"), "unknown command 'NOPE', with args beginning with: 'a' 'b'"),
        (("GET",), "wrong number of arguments for 'get' command"),
        (("MSET", "a"), "wrong number of arguments for 'mset' command"),
        (("MSET", "a", "b", "c"), "wrong number of arguments for 'mset' command"),
        (("SET", "a", "b", "WHAT"), "syntax error"),
        (("SET", "a", "b", "EX"), "syntax error"),
        (("SET", "a", "b", "EX", "1", "PX", "1"), "syntax error"),
        (("SET", "a", "b", "EX", "one"), "value is not an integer or out of range"),
        (("GETRANGE", "a", "0", "x"), "value is not an integer or out of range"),
        (("CLIENT", "NOPE"), "unknown subcommand 'NOPE'. Try CLIENT HELP."),
        (("CLIENT", "MAINT_NOTIFICATIONS", "ON"), "unknown subcommand 'MAINT_NOTIFICATIONS'"),
        (("SELECT", "x"), "invalid DB index"),
        (("SCAN", "0", "COUNT"), "syntax error"),
        (("GET", ""), "an empty key"),
        (("GET", "k" * 1025), "a key of 1025 bytes: keys have at most 1024"),
        (("SET", "k", "v" * ((1 << 20) + 1)), "a value of 1048577 bytes"),
        (("HSET", "h", "f" * 1024, "v"), "a field or member has at most 1023 bytes"),
    ):
        with refused(error):
            await r.execute_command(*words_)
    assert await r.dbsize() == 0


async def test_the_connection(r: Any) -> None:
    assert await r.ping() is True
    assert await r.echo("hi") == b"hi"
    assert await r.client_setname("me") is True
    assert await r.client_getname() in ("me", b"me")
    told = await r.client_info()
    assert (told["name"], told["id"], told["lib-name"]) == ("me", await r.client_id(), "redis-py")
    assert any(int(each["id"]) == told["id"] for each in await r.client_list())
    assert await r.client_no_evict("ON") in (b"OK", True, "OK")
    info = await r.info()
    assert info["redis_mode"] == "standalone"
    assert set(await r.info("clients")) == {"connected_clients", "maxclients", "pubsub_clients"}
    assert (await r.config_get("save"), await r.config_get("nothing")) == ({"save": ""}, {})
    assert await r.command_count() == len(COMMANDS)
    described = await r.execute_command("COMMAND", "INFO", "get")
    assert described["get"]["arity"] == 2
    assert await r.command_getkeys("MSET", "a", "1", "b", "2") in (["a", "b"], [b"a", b"b"])


async def test_the_table_is_what_redis_says_of_the_same_commands(gateway: RedisGateway) -> None:
    """The arities of Redis 7, of those commands that have been misread before; and that keys are found."""
    arities = {
        "get": 2,
        "set": -3,
        "mset": -3,
        "expire": -3,
        "hset": -4,
        "sadd": -3,
        "scan": -2,
        "exec": 1,
        "client": -2,
    }
    assert {name: COMMANDS[name.encode()].arity for name in arities} == arities
    assert COMMANDS[b"mset"].keys_of([b"MSET", b"a", b"1", b"b", b"2"]) == [b"a", b"b"]
    assert COMMANDS[b"del"].keys_of([b"DEL", b"a", b"b"]) == [b"a", b"b"]
    assert COMMANDS[b"hset"].keys_of([b"HSET", b"a", b"b", b"c"]) == [b"a"]
    assert all(each.keys != (0, 0, 0) for each in COMMANDS.values() if each.kind == "steps")


async def test_blocking_clients(gateway: RedisGateway) -> None:
    def tour(kind: Any, protocol: int) -> None:
        with kind(port=gateway.port, protocol=protocol) as connected:
            connected.set("sync", "v", ex=60)
            assert connected.get("sync") == b"v"
            connected.hset("sync:h", mapping={"a": "1"})
            assert connected.hgetall("sync:h") == {b"a": b"1"}
            assert connected.pipeline().get("sync").strlen("sync").execute() == [b"v", 1]

    await asyncio.to_thread(tour, redis.Redis, 2)
    await asyncio.to_thread(tour, redis.Redis, 3)
    await asyncio.to_thread(tour, valkey.Valkey, 2)


async def test_hello_chooses_the_protocol(raw: Any) -> None:
    connection: Raw = await raw()
    await connection.ask(
        words(b"GET", b"nothing") + words(b"HELLO", b"4"), b"$-1\r\n-NOPROTO unsupported protocol version\r\n"
    )
    assert await connection.line(words(b"HELLO", b"3", b"SETNAME", b"me")) == b"%7"
    connection.writer.write(words(b"CLIENT", b"GETNAME") + words(b"GET", b"nothing"))
    assert (await connection.reader.readuntil(b"_\r\n")).endswith(b"$2\r\nme\r\n_\r\n")
    await connection.ask(words(b"RESET") + words(b"GET", b"nothing"), b"+RESET\r\n$-1\r\n")
    assert await connection.rest(words(b"QUIT") + words(b"PING")) == b"+OK\r\n"


async def test_commands_are_described(raw: Any) -> None:
    connection = await raw()
    get = b"*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+fast\r\n+readonly\r\n:1\r\n:1\r\n:1\r\n"
    rest = b"*3\r\n+@fast\r\n+@read\r\n+@string\r\n*0\r\n*0\r\n*0\r\n"
    await connection.ask(words(b"COMMAND", b"INFO", b"nope", b"GET"), b"*2\r\n$-1\r\n" + get + rest)
    docs = words(b"summary", b"Returns the string value of a key.", b"group", b"string")
    await connection.ask(words(b"COMMAND", b"DOCS", b"get"), b"*2\r\n$3\r\nget\r\n" + docs)


async def test_lines_as_people_type_them(raw: Any) -> None:
    connection = await raw()
    await connection.ask(b'PING\r\nset line "a b"\nGET line\r\n', b"+PONG\r\n+OK\r\n$3\r\na b\r\n")


async def test_a_database_of_strings_only(client: Client) -> None:
    from quorumcache.gateway.redis.settings import DatabaseNames

    async with serving(client, databases={0: DatabaseNames("default")}) as gateway, Redis(port=gateway.port) as r:
        await r.set("k", "v")
        assert (await r.get("k"), await r.type("k"), await r.keys("k")) == (b"v", b"string", [b"k"])
        for words_ in (("HGET", "h", "f"), ("SADD", "s", "m"), ("SUNION", "s")):
            with refused("database 0 has no (hashes|sets)"):
                await r.execute_command(*words_)
        with refused("out of range"):
            await r.execute_command("SELECT", "1")
