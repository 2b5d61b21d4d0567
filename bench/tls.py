"""What TLS costs: the hot path at 64 tasks with it and without, in turns, so that the machine's moods cancel.

Prints, for each round, operations a second and the processor time of all five processes per operation, and of both the
median cost of TLS. Where others use the machine, trust the second (which needs Linux).

    python bench/tls.py [--rounds N] [--seconds S] [--json PATH]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import arguments, run_loop, running_cluster, write_json
from bench.hotpath import VALUE, concurrent
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.wire.keys import SigningKey

TASKS = 64


def processor_s(processes: list[int]) -> float:
    """The processor time that this process and the given ones have used so far."""
    ticks = 0
    for process in processes:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


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

            before_s = processor_s(processes)
            rate = (await concurrent(counted, TASKS, seconds))[0]
            figures[name] = rate, (processor_s(processes) - before_s) / count * 1e6
        return figures


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
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
