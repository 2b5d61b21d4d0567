"""Convergence of keys with fields after the healing: what is written then, one operation after another, is what every
later read of the key, or of that field, finds; a key that was deleted is a miss.

Excused is a miss of a key that a correct node let go of, while a liar sides with it: together they outweigh the others'
base (protocol 5.6), and a write of a field under a generation that is known begins no new one. So is one of a key that
a Byzantine writer ended: what it hoarded a liar may commit late. Or that it gave a time to live, which is over. And
one where nodes were full, so that what a read has to write back found no room.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import header_expires_at, header_slot, stamp_time
from quorumcache.core.types.base import is_base_slot
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import MISS, OK, Op


class ConvergedKeys(Checker):
    """Compares the reads of the final phase with the last write of their key."""

    name = "convergence of keys"
    about = "keys"
    #: When a correct node last had no room for an entry.
    full_us = 0

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.last: dict[bytes, Op] = {}
        self.there: dict[bytes, bool] = {}

    def ended(self, op: Op) -> None:
        """In the final phase, a read finds what was written last."""
        if op.phase != "final":
            return
        if op.kind != "read":
            if op.kind != "touch":
                self.last[op.base] = op
            self.there[op.base] = not (op.kind == "delete" and is_base_slot(op.slot))
            if op.kind == "touch" and op.outcome != OK and not self._is_let_go(op):
                self.fail(f"{told(op)} did not give the key a new time to live, after the healing")
            return
        last = self.last.get(op.base)
        if last is None or last.outcome != OK:
            return
        if not self.there[op.base]:
            if op.outcome != MISS:
                self.fail(f"{told(op)} found a key that was deleted, after the healing: {told(last)}")
            return
        if op.outcome == MISS and self._is_let_go(op):
            return
        if op.outcome != OK or op.generation != last.generation:
            self.fail(f"{told(op)} did not find the key as it was written last, after the healing: {told(last)}")
        elif is_base_slot(op.slot) or op.slot == last.slot:
            found = {header_slot(raw): raw[3:51] for raw, _ in op.fields}
            if found.get(last.slot) != last.stamp:
                self.fail(f"{told(op)} lacks what was written last, after the healing: {told(last)}")

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """Note when nodes had no room for what a read wrote back."""
        if m.COMMIT_FULL in reply.codes:
            self.full_us = self.view.now_us

    def _is_let_go(self, op: Op) -> bool:
        if self.full_us >= op.start_us:
            return True
        generation = self.last[op.base].generation
        last_us = stamp_time(generation) if generation else 0
        members = self.view.configuration.group_of(op.base).members
        nodes = [self.view.nodes[i] for i in members]
        correct = [node.node.slots.keys.get(op.base) for node in nodes if not node.is_byzantine]
        evil = [k for k in correct if k is not None and k.base.header in self.view.evil_headers]
        over_us = (op.end_us or 0) + self.view.configuration.max_skew_us
        if any(k.generation > generation or 0 < header_expires_at(k.base.header) <= over_us for k in evil):
            return True
        return any(node.is_byzantine for node in nodes) and any(
            op.base not in node.node.slots.keys and node.node.slots.shard(op.base).floor_us >= last_us
            for node in nodes
            if not node.is_byzantine
        )
