"""Convergence of keys with fields after the healing: what is written then, one operation after another, is what every
later read of the key, or of that field, finds; a key that was deleted is a miss.

Excused is a miss of a key that a correct node let go of, while a liar sides with it: together they outweigh the others'
base (protocol 5.6), and a write of a field under a generation that is known begins no new one. So is what is found of a
key that a Byzantine writer ended, or began anew: what it hoarded a liar may commit late. Or a miss where it gave the
key a time to live, in the generation that was written last, when that is over. And one where more nodes than may be
silent lie, or had no room for what was committed of this key meanwhile, by the read that has to write it back
(protocol 15).
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import header_expires_at, header_slot, stamp_time
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot, rank_of
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import MISS, OK, Op


class ConvergedKeys(Checker):
    """Compares the reads of the final phase with the last write of their key."""

    name = "convergence of keys"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.last: dict[bytes, Op] = {}
        self.there: dict[bytes, bool] = {}
        #: Slot of a base -> node -> when it last had no room for an entry of this key.
        self.full_us: dict[bytes, dict[int, int]] = {}
        #: Slot of a base -> the highest that correct nodes have, or had before all of them reaped it.
        self.highest: dict[bytes, bytes] = {}

    def ended(self, op: Op) -> None:
        """In the final phase, a read finds what was written last."""
        if op.phase != "final" or self.view.hampered:
            return
        self._look(op.base)
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
        if op.outcome == OK and op.generation > last.generation and self._is_begun_by_evil(op):
            return
        if op.outcome != OK or op.generation != last.generation:
            self.fail(f"{told(op)} did not find the key as it was written last, after the healing: {told(last)}")
        elif is_base_slot(op.slot) or op.slot == last.slot:
            found = {header_slot(raw): raw[3:51] for raw, _ in op.fields}
            if found.get(last.slot) != last.stamp:
                self.fail(f"{told(op)} lacks what was written last, after the healing: {told(last)}")

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """Note where a node had no room."""
        if m.COMMIT_FULL not in reply.codes:
            return
        headers = [item.header for bundle in request.bundles for item in bundle.items]
        for header, code in zip(headers, reply.codes, strict=True):
            if code == m.COMMIT_FULL:
                self.full_us.setdefault(base_slot_of(header_slot(header)), {})[node.number] = self.view.now_us

    def _is_let_go(self, op: Op) -> bool:
        generation = self.last[op.base].generation
        last_us = stamp_time(generation) if generation else 0
        configuration = self.view.configuration
        nodes = [self.view.node_at(i) for i in configuration.group_of(op.base).members]
        full = [i for i, at_us in self.full_us.get(op.base, {}).items() if at_us >= op.start_us]
        if len(full) + sum(node.is_byzantine for node in nodes) > configuration.n - configuration.q and full:
            return True
        evil = [raw for raw in self._bases(op.base) if raw in self.view.evil_headers]
        if any(generation_of(raw) > generation for raw in evil) or self._is_over(op.base, generation):
            return True
        return any(node.is_byzantine for node in nodes) and any(
            op.base not in node.node.slots.keys and node.node.slots.shard(op.base).floor_us >= last_us
            for node in nodes
            if not node.is_byzantine
        )

    def _is_begun_by_evil(self, op: Op) -> bool:
        """Whether the generation that was found is a Byzantine writer's: a base that it hoarded is as good late."""
        return any(
            header_slot(raw) == op.base and is_base_slot(header_slot(raw)) and generation_of(raw) == op.generation
            for raw in self.view.evil_headers
        )

    def _bases(self, base: bytes) -> list[bytes]:
        nodes = [self.view.node_at(i) for i in self.view.configuration.group_of(base).members]
        keys = [node.node.slots.keys.get(base) for node in nodes if not node.is_byzantine]
        return [key.base.header for key in keys if key is not None]

    def _look(self, base: bytes) -> None:
        bases = self._bases(base)
        if bases:
            self.highest[base] = max(bases, key=rank_of)

    def _is_over(self, base: bytes, generation: bytes) -> bool:
        """Whether a Byzantine writer's time to live for this generation is over."""
        raw = self.highest.get(base, b"")
        if raw not in self.view.evil_headers or generation_of(raw) != generation:
            return False
        return 0 < header_expires_at(raw) <= self.view.now_us + self.view.max_skew_us
