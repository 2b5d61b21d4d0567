"""What entries cost in a node: the growth of node processes' resident memory beside the nodes' own accounting.

Each cell is a fresh cluster, filled by the shipped client: values of one size, written in batches of one size. With
--churn: a node with room for so many MiB is written over several times; what its memory grows to, beside its bound.
With --states: one node of each storage with so many entries, as clients filled it, after it started again from SQLite,
and after it lost everything and recovered from the others.

    python bench/memory.py [--sizes 16,128,...] [--batches 1,8,...] [--mib N | --churn MIB | --states N] [--no-tls]
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from bench.cluster import arguments, run_loop, running_cluster, write_json
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.node import NodeLimits
from quorumcache.net.tls import NodePin
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import SigningKey

#: Batches of one are written one after another, so this many are enough, and take a while.
ENTRIES_ALONE_MAX: Final = 15_000
WARM_ENTRIES: Final = 12_000
NODE: Final = 3


def resident_bytes(process: int) -> int:
    """A process's resident memory (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


async def accounted_bytes(signed: SignedConfiguration) -> list[int]:
    """What each node says that its entries and promises cost."""
    sizes = []
    async with aiohttp.ClientSession() as http:
        for node in signed.configuration.nodes:
            secure = node.address and NodePin(node)
            async with http.get(f"https://{node.address}/v1/status", ssl=secure or True) as response:
                sizes.append((await response.json())["bytes_used"])
    return sizes


async def fill(client: Client, prefix: str, value: bytes, batch: int, entries: int) -> None:
    """Write so many entries in batches of so many."""
    for at in range(0, entries, batch):
        if batch == 1:
            await client.set(f"{prefix}:{at:08}", value)
        else:
            await client.set_many({f"{prefix}:{at + i:08}": value for i in range(batch)})


