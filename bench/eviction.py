"""Hit ratios of the nodes' eviction beside FIFO, LRU, W-TinyLFU, S3-FIFO and Belady, as a Markdown table.

    python bench/eviction.py [TRACE ...] [--memory 1,10,30] [--json PATH]

A trace has a key a line, or time, object and size in bytes (see `quorumcache replay`). Beside the traces named come
some that are drawn here, after figures of Twitter's production caches (Yang, Yue, Rashmi: OSDI 2020; their table of
March 2020): Zipf's alpha, the part of objects that are asked for once, the mean number of requests per object.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import write_json
from bench.policies import SIMULATIONS, Request
from quorumcache.cli.replay import read_trace

#: Cluster: Zipf's alpha, one-hit wonders (%), requests per object.
TWITTER: Final = {"4": (1.1004, 29.33, 26.5), "19": (0.735, 7.46, 4.7), "52": (1.2117, 19.36, 32.6)}
DRAWN_REQUESTS: Final = 200_000


def zipf(alpha: float, once_percent: float, frequency: float, seed: int) -> list[Request]:
    """Requests for objects of one size, with these figures."""
    draw = random.Random(seed)
    objects = round(DRAWN_REQUESTS / frequency)
    once = round(objects * once_percent / 100)
    weights = list(accumulate(1 / rank**alpha for rank in range(1, objects - once + 1)))
    names = [f"z{i}" for i in range(objects - once)]
    requests = draw.choices(names, cum_weights=weights, k=DRAWN_REQUESTS - once)
    requests += [f"once{i}" for i in range(once)]
    draw.shuffle(requests)
    return [(name, 128) for name in requests]


def with_scans(requests: list[Request], scans: int) -> list[Request]:
    """The same, with objects nobody else asks for, read in one go, now and then: as many in all as it has requests."""
    size = len(requests) // scans
    mixed: list[Request] = []
    for number in range(scans):
        mixed += requests[number * size : (number + 1) * size]
        mixed += [(f"scan {number} {i}", requests[0][1]) for i in range(size)]
    return mixed


def traces(paths: list[Path]) -> Iterator[tuple[str, list[Request]]]:
    """Each trace with its name."""
    for path in paths:
        requests = read_trace(path)
        name = path.name.split(".")[0]
        yield name, requests
        if len({size for _, size in requests}) == 1:
            yield f"{name} with scans", with_scans(requests, 10)
    for cluster, figures in TWITTER.items():
        yield f"drawn after Twitter's cluster {cluster}", zipf(*figures, seed=int(cluster))


def rows(paths: list[Path], percents: list[float]) -> Iterator[dict[str, float | str]]:
    """One row per trace and memory: the hit ratio of each policy."""
    for name, requests in traces(paths):
        sizes = dict(requests)
        total = sum(sizes.values())
        for percent in percents:
            row: dict[str, float | str] = {"trace": name, "memory": percent}
            for policy, simulate in SIMULATIONS.items():
                row[policy] = simulate(requests, max(1, int(total * percent / 100))) / len(requests)
            yield row


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE")
    parser.add_argument("--memory", default="1,10,30", metavar="PERCENTS", help="of the data's bytes")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    percents = [float(part) for part in options.memory.split(",")]
    print(f"| trace | memory | {' | '.join(SIMULATIONS)} |")
    print(f"|---|---:|{'---:|' * len(SIMULATIONS)}")
    found = []
    began = time.perf_counter()
    for row in rows(options.traces, percents):
        found.append(row)
        ratios = " | ".join(f"{row[policy]:.1%}" for policy in SIMULATIONS)
        print(f"| {row['trace']} | {row['memory']:g} % | {ratios} |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)
    write_json(options.json, {"rows": found})


if __name__ == "__main__":
    main()
