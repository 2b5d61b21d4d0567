"""For how long a node that goes over to its next epoch answers nobody: what it takes along, what its storage writes.

One node of ten with so many entries, in batches of 64; its values in memory, and on disk. The next epoch changes
nothing; revokes the writer of one entry in a hundred; has two further nodes, so that this one leaves shards.
Median of several runs, in milliseconds; before each, the storage is filled anew.

    python bench/moving.py [--entries N] [--rounds N] [--json PATH]
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import arguments, write_json
from quorumcache.core import amend
from quorumcache.core.carrying import Carried
from quorumcache.core.certificate import Batch, Verifier
from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, WriterInfo
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, Grant, digest_of, encode_header, slot_of, stamp_of, value_hash_of
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.slots import Held
from quorumcache.node.moving import carry_with
from quorumcache.storage import Identity, MemoryStorage, SqliteStorage, Storage
from quorumcache.wire.keys import SigningKey, verify

BATCH = 64
START_US = 1_700_000_000_000_000
KEYS = [SigningKey(bytes((number,)) * 32) for number in range(12)]
WRITERS = [SigningKey(bytes((100 + number,)) * 32) for number in range(2)]


def configuration_of(nodes: int) -> Configuration:
    """A cluster of so many nodes with the shards of a real one."""
    return Configuration(
        cluster_id="bench",
        epoch=1,
        previous=None,
        f=1,
        shards=1024,
        max_skew_us=1_000_000,
        op_time_us=5_000_000,
        grace_us=200_000,
        valid_until_us=0,
        oldest_epoch=1,
        admins=(KEYS[0].public,),
        admins_needed=1,
        nodes=_nodes(nodes),
        namespaces=(NamespaceInfo("default", "register", "quorum", ("*",), 1 << 20, 0),),
        writers=tuple(WriterInfo(f"w{i}", key.public) for i, key in enumerate(WRITERS)),
    )


def _nodes(count: int) -> tuple[NodeInfo, ...]:
    return tuple(NodeInfo(i, f"n{i}", KEYS[i].public, f"127.0.0.1:{7000 + i}") for i in range(count))


FIRST = configuration_of(10)
CHANGES = {
    "nothing": amend.successor_of(FIRST, grace_us=1),
    "a writer is revoked": amend.revoke_writer(FIRST, "w1"),
    "two more nodes": amend.successor_of(FIRST, nodes=_nodes(12)),
}


def make_node(configuration: Configuration, storage: Storage) -> Node:
    """A node with room for all."""
    chain = [configuration, FIRST]
    limits = NodeLimits(bytes_max=1 << 34)
    node = Node(configuration, 0, KEYS[0].sign, Verifier(verify, chain), started_us=None, limits=limits)
    if storage.keeps:
        node.leave_values_to_storage()
    return node


def fill(node: Node, storage: Storage, count: int) -> None:
    """So many entries of shards that the node serves, stored."""
    own = {s for s, group in enumerate(FIRST.shard_groups) if node.index in group.members}
    slots, number, done = node.slots, 0, 0
    journal = slots.journal = Journal() if storage.keeps else None
    if journal is not None:
        journal.shards.update({shard.number: shard for shard in slots.shards})
    while done < count:
        headers = []
        while len(headers) < BATCH:
            number += 1
            slot = slot_of(b"default", b"key-%d" % number)
            if FIRST.shard_of(slot) in own:
                salted = number.to_bytes(144, "big")
                stamp = stamp_of(START_US + number, WRITERS[(done // BATCH) % 100 == 0].public, 1)
                headers.append((slot, encode_header(slot, stamp, 0, value_hash_of(salted), 128, 0), salted))
        leaves = b"".join(digest_of(header) for _, header, _ in headers)
        grants = tuple(Grant(i, b"\xff" * 8, bytes(64)) for i in range(3))
        certificate = Certificate(FIRST.digest, bytes(16), leaves[:32], BATCH, WRITERS[0].public, bytes(64), grants)
        batch = Batch(certificate, leaves, b"")
        for position, (slot, header, salted) in enumerate(headers):
            slots.store(slot, Held(leaves[32 * position :][:32], header, salted, batch, position, None), START_US)
        done += BATCH
        if journal is not None:
            storage.write(journal, slots)
            journal.clear()


def once(storage: Storage, after: Configuration, count: int) -> tuple[float, Carried]:
    """How many seconds the node takes to go over."""
    old = make_node(FIRST, storage)
    assert not storage.open(Identity("bench", FIRST.digest, old.key), old.slots)
    fill(old, storage, count)
    gc.collect()
    begin = time.perf_counter()
    new = make_node(after, storage)
    carried = carry_with(storage)(old, new, START_US)
    took = time.perf_counter() - begin
    storage.close()
    return took, carried


def main() -> None:
    parse = arguments(__doc__)
    parse.add_argument("--entries", type=int, default=100_000)
    parse.add_argument("--rounds", type=int, default=5)
    options = parse.parse_args()
    found = {}
    print(f"{options.entries:,} entries")
    for kind in ("memory", "sqlite"):
        for name, after in CHANGES.items():
            runs = []
            for _ in range(options.rounds):
                with tempfile.TemporaryDirectory() as path:
                    runs.append(
                        once(MemoryStorage() if kind == "memory" else SqliteStorage(Path(path)), after, options.entries)
                    )
            carried = runs[-1][1]
            took_ms = statistics.median(took for took, _ in runs) * 1e3
            found[f"{kind}, {name}"] = {"ms": round(took_ms, 2), "kept": carried.kept, "gone": carried.gone}
            print(
                f"{kind:7} {name:20} {took_ms:8.1f} ms  {carried.kept:8,} kept {carried.gone:7,} gone "
                f"{len(carried.joined):4} shards joined"
            )
    write_json(options.json, found)


if __name__ == "__main__":
    main()