async def measure(
    signed: SignedConfiguration, writer: SigningKey, processes: list[int], size: int, batch: int, entries: int
) -> tuple[float, float]:
    """Bytes per entry: (the largest growth of a node's resident memory, the node's own accounting)."""
    value = bytes(size)
    async with await Client.connect(signed, key=writer) as client:
        # First what is needed once, whatever is stored: code, sessions, buffers, the memory of signatures.
        await fill(client, "warm", bytes(16), 64, WARM_ENTRIES)
        await fill(client, "warm", value, batch, max(2 * batch, min(entries // 4, (16 << 20) // (size + 700))))
        await asyncio.sleep(0.5)
        before = [resident_bytes(process) for process in processes]
        accounted_before = await accounted_bytes(signed)
        await fill(client, "user", value, batch, entries)
        await asyncio.sleep(0.5)
        after = [resident_bytes(process) for process in processes]
        accounted_after = await accounted_bytes(signed)
    stored = -(-entries // batch) * batch
    growth = sorted((b - a) / stored for a, b in zip(before, after, strict=True))
    accounted = [(b - a) / stored for a, b in zip(accounted_before, accounted_after, strict=True)]
    return sum(growth) / len(growth), sum(accounted) / len(accounted)


def table(sizes: list[int], batches: list[int], mib: int, *, tls: bool) -> dict[str, float]:
    """Measure and print every cell."""
    figures: dict[str, float] = {}
    print("| value, bytes | batch | entries | resident growth per entry | accounted | accounted / resident |")
    print("|---:|---:|---:|---:|---:|---:|")
    for size in sizes:
        for batch in batches:
            entries = (mib << 20) // (size + 700)
            if batch == 1:
                entries = min(entries, ENTRIES_ALONE_MAX)
            with running_cluster(f=1, tls=tls) as (signed, writer, processes):
                resident, accounted = run_loop(measure(signed, writer, processes, size, batch, entries))
            ratio = accounted / resident
            print(
                f"| {size:,} | {batch} | {entries:,} | {resident:,.0f} | {accounted:,.0f} | {ratio:.2f} |", flush=True
            )
            figures[f"{size}/{batch}"] = round(ratio, 3)
    return figures


def churn(mib: int, *, tls: bool) -> dict[str, float]:
    """Write five times what the nodes have room for, in values of mixed sizes; how far does their memory grow?"""

    async def run(signed: SignedConfiguration, writer: SigningKey, processes: list[int]) -> float:
        async with await Client.connect(signed, key=writer) as client:
            await fill(client, "warm", bytes(16), 64, WARM_ENTRIES)
            warm = min(await accounted_bytes(signed))
            before = [resident_bytes(process) for process in processes]
            most = [0] * len(processes)
            written = number = 0
            while written < 5 * mib << 20:
                values = {}
                for _ in range(64):
                    number += 1
                    # Sizes from 16 B to 16 KiB, each power of two as often as the next.
                    values[f"churn:{number:08}"] = bytes(16 << number * 7 % 11)
                await client.set_many(values)
                written += sum(map(len, values.values()))
                most = [max(m, resident_bytes(p)) for m, p in zip(most, processes, strict=True)]
            worst = max(m - b for m, b in zip(most, before, strict=True))
            told = max(await accounted_bytes(signed))
        print(
            f"room for {mib} MiB, {written >> 20} MiB written: resident memory grew by up to "
            f"{worst / (1 << 20):.1f} MiB while the accounting went from {warm / (1 << 20):.1f} to "
            f"{told / (1 << 20):.1f} MiB"
        )
        return worst / (told - warm)

    with running_cluster(f=1, tls=tls, limits=NodeLimits(bytes_max=mib << 20)) as (signed, writer, processes):
        return {"churn_resident_per_accounted": round(run_loop(run(signed, writer, processes)), 3)}


async def states(entries: int, size: int, batch: int, storage: str, *, tls: bool) -> dict[str, float]:
    """What a node of a cluster with 1,024 shards takes for so many entries, however it came to them."""
    figures = {}
    async with LocalCluster(processes=True, storage=storage, shards=1024, bytes_max=16 << 30, tls=tls) as cluster:

        async def settled(count: int) -> dict[str, Any]:
            while True:
                try:
                    status = await cluster.status(NODE)
                except OSError:
                    status = {}
                if status and status["entries"] >= count and not status["shards_recovering"]:
                    await asyncio.sleep(3.0)  # What nodes compare after that finds no difference.
                    return await cluster.status(NODE)
                await asyncio.sleep(0.2)

        async def told(name: str) -> None:
            after = await settled(entries + WARM_ENTRIES)
            resident = (resident_bytes(cluster.pid(NODE)) - empty) / entries
            counted = (after["bytes_used"] - before["bytes_used"]) / entries
            print(f"| {storage} | {name} | {resident:,.0f} | {counted:,.0f} | {counted / resident:.2f} |", flush=True)
            figures[f"{storage}/{name}"] = round(counted / resident, 3)

        async with await cluster.client() as client:
            await fill(client, "warm", bytes(size), 64, WARM_ENTRIES)
            before = await settled(WARM_ENTRIES)
            empty = resident_bytes(cluster.pid(NODE))
            await fill(client, "user", bytes(size), batch, entries)
            await told("filled")  # With the client there: commits of its last batches may be on their way yet.
        if storage == "sqlite":
            await cluster.kill(NODE)
            await cluster.restart(NODE)
            await told("started again")
        await cluster.kill(NODE)
        if storage == "sqlite":
            shutil.rmtree(cluster.data_directory(NODE))
        await cluster.restart(NODE)
        await told("recovered")
    return figures


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", default="16,128,1024,8192,65536", metavar="BYTES")
    parser.add_argument("--batches", default="1,8,64,512", metavar="ENTRIES")
    parser.add_argument("--mib", type=int, default=32, metavar="N", help="how much to write for each cell")
    parser.add_argument("--churn", type=int, default=0, metavar="MIB", help="instead: eviction within this bound")
    parser.add_argument(
        "--states", type=int, default=0, metavar="ENTRIES", help="instead: filled, started again, recovered"
    )
    options = parser.parse_args()
    if options.states:
        size, batch = int(options.sizes.split(",")[0]), int(options.batches.split(",")[0])
        figures = {}
        entries = options.states // batch * batch
        print(f"{entries:,} entries of {size:,} bytes, written in batches of {batch:,}")
        print("| storage | the node was | resident growth per entry | accounted | accounted / resident |")
        print("|---|---|---:|---:|---:|")
        for storage in ("memory", "sqlite"):
            figures |= run_loop(states(entries, size, batch, storage, tls=options.tls))
    elif options.churn:
        figures = churn(options.churn, tls=options.tls)
    else:
        sizes = [int(part) for part in options.sizes.split(",")]
        batches = [int(part) for part in options.batches.split(",")]
        figures = table(sizes, batches, options.mib, tls=options.tls)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
