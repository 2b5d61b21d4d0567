"""What a compare-and-set costs in the core alone: increments of different keys, as many at once as given.

Processor time of the client and of all nodes apart, in microseconds an increment; and, counted, the signatures that are
made and verified. No frames, sockets or asyncio. `python bench/exactcore.py [--batches 1,64,256] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import make_cluster
from quorumcache.core import messages as m
from quorumcache.core.ballots import BallotSigner
from quorumcache.core.certificate import Sign, Verifier
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.exactwrite import Change
from quorumcache.core.model import PUT, slot_of
from quorumcache.core.node import Node
from quorumcache.core.outcome import Decided
from quorumcache.wire.keys import verify

START_US: Final = 1_700_000_000_000_000
SIDES: Final = ("client", "nodes")


class Parties:
    """A client and four nodes. `spent_ns`, `signed` and `verified` by side."""

    def __init__(self) -> None:
        signed, node_keys, writer = make_cluster(1)
        space = NamespaceInfo("locks", "exact")
        configuration = dataclasses.replace(signed.configuration, namespaces=(space,))
        self.now_us = 1_000_000
        self.spent_ns = dict.fromkeys(SIDES, 0)
        self.signed = dict.fromkeys(SIDES, 0)
        self.verified = dict.fromkeys(SIDES, 0)

        def signing(side: str, sign: Sign) -> Sign:
            def counted(message: bytes) -> bytes:
                self.signed[side] += 1
                return sign(message)

            return counted

        def verifier(side: str) -> Verifier:
            def counted(key: bytes, message: bytes, signature: bytes) -> bool:
                self.verified[side] += 1
                return verify(key, message, signature)

            return Verifier(counted, [configuration])

        self.signers = [BallotSigner(signing("nodes", key.sign)) for key in node_keys]
        self.nodes = [
            Node(configuration, i, signing("nodes", key.sign), verifier("nodes"), started_us=None, ballots=signer)
            for i, (key, signer) in enumerate(zip(node_keys, self.signers, strict=True))
        ]
        self.client = Coordinator(
            configuration,
            verifier("client"),
            writer=writer.public,
            sign=signing("client", writer.sign),
            nonce=1,
            random_bytes=os.urandom,
            first_id=1,
            guess_us=START_US,
        )
        for i in range(4):
            self.client.clock.report(i, START_US + self.now_us, self.now_us)

    def round(self, count: int) -> None:
        """So many increments of different keys, to their ends."""
        self.now_us += 1000
        client, clock = self.client, time.process_time_ns
        begin_ns = clock()
        for i in range(count):
            client.exact(slot_of(b"locks", b"key %d" % i), _plus_one, i)
        client.flush(self.now_us)
        self.spent_ns["client"] += clock() - begin_ns
        while client.outbox:
            sent, client.outbox = client.outbox, []
            for node in range(4):
                requests = [request for targets, request in sent if node in targets]
                begin_ns = clock()
                replies = self._answer(node, requests)
                middle_ns = clock()
                for reply in replies:
                    client.receive(node, reply, self.now_us)
                self.spent_ns["nodes"] += middle_ns - begin_ns
                self.spent_ns["client"] += clock() - middle_ns
            if client.has_ready():
                client.flush(self.now_us)
        done, client.done = client.done, []
        if len(done) != count or not all(isinstance(outcome, Decided) for _, outcome in done):
            raise SystemExit(f"{len(done)} of {count} ended, the first so: {done[:1]}")

    def _answer(self, node: int, requests: list[m.Request]) -> list[m.Reply]:
        """What one frame's requests get: votes and grants are signed together."""
        self.signers[node].gather()
        replies = [self.nodes[node].handle(request, START_US + self.now_us) for request in requests]
        self.signers[node].sign()
        return replies


def _plus_one(header: bytes, salted: bytes, cluster_us: int) -> Change:
    return Change(PUT, b"%d" % (int(salted[16:] or b"0") + 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,64,256", metavar="N,N", help="increments at once")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="rounds; the least of them counts")
    given = parser.parse_args()
    print(f"{'at once':>8} {'client us':>10} {'nodes us':>10} | signed and verified by the client; by all nodes")
    for count in map(int, given.batches.split(",")):
        parties = Parties()
        parties.round(count)
        least_ns = dict.fromkeys(SIDES, 1 << 62)
        for _ in range(given.rounds):
            for figures in (parties.spent_ns, parties.signed, parties.verified):
                figures.update(dict.fromkeys(SIDES, 0))
            parties.round(count)
            least_ns = {side: min(least_ns[side], parties.spent_ns[side]) for side in SIDES}
        spent = (f"{least_ns[side] / count / 1000:>10.0f}" for side in SIDES)
        made = "; ".join(f"{parties.signed[s] / count:.2f} {parties.verified[s] / count:.2f}" for s in SIDES)
        print(f"{count:>8} {' '.join(spent)} | {made}")


if __name__ == "__main__":
    main()
