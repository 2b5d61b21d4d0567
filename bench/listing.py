"""How long listings take: `python bench/listing.py --keys 100000`.

A cluster of four nodes and its client in one process and one event loop, so the processor time is that of all five.
Fills it, then measures: all keys, page by page; one prefix of many; all keys with a node that lies; all with a node
down.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import uvloop

from quorumcache.client import Client
from quorumcache.testing import LocalCluster

BATCH = 2000


async def main(count: int, shards: int) -> None:
    """Fill and measure, and print a line for each."""
    async with (
        LocalCluster(shards=shards, op_time=60.0, bytes_max=1 << 30, byzantine={3: "honest"}) as cluster,
        await cluster.client() as client,
    ):
        for at in range(0, count, BATCH):
            await client.set_many({f"user:{i}": b"x" * 20 for i in range(at, min(at + BATCH, count))})
        print(f"{count:,} keys in {shards} shards, four nodes and the client in one process")
        await measured("all keys", client, "", count)
        await measured("all keys, again", client, "", count)
        await measured("prefix user:12", client, "user:12", None)
        await cluster.make_byzantine(3, "lying-listing")
        await measured("all keys, a node lies", client, "", count)
        await cluster.kill(3)
        await measured("all keys, a node is down", client, "", count)


async def measured(what: str, client: Client, prefix: str, expected: int | None) -> None:
    """List all keys with the prefix; check that each is there once."""
    doubted, start_s, start_cpu_s = client.counts["keys_doubted"], time.perf_counter(), time.process_time()
    keys = [key async for key in client.keys(prefix)]
    took_s, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    assert len(set(keys)) == len(keys)
    assert expected is None or len(keys) == expected
    doubted = client.counts["keys_doubted"] - doubted
    print(f"{what:26} {len(keys):>8,} keys {took_s:8.3f} s {cpu_s:8.3f} s of processor {doubted:>8,} doubtful")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=1024)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(arguments.keys, arguments.shards))
