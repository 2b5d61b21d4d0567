"""No stale reads (protocol 5.3): once t was returned, later operations return t or newer, or a miss.

Checked online: each operation notes, when it begins, the highest stamp that is complete in its slot by then.
"""

from __future__ import annotations

from sim.checkers.base import Checker, View, told
from sim.record import OK, Op


class Freshness(Checker):
    """Holds the highest complete stamp of each slot against what later operations return."""

    name = "freshness"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.complete: dict[bytes, tuple[bytes, Op]] = {}

    def started(self, op: Op) -> None:
        """Note what is complete by now."""
        complete = self.complete.get(op.slot)
        if complete is not None:
            op.bound = complete[0]

    def ended(self, op: Op) -> None:
        """Compare what it returned; what it returned is complete from now on."""
        if op.outcome != OK:
            return
        stamp, bound = op.stamp, op.bound
        if not op.overtaken and (stamp < bound or (stamp == bound and bound and op.kind != "read")):
            found = self._who(op, bound)
            kind = "returned what is older than" if op.kind == "read" else "took a stamp no higher than"
            self.fail(f"{told(op)} {kind} what was complete before it began: {found}")
        complete = self.complete.get(op.slot)
        if complete is None or stamp > complete[0]:
            self.complete[op.slot] = (stamp, op)

    def _who(self, op: Op, bound: bytes) -> str:
        for other in self.view.ops:
            if other.slot == op.slot and other.stamp == bound and other.end_us is not None:
                return told(other)
        return f"stamp {bound[:8].hex()}"
