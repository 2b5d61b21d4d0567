"""Near caches: never older than the caller allows, never larger, and what is written through them is seen at once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.client import Client, NearCache, SyncClient
from quorumcache.core.outcome import Found, Missed, Outcome
from quorumcache.errors import InvalidKey, Misuse, Unavailable
from quorumcache.testing import LocalCluster


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


# --- the promise, on a clock of its own ---


class History:
    """One key as the cluster has it: a client whose reads take time, and what the value was when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.values: list[tuple[float, bytes | None]] = [(0.0, None)]
        self.configuration = SimpleNamespace(f=1)
        self.time_us = 0
        self.takes_s = (0.0, 0.0)
        self.is_raced = False

    def write(self) -> None:
        self.values.append((self.clock.now_s, b"%d" % len(self.values) if len(self.values) % 3 else None))

    def held_between(self, from_s: float, to_s: float) -> set[bytes | None]:
        ends = [at_s for at_s, _ in self.values[1:]] + [float("inf")]
        return {
            value for (at_s, value), end_s in zip(self.values, ends, strict=True) if at_s <= to_s and end_s >= from_s
        }

    def _slot(self, key: str) -> bytes:
        return key.encode()

    def _loads(self, data: bytes) -> bytes:
        return data

    def _check_miss(self, outcome: Outcome, strict: bool) -> None:
        pass

    def _value(self, slot: bytes, found: Found) -> bytes:
        return found.salted

    async def _read(self, slot: bytes, full: bool) -> Outcome:
        before_s, after_s = self.takes_s
        self.clock.now_s += before_s
        value = self.values[-1][1]
        if self.is_raced:
            self.write()
        self.clock.now_s += after_s
        return Missed(4) if value is None else Found(bytes(200), value)

    async def _many(self, slots: list[bytes], writes: None) -> list[Outcome]:
        return [await self._read(slot, False) for slot in slots]


_spans = st.floats(0, 2)
_kinds = st.sampled_from(["wait", "write", "read", "raced read"])
_steps = st.lists(st.tuples(_kinds, _spans))


@pytest.mark.parametrize("many", [False, True])
@settings(deadline=None)
@given(steps=_steps)
def test_what_is_read_was_the_value_within_the_staleness(many: bool, steps: list[tuple[str, float]]) -> None:
    async def run() -> None:
        clock = Clock()
        history = History(clock)
        near = NearCache(cast(Client, history), staleness=1.0, clock=clock)
        for kind, span in steps:
            if kind == "wait":
                clock.now_s += span
            elif kind == "write":
                history.write()
            else:
                history.takes_s = (span / 3, span / 2)
                history.is_raced = kind == "raced read"
                begun_s = clock.now_s
                value = (await near.get_many(["k"])).get("k") if many else await near.get("k")
                assert value in history.held_between(begun_s - 1.0, clock.now_s)

    asyncio.run(run())


# --- on a cluster ---


async def test_reads_are_near_until_they_are_too_old(client: Client, cluster: LocalCluster) -> None:
    clock, other = Clock(), await cluster.client()
    near = NearCache(client, staleness=1.0, clock=clock)
    assert await near.get("k") is None
    await other.set("k", b"1")
    assert await near.get("k", b"-") == b"-"  # The miss, too, is near.
    clock.now_s += 1.0
    assert await near.get("k") == b"1"
    await other.set("k", b"2")
    assert await near.get("k") == b"1"
    assert await near.get_many(["k", "l"]) == {"k": b"1"}
    clock.now_s += 1.0
    assert await near.get_many(["k", "l"]) == {"k": b"2"}
    assert near.counts["hits"] == 3
    await other.delete("k")
    near.forget("k")
    assert await near.get("k") is None
    near.clear()
    assert near.counts["entries"] == near.counts["bytes"] == 0
    with pytest.raises(InvalidKey):
        await near.get("")


async def test_what_was_written_through_it_is_seen_at_once(client: Client) -> None:
    near = NearCache(client, staleness=3600)
    for value in (b"1", b"2"):
        await near.set("k", value)
        assert await near.get("k") == value
    await near.set_many({"k": b"3", "l": b"4"})
    assert await near.get_many(["k", "l"]) == {"k": b"3", "l": b"4"}
    await near.delete("k")
    assert await near.get("k") is None
    await near.delete_many(["l"])
    assert await near.get_many(["k", "l"]) == {}


