"""Freshness in mode primary (protocol 10) is promised by nobody; this is what is left of it without faults. Where the
first node of a slot's order is correct, was not away, and is asked alone or among correct ones, a read returns what was
acknowledged before it began, or what is higher.

Excused are keys that somebody deleted: floors do not count in this mode, so what liars or writers kept may come back.

Judged in runs in which correct nodes answer within the grace time throughout, and after the healing.
"""

from __future__ import annotations

from quorumcache.core.model import DELETE, header_slot
from sim.checkers.base import Checker, View, told
from sim.record import MISS, OK, Op


class DirectFreshness(Checker):
    """Holds the highest stamp that was acknowledged against what later reads return."""

    name = "freshness of primary"
    about = "primary"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._highest: dict[tuple[bytes, bool], bytes] = {}
        self._mortal: set[bytes] = set()

    def started(self, op: Op) -> None:
        """Note what was acknowledged by now, in this phase."""
        op.bound = self._highest.get((op.slot, op.phase == "final"), b"")
        if op.kind == "delete" or "expire" in self.view.features:
            self._mortal.add(op.slot)

    def ended(self, op: Op) -> None:
        """Compare what a read returned with that."""
        if op.kind != "read":
            where = (op.slot, op.phase == "final")
            if op.outcome == OK:
                self._highest[where] = max(self._highest.get(where, b""), op.stamp)
            return
        if not op.bound or not self._is_owed(op):
            return
        if op.outcome == OK and op.stamp < op.bound and not self._may_come_back(op):
            self.fail(f"{told(op)} returned what is older than what was acknowledged: stamp {op.bound[:8].hex()}")
        if op.outcome == MISS and not self._is_mortal(op.slot):
            self.fail(f"{told(op)} found nothing, though a write was acknowledged: stamp {op.bound[:8].hex()}")

    def _is_owed(self, op: Op) -> bool:
        """Whether all is as it has to be for the promise."""
        view = self.view
        if "far" in view.features or "evict" in view.features or (op.phase != "final" and not view.calm):
            return False
        configuration = view.configuration
        order = configuration.order_of_shard(configuration.shard_of(op.slot))
        ack = max(info.ack for info in configuration.namespaces)
        if ack == 1:
            return not view.node_at(order[0]).is_byzantine
        return not any(view.node_at(i).is_byzantine for i in order)

    def _may_come_back(self, op: Op) -> bool:
        """Whether it is older than what was deleted: once tombstones are gone, whoever kept it can bring it back."""
        has_adversary = bool(self.view.evil_writers) or any(node.is_byzantine for node in self.view.nodes)
        return has_adversary and self._is_mortal(op.slot)

    def _is_mortal(self, slot: bytes) -> bool:
        return slot in self._mortal or any(h[2] == DELETE and header_slot(h) == slot for h in self.view.evil_headers)
