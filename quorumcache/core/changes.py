"""One round of questions to all nodes that serve what is watched: what did you store since? (protocol 4, watch)

Each node is asked from where it was heard last; the round ends when those that usually answer have, or after the grace
time once q of each group did. What the answers amount to is in watch.py. It must not know sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import messages as m
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.outcome import UNAVAILABLE, Failed, Heard, Outcome
from quorumcache.core.read import is_rejected, rejection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from quorumcache.core.config import Group
    from quorumcache.core.coordinator import Coordinator
    from quorumcache.core.watch import Subject

#: From where a node is asked: its feed (0: from now on) and the number in it.
Place = tuple[int, int]
FROM_NOW: Final[Place] = (0, 0)


class ChangesRound(Machine):
    """Asks each node of `places` what changed, and ends with the replies of those that answered (`Heard`).

    `waited` are the nodes that the round waits for beyond a quorum of each group: those that answered the last one.
    """

    __slots__ = (
        "_context",
        "_groups",
        "_quorum_us",
        "_rejects",
        "_replies",
        "_requests",
        "_resend_us",
        "_token",
        "_waited",
    )

    def __init__(
        self,
        context: Coordinator,
        subject: Subject,
        groups: list[Group],
        places: Mapping[int, Place],
        waited: frozenset[int],
        token: Any,
        now_us: int,
    ) -> None:
        configuration = context.configuration
        super().__init__(now_us + RESEND_US, now_us + configuration.op_time_us)
        self._context = context
        self._groups = groups
        self._token = token
        self._waited = waited
        self._quorum_us = 0
        self._resend_us = RESEND_US
        self._replies: dict[int, m.ChangesReply] = {}
        self._rejects: dict[int, m.Reject] = {}
        self._requests: dict[int, m.Changes] = {}
        for node, (feed, after) in places.items():
            request = m.Changes(
                context.new_id(self),
                configuration.digest,
                subject.namespace,
                subject.prefix,
                subject.whole,
                feed,
                after,
            )
            self._requests[node] = request
            context.send((node,), request)

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's answer."""
        request = self._requests.get(node)
        if self.finished or request is None or request.id != request_id or node in self._replies:
            return
        q = self._context.configuration.q
        if isinstance(reply, m.Reject):
            self._rejects[node] = reply
            for group in self._groups:
                here = {member: self._rejects[member] for member in group.members if member in self._rejects}
                if is_rejected(here, len(group.members) - q):
                    self._finish(rejection(group, here))
                    return
        elif type(reply) is m.ChangesReply:
            self._rejects.pop(node, None)
            self._replies[node] = reply
        else:
            return
        if not self._quorum_us and self._has_quorums():
            self._quorum_us = now_us
            self.deadline_us = min(now_us + self._context.configuration.grace_us, self.end_us)
        if self._quorum_us and all(n in self._replies or n in self._rejects for n in self._waited):
            self._finish(Heard(self._replies))

    def stranded(self, why: str) -> list[tuple[list[Any], Outcome]]:
        """See `Machine.stranded`: as if nobody had answered."""
        return [([self._token], Heard({}))]

    def _has_quorums(self) -> bool:
        q, replies = self._context.configuration.q, self._replies
        return all(sum(member in replies for member in group.members) >= q for group in self._groups)

    def _finish(self, outcome: Heard | Failed) -> None:
        self.finished = True
        for request in self._requests.values():
            self._context.forget(request.id)
        self._context.finish([self._token], outcome)

    def wake(self, now_us: int) -> None:
        """End once the grace time is over; ask the silent again; give up at op_time."""
        if self.finished:
            return
        if self._quorum_us and now_us >= min(self._quorum_us + self._context.configuration.grace_us, self.end_us):
            self._finish(Heard(self._replies))
            return
        if now_us >= self.end_us:
            q = self._context.configuration.q
            few = min(sum(member in self._replies for member in group.members) for group in self._groups)
            detail = f"{few} nodes of a group told in time what changed, {q} are needed"
            self._finish(Failed(UNAVAILABLE, detail))
            return
        for node, request in self._requests.items():
            if node not in self._replies and is_worth_asking_again(node, self._rejects):
                self._context.send((node,), request)
        self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
        self.deadline_us = min(now_us + self._resend_us, self.end_us)
        if self._quorum_us:
            self.deadline_us = min(self.deadline_us, self._quorum_us + self._context.configuration.grace_us)
