"""Forwarding in mode primary (protocol 10): a write that was acknowledged is passed on by somebody, and what a correct
node was to pass on is on all correct nodes of the group, once the world is healed. From then on it survives the crash
of all nodes that acknowledged it.

Excused are nodes that stopped in between, for what waits is in memory only; those that lost what they were given, which
have to catch up (sim/checkers/directinstep.py); values that only a disk has; nodes without room; tombstones and what
expires, which go when they are old; and writers that were revoked.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, header_expires_at, header_slot, header_stamp
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op


class Forwarded(Checker):
    """Notes who took what to pass it on."""

    name = "forwarded"
    about = "primary"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        #: (slot, stamp) -> the nodes that took it to pass it on, with the life that each was in.
        self._promised: dict[tuple[bytes, bytes], set[tuple[int, int]]] = {}
        #: How often each node had lost its memory then.
        self._lost: dict[tuple[bytes, bytes], list[int]] = {}
        self._mortal: set[bytes] = set()

    def took(self, node: NodeProcess, request: m.Put, reply: m.PutReply) -> None:
        """A node took writes; a liar may have done anything with them."""
        for header, code in zip(request.headers, reply.codes, strict=True):
            slot = header_slot(header)
            if header[2] == DELETE or header_expires_at(header):
                self._mortal.add(slot)
            if code == m.OK and request.forward:
                life = (node.number, node.life)
                self._promised.setdefault((slot, header_stamp(header)), set()).add(life)
                self._lost[slot, header_stamp(header)] = [each.lost_count for each in self.view.nodes]

    def ended(self, op: Op) -> None:
        """Acknowledged: somebody passes it on."""
        if op.kind != "read" and op.outcome == OK and (op.slot, op.stamp) not in self._promised:
            self.fail(f"{told(op)} was acknowledged, and nobody was asked to pass it on")

    def healed(self) -> None:
        """All have what was to be passed on, or what is higher."""
        excuses = ("evict", "cold", "revoke")
        if any(name in self.view.features for name in excuses):
            return
        nodes = {node.number: node for node in self.view.nodes if not node.is_byzantine}
        for (slot, stamp), takers in self._promised.items():
            if slot in self._mortal:
                continue
            alive = [i for i, life in sorted(takers) if i in nodes and nodes[i].life == life]
            if not alive:
                continue
            for node in map(self.view.node_at, self.view.configuration.group_of(slot).members):
                if not node.is_byzantine and node.lost_count == self._lost[slot, stamp][node.number]:
                    held = node.node.slots.current.get(slot)
                    if held is None or held.stamp < stamp:
                        self.fail(f"node {alive[0]} was to pass on {slot[-8:]!r}, and node {node.number} lacks it")
                        return
