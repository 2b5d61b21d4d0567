"""What a stored entry costs in a node: 128-byte values written in batches of 64 by the shipped client.

Prints the growth of each node process's resident memory per entry, and what the node's own accounting says.

    python bench/memory.py [--entries N] [--json PATH]
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from bench.cluster import arguments, run_loop, running_cluster, write_json
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.net.tls import NodePin
from quorumcache.wire.keys import SigningKey

BATCH = 64


def resident_bytes(process: int) -> int:
    """A process's resident memory (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


async def accounted_bytes(signed: SignedConfiguration) -> list[int]:
    """What each node says that its entries cost."""
    sizes = []
    async with aiohttp.ClientSession() as http:
        for node in signed.configuration.nodes:
            async with http.get(f"https://{node.address}/v1/status", ssl=NodePin(node)) as response:
                sizes.append((await response.json())["bytes_used"])
    return sizes


async def measure(
    signed: SignedConfiguration, writer: SigningKey, processes: list[int], entries: int
) -> dict[str, float | int | str]:
    """Fill the cluster and compare."""
    value = bytes(128)
    async with await Client.connect(signed, key=writer) as client:
        # First what is needed once, whatever is stored: code, sessions, the memory of signatures.
        for at in range(0, 20_000, BATCH):
            await client.set_many({f"warm:{at + i:08}": value for i in range(BATCH)})
        await asyncio.sleep(0.5)
        before = [resident_bytes(process) for process in processes]
        accounted_before = await accounted_bytes(signed)
        for at in range(0, entries, BATCH):
            await client.set_many({f"user:{at + i:08}": value for i in range(BATCH)})
        await asyncio.sleep(0.5)
        after = [resident_bytes(process) for process in processes]
        accounted_after = await accounted_bytes(signed)
    stored = -(-entries // BATCH) * BATCH
    each = [(b - a) / stored for a, b in zip(before, after, strict=True)]
    accounted = [(b - a) / stored for a, b in zip(accounted_before, accounted_after, strict=True)]
    print(f"{stored:,} entries of 128 bytes under 13-byte keys, in batches of {BATCH}:")
    print(f"  resident growth per entry, per node: {', '.join(f'{x:.0f}' for x in each)} bytes")
    print(f"  by the nodes' own accounting:        {', '.join(f'{x:.0f}' for x in accounted)} bytes")
    return {"entry_resident_bytes_max": round(max(each)), "entry_accounted_bytes": round(accounted[0])}


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--entries", type=int, default=200_000, metavar="N")
    options = parser.parse_args()
    with running_cluster(f=1) as (signed, writer, processes):
        figures = run_loop(measure(signed, writer, processes, options.entries))
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
