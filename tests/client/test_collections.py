"""Counters, sets, maps and siblings as applications use them: on real sockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import InvalidKey, InvalidValue, Misuse, PermissionDenied
from quorumcache.testing import LocalCluster
from quorumcache.testing.byzantine import NAMES

KINDS = ("counter", "set", "map", "siblings")


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    spaces = [NamespaceInfo(kind, kind) for kind in KINDS]
    async with LocalCluster(writers=("one", "two"), namespaces=spaces) as running:
        yield running


async def test_a_counter_of_two_writers(cluster: LocalCluster) -> None:
    one, two = await cluster.client("one"), await cluster.client("two")
    assert await one.counter("hits").value() == 0
    await asyncio.gather(*(client.counter("hits").add() for client in (one, two) for _ in range(200)))
    await two.counter("hits").add(-50)
    assert await one.counter("hits").value() == 350
    assert await two.counter("hits").value() == 350
    # Increments that came together travelled together.
    assert one.counts["write_attempts"] < 50
    await one.counter("hits").delete()
    assert await two.counter("hits").value(-1) == -1
    await two.counter("hits").add(7)
    assert await one.counter("hits").value() == 7


async def test_amounts_have_bounds(cluster: LocalCluster) -> None:
    counter = (await cluster.client()).counter("hits")
    for amount in (1 << 60, 1.5, "1", True):
        with pytest.raises(InvalidValue, match="amount"):
            await counter.add(amount)  # type: ignore[arg-type]
    await counter.add(0)
    assert not await counter.exists()


async def test_a_set(cluster: LocalCluster) -> None:
    one, two = await cluster.client("one"), await cluster.client("two")
    assert await one.set_("s").members() == set()
    assert not await one.set_("s").contains("a")
    await asyncio.gather(one.set_("s").add("a", "b"), two.set_("s").add("c", b"\xff", ""))
    assert await one.set_("s").members() == {"a", "b", "c", "\udcff", ""}
    assert await two.set_("s").contains(b"\xff")
    await two.set_("s").remove("a", "nobody")
    assert not await one.set_("s").contains("a")
    assert await one.set_("s").size() == 4
    before = await one.set_("s").snapshot()
    await one.set_("s").delete()
    assert await two.set_("s").snapshot() is None
    await two.set_("s").add("d")
    after = await one.set_("s").snapshot()
    assert before is not None
    assert after is not None
    assert after.value == {"d"}
    assert after.generation > before.generation


async def test_a_map(cluster: LocalCluster) -> None:
    one = await cluster.client("one", serializer="json")
    two = await cluster.client("two", serializer="json")
    user = one.map_("user:1")
    await user.set("name", "Ada")
    await two.map_("user:1").set_many({"age": 36, b"raw": [1, 2]})
    assert await user.items() == {"age": 36, "name": "Ada", "raw": [1, 2]}
    assert await user.get("age") == 36
    assert await user.get("none", 5) == 5
    assert await user.get_many(["name", "none", b"raw"]) == {"name": "Ada", b"raw": [1, 2]}
    assert await user.names() == ["age", "name", "raw"]
    await user.remove("age")
    assert await user.size() == 2
    assert await user.contains("name")
    assert not await user.contains("age")


async def test_a_large_map(cluster: LocalCluster) -> None:
    client = await cluster.client("one")
    items = {f"name {i}": b"%d" % i for i in range(3000)}
    await client.map_("large").set_many(items)
    assert await (await cluster.client("two")).map_("large").items() == dict(sorted(items.items()))


async def test_siblings(cluster: LocalCluster) -> None:
    one, two = await cluster.client("one", serializer="json"), await cluster.client("two", serializer="json")
    assert await one.siblings("cart").values() == []
    assert await one.siblings("cart").resolve(sum) is None
    await asyncio.gather(one.siblings("cart").write([1]), two.siblings("cart").write([2]))
    found = await one.siblings("cart").read()
    assert sorted(found.values) == [[1], [2]]
    # Another write that nobody has seen stays beside the merged one.
    await two.siblings("cart").write([3])
    await one.siblings("cart").write([1, 2], found.context)
    assert sorted(await two.siblings("cart").values()) == [[1, 2], [3]]

    def merge(values: list[list[int]]) -> list[int]:
        return sorted({item for value in values for item in value})

    assert await two.siblings("cart").resolve(merge) == [1, 2, 3]
    assert await one.siblings("cart").values() == [[1, 2, 3]]


async def test_time_to_live(cluster: LocalCluster) -> None:
    client = await cluster.client()
    counter = client.counter("c", ttl=100)
    assert await counter.ttl() is None
    assert not await counter.expire(5)
    await counter.add()
    assert 90 < (await counter.ttl() or 0) <= 100
    assert await counter.expire(None)
    assert await counter.ttl() == math.inf
    assert await counter.expire(0.3)
    assert await counter.value() == 1
    await asyncio.sleep(0.5)
    assert not await counter.exists()
    await counter.add(5)
    assert await counter.value() == 5


async def test_what_cannot_be(cluster: LocalCluster) -> None:
    client = await cluster.client()
    with pytest.raises(Misuse, match=r"client\.set_\(key\)"):
        await client.within("set").get("key")
    with pytest.raises(Misuse, match=r"client\.counter\(key\)"):
        await client.within("counter").set("key", b"value")
    with pytest.raises(InvalidKey, match="1023"):
        await client.set_("s").add("x" * 1024)
    with pytest.raises(InvalidKey, match="type int"):
        await client.map_("m").get(5)  # type: ignore[arg-type]
    with pytest.raises(InvalidKey):
        client.map_("")
    with pytest.raises(InvalidValue, match="ttl"):
        client.map_("m", ttl=-1)
    reader = await cluster.client(None)
    with pytest.raises(PermissionDenied):
        await reader.counter("c").add()


async def test_a_cluster_without_the_type() -> None:
    async with LocalCluster() as plain:
        client = await plain.client()
        with pytest.raises(Misuse, match="has none of type counter"):
            client.counter("hits")


@pytest.mark.parametrize("behaviour", [name for name in NAMES if name != "honest"])
async def test_a_lying_node_changes_nothing(behaviour: str) -> None:
    spaces = [NamespaceInfo(kind, kind) for kind in KINDS]
    async with LocalCluster(namespaces=spaces, byzantine={0: behaviour}) as lying:
        client = await lying.client()
        await client.set_("s").add("a", "b")
        await client.counter("c").add(3)
        await client.map_("m").set("x", b"1")
        assert await client.set_("s").members() == {"a", "b"}
        assert await client.counter("c").value() == 3
        assert await client.map_("m").get("x") == b"1"


async def test_closing_tells_who_waits(cluster: LocalCluster) -> None:
    """No operation is left without an end."""
    client = await cluster.client()
    tasks = [asyncio.ensure_future(client.counter("c").add()) for _ in range(20)]
    tasks += [asyncio.ensure_future(client.set_("s").add(str(i))) for i in range(20)]
    await asyncio.sleep(0)
    await client.close()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert len(done) == 40
