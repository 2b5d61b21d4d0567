"""How much a writer with rights for one namespace can slow another's operations: its latency alone and under attack.

Four node processes; the attacker, in a process of its own and of low priority, keeps many sessions with each
node busy with full batches.
`python bench/fairness.py --sessions 16 --seconds 5`.
Run by hand; the figures of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo, SignedConfiguration
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import SigningKey


async def measure(client: Client, seconds: float) -> list[float]:
    """Latencies, in milliseconds, of one write and one read after another."""
    took = []
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        number += 1
        began = time.perf_counter()
        await client.set(f"v{number % 100}", b"value")
        await client.get(f"v{number % 100}")
        took.append(1000 * (time.perf_counter() - began))
        await asyncio.sleep(0.005)
    return took


def attack(signed: SignedConfiguration, seed: bytes, sessions: int, seconds: float) -> None:
    """Full batches without pause, in many sessions of one key."""

    # What is measured is how a node shares itself out, not how the kernel shares out too few processors.
    os.nice(19)
    written = 0

    async def run() -> None:
        clients = [await Client.connect(signed, key=SigningKey(seed), namespace="attacked") for _ in range(sessions)]
        end = time.perf_counter() + seconds

        async def one(client: Client, number: int) -> None:
            batch = {f"{number} {i}": b"x" * 100 for i in range(256)}
            nonlocal written
            while time.perf_counter() < end:
                try:
                    await client.set_many(batch)
                    written += len(batch)
                    await client.get_many(list(batch))
                except Exception as fault:  # noqa: BLE001 - what becomes of the attacker's own does not matter.
                    print("the attacker:", fault)

        await asyncio.gather(*(one(client, number) for number, client in enumerate(clients)))
        for client in clients:
            await client.close()

    asyncio.run(run())
    print(f"the attacker wrote {written} entries in about {seconds:g} s")


def told(what: str, took: list[float]) -> None:
    """One line of figures."""
    cuts = statistics.quantiles(took, n=100)
    print(f"{what:12} {len(took):6} pairs   p50 {cuts[49]:7.2f} ms   p90 {cuts[89]:7.2f} ms   p99 {cuts[98]:7.2f} ms")


async def main() -> None:
    """Measure alone, then under attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    async with (
        LocalCluster(
            processes=True,
            writers=("victim", "attacker"),
            namespaces=(NamespaceInfo("attacked", writers=("attacker",)),),
        ) as cluster,
        await cluster.client("victim") as client,
    ):
        told("alone", await measure(client, options.seconds))
        context = multiprocessing.get_context("spawn")
        process = context.Process(
            target=attack,
            args=(cluster.signed, cluster.writers["attacker"].seed, options.sessions, options.seconds + 2),
        )
        process.start()
        await asyncio.sleep(2.0)
        told("attacked", await measure(client, options.seconds))
        process.join()


if __name__ == "__main__":
    asyncio.run(main())
