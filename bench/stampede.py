"""Measure what a hot key's end costs those who ask for it: with early refresh, and without.

    python bench/stampede.py [--seconds 5] [--json]

200 tasks ask for one key all the time; its loader takes 50 ms, its value lives 0.5 s. One process has the cluster's
four nodes and the client, so latencies include the nodes' work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quorumcache.client import Client
from quorumcache.testing import LocalCluster

TASKS = 200
LOADER_S = 0.05
TTL_S = 0.5
PAUSE_S = 0.005


async def measure(client: Client, key: str, eagerness: float, seconds: float) -> dict[str, float]:
    """Loads, and latencies in milliseconds, over so many seconds."""
    loads = 0
    at_once = at_once_max = 0
    taken_s: list[float] = []

    async def load() -> bytes:
        nonlocal loads, at_once, at_once_max
        loads += 1
        at_once += 1
        at_once_max = max(at_once_max, at_once)
        await asyncio.sleep(LOADER_S)
        at_once -= 1
        return b"value"

    async def ask(end_s: float) -> None:
        while (start_s := time.perf_counter()) < end_s:
            await client.get_or_set(key, load, TTL_S, eagerness=eagerness)
            taken_s.append(time.perf_counter() - start_s)
            await asyncio.sleep(PAUSE_S)

    await client.get_or_set(key, load, TTL_S)
    loads = 0
    end_s = time.perf_counter() + seconds
    await asyncio.gather(*(ask(end_s) for _ in range(TASKS)))
    taken_s.sort()
    return {
        "calls": len(taken_s),
        "loads": loads,
        "loads_at_once_max": at_once_max,
        "p50_ms": 1000 * taken_s[len(taken_s) // 2],
        "p99_ms": 1000 * taken_s[len(taken_s) * 99 // 100],
        "waited_for_a_load": sum(one_s >= 0.8 * LOADER_S for one_s in taken_s),
    }


async def main(seconds: float, as_json: bool) -> None:
    async with LocalCluster() as cluster, await cluster.client() as client:
        results = {
            "refresh_early": await measure(client, "early", 1.0, seconds),
            "refresh_at_the_end": await measure(client, "late", 0.0, seconds),
        }
    if as_json:
        print(json.dumps(results))
        return
    for title, figures in results.items():
        print(f"{title:20} " + "  ".join(f"{name} {figure:,.1f}" for name, figure in figures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.seconds, chosen.json))
