"""What TLS costs: the hot path at 64 tasks with it and without, in turns, so that the machine's moods cancel.

Prints, for each round, operations a second and the processor time of all five processes per operation, and of both the
median cost of TLS (processor time needs Linux). Then the least processor time per operation of many short runs with all
nodes and the client in one process: where others use the machine, trust that.

    python bench/tls.py [--rounds N] [--seconds S] [--json PATH]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import arguments, processor_s, run_loop, running_cluster, write_json
from bench.hotpath import VALUE, concurrent
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import SigningKey

TASKS = 64


async def measure(
    signed: SignedConfiguration, writer: SigningKey, processes: list[int], seconds: float
) -> dict[str, tuple[float, float]]:
    """Operations a second, and microseconds of processor time per operation, by name."""
    async with await Client.connect(signed, key=writer) as client:

        async def get(key: str) -> None:
            assert await client.get(key) is not None

        async def put(key: str) -> None:
            await client.set(key, VALUE)

        operations: dict[str, Callable[[str], Awaitable[None]]] = {"set": put, "get": get}
        figures = {}
        for name, operation in operations.items():
            count = 0

            async def counted(key: str, operation: Callable[[str], Awaitable[None]] = operation) -> None:
                nonlocal count
                count += 1
                await operation(key)

            before_s = processor_s(processes) + time.process_time()
            rate = (await concurrent(counted, TASKS, seconds))[0]
            figures[name] = rate, (processor_s(processes) + time.process_time() - before_s) / count * 1e6
        return figures


async def least_us(tls: bool) -> dict[str, float]:
    """The least processor time per operation, in microseconds, by name: client and nodes in this process."""
    async with LocalCluster(tls=tls) as cluster, await cluster.client() as client:
        keys = [f"key-{i}" for i in range(TASKS)]
        await client.set_many({**dict.fromkeys(keys, VALUE), "large": bytes(1 << 20)})

        async def each(operation: Callable[[str], Awaitable[object]], names: list[str], turns: int) -> float:
            found = []
            for _ in range(60):
                start_s = time.process_time()
                for _ in range(turns):
                    await asyncio.gather(*[operation(name) for name in names])
                found.append((time.process_time() - start_s) / turns / len(names) * 1e6)
            return min(found)

        return {
            "get": await each(client.get, keys, 8),
            "set": await each(lambda key: client.set(key, VALUE), keys, 2),
            "get of 1 MiB": await each(client.get, ["large"], 2),
        }


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how many pairs of measurements")
    options = parser.parse_args()
    found: list[list[dict[str, tuple[float, float]]]] = []
    for _ in range(options.rounds):
        pair = []
        for tls in (False, True):
            with running_cluster(f=1, tls=tls) as (signed, writer, processes):
                pair.append(run_loop(measure(signed, writer, processes, options.seconds)))
        found.append(pair)
        for name in pair[0]:
            (rate, cost_us), (tls_rate, tls_cost_us) = pair[0][name], pair[1][name]
            told = (
                f"{rate:9,.0f} -> {tls_rate:9,.0f} operations/s, {cost_us:5.1f} -> {tls_cost_us:5.1f} us of processor"
            )
            print(f"{name}, without -> with TLS: {told}", flush=True)
    figures: dict[str, float | int | str] = {}
    for name in found[0][0]:
        rates = statistics.median(100 * (1 - pair[1][name][0] / pair[0][name][0]) for pair in found)
        costs = statistics.median(100 * (pair[1][name][1] / pair[0][name][1] - 1) for pair in found)
        figures[f"{name}_c{TASKS}_tls_rate_percent"] = round(-rates, 1)
        figures[f"{name}_c{TASKS}_tls_processor_percent"] = round(costs, 1)
        print(f"{name} at {TASKS} tasks: {-rates:+.1f} % operations/s, {costs:+.1f} % processor time (medians)")
    print("in one process, least of 60 short runs, microseconds of processor:")
    least = [run_loop(least_us(tls)) for tls in (False, True, False, True)]
    for name in least[0]:
        plain, encrypted = (min(found[name] for found in least[at::2]) for at in (0, 1))
        figures[f"{name.replace(' ', '_')}_tls_least_percent"] = round(100 * (encrypted / plain - 1), 1)
        print(f"{name:14} {plain:8.1f} -> {encrypted:8.1f}  ({100 * (encrypted / plain - 1):+.1f} %)")
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
