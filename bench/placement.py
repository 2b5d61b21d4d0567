"""How evenly shards lie on nodes, and how much moves when a node comes or goes, beside what has to.

    python bench/placement.py [--f F] [--clusters C] [--plot docs/placement.svg] [--json PATH]

Load is the number of groups that a node is a member of. Each figure is over C clusters with other keys. To give a new
node of N+1 its even share, shards x (3f+1) / (N+1) places have to move; of a node that goes, all that it had.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import write_json
from quorumcache.core.placement import groups_for

NODES: Final = (10, 30, 100)
ZONES: Final = (1, 3)
SHARDS: Final = (1000, 8192)


def _key(cluster: int, node: int) -> bytes:
    return blake2b(b"cluster %d node %d" % (cluster, node), digest_size=32).digest()


def _groups(cluster: int, numbers: list[int], zones: int, shards: int, n: int) -> list[set[int]]:
    """Each shard's members, as nodes' numbers; node i is in zone i % zones."""
    keys = [_key(cluster, number) for number in numbers]
    names = [str(number % zones) for number in numbers]
    return [
        {numbers[place] for place in group} for group in groups_for(keys, [1] * len(keys), names, shards=shards, n=n)
    ]


def measure(nodes: int, zones: int, shards: int, f: int, clusters: int) -> dict[str, Any]:
    """Balance and movement, over so many clusters."""
    n = 3 * f + 1
    loads: list[list[int]] = []
    added, removed = [], []
    for cluster in range(clusters):
        numbers = list(range(nodes))
        before = _groups(cluster, numbers, zones, shards, n)
        counts = Counter(member for group in before for member in group)
        loads.append(sorted((counts[number] for number in numbers), reverse=True))
        after = _groups(cluster, [*numbers, nodes], zones, shards, n)
        moved = sum(len(new - old) for old, new in zip(before, after, strict=True))
        added.append(moved * (nodes + 1) / (shards * n))
        after = _groups(cluster, numbers[1:], zones, shards, n)
        moved = sum(len(new - old) for old, new in zip(before, after, strict=True))
        removed.append(moved / counts[0])
    mean = shards * n / nodes
    return {
        "nodes": nodes,
        "zones": zones,
        "shards": shards,
        "max_per_mean": statistics.mean(load[0] for load in loads) / mean,
        "max_per_mean_worst": max(load[0] for load in loads) / mean,
        "min_per_mean": statistics.mean(load[-1] for load in loads) / mean,
        "added": statistics.mean(added),
        "removed": statistics.mean(removed),
        "loads": [count / mean for count in loads[0]],
    }


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """The loads of one cluster each, highest first."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "placement"
    figure, axes = plt.subplots(1, len(SHARDS), figsize=(9, 3.2), sharey=True)
    for axis, shards in zip(axes, SHARDS, strict=True):
        for row in found:
            if row["shards"] == shards and row["zones"] == 1:
                count = row["nodes"]
                places = [100 * (i + 0.5) / count for i in range(count)]
                axis.step(places, row["loads"], where="mid", label=f"{count} nodes")
        axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        axis.set_title(f"{shards:,} shards", fontsize=10)
        axis.set_xlabel("nodes, the most loaded first (%)")
    axes[0].set_ylabel("load / mean load")
    axes[0].set_ylim(0, 1.8)
    axes[-1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    print(f"\n{path}", file=sys.stderr)


def main() -> None:
    """Measure, print, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--f", type=int, default=1)
    parser.add_argument("--clusters", type=int, default=20, metavar="C")
    parser.add_argument("--plot", type=Path, metavar="PATH")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    print("| shards | nodes | zones | max / mean | worst of all | min / mean | a node comes | a node goes |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    found = []
    for shards in SHARDS:
        for nodes in NODES:
            for zones in ZONES:
                row = measure(nodes, zones, shards, options.f, options.clusters)
                found.append(row)
                print(
                    f"| {shards:,} | {nodes} | {zones} | {row['max_per_mean']:.2f} | {row['max_per_mean_worst']:.2f} | "
                    f"{row['min_per_mean']:.2f} | {row['added']:.2f} | {row['removed']:.2f} |",
                    flush=True,
                )
    if options.plot is not None:
        plot(found, options.plot)
    write_json(options.json, {"rows": found})


if __name__ == "__main__":
    main()
