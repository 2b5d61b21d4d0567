"""What a single key costs in clusters of 4 to 40 nodes, in messages, on the simulator: no faults, nobody lies.

python bench/messages.py [--nodes 4,7,10,20,40] [--operations N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sim
from sim.record import KINDS

_READ = {KINDS.index(kind) for kind in ("Read", "ReadReply", "ReadFull", "ReadFullReply")}
_WRITE = {KINDS.index(kind) for kind in ("Prepare", "PrepareReply", "Commit", "CommitReply")}


def measure(nodes: int, f: int, operations: int) -> tuple[float, float]:
    """Messages for a read and for a write, requests and replies."""
    config = sim.SimConfig(
        nodes=nodes,
        f=f,
        operations=operations,
        faults=0,
        features=(),
        byzantine_nodes=0,
        byzantine_writers=0,
        keys=64,
        shards=64,
        topology="rack",
    )
    found = sim.run(config, 1).raw
    assert not found.violations
    ops = [op for op in found.ops if op.end_us is not None and op.end_us < found.healed_us]
    reads = sum(op.kind == "read" for op in ops)
    sent = [row[4] for row in found.messages if row[0] < found.healed_us]
    return sum(k in _READ for k in sent) / reads, sum(k in _WRITE for k in sent) / (len(ops) - reads)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="4,7,10,20,40", metavar="N,...")
    parser.add_argument("--operations", type=int, default=1000, metavar="N")
    options = parser.parse_args()
    print("| nodes | f | messages of a read | messages of a write |")
    print("|---:|---:|---:|---:|")
    for f in (1, 2):
        for nodes in map(int, options.nodes.split(",")):
            if nodes >= 3 * f + 1:
                read, write = measure(nodes, f, options.operations)
                print(f"| {nodes} | {f} | {read:.1f} | {write:.1f} |", flush=True)


if __name__ == "__main__":
    main()
