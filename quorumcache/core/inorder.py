"""What reads and writes of mode primary share (protocol 10): they ask the nodes of a shard in their order.

One more is asked for each that does not do: that is down, silent, rejects the request or knows too little. What a node
says, and when enough is said, it must not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorumcache.core import messages as m
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine
from quorumcache.core.outcome import Failed
from quorumcache.core.read import rejection

if TYPE_CHECKING:
    from quorumcache.core.config import Group
    from quorumcache.core.coordinator import Coordinator


class InOrder(Machine):
    """Asks the nodes of a shard in their order, one more for each that does not do."""

    __slots__ = ("_asked", "_context", "_order", "_rejects", "_resend_us", "_silent", "_useless", "_wait_us")

    def __init__(self, context: Coordinator, order: tuple[int, ...], end_us: int, now_us: int) -> None:
        # The next in order takes over at once where a session is down, and else when a node is silent.
        self._wait_us = max(context.configuration.grace_us, 1)
        super().__init__(now_us + self._wait_us, end_us)
        self._context = context
        self._order = tuple(sorted(order, key=lambda node: not context.is_reachable(node)))
        self._asked: list[int] = []
        self._useless: set[int] = set()
        #: Who was silent for too long: nobody waits for it any more, and it may answer yet.
        self._silent: set[int] = set()
        self._rejects: dict[int, m.Reject] = {}
        self._resend_us = RESEND_US

    def _ask_more(self, needed: int) -> None:
        """Ask further nodes until `needed` of those asked may still do, those not counted that were silent for long."""
        lost = len(self._useless | self._silent)
        while len(self._asked) - lost < needed and len(self._asked) < len(self._order):
            node = self._order[len(self._asked)]
            self._asked.append(node)
            self._ask(node)

    def _ask(self, node: int) -> None:
        raise NotImplementedError

    def _wait(self, now_us: int) -> None:
        """Sleep until the next in order takes over, or where all were asked, until the silent are asked again."""
        if len(self._asked) == len(self._order):
            self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
            self._wait_us = self._resend_us
        self.deadline_us = min(now_us + self._wait_us, self.end_us)

    def _group(self) -> Group:
        raise NotImplementedError

    def _all_rejected(self) -> Failed | None:
        if len(self._rejects) == len(self._order):
            return rejection(self._group(), self._rejects)
        return None
