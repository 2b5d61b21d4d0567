"""What an operation costs in the core alone: a client and 3f+1 nodes in one process, no frames, sockets or asyncio.

Processor time, not elapsed time, per operation and for all parties together, at several batch sizes; the least of many
short rounds, for whatever else a machine does only adds. With `--signatures fake` nothing is signed or verified: what
is left is the core's own. Then, counted at the first batch size: bytes of messages, hashes, signatures and
verifications for each operation.

    python bench/core.py [--batches 512,64,1] [--f 1] [--signatures real|fake] [--rounds N] [--json PATH]
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import arguments, make_cluster, write_json
from quorumcache.core.certificate import Verifier
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.model import PUT, slot_of
from quorumcache.core.node import Node
from quorumcache.core.outcome import Written
from quorumcache.wire import codec
from quorumcache.wire.keys import verify

KEYS: Final = 8192
OPERATIONS_A_ROUND: Final = 512
START_US: Final = 1_700_000_000_000_000
#: Whose hashes count: the modules that hash on the way of an operation.
HASHING: Final = ("model", "merkle", "keys")


class Parties:
    """A client and its nodes, and the messages between them; `counts` has what they did, where `counting` is on."""

    def __init__(self, f: int, *, real: bool) -> None:
        signed, node_keys, writer = make_cluster(f)
        configuration = signed.configuration
        self.counts = {"bytes": 0, "hashes": 0, "signatures": 0, "verifications": 0}
        self.counting = False
        self.now_us = 1_000_000
        self._namespace = configuration.namespaces[0].name.encode()
        self._value = bytes(range(128))

        def signing(sign: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
            def counted(message: bytes) -> bytes:
                self.counts["signatures"] += 1
                return sign(message) if real else bytes(64)

            return counted

        def verifying(key: bytes, message: bytes, signature: bytes) -> bool:
            self.counts["verifications"] += 1
            return verify(key, message, signature) if real else True

        def verifier() -> Verifier:
            return Verifier(verifying, [configuration])

        self.nodes = [
            Node(configuration, i, signing(key.sign), verifier(), started_us=None) for i, key in enumerate(node_keys)
        ]
        self.client = Coordinator(
            configuration,
            verifier(),
            writer=writer.public,
            sign=signing(writer.sign),
            nonce=1,
            random_bytes=os.urandom,
            first_id=1,
            guess_us=START_US,
        )
        for i in range(len(self.nodes)):
            self.client.clock.report(i, START_US + self.now_us, self.now_us)

    def round(self, *, batch: int, writes: bool, numbers: itertools.count[int]) -> None:
        """One batch of so many operations, to their ends."""
        self.now_us += 1000
        client, expected = self.client, Written if writes else None
        for _ in range(batch):
            slot = slot_of(self._namespace, b"key %d" % (next(numbers) % KEYS))
            if writes:
                client.write(slot, PUT, self._value, 0, slot)
            else:
                client.read(slot, slot)
        self._run()
        done, client.done = client.done, []
        wrong = [o for _, o in done if expected is not None and not isinstance(o, expected)]
        if wrong or len(done) != batch:
            raise SystemExit(f"{len(done)} of {batch} operations ended, and so: {wrong[:1]}")

    def _run(self) -> None:
        client, now_us = self.client, self.now_us
        client.flush(now_us)
        while client.outbox:
            sent, client.outbox = client.outbox, []
            for targets, request in sent:
                for node in targets:
                    reply = self.nodes[node].handle(request, START_US + now_us)
                    if self.counting:
                        self.counts["bytes"] += len(codec.encode(request)) + len(codec.encode(reply))
                    client.receive(node, reply, now_us)
            if client.has_ready():
                client.flush(now_us)


def least_us(parties: Parties, batch: int, rounds: int, *, writes: bool) -> float:
    """Microseconds of processor time for an operation: the least of so many rounds, of several batches if small."""
    numbers = itertools.count()
    batches = max(1, OPERATIONS_A_ROUND // batch // (8 if batch == 1 else 1))
    taken = []
    for _ in range(rounds):
        begin_s = time.process_time()
        for _ in range(batches):
            parties.round(batch=batch, writes=writes, numbers=numbers)
        taken.append((time.process_time() - begin_s) / (batches * batch))
    return min(taken) * 1e6


def counted(parties: Parties, batch: int, *, writes: bool) -> dict[str, float]:
    """What a batch takes, for each of its operations: see `Parties.counts`."""
    modules: list[Any] = [sys.modules[f"quorumcache.core.{name}"] for name in HASHING]
    counts = parties.counts

    def counting(*data: Any, **how: Any) -> Any:
        counts["hashes"] += 1
        return hashlib.blake2b(*data, **how)

    for module in modules:
        module.blake2b = counting
    try:
        counts.update(dict.fromkeys(counts, 0))
        parties.counting = True
        parties.round(batch=batch, writes=writes, numbers=itertools.count())
    finally:
        parties.counting = False
        for module in modules:
            module.blake2b = hashlib.blake2b
    return {name: count / batch for name, count in counts.items()}


def main() -> None:
    """Measure and print."""
    parser = arguments("What an operation costs in the core alone.")
    parser.add_argument("--batches", default="512,64,1", metavar="N,N", help="operations a batch")
    parser.add_argument("--f", type=int, default=1, help="faulty nodes that are tolerated; there are 3f+1")
    parser.add_argument("--signatures", choices=("real", "fake"), default="real")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="rounds of about 512 operations each")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    parties = Parties(options.f, real=options.signatures == "real")
    filling = itertools.count()
    for _ in range(2 * KEYS // 512):
        parties.round(batch=512, writes=True, numbers=filling)
    figures: dict[str, Any] = {"f": options.f, "signatures": options.signatures}
    print(f"a client and {len(parties.nodes)} nodes, {options.signatures} signatures: microseconds an operation")
    for batch in batches:
        for writes in (True, False):
            name = f"{'write' if writes else 'read'}_{batch}"
            figures[f"{name}_us"] = round(least_us(parties, batch, options.rounds, writes=writes), 2)
            print(f"  {name:<10} {figures[f'{name}_us']:>9.2f}")
    for writes in (True, False):
        name = f"{'write' if writes else 'read'}_{batches[0]}"
        for what, count in counted(parties, batches[0], writes=writes).items():
            figures[f"{name}_{what}"] = round(count, 3)
        print(f"  {name}: " + ", ".join(f"{figures[f'{name}_{what}']:g} {what}" for what in parties.counts))
    write_json(options.json, figures)


if __name__ == "__main__":
    main()
