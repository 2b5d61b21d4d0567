"""Compare-and-set for applications, against real nodes (protocol 17)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from quorumcache.client import Client
from quorumcache.client.exact import ABSENT
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.outcome import UNKNOWN, Failed, Outcome
from quorumcache.errors import InvalidValue, Misuse, OutcomeUnknown, Unavailable
from quorumcache.net import answers
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import verify


@pytest.fixture
async def exact() -> AsyncIterator[tuple[LocalCluster, Client]]:
    """A cluster with a lying node and an exact namespace, once its nodes vote, and a client there."""
    async with LocalCluster(
        max_skew=0.02, op_time=1.0, grace=0.05, namespaces=[NamespaceInfo("locks", "exact")], byzantine={3: "stale"}
    ) as cluster:
        client = (await cluster.client()).namespace("locks")
        for _ in range(100):
            try:
                await client.set("ready", b"yes")
                break
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.1)
        yield cluster, client


async def test_add_cas_incr_append(exact: tuple[LocalCluster, Client]) -> None:
    _, client = exact
    first = await client.add("a", b"1")
    assert first is not None
    assert await client.add("a", b"2") is None
    assert await client.get("a") == b"1"
    assert await client.cas("a", b"2", b"3") is None
    second = await client.cas("a", b"1", b"3")
    assert second is not None
    assert second > first
    assert await client.cas("b", ABSENT, b"x") is not None
    assert await client.cas("b", ABSENT, b"y") is None
    assert [await client.incr("n"), await client.incr("n", 5), await client.incr("n", -7)] == [1, 6, -1]
    assert await client.get("n") == b"-1"
    with pytest.raises(InvalidValue, match="not an integer"):
        await client.incr("b")
    assert await client.append("b", b"yz") == 3
    assert await client.get("b") == b"xyz"
    await client.delete("b")
    assert await client.get("b") is None
    third = await client.add("b", b"again")
    assert third is not None
    await client.set_many({"c": b"1", "d": b"2"})
    assert await client.get_many(["c", "d"]) == {"c": b"1", "d": b"2"}
    await client.delete_many(["c", "nothing"])
    assert await client.get("c") is None


async def test_what_is_asked_at_once_is_signed_together(
    exact: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protocol 17, "Signed together": over sockets too, and everybody takes it for what it is."""
    cluster, client = exact
    monkeypatch.setattr(answers, "SLICE_NS", 1 << 60)  # However slow the machine is.
    for _ in range(2):
        await asyncio.gather(*(client.incr(f"many {i}") for i in range(12)))
    other = (await cluster.client()).namespace("locks")
    assert await other.get_many([f"many {i}" for i in range(12)]) == {f"many {i}": b"2" for i in range(12)}
    held = [entry for node in range(3) for _, entry in cluster.node(node).node.slots]
    together = [entry for entry in held if any(len(g.signature) > 64 for g in entry.batch.certificate.grants)]
    assert together
    verifier = Verifier(verify, [cluster.configuration])
    for entry in together:
        verifier.check_entry(entry.entry())


async def test_update_computes_again_when_others_were_first(exact: tuple[LocalCluster, Client]) -> None:
    cluster, client = exact
    other = (await cluster.client()).namespace("locks")
    calls = 0

    async def more(value: bytes | None) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            await other.set("k", b"between")
        return (value or b"") + b"+"

    assert await client.update("k", more) == b"between+"
    assert calls == 2
    assert await client.update("k", lambda value: value + b"!") == b"between+!"


async def test_many_count_exactly(exact: tuple[LocalCluster, Client]) -> None:
    cluster, client = exact
    clients = [client, *[(await cluster.client()).namespace("locks") for _ in range(3)]]

    results: list[int] = []
    unknown = 0

    async def count(one: Client) -> None:
        nonlocal unknown
        for _ in range(10):
            try:
                results.append(await one.incr("hits"))
            except OutcomeUnknown:  # A slow machine may have no time left.
                unknown += 1
            except Unavailable:
                continue

    await asyncio.gather(*map(count, clients))
    assert len(set(results)) == len(results) >= 4
    last = int(await client.get("hits"))
    assert max(results) <= last <= len(results) + unknown


async def test_a_lock_has_one_holder_and_rising_tokens(exact: tuple[LocalCluster, Client]) -> None:
    cluster, client = exact
    other = (await cluster.client()).namespace("locks")
    tokens: list[int] = []
    inside = 0

    async def work(one: Client) -> None:
        nonlocal inside
        for _ in range(5):
            async with one.lock("job", 30) as lock:
                inside += 1
                assert inside == 1
                tokens.append(lock.token)
                assert 0 < lock.left <= 30
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(work(client), work(other))
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 10
    async with client.lock("job", 30) as lock:
        with pytest.raises(Unavailable, match="held by others"):
            await other.lock("job", 30, wait=0.1).acquire()
        before = lock.token
        assert await lock.extend() > before
        assert await other.cas("job", ABSENT, b"x") is None
        await other.delete("job")
        with pytest.raises(Misuse, match="not held any more"):
            await lock.extend()
        assert lock.left == 0
    with pytest.raises(InvalidValue, match="clocks"):
        client.lock("job", 0.01)


async def test_a_lock_whose_taking_ends_unknown(exact: tuple[LocalCluster, Client]) -> None:
    """It is asked for again, not for ever; and nobody says that others hold what may be one's own."""
    _, client = exact
    real, asked, ends = client._exact, 0, 0

    async def unsure(slot: bytes, change: Any) -> Outcome:
        nonlocal asked
        asked += 1
        return Failed(UNKNOWN, "who knows") if asked <= ends else await real(slot, change)

    client._exact = unsure  # type: ignore[method-assign]
    for wait, tries in ((None, 3), (0.001, 1)):
        asked, ends = 0, 99
        with pytest.raises(OutcomeUnknown):
            await client.lock("unsure", 30, wait=wait).acquire()
        assert asked == tries
    asked, ends = 0, 2
    lock = client.lock("unsure", 30)
    assert await lock.acquire() > 0
    assert asked == 3
    with pytest.raises(Misuse, match="of its own"):
        await lock.acquire()
    ends = 99
    with pytest.raises(OutcomeUnknown):
        await lock.extend(2)
    assert lock.left < 2
    ends = 0
    assert await lock.release()


async def test_a_lock_is_free_when_its_time_is_over(exact: tuple[LocalCluster, Client]) -> None:
    cluster, client = exact
    other = (await cluster.client()).namespace("locks")
    lost = client.lock("job", 0.3)
    first = await lost.acquire()
    assert await other.lock("job", 30, wait=20).acquire() > first
    assert not await lost.release()


async def test_other_namespaces_have_none_of_it(exact: tuple[LocalCluster, Client]) -> None:
    cluster, _ = exact
    client = await cluster.client()
    with pytest.raises(Misuse, match='of type "exact"'):
        await client.add("k", b"v")
