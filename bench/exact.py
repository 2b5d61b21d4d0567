"""Compare-and-set: increments of one key alone and by 2, 8 and 32 clients at once, and of as many keys as there are
clients; successes a second, p50 and p99 in milliseconds.

Four node processes, the clients in this one, each with sessions and a queue of its own. `python bench/exact.py
--seconds 5`. Run by hand; the figures of a busy machine mean little.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.errors import OutcomeUnknown, Unavailable
from quorumcache.testing import LocalCluster


async def increments(client: Client, key: str, end_s: float, took_ms: list[float], lost: list[str]) -> None:
    """One after another, until the time is over."""
    while time.perf_counter() < end_s:
        began = time.perf_counter()
        try:
            await client.incr(key)
        except (OutcomeUnknown, Unavailable) as fault:
            lost.append(str(fault))
        else:
            took_ms.append(1000 * (time.perf_counter() - began))


async def measure(clients: list[Client], keys: list[str], seconds: float) -> tuple[list[float], list[str]]:
    """All clients at once, each at its key."""
    took_ms: list[float] = []
    lost: list[str] = []
    end_s = time.perf_counter() + seconds
    await asyncio.gather(
        *(increments(client, key, end_s, took_ms, lost) for client, key in zip(clients, keys, strict=True))
    )
    return sorted(took_ms), lost


async def main(seconds: float, counts: list[int], tls: bool) -> None:
    """Print a table."""
    spaces = [NamespaceInfo("locks", "exact")]
    async with LocalCluster(max_skew=0.05, op_time=2.0, namespaces=spaces, processes=True, tls=tls) as cluster:
        clients = [(await cluster.client()).namespace("locks") for _ in range(max(counts))]
        while True:
            try:
                await clients[0].incr("ready")
                break
            except (OutcomeUnknown, Unavailable):
                await asyncio.sleep(0.5)  # They vote once what was before their start is too old.
        print(f"{'clients':>8} {'keys':>8} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'unknown':>8}")
        for count in counts:
            for keys in (["one"] * count, [f"own {i}" for i in range(count)])[: 1 if count == 1 else 2]:
                took_ms, lost = await measure(clients[:count], keys, seconds)
                if not took_ms:
                    print(f"{count:>8} {len(set(keys)):>8} nothing succeeded: {lost[:1]}")
                    continue
                p50, p99 = (took_ms[int(len(took_ms) * part)] for part in (0.5, 0.99))
                print(
                    f"{count:>8} {len(set(keys)):>8} {len(took_ms) / seconds:>8.0f} {p50:>8.2f} {p99:>8.2f} "
                    f"{len(lost):>8}"
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each line is measured")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--no-tls", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.seconds, given.clients, not given.no_tls))
