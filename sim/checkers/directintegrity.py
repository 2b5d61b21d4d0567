"""Integrity in mode primary (protocol 10): a read returns only what an authorised writer signed for the slot, whoever
lies; and no value of a write that failed for certain.

A value may be seen under two stamps, where its write was refused once and sent again. And what a retired writer signed
nobody can tell from what it signed before: a liar may show what the others denied.
"""

from __future__ import annotations

from collections.abc import Iterator

from quorumcache.core.model import DELETE, header_slot, header_writer
from quorumcache.core.slots import Held
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import FAILED, OK, Op


class DirectIntegrity(Checker):
    """Knows every value that a correct client wrote, and every header that an adversary's writer signed."""

    name = "integrity of primary"
    about = "primary"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.written: dict[bytes, Op] = {}
        self.read: dict[bytes, Op] = {}

    def started(self, op: Op) -> None:
        """A write began."""
        if op.kind == "write":
            self.written[op.value] = op

    def quieted(self) -> None:
        """No correct node holds what its writer did not sign."""
        for node, slot, held in self._held():
            if self._is_forged(node, slot, held):
                break  # One says enough.

    def _held(self) -> Iterator[tuple[NodeProcess, bytes, Held]]:
        for node in self.view.nodes:
            if not node.is_byzantine:
                for slot, held in node.node.slots.current.items():
                    if held.salted and held.header[2] != DELETE and self.view.configuration.is_primary(slot):
                        yield node, slot, held

    def _is_forged(self, node: NodeProcess, slot: bytes, held: Held) -> bool:
        write = self.written.get(held.salted[16:])
        if write is not None and (write.slot, write.writer) == (slot, header_writer(held.header)):
            return False
        if held.header in self.view.evil_headers:
            return False
        self.fail(f"node {node.number} holds in {slot[-8:]!r} what its writer never signed: {held.salted[16:]!r}")
        return True

    def ended(self, op: Op) -> None:
        """Compare a read with who wrote; a failed write with who read."""
        if op.kind != "read":
            if op.outcome == FAILED and op.value in self.read and op.writer not in self.view.barred:
                self.fail(f"{told(op)} failed for certain, but {told(self.read[op.value])} returned its value")
            return
        if op.outcome != OK:
            return
        write = self.written.get(op.value)
        if write is None:
            header = op.stamp, op.slot
            if op.writer not in self.view.evil_writers:
                self.fail(f"{told(op)} returned a value that its writer never wrote")
            elif not any((h[3:51], header_slot(h)) == header for h in self.view.evil_headers):
                self.fail(f"{told(op)} returned a header that its writer never signed")
            return
        self.read.setdefault(op.value, op)
        if write.slot != op.slot or write.writer != op.writer:
            self.fail(f"{told(op)} returned a value of another slot, or under another writer's name: {told(write)}")
        elif write.outcome == FAILED and write.writer not in self.view.barred:
            self.fail(f"{told(op)} returned the value of a write that failed for certain: {told(write)}")
        elif op.expires_at_us and op.expires_at_us + 2 * self.view.max_skew_us + self.view.op_time_us < op.start_us:
            self.fail(f"{told(op)} returned a value that had expired at {op.expires_at_us}")
