"""Integrity (protocol 5.1): a read returns only what an authorised writer signed for that slot.

And what follows from what clients are told: the value of a write that failed for certain is never read; an expired
value is not returned.
"""

from __future__ import annotations

from sim.checkers.base import Checker, View, told
from sim.record import FAILED, OK, Op


class Integrity(Checker):
    """Knows every value that a correct client wrote, and every header that an adversary's writer signed."""

    name = "integrity"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.written: dict[bytes, Op] = {}
        self.read: dict[bytes, Op] = {}
        self._forgotten = False

    def started(self, op: Op) -> None:
        """A write began."""
        if op.kind == "write":
            self.written[op.value] = op

    def forgetting(self, leaving: list[Op]) -> None:
        """Of their values is only known from now on that somebody wrote them."""
        self._forgotten = True
        for op in leaving:
            if op.kind == "write":
                self.written.pop(op.value, None)
                self.read.pop(op.value, None)

    def _is_forgotten(self, value: bytes) -> bool:
        """Whether it may be a value of an operation that was forgotten: these begin with its number."""
        number, by, _ = value.partition(b" by ")
        return self._forgotten and bool(by) and number.isdigit() and int(number) < self.view.ops[-1].id

    def ended(self, op: Op) -> None:
        """Compare a read with who wrote; a failed write with who read."""
        if op.kind != "read":
            if op.outcome == FAILED and op.value and op.value in self.read:
                self.fail(f"{told(op)} failed for certain, but {told(self.read[op.value])} returned its value")
            return
        if op.outcome != OK:
            return
        write = self.written.get(op.value)
        if write is not None:
            if write.slot != op.slot:
                self.fail(f"{told(op)} returned a value of another slot: {told(write)}")
            elif write.writer != op.writer:
                self.fail(f"{told(op)} returned a value under another writer's name: {told(write)}")
            elif write.outcome == FAILED:
                self.fail(f"{told(op)} returned the value of a write that failed for certain: {told(write)}")
            elif write.outcome == OK and not write.overtaken and write.stamp != op.stamp:
                self.fail(f"{told(op)} returned a value under another stamp than its write got: {told(write)}")
            elif self.read.setdefault(op.value, op).stamp != op.stamp:
                self.fail(f"{told(op)} returned a value that took effect twice: {told(self.read[op.value])}")
        elif self._is_forgotten(op.value):
            return
        elif op.writer not in self.view.evil_writers:
            self.fail(f"{told(op)} returned a value that its writer never wrote")
        elif not any(h[3:51] == op.stamp for h in self.view.evil_headers):
            self.fail(f"{told(op)} returned a header that its writer never signed")
        late_us = 2 * self.view.max_skew_us + self.view.op_time_us
        if op.expires_at_us and op.expires_at_us + late_us < op.start_us:
            self.fail(f"{told(op)} returned a value that had expired at {op.expires_at_us}")
