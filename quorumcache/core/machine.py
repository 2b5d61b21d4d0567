"""The common shape of a client's operations in flight. It must not know any of them."""

from __future__ import annotations

from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.outcome import Outcome

RESEND_US: Final = 250_000
RESEND_US_MAX: Final = 2_000_000
#: After q answers, how long a read waits for more, or for a value, before it asks another way.
HEDGE_US: Final = 20_000


class Machine:
    """An operation, or a batch of them, in flight. `deadline_us` is when it next wants `wake`; `scheduled_us` is the
    coordinator's note of when it will get it. `end_us` is when the op_time of the first of its operations is over:
    replies received from then on do not count for that one, so the coordinator wakes the machine before it hands it
    any."""

    __slots__ = ("deadline_us", "end_us", "finished", "scheduled_us")

    def __init__(self, deadline_us: int, end_us: int) -> None:
        self.deadline_us = min(deadline_us, end_us)
        self.end_us = end_us
        self.scheduled_us = self.deadline_us
        self.finished = False

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a reply to one of its requests."""
        raise NotImplementedError

    def wake(self, now_us: int) -> None:
        """Do what is due by now."""
        raise NotImplementedError

    def waiting(self) -> list[tuple[bytes, list[Any], bool]]:
        """The reads of slots that it has not ended: slot, who waits for it, whether for the whole entry."""
        return []

    def stranded(self, why: str) -> list[tuple[list[Any], Outcome]]:
        """How whatever else waits for it ends, where it cannot go on."""
        return []


def is_worth_asking_again(node: int, rejects: dict[int, m.Reject]) -> bool:
    """Whether a node that did not answer should be sent the request again: not one that rejected it for good. One that
    has sealed the epoch before the client's is about to begin it."""
    reject = rejects.get(node)
    return reject is None or reject.code in (m.OVERLOADED, m.SEALED)
