"""Requests that come together: what reaches a node within a moment of a vote or a lock is answered as of one frame.

So the node's votes and grants are signed together (protocol 17), as they are where clients send many at once. All that
was asked is handled, then signed, stored and answered, in this order. It must not know what the requests mean.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m

if TYPE_CHECKING:
    from sim.processes import NodeProcess

#: In so many cases a vote or a lock is alone, and answered at once; else others have so long to come.
_ALONE: Final = 0.2
_WAITS_US: Final = (500, 2_000, 8_000)
#: What waits at most.
_COUNT_MAX: Final = 300


class Frames:
    """What waits at one node for the rest of its frame."""

    def __init__(self, node: NodeProcess, draw: random.Random) -> None:
        self._node = node
        self._draw = draw
        self._waiting: list[tuple[int, m.Request]] = []
        self._life = 0

    def takes(self, source: int, request: m.Request) -> bool:
        """Whether this request of a client waits for others, or waited for by others; else it is to be answered."""
        if self._life != self._node.restart_count:
            self._waiting, self._life = [], self._node.restart_count
        if not self._waiting:
            if not isinstance(request, m.Vote | m.Lock) or self._draw.random() < _ALONE:
                return False
            world = self._node.world
            world.at(world.now_us + self._draw.choice(_WAITS_US), self._answer, self._life)
        elif len(self._waiting) >= _COUNT_MAX:
            return False
        self._waiting.append((source, request))
        return True

    def _answer(self, life: int, _second: object) -> None:
        node = self._node
        if life == self._life == node.restart_count:
            waiting, self._waiting = self._waiting, []
            if node.hears():
                node.answer_frame(waiting)
