"""The compare-and-set operations of one client that wait or are under way: of each slot, one at a time; increments that
follow one another go together.

How one runs is in exactwrite.py. It must not know nodes or messages.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from quorumcache.core.exactsum import Addition, Additions
from quorumcache.core.exactwrite import Asked, Changer, ExactWrite
from quorumcache.core.outcome import UNAVAILABLE, Failed, Outcome

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: How many operations of one client wait behind one another for a slot.
WAITING_MAX: Final = 4096
#: What goes together ends together, in the time that the first of them has. None loses more of its own than this part.
_LOST_PART: Final = 8


class ExactQueue:
    """A client's compare-and-set operations: of each slot, one at a time."""

    def __init__(self, context: Coordinator) -> None:
        self._context = context
        self._waiting: dict[bytes, deque[tuple[Changer, Any, int]]] = {}
        self._ready: list[tuple[bytes, Changer, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._ready or self._waiting)

    def add(self, slot: bytes, change: Changer, token: Any) -> None:
        """Queue one, for the next `flush`."""
        self._ready.append((slot, change, token))

    def has_ready(self) -> bool:
        """Whether `flush` has something to do."""
        return bool(self._ready)

    @property
    def ready_count(self) -> int:
        """How many wait for `flush`."""
        return len(self._ready)

    def flush(self, now_us: int) -> None:
        """Begin those whose slot is free."""
        ready, self._ready = self._ready, []
        end_us = now_us + self._context.configuration.op_time_us
        free = []
        for slot, change, token in ready:
            waiting = self._waiting.get(slot)
            if waiting is None:
                waiting = self._waiting[slot] = deque()
                free.append(slot)
            if len(waiting) >= WAITING_MAX:
                detail = f"{WAITING_MAX} operations of this client wait for the key already"
                self._context.finish([token], Failed(UNAVAILABLE, detail))
            else:
                waiting.append((change, token, end_us))
        for slot in free:
            self._begin_next(slot, now_us)

    def _begin_next(self, slot: bytes, now_us: int) -> None:
        waiting = self._waiting[slot]
        while waiting:
            change, token, end_us = waiting.popleft()
            if now_us >= end_us:
                detail = "nothing was sent: earlier operations of this client on the key took all the time there was"
                self._context.finish([token], Failed(UNAVAILABLE, detail))
                continue
            asked: Asked = [(change, token)]
            last_us = end_us + self._context.configuration.op_time_us // _LOST_PART
            while isinstance(change, Addition) and waiting and waiting[0][2] <= last_us:
                another = waiting[0][0]
                if not isinstance(another, Addition):
                    break
                asked.append((another, waiting.popleft()[1]))
            self._begin(slot, asked, end_us, now_us)
            return
        del self._waiting[slot]

    def _begin(self, slot: bytes, asked: Asked, end_us: int, now_us: int) -> None:
        change = asked[0][0]
        if isinstance(change, Addition):
            change = Additions([each for each, _ in asked if isinstance(each, Addition)])
        context = self._context
        context.latest_exact = machine = ExactWrite(context, slot, change, asked, end_us, now_us, self._ended)
        context.schedule(machine)

    def _ended(self, slot: bytes, change: Changer, asked: Asked, outcome: Outcome, now_us: int) -> None:
        outcomes = change.outcomes(outcome) if isinstance(change, Additions) else [outcome]
        for (_, token), told in zip(asked, outcomes, strict=True):
            self._context.finish([token], told)
        self._begin_next(slot, now_us)

    def unsent(self) -> list[tuple[bytes, Changer, Any]]:
        """Those that have not begun: slot, change, token."""
        waiting = [(slot, change, token) for slot, queue in self._waiting.items() for change, token, _ in queue]
        return [*waiting, *self._ready]

    def abandon(self) -> None:
        """End what has not begun."""
        closed = Failed(UNAVAILABLE, "the client was closed before anything was sent")
        for _, _, token in self._ready:
            self._context.finish([token], closed)
        self._ready.clear()
        for waiting in self._waiting.values():
            for _, token, _ in waiting:
                self._context.finish([token], closed)
            waiting.clear()
