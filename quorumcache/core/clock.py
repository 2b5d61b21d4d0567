"""Cluster time: a client's clock, shifted to the median of the clocks that nodes reported (protocol 4, write 1).

It must not know messages. All times are integers of microseconds.
"""

from __future__ import annotations

from quorumcache.core.quorum import median_of


class ClusterClock:
    """Turns the client's own clock into cluster time.

    `guess_us` is what to add to the own clock until `q` nodes have reported theirs. The result never runs backwards,
    but for `restart`.
    """

    __slots__ = ("_guess_us", "_last_us", "_offsets", "_q", "offset_us")

    def __init__(self, q: int, guess_us: int) -> None:
        self._q = q
        self._guess_us = guess_us
        self._offsets: dict[int, int] = {}
        self._last_us = 0
        #: Cluster time minus the own clock, as of the last report.
        self.offset_us = guess_us

    @property
    def is_known(self) -> bool:
        """Whether q nodes have reported."""
        return len(self._offsets) >= self._q

    def report(self, node: int, clock_us: int, now_us: int) -> None:
        """Note a node's clock, received at `now_us` of the own."""
        offset = clock_us - now_us
        before = self._offsets.get(node)
        if before is not None and -500 < offset - before < 500:
            return  # Half a millisecond changes nothing, and this is called for each reply.
        self._offsets[node] = offset
        if len(self._offsets) >= self._q:
            self.offset_us = median_of(self._offsets.values())

    def restart(self, now_us: int, beyond_us: int) -> bool:
        """Where a wrong guess has led cluster time more than `beyond_us` ahead, go back to what the nodes say. True
        if it did: times may then recur, so the caller has to take a new nonce for its stamps."""
        if not self.is_known or self._last_us <= now_us + self.offset_us + beyond_us:
            return False
        self._last_us = 0
        return True

    def time_us(self, now_us: int) -> int:
        """Cluster time at `now_us` of the own clock."""
        time_us = max(now_us + self.offset_us, self._last_us)
        self._last_us = time_us
        return time_us

    def next_us(self, now_us: int) -> int:
        """Cluster time, above every time that this or `time_us` returned before: for stamps."""
        self._last_us = max(now_us + self.offset_us, self._last_us + 1)
        return self._last_us
