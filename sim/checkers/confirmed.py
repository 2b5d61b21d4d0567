"""A field that was written is held by a quorum (protocol 6, commit): it counts only by `OK` of q nodes, which name its
generation as current and take it. So the correct ones among them, at least q less the Byzantine ones, have said so by
the time its writer is told. A node that let go of the key does not count: its word is true of what is gone.

Excused is a write that says that it was overtaken: it is ordered before something else that is complete.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, header_slot
from quorumcache.core.types.base import is_base_slot
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op


class Confirmed(Checker):
    """Counts the correct nodes that took each field of correct clients."""

    name = "confirmed"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.takers: dict[bytes, set[int]] = {}  # header -> nodes

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """Note what the node took."""
        headers = [item.header for bundle in request.bundles for item in bundle.items]
        for header, code in zip(headers, reply.codes, strict=True):
            if code == m.OK and header in self.view.authentic:
                self.takers.setdefault(header, set()).add(node.number)

    def ended(self, op: Op) -> None:
        """Enough of them for what was just written?"""
        if op.outcome != OK or op.overtaken or op.kind not in ("write", "delete") or is_base_slot(op.slot):
            return
        raw = op.fields[0][0] if op.fields else b""
        if not raw:
            return
        configuration = self.view.configuration
        members = configuration.group_of(header_slot(raw)).members
        liars = sum(self.view.node_at(i).is_byzantine for i in members)
        if "epochs" in self.view.features:
            liars = configuration.f  # It may be complete in an epoch that others were part of.
        takers = self.takers.get(raw, set())
        if len(takers) < configuration.q - liars:
            what = "deletion" if raw[2] == DELETE else "value"
            self.fail(f"{told(op)}: its {what} was taken by nodes {sorted(takers)} only")
