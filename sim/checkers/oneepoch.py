"""One epoch at a time (protocol 9): what a correct node serves it serves in one epoch, and never again in one that it
has sealed, over all restarts; a node of no epoch serves nothing.

Only shard reports are of epochs that have ended: for nodes that join, and after the seal.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from sim.checkers.base import Checker, View
from sim.moving import MovingNode

_ABOUT_EPOCHS = (m.Follow, m.SealEpoch)


class OneEpoch(Checker):
    """Compares what nodes serve with what they sealed, by the records of their keys."""

    name = "one epoch"
    about = ""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        #: The latest epoch that each node served anything of.
        self._served: dict[int, int] = {}

    def served(self, node: MovingNode, request: m.Request, reply: m.Reply) -> None:
        """Is it in that epoch, and has not ended it?"""
        if isinstance(request, _ABOUT_EPOCHS):
            return
        is_sealed = request.configuration in node.seal_record.sealed
        kind = type(request).__name__
        membership = node.membership
        assert membership is not None
        if isinstance(request, m.Report) and (
            is_sealed or request.configuration in {x.digest for x in membership.known}
        ):
            return
        if is_sealed:
            self.fail(f"node {node.number} answered {kind} in an epoch that it has sealed")
        elif request.configuration != node.configuration.digest:
            self.fail(f"node {node.number} answered {kind} in another epoch than its own")
        epoch = node.configuration.epoch
        if epoch < self._served.get(node.number, 0):
            self.fail(f"node {node.number} answered {kind} in epoch {epoch} after {self._served[node.number]}")
        self._served[node.number] = epoch