async def test_a_read_that_began_before_a_write_is_not_kept_after_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, go = NearCache(client, staleness=3600), asyncio.Event()
    read, many = client._read, client._many

    async def slow_read(slot: bytes, full: bool) -> Outcome:
        outcome = await read(slot, full)
        await go.wait()
        return outcome

    async def slow_many(slots: list[bytes], writes: Any) -> list[Outcome]:
        outcomes = await many(slots, writes)
        if writes is None:
            await go.wait()
        return outcomes

    monkeypatch.setattr(client, "_read", slow_read)
    monkeypatch.setattr(client, "_many", slow_many)
    await client.set_many({"k": b"old", "l": b"old"})
    reading = [asyncio.create_task(near.get("k")), asyncio.create_task(near.get_many(["l"]))]
    await asyncio.sleep(0.02)
    await near.set_many({"k": b"new", "l": b"new"})
    go.set()
    await asyncio.gather(*reading)
    assert (await near.get("k"), await near.get("l")) == (b"new", b"new")


async def test_one_read_of_a_key_at_a_time(client: Client) -> None:
    await client.set("k", b"v")
    before = client.counts.get("reads_fast", 0)
    near = NearCache(client, staleness=3600)
    assert set(await asyncio.gather(*[near.get("k") for _ in range(100)])) == {b"v"}
    assert client.counts["reads_fast"] == before + 1


async def test_it_keeps_no_more_than_it_may(client: Client) -> None:
    await client.set_many({f"k{i}": bytes(100) for i in range(20)} | {"large": bytes(10_000)})
    few = NearCache(client, staleness=3600, entries_max=5)
    for i in range(20):
        await few.get(f"k{i}")
        await few.get("k0")
    assert few.counts["entries"] == 5
    hits = few.counts["hits"]
    await few.get_many(["k0", "k19"])
    assert few.counts["hits"] == hits + 2
    small = NearCache(client, staleness=3600, bytes_max=2000)
    await small.get_many([*(f"k{i}" for i in range(20)), "large"])
    assert 0 < small.counts["bytes"] <= 2000
    assert small.counts["entries"] == 3
    assert len(await small.get("large")) == 10_000
    for options in ({"staleness": 0}, {"staleness": float("inf")}, {"staleness": 1, "entries_max": 0}):
        with pytest.raises(Misuse):
            NearCache(client, **options)  # type: ignore[arg-type]


async def test_what_expires_is_not_shown_longer_and_values_are_everybodys_own(client: Client) -> None:
    clock = Clock()
    near = NearCache(client.namespace(serializer="json"), staleness=3600, clock=clock)
    await near.set("k", {"a": 1}, ttl=60)
    (await near.get("k"))["a"] = 2
    assert await near.get("k") == {"a": 1}
    assert near.counts["misses"] == 1
    clock.now_s += 60
    await near.get("k")
    assert near.counts["misses"] == 2
    await client.namespace(serializer="json").get_or_set("none", lambda: None, 60)
    near.clear()
    assert await near.get("none", "default") is None


async def test_a_cluster_out_of_reach_shows(failing_cluster: LocalCluster) -> None:
    client = await failing_cluster.client()
    clock = Clock()
    near = NearCache(client, staleness=1.0, clock=clock)
    await near.set("k", b"v")
    assert await near.get("k") == b"v"
    for node in (2, 3):
        await failing_cluster.kill(node)
    assert await near.get("k") == b"v"
    clock.now_s += 1.0
    with pytest.raises(Unavailable):
        await near.get("k")
    await near.close()


def test_for_a_blocking_client(sync_client: SyncClient) -> None:
    near = sync_client.near(staleness=3600)
    near.set("near", b"1")
    assert near.get("near") == near.get("near") == b"1"
    assert near.counts["hits"] == 1
    sync_client.set("near", b"2")
    assert near.get("near") == b"1"
    near.forget("near")
    assert near.get_many(["near", "nothing"]) == {"near": b"2"}
    assert near.get("nothing", b"-") == b"-"
    near.set_many({"near": b"3"})
    assert near.get("near") == b"3"
    near.delete("near")
    assert near.get("near") is None
    near.delete_many(["near"])
    near.clear()
    assert near.counts["entries"] == 0
    near.close()
