"""Durability in mode primary (protocol 10): what is acknowledged is held by `ack` nodes, liars among them, and each
correct one keeps it, or what is higher, until it loses its memory. So it survives `ack` - 1 crashes, and all but one
of those who have it.

Excused are nodes that let go of it: where there is room for a few entries only, where something expires or is deleted,
and where its writer is revoked.
"""

from __future__ import annotations

from quorumcache.core.model import DELETE, header_slot
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op


class DirectDurability(Checker):
    """Counts who holds what was acknowledged, at once and after the healing."""

    name = "durability of primary"
    about = "primary"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        #: Operation -> how often each node had lost its memory when it began.
        self._lost: dict[int, list[int]] = {}
        #: What correct nodes held when it was acknowledged.
        self._kept: list[tuple[Op, list[tuple[int, int]]]] = []
        self._mortal: set[bytes] = set()

    def started(self, op: Op) -> None:
        """Note what a node may lose from now on."""
        if op.kind == "read":
            return
        self._lost[op.id] = [node.lost_count for node in self.view.nodes]
        if op.kind == "delete" or op.expires_at_us or "expire" in self.view.features:
            self._mortal.add(op.slot)

    def ended(self, op: Op) -> None:
        """Acknowledged: so many hold it."""
        lost = self._lost.pop(op.id, None)
        if op.outcome != OK or lost is None or "evict" in self.view.features or self.view.revoked:
            return
        # Whoever it asked, it was in its epoch: the next one may have begun, and a liar left that acknowledged it.
        configuration = self.view.configuration_of(op.client)
        nodes = [self.view.node_at(i, configuration) for i in configuration.group_of(op.slot).members]
        liars = sum(node.is_byzantine for node in nodes)
        correct = [node for node in nodes if not node.is_byzantine]
        holders = [node for node in correct if holds(node, op)]
        gone = sum(node not in holders and node.lost_count > lost[node.number] for node in correct)
        ack = max(info.ack for info in configuration.namespaces)
        if not self._is_mortal(op.slot):
            if len(holders) + gone + liars < ack:
                self.fail(f"{told(op)} was acknowledged for {ack} nodes; of correct ones, {len(holders)} hold it")
            self._kept.append((op, [(node.number, node.lost_count) for node in holders]))

    def healed(self) -> None:
        """Who held it holds it still, or what is higher."""
        if self.view.revoked or "evict" in self.view.features:
            return
        for op, holders in self._kept:
            if self._is_mortal(op.slot):
                continue
            for index, lost_count in holders:
                node = self.view.nodes[index]
                if node.lost_count == lost_count and not holds(node, op):
                    self.fail(f"{told(op)} was acknowledged and on node {index}, which lost nothing, and is not there")
                    return

    def _is_mortal(self, slot: bytes) -> bool:
        if slot in self._mortal:
            return True
        if any(h[2] == DELETE and header_slot(h) == slot for h in self.view.evil_headers):
            self._mortal.add(slot)
            return True
        return False


def holds(node: NodeProcess, op: Op) -> bool:
    """Whether a node has what an operation wrote, or what is higher, stored at least."""
    held = None if node.wiped else node.node.slots.current.get(op.slot)
    return held is not None and held.stamp >= op.stamp
