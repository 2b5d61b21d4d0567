"""Byzantine nodes where epochs change: a liar that goes along with the cluster as an honest node would, or does not.

Powers beyond those of any liar: it goes on answering in epochs that it has sealed (`two_epochs`), and it never seals,
so that it stays where it is (`never_seals`). What it says of epochs is in epochlies.py.
"""

from __future__ import annotations

from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.carrying import Carried
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.node import Node
from sim.adversary.nodes import ByzantineNode
from sim.moving import MovingNode

_KEPT_MAX: Final = 4


class MovingLiar(ByzantineNode, MovingNode):
    """A node of the adversary in a run with epochs."""

    def __init__(self, *arguments: Any) -> None:
        self.kept: dict[bytes, Node] = {}
        super().__init__(*arguments)

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """A message arrived; one that no epoch names yet only follows."""
        if self.membership is None:
            MovingNode.receive(self, source, message)
        else:
            super().receive(source, message)

    def answer(self, source: int, request: m.Request, now_us: int) -> m.Reply:
        """What it would say if it said the truth, of the epochs that it pretends to be in."""
        membership = self.membership
        assert membership is not None
        if "never_seals" in self.lies and isinstance(request, m.SealEpoch):
            return m.Reject(request.id, now_us, m.NOT_ALLOWED, "so it says")
        if "two_epochs" in self.lies and not isinstance(request, m.SealEpoch | m.Follow):
            if request.configuration == membership.configuration.digest:
                return self.node.handle(request, now_us)
            if request.configuration in self.kept:
                return self.kept[request.configuration].handle(request, now_us)
        return super().answer(source, request, now_us)

    def hear_of_epochs(self, reply: m.Reply, now_us: int) -> None:
        """A reply to what it asked or told the others of epochs."""
        if "never_seals" not in self.lies:
            super().hear_of_epochs(reply, now_us)

    def take_over(self, node: Node, before: Configuration, carried: Carried, now_us: int) -> None:
        """Go along, and keep what it was."""
        info = before.node_by_key(self.key.public)
        if info is not None and "two_epochs" in self.lies:
            # The node that it was has given up what it had: this one has it from the disk.
            verifier = Verifier(self.verify, list(node.verifier.chain.values()))
            former = Node(before, info.index, self.key.sign, verifier, started_us=None, limits=self.limits)
            self.disk.load(former.slots)
            self.kept[before.digest] = former
            if len(self.kept) > _KEPT_MAX:
                del self.kept[next(iter(self.kept))]
        super().take_over(node, before, carried, now_us)
        self.adopt_twin()
