"""Why reads are not stale (protocol 5, last paragraph): the invariant behind freshness, checked on the nodes' states.

A complete stamp t was answered for by f+1 correct nodes, and each of them, for ever, holds t or newer, or is absent
with floor >= t and no promise up to t. Checked where operations end, and at the end.
"""

from __future__ import annotations

from quorumcache.core.model import stamp_time
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op


def stands_for(process: NodeProcess, slot: bytes, stamp: bytes) -> bool:
    """Whether a node holds `stamp` or newer, or rules out anything below it."""
    if process.down and process.wiped:
        return True
    if not process.serves(slot):
        return True
    slots = process.node.slots
    held = slots.current.get(slot)
    if held is not None:
        return held.stamp >= stamp
    if slots.shard(slot).floor_us < stamp_time(stamp):
        return False
    return all(promise.header.stamp > stamp for promise in slots.open.get(slot, ()))


class Durability(Checker):
    """Counts, for the highest complete stamp of a slot, the correct nodes that stand for it."""

    name = "durability"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.complete: dict[bytes, Op] = {}

    def ended(self, op: Op) -> None:
        """What the operation returned is complete."""
        if op.outcome != OK or op.overtaken:
            return
        before = self.complete.get(op.slot)
        if before is None or op.stamp > before.stamp:
            self.complete[op.slot] = before = op
        self._check(before)

    def finished(self) -> None:
        """All slots once more."""
        for op in self.complete.values():
            self._check(op)

    def _check(self, op: Op) -> None:
        configuration = self.view.configuration
        members = configuration.group_of(op.slot).members
        nodes = [node for node in map(self.view.node_at, members) if not node.is_byzantine]
        standing = [node.number for node in nodes if stands_for(node, op.slot, op.stamp)]
        if len(standing) <= configuration.n - configuration.q:
            self.fail(f"only nodes {standing} still stand for what {told(op)} completed")
