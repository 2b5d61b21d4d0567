"""Keys that many writers change at once, on one machine: 4 node processes, one client process, loopback, TLS.

Prints throughput and latencies of: sets of one hot register by many tasks, counter increments, set adds, map gets and
sets; then a read of a map of 10,000 fields, with all nodes agreed and with one or two of them behind: time, and bytes
that the client received.

    python bench/manywriters.py [--seconds S] [--no-tls] [--storage memory|sqlite-process|sqlite-power] [--json PATH]
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import STORAGES, arguments, run_loop, running_cluster, write_json
from bench.hotpath import VALUE, Figures, concurrent, quantile_us
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.wire.keys import SigningKey

FIELDS = 10_000


async def measure(signed: SignedConfiguration, writer: SigningKey, seconds: float) -> Figures:
    """All figures of one cluster."""
    figures: Figures = {}
    async with await Client.connect(signed, key=writer) as client:
        counter, members, items = client.counter("hits"), client.set_("members"), client.map_("items")
        await counter.add()
        numbers = itertools.count()

        async def hot_set(_: str) -> None:
            await client.set("hot", VALUE)

        async def increment(_: str) -> None:
            await counter.add()

        async def add(_: str) -> None:
            await members.add(f"element {next(numbers) % 5000}")

        async def map_set(key: str) -> None:
            await items.set(key, VALUE)

        async def map_get(key: str) -> None:
            assert await items.get(key) is not None

        print(f"{'':14}{'tasks':>6}{'ops/s':>10}{'p50 us':>10}{'p99 us':>10}")
        for name, operation in (
            ("hot set", hot_set),
            ("increment", increment),
            ("set add", add),
            ("map set", map_set),
            ("map get", map_get),
        ):
            for tasks in (1, 64, 256):
                if operation is map_get:
                    await items.set_many({f"key-{i}": VALUE for i in range(tasks)})
                rate, taken = await concurrent(operation, tasks, seconds)
                p50, p99 = quantile_us(taken, 0.5), quantile_us(taken, 0.99)
                label = name.replace(" ", "_")
                figures[f"{label}_c{tasks}_ops_per_s"] = round(rate)
                figures[f"{label}_c{tasks}_p50_us"] = p50
                figures[f"{label}_c{tasks}_p99_us"] = p99
                print(f"{name:14}{tasks:>6}{rate:>10,.0f}{p50:>10,.0f}{p99:>10,.0f}")
    return figures


async def large_map(signed: SignedConfiguration, writer: SigningKey, figures: Figures) -> None:
    """Reads of one large map: agreed, one node behind, two nodes differing (each lacks another field)."""
    async with await Client.connect(signed, key=writer) as client:
        items = client.map_("large")
        everything = {f"field {i:05}": VALUE for i in range(FIELDS)}
        for at in range(0, FIELDS, 1000):
            await items.set_many(dict(list(everything.items())[at : at + 1000]))
        links = list(client._engine.links.values())
        await _time_reads("agreed", client, figures)
        for label, behind in (("one node behind", 1), ("two nodes differ", 2)):
            # What these nodes are not sent, they do not have: each lacks another write.
            for number in range(behind):
                link = links[number]
                link.send = lambda _id, _encoded: None  # type: ignore[method-assign]
                await items.set(f"field {number:05}", b"newer")
                del link.send  # type: ignore[method-assign]
            await _time_reads(label, client, figures, once=behind > 1)


async def _time_reads(label: str, client: Client, figures: Figures, *, once: bool = False) -> None:
    taken = []
    before = sum(link.received_bytes for link in client._engine.links.values())
    count = 1 if once else 5
    settled = client.counts["reads_settled"]
    for _ in range(count):
        begun = time.perf_counter()
        size = await client.map_("large").size(strict=True)
        assert size == FIELDS, size
        taken.append(time.perf_counter() - begun)
    received = (sum(link.received_bytes for link in client._engine.links.values()) - before) // count
    ms = sorted(taken)[len(taken) // 2] * 1000
    figures[f"map_{FIELDS}_{label.replace(' ', '_')}_ms"] = round(ms, 1)
    figures[f"map_{FIELDS}_{label.replace(' ', '_')}_bytes"] = received
    how = "settled" if client.counts["reads_settled"] > settled else "fast"
    print(f"map of {FIELDS:,} fields, {label:18} {ms:8.1f} ms {received:12,} bytes received  ({how})")


async def run(signed: SignedConfiguration, writer: SigningKey, seconds: float) -> Figures:
    """Everything, one after the other."""
    figures = await measure(signed, writer, seconds)
    await large_map(signed, writer, figures)
    return figures


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--storage", choices=STORAGES, default="memory", help="where nodes keep entries")
    options = parser.parse_args()
    with running_cluster(f=1, tls=options.tls, storage=options.storage) as (signed, writer, _):
        figures = run_loop(run(signed, writer, options.seconds))
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
