"""The hot path on one machine: 4 node processes, one client process, loopback, TLS unless --no-tls.

Prints p50 and p99 of single operations and throughput at 1, 64 and 256 concurrent tasks, for get and set of 128-byte
values; the same for get_many and set_many of 64 and 512; then the floor: what signing, verifying and hashing alone cost
per operation, counted.

    python bench/hotpath.py [--seconds S] [--no-tls] [--storage memory|sqlite-process|sqlite-power] [--primary ACK]
                            [--json PATH]
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import STORAGES, arguments, run_loop, running_cluster, write_json
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.wire.keys import SigningKey, verify

VALUE = bytes(range(128))
WARM_S = 0.3
Figures = dict[str, float | int | str]


async def concurrent(
    operation: Callable[[str], Awaitable[object]], tasks: int, seconds: float
) -> tuple[float, list[float]]:
    """Run `operation` in so many tasks, each on its own key; returns operations a second, and seconds of each."""
    taken: list[float] = []
    clock = time.perf_counter
    count = 0
    end_s = 0.0

    async def task(key: str) -> None:
        nonlocal count
        while True:
            begin_s = clock()
            if begin_s >= end_s:
                return
            await operation(key)
            taken.append(clock() - begin_s)
            count += 1

    keys = [f"key-{i}" for i in range(tasks)]
    for phase_s in (WARM_S, seconds):
        taken.clear()
        count = 0
        start_s = clock()
        end_s = start_s + phase_s
        await asyncio.gather(*[task(key) for key in keys])
        elapsed_s = clock() - start_s
    return count / elapsed_s, taken


def quantile_us(taken: list[float], share: float) -> float:
    """A quantile of durations, in microseconds."""
    ordered = sorted(taken)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e6, 1)


async def measure(signed: SignedConfiguration, writer: SigningKey, seconds: float, ack: int = 0) -> Figures:
    """All figures of one cluster; with `ack`, of a namespace in mode primary."""
    figures: Figures = {}
    async with await Client.connect(signed, key=writer, namespace=f"ack{ack}" if ack else None) as client:
        await client.set_many({f"key-{i}": VALUE for i in range(512)})

        async def get(key: str) -> None:
            assert await client.get(key) is not None

        async def put(key: str) -> None:
            await client.set(key, VALUE)

        print(f"{'':14}{'tasks':>6}{'ops/s':>10}{'p50 us':>10}{'p99 us':>10}")
        for name, operation in (("get", get), ("set", put)):
            for tasks in (1, 64, 256):
                rate, taken = await concurrent(operation, tasks, seconds)
                p50, p99 = quantile_us(taken, 0.5), quantile_us(taken, 0.99)
                figures[f"{name}_c{tasks}_ops_per_s"] = round(rate)
                figures[f"{name}_c{tasks}_p50_us"] = p50
                figures[f"{name}_c{tasks}_p99_us"] = p99
                print(f"{name:14}{tasks:>6}{rate:>10,.0f}{p50:>10,.0f}{p99:>10,.0f}")
        for size in (64, 512):
            keys = [f"key-{i}" for i in range(size)]
            items = dict.fromkeys(keys, VALUE)

            async def get_many(_: str, keys: list[str] = keys) -> None:
                assert len(await client.get_many(keys)) == len(keys)

            async def set_many(_: str, items: dict[str, bytes] = items) -> None:
                await client.set_many(items)

            for name, operation in (("get_many", get_many), ("set_many", set_many)):
                rate, taken = await concurrent(operation, 1, seconds)
                p50, p99 = quantile_us(taken, 0.5), quantile_us(taken, 0.99)
                figures[f"{name}_{size}_ops_per_s"] = round(rate * size)
                figures[f"{name}_{size}_p50_us"] = p50
                figures[f"{name}_{size}_p99_us"] = p99
                print(f"{f'{name} {size}':14}{1:>6}{rate * size:>10,.0f}{p50:>10,.0f}{p99:>10,.0f}")
        settled = client.counts["reads_settled"]
        if settled:
            print(f"({settled} reads were not settled by equal answers)")
    return figures


def floor(figures: Figures) -> None:
    """What the cryptography alone costs on one core: the time that no better code can take away."""

    def each_us(work: Callable[[], object], count: int) -> float:
        best = float("inf")
        for _ in range(3):
            start_s = time.perf_counter()
            for _ in range(count):
                work()
            best = min(best, time.perf_counter() - start_s)
        return best / count * 1e6

    key = SigningKey.generate()
    message = bytes(120)
    signature = key.sign(message)
    sign_us = each_us(lambda: key.sign(message), 2000)
    verify_us = each_us(lambda: verify(key.public, message, signature), 2000)
    hash_us = each_us(lambda: hashlib.blake2b(message, digest_size=32).digest(), 50_000)
    figures.update(sign_us=round(sign_us, 2), verify_us=round(verify_us, 2), hash_us=round(hash_us, 3))
    print(
        f"\none signature {sign_us:.1f} us, one verification {verify_us:.1f} us, one hash of 120 bytes {hash_us:.2f} us"
    )
    # Counted from the protocol at f = 1. A batch: the writer's intent and 4 grants are signed; 4 nodes verify the
    # intent; the client verifies 3 grants; at commit 4 nodes verify 3 grants, 3 of them one less (their own).
    signs, verifies = 5, 4 + 3 + 9
    # Per header: digest and value hash at the writer; digest at 4 nodes to prepare; both at 4 nodes to commit; one tree
    # node each at the writer and twice at 4 nodes.
    hashes = 2 + 4 + 8 + 9
    for batch in (1, 64, 256):
        each = (signs * sign_us + verifies * verify_us) / batch + hashes * hash_us
        figures[f"set_c{batch}_floor_us"] = round(each, 1)
        print(
            f"set in a batch of {batch:3}: {signs / batch:.2f} signatures, {verifies / batch:.2f} verifications, "
            f"{hashes} hashes: {each:.1f} us on one core, all five processes together"
        )
    figures["get_floor_us"] = round(2 * hash_us, 2)
    print(f"get: no signature, 2 hashes: {2 * hash_us:.1f} us")


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--storage", choices=STORAGES, default="memory", help="where nodes keep entries")
    parser.add_argument(
        "--primary", type=int, choices=(1, 2), default=0, metavar="ACK", help="in mode primary, ack 1 or 2"
    )
    options = parser.parse_args()
    with running_cluster(f=1, tls=options.tls, storage=options.storage) as (signed, writer, _):
        figures = run_loop(measure(signed, writer, options.seconds, options.primary))
    if not options.primary:
        floor(figures)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
