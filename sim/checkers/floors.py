"""Floors rise only as far as protocol 7 lets them: nobody is kept from writing by what was dropped too soon.

What is evicted or reaped is older than 2 max_skew, and so is the stamp of a promise that aged out. So a floor above
that comes from a start. While all shards of a node recover, nothing of it is evicted or reaped. Checked where
operations end.
"""

from __future__ import annotations

from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import Op


class Floors(Checker):
    """Looks at the floor of the operation's shard in each correct node."""

    name = "floors"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._restarts: dict[int, int] = {}
        self._start_us: dict[int, int] = {}
        self._gone: dict[int, int] = {}

    def ended(self, op: Op) -> None:
        """Any operation may have made nodes drop something."""
        for process in self.view.nodes:
            if not process.is_byzantine and not process.down:
                self._check(process, op)

    def _check(self, process: NodeProcess, op: Op) -> None:
        skew_us = self.view.max_skew_us
        # The most that the node's clock can show.
        clock_us = self.view.now_us + skew_us // 2
        if process.life != self._restarts.get(process.number, 0):
            self._restarts[process.number] = process.life
            self._start_us[process.number] = clock_us + 2 * skew_us
            # Counts come along from one epoch to the next.
            self._gone[process.number] = process.node.slots.evicted_count + process.node.slots.reaped_count
        slots = process.node.slots
        floor_us = slots.shard(op.slot).floor_us
        most_us = max(clock_us - 2 * skew_us - 1, self._start_us.get(process.number, 0))
        # A new epoch evicts what a revoked writer wrote, however young.
        if floor_us > most_us and not self.view.revoked:
            self.fail(
                f"node {process.number} dropped what was younger than 2 max_skew: its floor is at "
                f"{(floor_us - clock_us) / 1000:+.3f} ms of its clock, after {told(op)}"
            )
        gone = slots.evicted_count + slots.reaped_count - self._gone.get(process.number, 0)
        if gone and all(shard.recovering for shard in slots.shards):
            self.fail(f"node {process.number} evicted or reaped while all its shards recover, {told(op)}")
