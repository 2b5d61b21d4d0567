"""Commands that depend on what is there, in a database whose strings are exact: by compare-and-set (docs/redis.md)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ResponseError, WatchError

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import Misuse, OutcomeUnknown, Unavailable
from quorumcache.gateway.redis import RedisGateway
from quorumcache.gateway.redis.settings import DatabaseNames
from quorumcache.testing import LocalCluster
from tests.gateway.redis.conftest import refused, serving

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]

DATABASES = {0: DatabaseNames("locks"), 1: DatabaseNames("default")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    spaces = [NamespaceInfo("locks", "exact"), NamespaceInfo("maps", type="map")]
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


async def test_elsewhere_it_is_refused_with_the_remedy(gateway: RedisGateway, client: Client) -> None:
    async with Redis(port=gateway.port, db=1) as r:
        assert await r.set("k", "v") is True
        for words in (
            ["INCR", "k"],
            ["SET", "k", "v", "NX"],
            ["APPEND", "k", "v"],
            ["PERSIST", "k"],
            ["GETSET", "k", "v"],
        ):
            with refused("needs compare-and-set: SELECT a database .* --database N=NAMESPACE"):
                await r.execute_command(*words)
        assert await r.get("k") == b"v"
    with pytest.raises(Misuse, match="no hashes or sets"):
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
