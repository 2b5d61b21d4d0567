"""What a client object does in exact namespaces: compare-and-set of several kinds, on the core's own machine.

Operations of plans are words: "read", "add", "set", "swap", "drop". What an operation was told was settled when it
proposed what it did is noted in `known["told"]`. It must not know checkers or faults.
"""

from __future__ import annotations

import random
from typing import Final

from quorumcache.core.coordinator import Coordinator
from quorumcache.core.exactwrite import Change, Changer
from quorumcache.core.model import DELETE, PUT, header_expires_at, header_stamp, header_writer
from quorumcache.core.outcome import Decided, Found, Outcome, Unchanged
from sim.record import MISS, OK, Op

#: The type of these operations, and their namespace.
EXACT: Final = "exact"
WORDS: Final = ("read", "add", "set", "swap", "drop")


class ExactClient:
    """The exact side of one client object; gone when that is."""

    def __init__(self, core: Coordinator) -> None:
        self._core = core
        #: Slot -> the value that this client saw there last, for it to swap.
        self._seen: dict[bytes, bytes] = {}

    def go_on(self, core: Coordinator) -> None:
        """The client's core is another one from now on, which goes on with all that is under way."""
        self._core = core

    def start(self, op: Op, word: str, ttl_us: int) -> None:
        """Queue the operation."""
        if word == "read":
            self._core.read(op.slot, op)
        else:
            self._core.exact(op.slot, self._change(op, word, ttl_us), op)

    def _change(self, op: Op, word: str, ttl_us: int) -> Changer:
        expected = self._seen.get(op.slot, b"")
        value = op.value

        def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
            op.known["told"] = header
            if (word == "add") == bool(header) and word != "set":
                return None  # Something is there already; or nothing that could be swapped or dropped.
            if word == "swap" and salted[16:] != expected:
                return None
            if word == "drop":
                return Change(DELETE)
            return Change(PUT, value, cluster_us + ttl_us if ttl_us else 0)

        return change

    def ended(self, op: Op, outcome: Outcome) -> None:
        """Take what an operation found or wrote, into `op` and into memory."""
        if isinstance(outcome, Decided | Unchanged | Found) and outcome.header:
            op.outcome = OK
            op.detail = "unchanged" if isinstance(outcome, Unchanged) else ""
            op.stamp = header_stamp(outcome.header)
            op.fields = [(outcome.header, b"")]
            op.expires_at_us = header_expires_at(outcome.header)
            self._seen[op.slot] = outcome.salted[16:]
            if not isinstance(outcome, Decided):
                op.value, op.writer = outcome.salted[16:], header_writer(outcome.header)
        elif isinstance(outcome, Unchanged):
            op.outcome = MISS


def steps_of(
    draw: random.Random,
    steps: tuple[tuple[int, int, int, tuple[tuple[str, int, int, bool], ...]], ...],
    count: int,
    first: int,
    *,
    expires: bool,
) -> tuple[tuple[int, int, int, tuple[tuple[str, int, int, bool], ...]], ...]:
    """The same moves, most of them about the `count` slots of the exact namespace, whose numbers begin at `first`."""
    turned = []
    for client, lane, wait, ops in steps:
        exact_ops = []
        for op in ops:
            if draw.random() < 0.3:
                exact_ops.append(op)
                continue
            word = "read" if op[0] == "read" else draw.choice(("add", "add", "set", "set", "swap", "swap", "drop"))
            ttl_us = draw.choice((20_000, 100_000, 400_000, 2_000_000)) if expires and draw.random() < 0.5 else 0
            exact_ops.append((word, first + draw.randrange(count), ttl_us, False))
        turned.append((client, lane, wait, tuple(exact_ops)))
    return tuple(turned)
