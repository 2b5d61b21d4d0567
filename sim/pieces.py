"""Requests that a node works on in pieces, with others answered in between, as large ones are at a node's server.

The simulator's batches are small, so its pieces are one header or entry each. What a piece did is stored before
anything else happens; a crash leaves the rest undone, and nobody hears of it. It must not know what the requests mean.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m

if TYPE_CHECKING:
    from quorumcache.core.cutting import Cut
    from sim.processes import NodeProcess

#: So many nodes work so, and then on so many of their requests.
_NODES: Final = 0.4
_REQUESTS: Final = 0.5
#: What passes between two pieces.
_PAUSES_US: Final = (10, 10, 100, 500)


class Pieces:
    """What one node works on in pieces."""

    def __init__(self, node: NodeProcess, draw: random.Random) -> None:
        self._node = node
        self._draw = draw
        self._share = _REQUESTS if draw.random() < _NODES else 0.0

    def takes(self, source: int, request: m.Request) -> bool:
        """Whether this request is worked on in pieces; else it is to be answered."""
        if not self._share or not isinstance(request, m.Prepare | m.Commit) or self._draw.random() >= self._share:
            return False
        piecewise = self._node.cut(request)
        if piecewise is not None:
            self._go_on((source, piecewise), self._node.restart_count)
        return piecewise is not None

    def _go_on(self, what: tuple[int, Cut], life: int) -> None:
        node, (source, piecewise) = self._node, what
        if life != node.restart_count or not node.hears():
            return
        reply = node.go_on(piecewise)
        if reply is not None:
            node.handled(piecewise.request, reply)
        node.store()
        if reply is None:
            world = node.world
            world.at(world.now_us + self._draw.choice(_PAUSES_US), self._go_on, what, life)
            return
        node.tell(piecewise.request, reply)
        node.network.send(node.index, source, reply, node.delay_us())
