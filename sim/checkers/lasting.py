"""A rolling restart loses nothing (protocol 7): where nodes do no more than lose their memory one after another, each
once those before have recovered, what was acknowledged is still found in the end.

Judged in runs without liars and without any fault that excuses a miss.
"""

from __future__ import annotations

from sim.checkers.base import Checker, View, told
from sim.record import MISS, OK, Op


class Lasting(Checker):
    """Where nodes do no more than restart without memory, one after another, nothing acknowledged is lost."""

    name = "lasting"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._written: dict[bytes, str] = {}

    def ended(self, op: Op) -> None:
        """A slot that was written is found."""
        if not self.view.lossless:
            return
        if op.kind == "write" and op.outcome == OK:
            self._written.setdefault(op.slot, told(op))
        elif op.kind == "delete":
            self._written.pop(op.slot, None)
        elif op.kind == "read" and op.outcome == MISS and op.phase == "final" and op.slot in self._written:
            revoked = self.view.revoked
            if revoked and any(each.slot == op.slot and each.writer in revoked for each in self.view.ops):
                return  # Its entry went, and with it what stood there.
            self.fail(f"{told(op)} finds nothing, though it was written: {self._written[op.slot]}")
