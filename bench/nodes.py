"""What an operation costs as a cluster grows: gets and sets of single keys with 4, 7 and 10 nodes here, f = 1.

A key lives on four nodes however many there are, so what all processes together spend on an operation that comes alone
should stay as it is. With 64 tasks it does not: operations of one group share a batch, and with more nodes there are
more groups, as many as there are shards at most (--shards). Node processes and a client on loopback, 128-byte values;
processor time of the nodes and of the client is what the operating system counted.

    python bench/nodes.py [--seconds S] [--nodes N ...] [--tasks N ...] [--shards N ...] [--no-tls] [--json PATH]
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import arguments, processor_s, run_loop, running_cluster, write_json
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.wire.keys import SigningKey

KEYS = 2_000


async def measure(operation: Callable[[str], Awaitable[object]], tasks: int, seconds: float) -> int:
    """How many operations so many tasks do."""
    end_s = time.perf_counter() + seconds

    async def work(task: int) -> int:
        count = 0
        while time.perf_counter() < end_s:
            await operation(f"k{(task * 31 + count * 7) % KEYS}")
            count += 1
        return count

    return sum(await asyncio.gather(*(work(task) for task in range(tasks))))


async def run(
    signed: SignedConfiguration, writer: SigningKey, pids: list[int], tasks: int, seconds: float
) -> dict[str, tuple[float, float, float]]:
    """Of gets and sets: how many a second, and the microseconds of the nodes and of the client for each."""
    figures = {}
    async with await Client.connect(signed, key=writer) as client:
        await client.set_many({f"k{i}": b"v" * 128 for i in range(KEYS)})

        async def put(key: str) -> None:
            await client.set(key, b"w" * 128)

        for name, operation in (("get", client.get), ("set", put)):
            await measure(operation, tasks, 0.5)
            before_s, own_s = processor_s(pids), time.process_time()
            count = await measure(operation, tasks, seconds)
            used_s = processor_s(pids) - before_s
            own_s = time.process_time() - own_s
            figures[name] = count / seconds, 1e6 * used_s / count, 1e6 * own_s / count
    return figures


def main() -> None:
    """Print a table."""
    parser = arguments(str(__doc__).partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[4, 7, 10], metavar="N")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 64], metavar="N")
    parser.add_argument("--shards", type=int, nargs="+", default=[1024], metavar="N")
    given = parser.parse_args()
    told: dict[str, float] = {}
    print(
        f"{'nodes':>6} {'shards':>6} {'groups':>6} {'tasks':>6} {'':>5} {'per s':>9} {'nodes, us each':>15} "
        f"{'client, us each':>16}"
    )
    for size, shards in product(given.nodes, given.shards):
        with running_cluster(tls=given.tls, nodes=size, shards=shards) as (signed, writer, pids):
            groups = len(signed.configuration.groups)
            time.sleep(2 * signed.configuration.op_time_us / 1e6 + 3)  # Nodes that began empty have recovered.
            for tasks in given.tasks:
                found = run_loop(run(signed, writer, pids, tasks, given.seconds))
                for name, (rate, nodes_us, client_us) in found.items():
                    print(
                        f"{size:>6} {shards:>6} {groups:>6} {tasks:>6} {name:>5} {rate:>9,.0f} {nodes_us:>15.0f} "
                        f"{client_us:>16.0f}",
                        flush=True,
                    )
                    told[f"{name}_n{size}_s{shards}_c{tasks}_nodes_us"] = nodes_us
    write_json(given.json, told)


if __name__ == "__main__":
    main()
