"""Compare-and-set by many who want the same key, in a time of its own: the same figures on any machine, busy or not.

Clients and four nodes of the real core, without signatures; messages take a while that is drawn, nodes answer one
request at a time and take as long for it as they do with signatures. Printed: successes a second of that time, p50 and
p99 in milliseconds, and requests that nodes answered for each success. `python bench/contention.py --writers 2 8 32
[--seconds S] [--each N]
[--way-us N]`; `each` is how many increments each writer has under way at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import make_cluster
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.exactsum import Addition
from quorumcache.core.model import slot_of
from quorumcache.core.node import Node
from quorumcache.core.outcome import Decided

START_US: Final = 1_700_000_000_000_000
SLOT: Final = slot_of(b"locks", b"one")
#: Of a node's processor time for one request, in microseconds, as bench/exactcore.py has it.
COST_US: Final[dict[type, int]] = {m.ReadFull: 40, m.Vote: 150, m.Lock: 280, m.Commit: 280}


class Contention:
    """One run: `took_us` of each success, `failed` of what else was said, `answered` requests."""

    def __init__(self, configuration: Configuration, writer: bytes, writers: int, given: argparse.Namespace) -> None:
        self._draw = random.Random(given.seed)
        self._way = given.way_us
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.now_us = 1_000_000
        self.took_us: list[int] = []
        self.failed: list[str] = []
        self.answered = 0
        self._free_us = [0] * 4
        self._each = given.each

        def verifier() -> Verifier:
            return Verifier(lambda key, message, signature: True, [configuration])

        self._nodes = [Node(configuration, i, lambda message: bytes(64), verifier(), started_us=None) for i in range(4)]
        self._clients = [
            Coordinator(
                configuration,
                verifier(),
                writer=writer,
                sign=lambda message: bytes(64),
                nonce=i,
                random_bytes=self._draw.randbytes,
                first_id=1,
                guess_us=START_US,
            )
            for i in range(writers)
        ]
        for client in self._clients:
            for i in range(4):
                client.clock.report(i, START_US + self.now_us, self.now_us)

    def run(self, seconds: float) -> None:
        """So long, in its own time."""
        end_us = self.now_us + int(seconds * 1e6)
        for client in self._clients:
            for _ in range(self._each):
                client.exact(SLOT, Addition(1), self.now_us)
            self._go_on(client)
        while self._events and self._events[0][0] < end_us:
            self.now_us, _, event = heapq.heappop(self._events)
            event()

    def _at(self, at_us: int, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (at_us, next(self._numbers), event))

    def _way_us(self) -> int:
        return self._way + self._draw.randrange(self._way)

    def _go_on(self, client: Coordinator) -> None:
        """Take what ended, begin anew, send what is to be sent, and come back when something is due."""
        done, client.done = client.done, []
        for began_us, outcome in done:
            if isinstance(outcome, Decided):
                self.took_us.append(self.now_us - began_us)
            else:
                self.failed.append(str(outcome))
            client.exact(SLOT, Addition(1), self.now_us)
        client.flush(self.now_us)
        sent, client.outbox = client.outbox, []
        for targets, request in sent:
            for node in targets:
                self._at(self.now_us + self._way_us(), lambda n=node, r=request: self._arrive(client, n, r))  # type: ignore[misc]
        due_us = client.deadline_us
        if due_us is not None:
            self._at(max(due_us, self.now_us + 1), lambda: self._wake(client))

    def _wake(self, client: Coordinator) -> None:
        if client.deadline_us is not None and client.deadline_us <= self.now_us:
            client.wake(self.now_us)
            self._go_on(client)

    def _arrive(self, client: Coordinator, node: int, request: m.Request) -> None:
        begin_us = max(self.now_us, self._free_us[node])
        self._free_us[node] = begin_us + COST_US.get(type(request), 20)
        self._at(self._free_us[node], lambda: self._answer(client, node, request))

    def _answer(self, client: Coordinator, node: int, request: m.Request) -> None:
        self.answered += 1
        reply = self._nodes[node].handle(request, START_US + self.now_us)
        self._at(self.now_us + self._way_us(), lambda: self._hear(client, node, reply))

    def _hear(self, client: Coordinator, node: int, reply: m.Reply) -> None:
        client.receive(node, reply, self.now_us)
        self._go_on(client)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 2, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--each", type=int, default=1, help="increments that each writer has under way at once")
    parser.add_argument("--way-us", type=int, default=150, help="a message is under way so long, to twice that")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    signed, _, writer = make_cluster(1)
    configuration = dataclasses.replace(signed.configuration, namespaces=(NamespaceInfo("locks", "exact"),))
    print(f"{'writers':>8} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'requests':>9} {'failed':>7}")
    for writers in given.writers:
        run = Contention(configuration, writer.public, writers, given)
        run.run(given.seconds)
        took_us = sorted(run.took_us) or [0]
        p50, p99 = (took_us[int(len(took_us) * part)] / 1000 for part in (0.5, 0.99))
        rate, requests = len(run.took_us) / given.seconds, run.answered / max(1, len(run.took_us))
        print(f"{writers:>8} {rate:>8.0f} {p50:>8.2f} {p99:>8.2f} {requests:>9.1f} {len(run.failed):>7}")


if __name__ == "__main__":
    main()
