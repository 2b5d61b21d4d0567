"""Liveness in mode primary (protocol 10): every operation ends within its time, and ends well once the world is healed,
whatever at most f liars say: who is of no use is passed over.
"""

from __future__ import annotations

from sim.checkers.base import Checker, told
from sim.record import FAILED, UNKNOWN, Op

_SLACK_US = 2_000


class DirectLiveness(Checker):
    """Measures how long operations take, and how those after the healing ended."""

    name = "liveness of primary"
    about = "primary"

    def ended(self, op: Op) -> None:
        """Was it in time? After the healing, and where nothing was in the way: did it succeed?"""
        assert op.end_us is not None
        begun = 1 + self.view.moves_since(op.client, op.start_us)
        limit_us = begun * self.view.op_time_us * (1 if op.kind == "read" else 2)
        took_us = op.end_us - op.start_us
        if took_us > limit_us + limit_us // 1000 + _SLACK_US:
            self.fail(f"{told(op)} took {took_us / 1000:.1f} ms; {limit_us / 1000:.1f} ms are allowed")
        if op.outcome not in (FAILED, UNKNOWN) or "denied" in op.detail:
            return
        if op.phase == "final" and "evict" not in self.view.features:
            self.fail(f"{told(op)} failed although the network had healed and at most f nodes were faulty")
        elif self.view.reachable and "far" not in self.view.features:
            # (One who is far may find something newer each time, where all others write without a pause.)
            self.fail(f"{told(op)} failed although all correct nodes could be reached")
