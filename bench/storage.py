"""What storage in SQLite costs one node, without network or signatures: 128-byte values, prepared and committed in
batches of 64 and one by one; how long a node takes to start from what is stored, with how much memory; and what a set
and a get take of all processors in a cluster whose nodes have storage, beside one whose nodes have not (needs Linux).

    python bench/storage.py [--entries N] [--rounds N] [--seconds S] [--json PATH]
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import tls
from bench.cluster import STORAGES, arguments, make_cluster, run_loop, running_cluster, write_json
from bench.memory import resident_bytes
from quorumcache.core.certificate import Batch
from quorumcache.core.config import Configuration
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, Grant, encode_header, parse_header, slot_of, stamp_of, value_hash_of
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.storage import Identity, MemoryStorage, SqliteStorage, Storage

START_US = 1_700_000_000_000_000
BATCH = 64
_random = random.Random(1)


def new_slots(configuration: Configuration) -> Slots:
    """Slots without end."""
    return Slots(configuration, floor_us=0, recovering=False, bytes_max=1 << 40, promises_max=1 << 30)


def batches(count: int, size: int, first: int = 0) -> Iterator[tuple[list[Promise], list[Held]]]:
    """Batches as they are prepared, and as they are committed."""
    draw = _random.randbytes
    for number in range(first, first + count):
        promises, held = [], []
        headers = []
        for i in range(size):
            salted = draw(144)
            slot = slot_of(b"default", b"key-%d" % (number * size + i))
            raw = encode_header(slot, stamp_of(START_US + number, b"w" * 32, 1), 0, value_hash_of(salted), 128, 0)
            headers.append((parse_header(raw), salted))
        leaves = b"".join([header.digest for header, _ in headers])
        grants = tuple(Grant(i, b"\xff" * ((size + 7) // 8), draw(64)) for i in range(3))
        batch = Batch(Certificate(bytes(32), bytes(16), draw(32), size, b"w" * 32, draw(64), grants), leaves, b"")
        intent = draw(64)
        for position, (header, salted) in enumerate(headers):
            promises.append(Promise(header, START_US, bytes(16), intent, leaves, position))
            held.append(Held(header.digest, header.raw, salted, batch, position, None))
        yield promises, held


def fill(storage: Storage, slots: Slots, count: int, size: int, first: int = 0) -> tuple[float, float]:
    """Prepare and commit so many entries in batches of a size: microseconds of processor time per entry for all of it,
    and for the prepares' and commits' transactions."""
    journal = slots.journal = Journal()
    clock = time.process_time
    all_s = stored_s = 0.0
    for promises, held in batches(count // size, size, first):
        begin_s = clock()
        for promise in promises:
            slots.add_promise(promise)
        middle_s = clock()
        storage.write(journal, slots)
        stored_s += clock() - middle_s
        journal.clear()
        for promise, each in zip(promises, held, strict=True):
            slots.store(promise.header.slot, each, START_US)
            slots.settle_promises(promise.header.slot, each.stamp)
        middle_s = clock()
        storage.write(journal, slots)
        stored_s += clock() - middle_s
        journal.clear()
        all_s += clock() - begin_s
    return all_s / count * 1e6, stored_s / count * 1e6


def load(configuration: Configuration, identity: Identity, directory: Path, entries: int) -> tuple[float, float, int]:
    """Start from what is stored: seconds, those of the processor, and bytes of memory."""
    gc.disable()
    before_bytes = resident_bytes(os.getpid())
    begin_s, begin_processor_s = time.perf_counter(), time.process_time()
    slots = new_slots(configuration)
    storage = SqliteStorage(directory)
    resumed = storage.open(identity, slots)
    taken_s = time.perf_counter() - begin_s
    processor_s = time.process_time() - begin_processor_s
    grown_bytes = resident_bytes(os.getpid()) - before_bytes
    assert resumed
    assert len(slots.current) == entries
    storage.close()
    return taken_s, processor_s, grown_bytes


def compare(figures: dict[str, float | int | str], rounds: int, seconds: float) -> None:
    """Clusters with each storage, in turns: medians of operations a second, and of processor time."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for kind in STORAGES:
            with running_cluster(f=1, storage=kind) as (signed, writer, processes):
                for name, figure in run_loop(tls.measure(signed, writer, processes, seconds)).items():
                    found.setdefault((name, kind), []).append(figure)
    for (name, kind), each in sorted(found.items()):
        rate, cost_us = (statistics.median(column) for column in zip(*each, strict=True))
        label = kind.replace("-", "_")
        figures[f"{name}_c{tls.TASKS}_{label}_ops_per_s"] = round(rate)
        figures[f"{name}_c{tls.TASKS}_{label}_processor_us"] = round(cost_us, 1)
        print(f"{name} at {tls.TASKS} tasks, {kind}: {rate:,.0f} operations/s, {cost_us:.1f} us of processors each")


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--entries", type=int, default=100_000, metavar="N", help="with how many the node starts")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often clusters are compared")
    options = parser.parse_args()
    signed, keys, _ = make_cluster(1)
    configuration = signed.configuration
    identity = Identity(configuration.cluster_id, configuration.digest, keys[0].public)
    figures: dict[str, float | int | str] = {"entries": options.entries}
    gc.disable()  # As good as: a node's thresholds are high.
    with tempfile.TemporaryDirectory(prefix="quorumcache-bench-") as place:
        for number, (size, count) in enumerate(((1, 4_000), (BATCH, 32_000))):
            for kind in ("memory", "sqlite"):
                storage: Storage = MemoryStorage()
                if kind == "sqlite":
                    storage = SqliteStorage(Path(place) / f"small-{number}")
                slots = new_slots(configuration)
                storage.open(identity, slots)
                all_us, stored_us = fill(storage, slots, count, size)
                storage.close()
                figures[f"{kind}_batch_{size}_us"] = round(all_us, 2)
                print(f"{kind}, batches of {size}: {all_us:.1f} us an entry, {stored_us:.1f} of them in transactions")
        directory = Path(place) / "large"
        kept = SqliteStorage(directory)
        slots = new_slots(configuration)
        kept.open(identity, slots)
        first = Journal()
        first.shards.update({shard.number: shard for shard in slots.shards})
        kept.write(first, slots)
        fill(kept, slots, options.entries, BATCH)
        kept.close()
        entries = len(slots.current)
        size_bytes = (directory / "entries.sqlite").stat().st_size
        # A process of its own: this one's memory has holes that entries would hide in.
        with multiprocessing.get_context("spawn").Pool(1) as process:
            taken_s, processor_s, grown_bytes = process.apply(load, (configuration, identity, directory, entries))
    figures.update(
        start_s=round(taken_s, 2),
        start_processor_s=round(processor_s, 2),
        start_resident_bytes_per_entry=round(grown_bytes / entries),
        disk_bytes_per_entry=round(size_bytes / entries),
    )
    print(
        f"{entries:,} entries: start-up {taken_s:.2f} s ({processor_s:.2f} of processor), "
        f"{grown_bytes / entries:.0f} bytes of memory and "
        f"{size_bytes / entries:.0f} of disk each"
    )
    compare(figures, options.rounds, options.seconds)
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
