"""Commands that depend on what is there, in a database whose strings are exact: by compare-and-set (docs/redis.md)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError, WatchError

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import Misuse, OutcomeUnknown, Unavailable
from quorumcache.gateway.redis import RedisGateway
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.settings import DatabaseNames
from quorumcache.gateway.redis.wholes import pack, unpack
from quorumcache.testing import LocalCluster
from tests.gateway.redis.conftest import refused, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]

DATABASES = {0: DatabaseNames("locks"), 1: DatabaseNames("default")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    spaces = [NamespaceInfo("locks", "exact"), NamespaceInfo("maps", type="map"), NamespaceInfo("other")]
    async with LocalCluster(
        max_skew=0.02, op_time=1.0, grace=0.05, namespaces=spaces, byzantine={3: "stale"}
    ) as cluster:
        client = await cluster.client()
        for _ in range(100):
            try:
                await client.namespace("locks").set("ready", b"yes")
                break
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.1)  # Nodes vote once what was before their start is too old.
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(client: Client) -> AsyncIterator[RedisGateway]:
    async with serving(client, databases=DATABASES) as gateway:
        yield gateway


@pytest_asyncio.fixture(loop_scope="module", params=[2, 3], ids=["RESP2", "RESP3"])
async def r(gateway: RedisGateway, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with Redis(port=gateway.port, protocol=request.param) as connected:
        await connected.flushall()
        yield connected


async def test_set_with_conditions(r: Any) -> None:
    assert await r.set("k", "1", xx=True) is None
    assert await r.set("k", "1", nx=True, ex=1000) is True
    assert await r.set("k", "2", nx=True) is None
    assert await r.get("k") == b"1"
    assert await r.set("k", "2", xx=True, keepttl=True) is True
    assert 900 < await r.ttl("k") <= 1000
    assert await r.set("k", "3", get=True) == b"2"
    assert await r.ttl("k") == -1
    assert await r.set("new", "v", get=True) is None
    assert await r.set("new", "w", nx=True, get=True) == b"v"
    assert await r.get("new") == b"v"
    assert (await r.setnx("k", "4"), await r.setnx("other", "4")) == (False, True)
    assert await r.set("k", "gone", xx=True, exat=1) is True
    assert await r.exists("k") == 0
    # Plain commands work here too.
    assert await r.mset({"a": "1", "b": "2"}) is True
    assert await r.mget("a", "b", "c") == [b"1", b"2", None]
    assert await r.delete("a", "c") == 1
    assert await r.get("a") is None


async def test_counting(r: Any) -> None:
    assert [await r.incr("n"), await r.incr("n", 41), await r.decr("n"), await r.decr("n", 50)] == [1, 42, 41, -9]
    await r.set("text", "ten")
    with refused("not an integer or out of range"):
        await r.incr("text")
    await r.set("most", (1 << 63) - 1, ex=1000)
    with refused("would overflow"):
        await r.incr("most")
    assert await r.decr("most") == (1 << 63) - 2
    assert await r.ttl("most") > 900
    await r.set("x", "10.50")
    assert [await r.incrbyfloat("x", 0.1), await r.incrbyfloat("x", -5)] == [10.6, 5.6]
    await r.set("x", "5.0e3")
    assert await r.incrbyfloat("x", 200) == 5200
    assert await r.get("x") == b"5200"
    with refused("not a valid float"):
        await r.incrbyfloat("text", 1)


async def test_what_was_there(r: Any) -> None:
    assert await r.getset("k", "1") is None
    assert await r.getset("k", "2") == b"1"
    assert (await r.getdel("k"), await r.getdel("k")) == (b"2", None)
    assert [await r.append("k", "ab"), await r.append("k", "cd")] == [2, 4]
    assert await r.setrange("k", 1, "XY") == 4
    assert await r.get("k") == b"aXYd"
    assert await r.setrange("pad", 3, "x") == 4
    assert await r.get("pad") == b"\0\0\0x"
    assert await r.setrange("nothing", 3, "") == 0
    with refused("maximum allowed size"):
        await r.setrange("k", 1 << 29, "x")
    with refused("out of range"):
        await r.setrange("k", -1, "x")


async def test_times_to_live(r: Any) -> None:
    assert (await r.expire("k", 10), await r.persist("k")) == (False, False)
    await r.set("k", "v")
    assert await r.expire("k", 1000, gt=True) is False
    assert await r.expire("k", 1000, nx=True) is True
    assert await r.expire("k", 2000, nx=True) is False
    assert await r.expire("k", 500, gt=True) is False
    assert await r.expire("k", 500, lt=True) is True
    assert 400 < await r.ttl("k") <= 500
    assert await r.pexpire("k", 900_000, xx=True) is True
    assert (await r.persist("k"), await r.persist("k")) == (True, False)
    assert await r.getex("k", ex=700) == b"v"
    assert 600 < await r.ttl("k") <= 700
    assert await r.getex("k", persist=True) == b"v"
    assert await r.ttl("k") == -1
    assert await r.getex("nothing", ex=700) is None
    assert await r.expire("k", -1) is True
    assert await r.exists("k") == 0
    pipe = r.pipeline(transaction=False)
    pipe.set("k", "v", nx=True).expire("k", 300)
    assert await pipe.execute() == [True, True]
    pipe.set("k", "w", nx=True).expire("k", 600)
    assert await pipe.execute() == [None, True]
    assert 500 < await r.ttl("k") <= 600


async def test_several_connections_count_exactly(gateway: RedisGateway, r: Any) -> None:
    results: list[int] = []
    unknown = 0

    async def count() -> None:
        nonlocal unknown
        async with Redis(port=gateway.port) as one:
            for _ in range(5):
                try:
                    results.append(await one.incr("hits"))
                except ResponseError as error:
                    unknown += "OUTCOMEUNKNOWN" in str(error)

    await asyncio.gather(*(count() for _ in range(4)))
    assert len(set(results)) == len(results) > 0
    assert max(results) <= int(await r.get("hits")) <= len(results) + unknown
    pipe = r.pipeline(transaction=True)
    pipe.incr("m").incr("m").setnx("m2", "v").get("m")
    assert await pipe.execute() == [1, 2, True, b"2"]


async def test_watch_and_exec(gateway: RedisGateway, r: Any) -> None:
    """EXEC after WATCH is one compare-and-set: it does nothing where the key has changed, and is alone where not."""
    await r.set("k", "1")
    async with r.pipeline() as pipe, Redis(port=gateway.port) as other:
        await pipe.watch("k")
        value = int(await pipe.get("k"))
        pipe.multi()
        pipe.set("k", value + 1).expire("k", 500).get("k").incr("k")
        assert await pipe.execute() == [True, True, b"2", 3]
        assert (await r.get("k"), await r.ttl("k") > 400) == (b"3", True)
        await pipe.watch("k")
        await other.set("k", "else")
        pipe.multi()
        pipe.set("k", "mine")
        with pytest.raises(WatchError):
            await pipe.execute()
        assert await r.get("k") == b"else"
        await pipe.watch("nothing")
        pipe.multi()
        pipe.set("nothing", b"\xc1qc\x01there", nx=True).incr("nothing").append("nothing", "!")
        replies = await pipe.execute(raise_on_error=False)
        assert (replies[0], replies[2]) == (True, 10)
        assert "not an integer" in str(replies[1])
        assert await r.get("nothing") == b"\xc1qc\x01there!"
        await pipe.watch("k", "nothing")
        pipe.multi()
        pipe.set("k", "1")
        with refused("of the one key that was watched"):
            await pipe.execute()
        await pipe.watch("k")
        await pipe.unwatch()
        pipe.multi()
        pipe.set("k", "1").set("l", "2")
        assert await pipe.execute() == [True, True]
    totals = await asyncio.gather(*(_add_by_hand(gateway.port) for _ in range(3)))
    assert sum(totals) > 0
    assert int(await r.get("by hand")) >= sum(totals)


async def _add_by_hand(port: int) -> int:
    done = 0
    async with Redis(port=port) as one:

        async def add(pipe: Any) -> None:
            value = int(await pipe.get("by hand") or 0)
            pipe.multi()
            pipe.set("by hand", value + 1)

        for _ in range(3):
            try:
                await one.transaction(add, "by hand")
                done += 1
            except ResponseError:  # A slow machine may have no time left.
                continue
    return done


async def test_hashes_and_sets_are_whole_and_exact(r: Any) -> None:
    assert await r.hset("h", mapping={"a": "1", "b": "2"}) == 2
    assert await r.hset("h", mapping={"b": "3", "c": "4"}) == 1
    assert (await r.hsetnx("h", "a", "x"), await r.hsetnx("h", "d", "5")) == (False, True)
    assert await r.hgetall("h") == {b"a": b"1", b"b": b"3", b"c": b"4", b"d": b"5"}
    assert await r.hmget("h", "a", "none") == [b"1", None]
    assert [await r.hincrby("h", "a", 41), await r.hincrby("h", "n", -5)] == [42, -5]
    assert await r.hincrbyfloat("h", "a", 0.5) == 42.5
    assert (await r.hlen("h"), await r.hstrlen("h", "a"), await r.hexists("h", "b")) == (5, 4, True)
    with refused("hash value is not an integer"):
        await r.hincrby("h", "a", 1)
    with refused("would overflow"):
        await r.hincrby("h", "d", (1 << 63) - 1)
    await r.hset("h", "text", "ten")
    with refused("hash value is not a float"):
        await r.hincrbyfloat("h", "text", 1)
    assert await r.expire("h", 1000) is True
    assert await r.hdel("h", "a", "b", "none") == 2
    assert 900 < await r.ttl("h") <= 1000
    assert await r.sadd("s", "x", "y", "z", "x") == 3
    assert (await r.sadd("s", "x"), await r.srem("s", "none")) == (0, 0)
    assert await r.srem("s", "z") == 1
    assert (await r.smembers("s"), await r.scard("s")) == ({b"x", b"y"}, 2)
    await r.sadd("t", "y", "w")
    assert (await r.sinter("s", "t"), await r.sdiff("s", "t")) == ({b"y"}, {b"x"})
    popped = await r.spop("s")
    assert {popped, *await r.smembers("s")} == {b"x", b"y"}
    assert len(await r.spop("s", 5)) == 1
    assert (await r.exists("s"), await r.spop("s")) == (0, None)
    assert not await r.spop("s", 2)


async def test_types_are_told_apart(r: Any) -> None:
    await r.hset("h", "f", "v")
    await r.sadd("s", "m")
    await r.set("t", "text")
    assert [await r.type(key) for key in ("h", "s", "t", "none")] == [b"hash", b"set", b"string", b"none"]
    wrong = (["GET", "h"], ["INCR", "s"], ["APPEND", "h", "x"], ["HSET", "t", "f", "v"], ["SADD", "h", "m"])
    for words in (*wrong, ["HGETALL", "s"], ["SPOP", "t"], ["GETSET", "h", "x"], ["SET", "h", "x", "GET"]):
        with refused("WRONGTYPE|wrong kind of value"):
            await r.execute_command(*words)
    assert (await r.setnx("h", "x"), await r.mget("h", "t")) == (False, [None, b"text"])
    kinds = {kind: sorted([key async for key in r.scan_iter(_type=kind)]) for kind in ("hash", "set", "string")}
    assert kinds == {"hash": [b"h"], "set": [b"s"], "string": [b"t"]}
    assert sorted(await r.keys("*")) == [b"h", b"s", b"t"]
    assert await r.persist("h") is False
    assert await r.set("h", "now text") is True
    assert await r.get("h") == b"now text"
    # Bytes that begin as a hash does are a string all the same.
    await r.set("t", b"\xc1qh\x01\x92")
    assert (await r.get("t"), await r.type("t")) == (b"\xc1qh\x01\x92", b"string")
    await r.expire("t", 1000)
    assert await r.append("t", "!") == 6
    assert await r.get("t") == b"\xc1qh\x01\x92!"


async def test_what_others_write_there_is_no_hash(client: Client, r: Any) -> None:
    await client.namespace("locks").set("raw", b"\xc1qh\x01\x91\xc4\x01a")
    assert await r.get("raw") == b"\xc1qh\x01\x91\xc4\x01a"
    for body in (b"", b"\x91\xc4\x01a", b"\xc1", b"\x92\x01\x02"):
        with pytest.raises(Fault, match="begins like a hash and is none"):
            unpack("hash", b"\xc1qh\x01" + body)
    with pytest.raises(Fault, match="at most 65536"):
        pack("set", {b"%d" % i: b"" for i in range(65_537)})
    with refused("at most 1023 bytes"):
        await r.hsetnx("h", "f" * 1024, "v")
    with refused("takes at most"):
        await r.hset("h", mapping={str(i): "x" * 65_000 for i in range(20)})
    assert await r.exists("h") == 0


async def test_hashes_in_transactions_and_scripts(r: Any) -> None:
    await r.hset("h", "n", "1")
    async with r.pipeline() as pipe:
        await pipe.watch("h")
        pipe.multi()
        pipe.hincrby("h", "n", 2).hset("h", "m", "x").expire("h", 500).hgetall("h").hdel("h", "n")
        assert await pipe.execute() == [3, 1, True, {b"n": b"3", b"m": b"x"}, 1]
    assert (await r.hgetall("h"), await r.ttl("h") > 400) == ({b"m": b"x"}, True)
    script = "redis.call('hset', KEYS[1], 'k', ARGV[1]) return redis.call('hincrby', KEYS[1], 'k', 2)"
    assert await r.eval(script, 1, "h", "40") == 42
    assert await r.hget("h", "k") == b"42"


async def test_renaming(gateway: RedisGateway, r: Any) -> None:
    await r.hset("h", "f", "v")
    await r.expire("h", 1000)
    await r.set("t", "text")
    assert await r.rename("h", "new") is True
    assert (await r.exists("h"), await r.hgetall("new"), await r.ttl("new") > 900) == (0, {b"f": b"v"}, True)
    assert (await r.renamenx("t", "new"), await r.renamenx("t", "other")) == (False, True)
    assert (await r.rename("other", "new"), await r.get("new"), await r.keys("*")) == (True, b"text", [b"new"])
    assert (await r.rename("new", "new"), await r.renamenx("new", "new")) == (True, False)
    with refused("no such key"):
        await r.rename("none", "new")
    names: list[str] = []

    async def move(name: str) -> None:
        async with Redis(port=gateway.port) as one:
            with contextlib.suppress(ResponseError):
                if await one.renamenx("new", name):
                    names.append(name)

    await asyncio.gather(*(move(f"to {i}") for i in range(3)))
    assert await r.exists("new") + len(names) >= 1
    assert b"text" in [await r.get(key) for key in await r.keys("*")]


async def test_several_connections_pop_each_member_once(gateway: RedisGateway, r: Any) -> None:
    await r.sadd("all", *range(12))
    popped: list[bytes] = []
    unknown = 0

    async def pop() -> None:
        nonlocal unknown
        async with Redis(port=gateway.port) as one:
            for _ in range(4):
                try:
                    popped.append(await one.spop("all"))
                except ResponseError as error:
                    unknown += "OUTCOMEUNKNOWN" in str(error)

    await asyncio.gather(*(pop() for _ in range(3)))
    assert len(set(popped)) == len(popped) > 0
    assert None not in popped
    left = await r.smembers("all")
    assert left.isdisjoint(popped)
    assert 12 - len(popped) - unknown <= len(left) <= 12 - len(popped)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server to compare with")
async def test_replies_are_those_of_redis(gateway: RedisGateway, tmp_path: Path) -> None:
    """The same commands, drawn at random, to the gateway and to a real server."""
    place = str(tmp_path / "redis.sock")
    server = await asyncio.create_subprocess_exec(
        *("redis-server", "--port", "0", "--unixsocket", place, "--save", "", "--dir", str(tmp_path)),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        async with Redis(unix_socket_path=place) as real, Redis(port=gateway.port) as ours:
            async with asyncio.timeout(20):
                while True:
                    with contextlib.suppress(RedisConnectionError):
                        if await real.ping():
                            break
                    await asyncio.sleep(0.02)
            await ours.flushdb()
            draw = random.Random(7)
            for _ in range(120):
                words = _drawn(draw)
                assert await _reply(ours, words) == await _reply(real, words), words
    finally:
        server.terminate()
        await server.wait()


def _drawn(draw: random.Random) -> list[str]:
    key, name = draw.choice("ab"), draw.choice("fgh")
    value = draw.choice(("1", "-7", "2.5", "text", "", "9223372036854775807"))
    return draw.choice(
        (
            *(["HSET", key, name, value], ["HSETNX", key, name, value], ["HDEL", key, name, draw.choice("fgh")]),
            *(["HINCRBY", key, name, value], ["HINCRBYFLOAT", key, name, value], ["HGET", key, name], ["HLEN", key]),
            *(["SADD", key, name, value], ["SREM", key, name], ["SCARD", key], ["SISMEMBER", key, name]),
            *(["SET", key, value], ["GET", key], ["DEL", key], ["TYPE", key], ["EXISTS", key], ["INCR", key]),
            *(["SETNX", key, value], ["APPEND", key, value], ["SPOP", key, "9"], ["HSTRLEN", key, name]),
            *(["GETSET", key, value], ["PERSIST", key], ["EXPIRE", key, "1000", "NX"], ["STRLEN", key]),
        )
    )


async def _reply(connected: Any, words: list[str]) -> object:
    try:
        reply = await connected.execute_command(*words)
    except ResponseError as error:
        return f"error: {error}"
    return sorted(reply) if isinstance(reply, set | list) else reply


async def test_elsewhere_it_is_refused_with_the_remedy(gateway: RedisGateway, client: Client) -> None:
    async with Redis(port=gateway.port, db=1) as r:
        assert await r.set("k", "v") is True
        for words in (
            ["INCR", "k"],
            ["SET", "k", "v", "NX"],
            ["APPEND", "k", "v"],
            ["PERSIST", "k"],
            ["GETSET", "k", "v"],
            ["HSETNX", "h", "f", "v"],
            ["HINCRBY", "h", "f", "1"],
            ["SPOP", "s"],
        ):
            with refused("needs compare-and-set: SELECT a database .* --database N=NAMESPACE"):
                await r.execute_command(*words)
        assert await r.get("k") == b"v"
    with pytest.raises(Misuse, match="hashes and sets itself"):
        async with serving(client, databases={0: DatabaseNames("locks", "maps")}):
            pass


async def test_what_libraries_need_of_it(gateway: RedisGateway, r: Any) -> None:
    await asyncio.to_thread(_django_and_cachelib, gateway.port)
    from aiocache import RedisCache
    from aiocache.serializers import StringSerializer

    async with RedisCache(endpoint="127.0.0.1", port=gateway.port, serializer=StringSerializer()) as cache:
        assert await cache.add("aio", "1") is True
        with pytest.raises(ValueError, match="already exists"):
            await cache.add("aio", "2")
        assert await cache.increment("aio", 4) == 5
        assert await cache.expire("aio", 100) is True
        assert await cache.get("aio") == "5"


def _django_and_cachelib(port: int) -> None:
    from cachelib import RedisCache as Cachelib
    from django.core.cache.backends.redis import RedisCache

    cache = RedisCache(f"redis://127.0.0.1:{port}/0", {})
    assert (cache.add("k", 1), cache.add("k", 2)) == (True, False)
    assert (cache.incr("k"), cache.incr("k", 10), cache.decr("k")) == (2, 12, 11)
    assert (cache.touch("k", 100), cache.touch("nothing", 100)) == (True, False)
    assert (cache.get_or_set("new", "first"), cache.get_or_set("new", "second")) == ("first", "first")
    with pytest.raises(ValueError, match="not found"):
        cache.incr("nothing")
    other = Cachelib("127.0.0.1", port=port)
    assert (other.add("flask", 1), other.add("flask", 2), other.get("flask")) == (True, False, 1)


async def test_prefixes_have_namespaces_of_their_own(client: Client) -> None:
    names = {b"lock:": DatabaseNames("locks"), b"lock:not:": DatabaseNames("other")}
    database = {0: DatabaseNames("default", "maps"), 1: DatabaseNames("default")}
    async with (
        serving(client, databases=database, prefixes=names) as gateway,
        Redis(port=gateway.port) as r,
        Redis(port=gateway.port, db=1) as other,
    ):
        await r.flushall()
        assert [await r.incr("lock:n"), await r.incr("lock:n")] == [1, 2]
        for key in ("n", "lock:not:n"):
            with refused("needs compare-and-set"):
                await r.incr(key)
        assert await r.mset({"a": "1", "lock:a": "2", "lock:not:a": "3", "b": "4"}) is True
        assert await r.mget("lock:a", "a", "none", "lock:not:a", "b") == [b"2", b"1", None, b"3", b"4"]
        assert await client.namespace("locks").get("lock:a") == b"2"
        assert await client.namespace("other").get("lock:not:a") == b"3"
        assert (await r.exists("a", "lock:a", "none", "lock:a"), await r.delete("lock:a", "b", "c")) == (3, 2)
        await r.hset("lock:h", "f", "v")
        await r.hset("h", "f", "v")
        await client.namespace("locks").set("elsewhere", b"hidden: no key that begins so")
        await client.namespace("default").set("lock:x", b"hidden by the prefix")
        here = [b"a", b"h", b"lock:h", b"lock:n", b"lock:not:a"]
        assert (await r.keys("*"), await r.dbsize()) == (here, 5)
        assert sorted([key async for key in r.scan_iter(count=1)]) == here
        assert await r.keys("lock:*") == here[2:]
        assert sorted([key async for key in r.scan_iter("lock:n*", _type="string")]) == [b"lock:n", b"lock:not:a"]
        assert sorted([key async for key in r.scan_iter(_type="hash")]) == [b"h", b"lock:h"]
        assert (await other.get("lock:x"), await r.get("lock:x")) == (b"hidden by the prefix", None)
        for words in (["RENAME", "a", "lock:b"], ["WATCH", "a", "lock:n"]):
            with refused("have to be in one namespace"):
                await r.execute_command(*words)
        async with r.pipeline() as pipe:
            await pipe.watch("lock:n")
            pipe.multi()
            pipe.incr("lock:n")
            assert await pipe.execute() == [3]
        assert await r.eval("return redis.call('incr', KEYS[1])", 1, "lock:n") == 4
        await r.flushdb()
        assert await r.dbsize() == 0
        assert await client.namespace("locks").get("elsewhere") is not None
    with pytest.raises(Misuse, match="need namespaces of their own"):
        async with serving(client, databases=database, prefixes={b"x:": DatabaseNames("default")}):
            pass
