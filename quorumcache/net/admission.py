"""Who may have a session: bounds on sessions that open, on those of strangers, and on those of one key.

Whoever takes all places that are open to everyone leaves some to the others. It must not know sockets or frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

#: Sessions that nobody has opened yet: where there are more, the one that has been opening for longest is given up. An
#: honest client takes some milliseconds for it.
OPENINGS_MAX: Final = 256


class Admission:
    """Counts sessions. At most `sessions_max` in all: half of them of strangers, a quarter of any one writer; those of
    the cluster's nodes are admitted beyond that, one each and one more."""

    def __init__(self, sessions_max: int, nodes: frozenset[bytes], *, openings_max: int = OPENINGS_MAX) -> None:
        self._sessions_max = sessions_max
        #: The cluster's nodes, of this epoch and those before.
        self.nodes = nodes
        self._openings_max = openings_max
        self._openings: dict[object, Callable[[], None]] = {}
        self._counts: dict[bytes, int] = {}
        self._total = 0
        self.given_up_count = 0

    def opens(self, session: object, give_up: Callable[[], None]) -> None:
        """A session begins to open; `give_up()` ends it, should it be the oldest of too many."""
        while len(self._openings) >= self._openings_max:
            oldest = next(iter(self._openings))
            self.given_up_count += 1
            self._openings.pop(oldest)()
        self._openings[session] = give_up

    def opened(self, session: object) -> None:
        """A session has opened, or ended before it did."""
        self._openings.pop(session, None)

    def refusal(self, key: bytes) -> str:
        """Why no further session of this key (empty: a stranger's) is admitted now; empty where one is."""
        count = self._counts.get(key, 0)
        if key in self.nodes:
            # Peers in a cluster have one session each way; what else a node's key does is not the cluster's doing.
            return "" if count < 2 or self._total < self._sessions_max else self._full()
        if self._total >= self._sessions_max:
            return self._full()
        bound = max(1, self._sessions_max // 4 if key else self._sessions_max // 2)
        if count >= bound:
            whose = "of your key" if key else "of clients without a key"
            return f"the node has its {bound} sessions {whose}; close one, or try again later"
        return ""

    def enter(self, key: bytes) -> None:
        """A session of this key was admitted."""
        self._counts[key] = self._counts.get(key, 0) + 1
        self._total += 1

    def leave(self, key: bytes) -> None:
        """A session of this key ended."""
        self._total -= 1
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]

    def _full(self) -> str:
        return f"the node has its {self._sessions_max} sessions; try again later"
