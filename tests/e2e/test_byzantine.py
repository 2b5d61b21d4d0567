"""Liars on real sockets: with at most f of them, every read is correct and fresh, and every write succeeds."""

import itertools

import pytest

from quorumcache.client import Client
from quorumcache.testing import LocalCluster
from quorumcache.testing.byzantine import LIES

KEYS = [f"k{i}" for i in range(12)]


async def _exercise(cluster: LocalCluster, liars: list[int], rounds: int = 6) -> None:
    """Write and read through two clients until every liar has lied: protocol 5, 1 and 3, as values that only grow."""
    latest: dict[str, int] = {}
    async with await cluster.client("a") as a, await cluster.client("b") as b, await cluster.client(None) as reader:
        numbers = itertools.count(1)
        for turn in range(200):
            await _write(a if turn % 2 else b, latest, numbers)
            for client in (reader, b if turn % 2 else a):
                found = await client.get_many(KEYS)
                assert found == {key: str(number).encode() for key, number in latest.items()}
                assert sorted((await client.scan("k")).keys) == sorted(KEYS)
                for key in KEYS[:3]:
                    assert await client.get(key) == str(latest[key]).encode()
            told = [(await cluster.status(liar))["lying"]["told"] for liar in liars]
            if turn >= rounds and all(told):
                return
    raise AssertionError(f"a liar never lied: {told}")


async def _write(client: Client, latest: dict[str, int], numbers: "itertools.count[int]") -> None:
    batch = {key: next(numbers) for key in KEYS}
    await client.set_many({key: str(number).encode() for key, number in batch.items()})
    latest.update(batch)
    single = next(numbers)
    await client.set(KEYS[0], str(single).encode())
    latest[KEYS[0]] = single


@pytest.mark.attack
@pytest.mark.parametrize("behaviour", [kind.name for kind in LIES])
async def test_one_liar_of_four_changes_nothing(behaviour: str) -> None:
    async with LocalCluster(writers=("a", "b"), byzantine={1: "honest"}) as cluster:
        async with await cluster.client("a") as client:
            # Something true to be stale about.
            await client.set_many(dict.fromkeys(KEYS, b"0"))
        await cluster.make_byzantine(1, behaviour)
        await _exercise(cluster, [1])


@pytest.mark.attack
@pytest.mark.parametrize(
    "behaviours",
    [
        ("stale", "stale"),
        ("forged-value", "corrupted-certificate"),
        ("equivocating-grants", "wrong-answers"),
        ("silent", "lying-floor"),
        ("garbage-frames", "withholds-values"),
        ("slow", "refuses-everything"),
    ],
)
async def test_two_liars_of_seven_change_nothing(behaviours: tuple[str, str]) -> None:
    async with LocalCluster(f=2, writers=("a", "b"), byzantine={0: "honest", 4: "honest"}) as cluster:
        async with await cluster.client("a") as client:
            await client.set_many(dict.fromkeys(KEYS, b"0"))
        await cluster.make_byzantine(0, behaviours[0])
        await cluster.make_byzantine(4, behaviours[1])
        await _exercise(cluster, [0, 4])
