"""Mode primary: for how long an acknowledged write is nowhere but at the node that acknowledged it.

Four node processes, `ack = 1`, sets of 128 bytes by so many tasks. Every few milliseconds each node is asked for its
`forward_lag`: the oldest entry that no peer has confirmed yet is how far back a loss of that node with its memory
would reach. Printed: quantiles of that, over nodes and time, in milliseconds, and how many entries it was.

    python bench/window.py [--seconds S] [--tasks N ...]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.testing import LocalCluster


async def load(client: Client, task: int, end_s: float) -> int:
    """Sets, one after another, until the time is over; how many."""
    count = 0
    while time.perf_counter() < end_s:
        await client.set(f"{task} {count % 1000}", b"v" * 128)
        count += 1
    return count


async def sample(cluster: LocalCluster, end_s: float) -> list[tuple[float, int]]:
    """(milliseconds, entries) that no peer had, of each node, time after time."""
    names = {info.name for info in cluster.configuration.nodes}
    found = []
    while time.perf_counter() < end_s:
        for node in range(4):
            lag = (await cluster.status(node))["forward_lag"]
            peers = names - {cluster.configuration.nodes[node].name}
            entries, seconds = min(
                ((lag[peer]["entries"], lag[peer]["oldest_s"]) if peer in lag else (0, 0.0) for peer in peers),
                key=lambda one: one[1],
            )
            found.append((1000 * seconds, entries))
        await asyncio.sleep(0.01)
    return found


async def run(seconds: float, counts: list[int]) -> None:
    """Print a table."""
    async with LocalCluster(processes=True, namespaces=[NamespaceInfo("fast", mode="primary")]) as cluster:
        client = await cluster.client(namespace="fast")
        await load(client, 0, time.perf_counter() + 0.5)
        print(f"{'tasks':>6} {'sets/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'entries, at most':>17}")
        for count in counts:
            end_s = time.perf_counter() + seconds
            *sets, found = await asyncio.gather(
                *(load(client, task, end_s) for task in range(count)), sample(cluster, end_s)
            )
            found.sort()
            p50, p99, most = (found[min(int(len(found) * part), len(found) - 1)][0] for part in (0.5, 0.99, 1.0))
            entries = max(entries for _, entries in found)
            print(f"{count:>6} {sum(sets) / seconds:>8,.0f} {p50:>8.1f} {p99:>8.1f} {most:>8.1f} {entries:>17,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each line is measured")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 16, 64])
    given = parser.parse_args()
    asyncio.run(run(given.seconds, given.tasks))
