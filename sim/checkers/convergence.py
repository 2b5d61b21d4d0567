"""Convergence after the healing: what is written then is what every later read of the slot returns, with its value.

In the final phase operations come one after another: a write of a slot, then reads of it by other clients.
"""

from __future__ import annotations

from sim.checkers.base import Checker, View, told
from sim.record import OK, Op


class Convergence(Checker):
    """Compares the reads of the final phase with the last write of their slot."""

    name = "convergence"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.last: dict[bytes, Op] = {}

    def ended(self, op: Op) -> None:
        """In the final phase, a read returns what was written last."""
        if op.phase != "final" or self.view.hampered:
            return
        if op.kind != "read":
            self.last[op.slot] = op
            return
        last = self.last.get(op.slot)  # None: a read before the first write of this phase.
        if last is None or last.outcome != OK:
            return
        if op.outcome != OK or op.stamp != last.stamp or op.value != last.value:
            self.fail(f"{told(op)} did not return what was written last, after the healing: {told(last)}")
