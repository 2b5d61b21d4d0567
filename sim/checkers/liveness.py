"""Liveness (protocol 5.6): every operation of a correct client ends in time; once the network has healed and at most f
nodes are faulty, it ends well.

In time: a read within op_time; a write within op_time, or twice that where it queued behind another of its client.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.memory import batch_cost
from quorumcache.core.types.base import base_slot_of
from sim.checkers.base import Checker, told
from sim.processes import NodeProcess
from sim.record import FAILED, PENDING, UNKNOWN, Op

#: Stopwatches drift, and a client's wake-up may be due a little later.
_SLACK_US = 2_000
#: Refusals that nobody promised to end within op_time.
_EXCUSES = ("denied", "FULL", "BUSY")


class Liveness(Checker):
    """Measures how long operations take, and how those after the healing ended."""

    name = "liveness"
    about = ""
    #: When a correct node last had no room for an entry.
    full_us = 0

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """Note when nodes were full of what is too young to go: nobody promised when they no longer are."""
        if m.COMMIT_FULL in reply.codes:
            self.full_us = self.view.now_us

    def ended(self, op: Op) -> None:
        """Was it in time? After the healing: did it succeed?"""
        assert op.end_us is not None
        # In another epoch it begins anew.
        begun = 1 + self.view.moves_since(op.client, op.start_us)
        limit_us = begun * self.view.op_time_us * (1 if op.kind == "read" else 2)
        took_us = op.end_us - op.start_us
        if took_us > limit_us + limit_us // 1000 + _SLACK_US:
            self.fail(f"{told(op)} took {took_us / 1000:.1f} ms; {limit_us / 1000:.1f} ms are allowed")
        if self.view.reachable and self._is_inexcusable(op):
            self.fail(f"{told(op)} failed although all correct nodes could be reached")
        is_over = op.phase in ("final", "race") and op.outcome in (FAILED, UNKNOWN) and not self.view.hampered
        if is_over and not self._is_crowded(op) and not self._is_half_forgotten(op):
            self.fail(f"{told(op)} failed although the network had healed and at most f nodes were faulty")

    def _is_inexcusable(self, op: Op) -> bool:
        """Whether it failed for want of answers, not because it has no right or nodes have no room."""
        if self.full_us >= op.start_us:
            return False
        if op.type == "exact":
            return False  # Nobody is promised to come before all others, in the time that there is.
        return op.outcome == UNKNOWN or (op.outcome == FAILED and not any(s in op.detail for s in _EXCUSES))

    def _is_half_forgotten(self, op: Op) -> bool:
        """Whether some nodes have an entry of an exact namespace whose successor others have forgotten already, so many
        that there is no quorum for whatever comes next: protocol 17 says so under Liveness."""
        if op.type != "exact":
            return False
        held, absent_us = [], []
        for number in self.view.configuration.group_of(op.slot).members:
            process = self.view.node_at(number)
            if process.is_byzantine or process.node is None:
                continue
            entry = process.node.slots.current.get(op.slot)
            if entry is None:
                absent_us.append(process.node.slots.shard(op.slot).floor_us)
            else:
                held.append(entry)
        if len({entry.digest for entry in held}) != 1:
            return False
        gone = sum(floor_us >= held[0].time_us for floor_us in absent_us)
        return gone > self.view.configuration.f < len(held)

    def _is_crowded(self, op: Op) -> bool:
        """Whether nodes had no room for the promises that a key with fields takes: its base's, its field's, and those
        of attempts before; or for one more field of a key that has most of their memory, and does not go for itself."""
        if not op.type or op.type == "exact":
            return False
        if "table of promises is full" in op.detail:
            return True
        return self.full_us >= op.start_us and any(self._is_filled(node, op.slot) for node in self.view.nodes)

    @staticmethod
    def _is_filled(node: NodeProcess, slot: bytes) -> bool:
        slots = node.node.slots
        key = slots.keys.get(base_slot_of(slot))
        if node.is_byzantine or key is None:
            return False
        held = [key.base, *key.fields.values()]
        shared = sum(batch_cost(batch) for batch in dict.fromkeys(each.batch for each in held))
        return 2 * (shared + sum(map(slots.cost_of, held))) > slots.memory.bytes_max

    def finished(self) -> None:
        """Nothing that a living client started may still be open."""
        for op in self.view.ops:
            latest_us = self._latest_us() - 2 * self.view.op_time_us * self.view.moves_since(op.client, op.start_us)
            if op.outcome == PENDING and op.end_us is None and not op.detail and op.start_us < latest_us:
                self.fail(f"{told(op)} never ended")
                return

    def _latest_us(self) -> int:
        return self.view.now_us - 2 * self.view.op_time_us - self.view.op_time_us // 100 - _SLACK_US
