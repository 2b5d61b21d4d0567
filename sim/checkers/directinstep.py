"""Convergence in mode primary (protocol 10): once nodes reach each other, all correct ones of a group come to hold the
same, the highest by stamp and digest, by forwarding and by comparing shards.

What any correct node had when the world was quiet, all of them have some rounds later, or what is higher: a liar may
show a single node what it alone has at any moment. Excused are keys that were deleted and what expires, which each node
lets go of by its own clock (an old tombstone that a liar shows takes an entry with it), nodes without room, and writers
that were revoked.
"""

from __future__ import annotations

from quorumcache.core.model import DELETE, header_slot
from quorumcache.core.slots import Held
from sim.checkers.base import Checker, View
from sim.record import Op


class DirectInStep(Checker):
    """Compares what correct nodes hold."""

    name = "primary in step"
    about = "primary"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._highest: dict[bytes, Held] = {}
        self._mortal: set[bytes] = set()

    def started(self, op: Op) -> None:
        """Note what is deleted, or may expire."""
        if op.kind == "delete" or (op.kind == "write" and "expire" in self.view.features):
            self._mortal.add(op.slot)

    def quieted(self) -> None:
        """What there is to have."""
        if not self.view.compares:
            return
        for node in self.view.nodes:
            if not node.is_byzantine:
                for slot, held in node.node.slots.current.items():
                    if self.view.configuration.is_primary(slot):
                        self._highest[slot] = max(held, self._highest.get(slot, held), key=_order)

    def healed(self) -> None:
        """Time enough has passed for some rounds with every peer."""
        self._mortal.update(header_slot(raw) for raw in self.view.evil_headers if raw[2] == DELETE)
        for slot, highest in self._highest.items():
            if slot in self._mortal:
                continue
            for index in self.view.configuration.group_of(slot).members:
                node = self.view.node_at(index)
                held = node.node.slots.current.get(slot)
                if not node.is_byzantine and (held is None or _order(held) < _order(highest)):
                    what = "nothing" if held is None else "something lower"
                    self.fail(f"node {index} has {what} in {slot[-8:]!r}, and another had what it could have taken")
                    return


def _order(held: Held) -> tuple[bytes, bytes]:
    return held.stamp, held.digest
