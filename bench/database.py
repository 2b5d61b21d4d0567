"""Measure writes behind the cache: how fast they are acknowledged, and how fast they reach the database.

    python bench/database.py [--postgres DSN] [--json]

One process has the cluster's four nodes and the client. 64 tasks write 128-byte values; then the queue is flushed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quorumcache import PostgresStore, SqliteStore, Store, WriteBehind, WriteThrough
from quorumcache.client.database.queue import Durability
from quorumcache.testing import LocalCluster

TASKS = 64
WRITES = 6400


async def behind(store: Store, durability: Durability, directory: Path) -> dict[str, float]:
    """Writes acknowledged a second, and saved a second from the first write to the end of the flush."""
    async with LocalCluster() as cluster, await cluster.client() as client:
        queue = directory / f"queue-{time.monotonic_ns()}.db"
        async with WriteBehind(client, store, queue=queue, durability=durability) as cache:
            start_s = time.perf_counter()
            await asyncio.gather(*(_write(cache, task) for task in range(TASKS)))
            acknowledged_s = time.perf_counter() - start_s
            await cache.flush()
            saved_s = time.perf_counter() - start_s
    return {"acknowledged_per_s": WRITES / acknowledged_s, "saved_per_s": WRITES / saved_s}


async def through(store: Store) -> dict[str, float]:
    """Writes a second to the database and then the cache."""
    async with LocalCluster() as cluster, await cluster.client() as client, WriteThrough(client, store) as cache:
        start_s = time.perf_counter()
        await asyncio.gather(*(_write(cache, task) for task in range(TASKS)))
        return {"saved_per_s": WRITES / (time.perf_counter() - start_s)}


async def _write(cache: WriteBehind | WriteThrough, task: int) -> None:
    for number in range(WRITES // TASKS):
        await cache.set(f"key:{task}:{number}", bytes(128))


async def main(dsn: str | None, as_json: bool) -> None:
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        stores: dict[str, Store] = {"sqlite": SqliteStore(directory / "app.db")}
        if dsn:
            stores["postgres"] = PostgresStore(dsn)
        for kind, store in stores.items():
            for durability in ("process", "power"):
                results[f"behind_{kind}_{durability}"] = await behind(store, durability, directory)
            results[f"through_{kind}"] = await through(store)
            await store.close()
    if as_json:
        print(json.dumps(results))
        return
    for title, figures in results.items():
        print(f"{title:26} " + "  ".join(f"{name} {figure:8,.0f}" for name, figure in figures.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", metavar="DSN", help="also measure this PostgreSQL database (it gets a table)")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    asyncio.run(main(chosen.postgres, chosen.json))
