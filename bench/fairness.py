"""How much a writer with rights for one namespace can slow another's operations: its latency alone and under attack.

Four node processes; the attacker, in a process of its own and of low priority, keeps many sessions with each
node busy with full batches. Beside the time that a pair of a write and a read takes, it tells how much processor time
the nodes used meanwhile, whoever for: that of the third of four, for which the victim has to wait. What the pair takes
beyond that is waiting for processors. How much that alone does is told by a third measurement, in which nobody asks the
nodes for anything, and processes of low priority keep all processors busy.
`python bench/fairness.py --sessions 16 --seconds 5`. On Linux.

With `--own-processor` there is one node (f = 0) that has a processor to itself, and the clients share another: what is
measured is then how a node shares itself out, and not how too few processors are.

Run by hand; the figures of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from typing import NamedTuple

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo, SignedConfiguration
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import SigningKey


class Took(NamedTuple):
    """Milliseconds of each pair; and of processor time that the third of four nodes, or the one, used meanwhile."""

    pairs_ms: list[float]
    nodes_ms: list[float]


def processor_ns(process: int) -> int:
    """The processor time that a process has used, now: the clock's number is as `clock_getcpuclockid` makes it."""
    return time.clock_gettime_ns((~process << 3) | 2)


async def measure(client: Client, processes: list[int], seconds: float) -> Took:
    """One write and one read after another."""
    took = Took([], [])
    end = time.perf_counter() + seconds
    number = 0
    while time.perf_counter() < end:
        number += 1
        used = [processor_ns(process) for process in processes]
        began = time.perf_counter()
        await client.set(f"v{number % 100}", b"value")
        await client.get(f"v{number % 100}")
        took.pairs_ms.append(1000 * (time.perf_counter() - began))
        used = sorted(processor_ns(process) - before for process, before in zip(processes, used, strict=True))
        took.nodes_ms.append(used[len(used) * 2 // 3] / 1e6)
        await asyncio.sleep(0.005)
    return took


def spin(seconds: float) -> None:
    """Keep a processor busy."""
    os.nice(19)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


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


def told(what: str, took: Took) -> None:
    """A few figures."""
    print(
        f"{what:16} {len(took.pairs_ms):6} pairs   {words(took.pairs_ms)}; of a node's processor {words(took.nodes_ms)}"
    )


def words(figures: list[float]) -> str:
    """Three of its quantiles."""
    cuts = statistics.quantiles(figures, n=100)
    return f"p50 {cuts[49]:6.2f} ms   p90 {cuts[89]:6.2f} ms   p99 {cuts[98]:6.2f} ms"


async def main() -> None:
    """Measure alone, among others who use the processors, and under attack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--own-processor", action="store_true", help="one node, with a processor to itself")
    options = parser.parse_args()
    seconds, f = options.seconds, 0 if options.own_processor else 1
    async with (
        LocalCluster(
            f=f,
            processes=True,
            writers=("victim", "attacker"),
            namespaces=(NamespaceInfo("attacked", writers=("attacker",)),),
        ) as cluster,
        await cluster.client("victim") as client,
    ):
        nodes = [cluster.pid(node) for node in range(3 * f + 1)]
        if options.own_processor:
            first, *others = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(nodes[0], {first})
            os.sched_setaffinity(0, others)
        await measure(client, nodes, 1.0)
        told("alone", await measure(client, nodes, seconds))
        context = multiprocessing.get_context("spawn")
        spinning = [context.Process(target=spin, args=(seconds + 2,)) for _ in range(os.cpu_count() or 1)]
        for process in spinning:
            process.start()
        await asyncio.sleep(1.0)
        told("busy processors", await measure(client, nodes, seconds))
        for process in spinning:
            process.join()
        attacker = cluster.writers["attacker"].seed
        process = context.Process(target=attack, args=(cluster.signed, attacker, options.sessions, seconds + 2))
        process.start()
        await asyncio.sleep(2.0)
        told("attacked", await measure(client, nodes, seconds))
        process.join()


if __name__ == "__main__":
    asyncio.run(main())
