"""A node that was wiped, filled again by its peers: how long it takes, what clients notice, and what so many entries of
128 bytes take of memory and of the time to start from SQLite. Four node processes on this machine.

    python bench/refill.py [--entries N] [--size BYTES] [--shards N] [--seconds S]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.memory import resident_bytes
from quorumcache.client import Client
from quorumcache.testing import LocalCluster, local

TASKS: Final = 32
BATCH: Final = 512
NODE: Final = 3
#: Four rounds of anti-entropy with each peer.
GAINS_NOTHING_S: Final = 24.0


async def rate(client: Client, entries: int, seconds: float, name: str) -> str:
    """Reads and writes a second of single keys, half of each, by so many tasks."""
    counts = [0, 0]
    end_s = time.perf_counter() + seconds

    async def work(number: int) -> None:
        turn = number
        while time.perf_counter() < end_s:
            turn += 1
            key = f"k{turn * 7919 % entries:08}"
            if turn % 2:
                await client.get(key)
            else:
                await client.set(key, b"w" * 128)
            counts[turn % 2] += 1

    began_s = time.perf_counter()
    await asyncio.gather(*(work(number * 1009) for number in range(TASKS)))
    return f"{name}: {sum(counts) / (time.perf_counter() - began_s):,.0f} operations/s"


async def until(cluster: LocalCluster, is_done: Any) -> tuple[float, dict[str, Any]]:
    """Seconds until the node's status is as wanted, and that."""
    began_s = time.perf_counter()
    while True:
        try:
            status = await cluster.status(NODE)
        except OSError:
            status = {}
        if status and is_done(status):
            return time.perf_counter() - began_s, status
        await asyncio.sleep(0.1)


def is_refilled(entries: int) -> Callable[[dict[str, Any]], bool]:
    """Whether the node recovers no more, and has all entries, or has gained none for so long that it will gain none."""
    most, at_s = -1, 0.0

    def told(status: dict[str, Any]) -> bool:
        nonlocal most, at_s
        if status["entries"] != most:
            most, at_s = status["entries"], time.perf_counter()
        return not status["shards_recovering"] and (most >= entries or time.perf_counter() - at_s > GAINS_NOTHING_S)

    return told


async def run(entries: int, size: int, shards: int, seconds: float) -> None:
    """Measure and print."""
    async with LocalCluster(processes=True, storage="sqlite", bytes_max=4 << 30, shards=shards) as cluster:
        client = await cluster.client()
        await until(cluster, lambda status: not status["shards_recovering"])
        empty = resident_bytes(cluster.pid(NODE))

        def memory(status: dict[str, Any]) -> str:
            grown = resident_bytes(cluster.pid(NODE)) - empty
            return (
                f"its memory is {grown / entries:.0f} bytes an entry above that of an empty node, "
                f"and it counts {status['bytes_used'] / entries:.0f}"
            )

        began_s = time.perf_counter()
        for at in range(0, entries, BATCH):
            await client.set_many({f"k{i:08}": b"v" * size for i in range(at, min(entries, at + BATCH))})
        print(f"{entries:,} entries of {size} bytes written in {time.perf_counter() - began_s:.1f} s", flush=True)
        _, status = await until(cluster, is_refilled(entries))
        print(f"a node that was written to: {memory(status)}", flush=True)
        print(await rate(client, entries, seconds, "before"), flush=True)

        await cluster.kill(NODE)
        began_s = time.perf_counter()
        await cluster.restart(NODE)
        _, status = await until(cluster, is_refilled(entries))
        assert status["resumed"]
        print(
            f"start from SQLite, until it answers: {time.perf_counter() - began_s:.1f} s; {memory(status)}", flush=True
        )

        await cluster.kill(NODE)
        shutil.rmtree(cluster.data_directory(NODE))
        began_s = time.perf_counter()
        await cluster.restart(NODE)
        wait_s = 2 * cluster.configuration.op_time_us / 1e6
        await asyncio.sleep(max(0.0, wait_s - (time.perf_counter() - began_s)))
        refill = asyncio.ensure_future(until(cluster, is_refilled(entries)))
        print(await rate(client, entries, seconds, "during"), flush=True)
        refilled_s, status = await refill
        print(
            f"refilled in {refilled_s:.1f} s, after {wait_s:.0f} s of waiting as recovery has to (protocol 7): "
            f"{status['entries']:,} entries, {status['recovered']:,} recovered, {status['repaired']:,} repaired; "
            f"{memory(status)}",
            flush=True,
        )
        print(await rate(client, entries, seconds, "after"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000, metavar="N")
    parser.add_argument("--size", type=int, default=128, metavar="BYTES")
    parser.add_argument("--shards", type=int, default=1024, metavar="N", help="1,024, as a cluster of four has")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S")
    options = parser.parse_args()
    local.START_S_MAX = 600.0  # type: ignore[misc]  # Many entries take long to load, on a busy machine above all.
    asyncio.run(run(options.entries, options.size, options.shards, options.seconds))


if __name__ == "__main__":
    main()
