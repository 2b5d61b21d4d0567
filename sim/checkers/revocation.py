"""Revocation is final (protocol 5.5): a read that starts after q nodes activated an epoch in which a writer is revoked
never returns what it wrote. So no write of a revoked writer lurks: the bound is zero.

Nor does a write succeed that a revoked or retired writer begins after that. Behind it, checked too: a correct node that
works under such an epoch holds nothing of a revoked writer.
"""

from __future__ import annotations

from quorumcache.core.model import header_writer
from sim.checkers.base import Checker, View, told
from sim.exact import EXACT
from sim.record import OK, Op


class Revocation(Checker):
    """Compares what is read with who is revoked, and since when."""

    name = "revocation"
    about = ""

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.slots: dict[bytes, None] = {}

    def forgetting(self, leaving: list[Op]) -> None:
        """Of forgotten operations only the slot matters."""
        self.slots.update(dict.fromkeys(op.slot for op in leaving))

    def ended(self, op: Op) -> None:
        """Whose value did the read return?"""
        self._check_nodes(op.slot)
        since_us = self.view.revoked.get(op.writer)
        # Compare-and-set that changed nothing tells of what it found, and of who wrote that.
        is_read = op.kind == "read" or (op.type == EXACT and op.detail == "unchanged")
        if is_read and op.outcome == OK and since_us is not None and op.start_us > since_us:
            self.fail(f"{told(op)} returned a value of a writer that was revoked at {since_us % 10**9 / 1000:.3f} ms")
        retired_us = self.view.retired.get(op.writer)
        if not is_read and op.outcome == OK and retired_us is not None and op.start_us > retired_us:
            self.fail(f"{told(op)} succeeded, of a writer that was barred at {retired_us % 10**9 / 1000:.3f} ms")

    def finished(self) -> None:
        """All slots once more."""
        for slot in dict.fromkeys([*self.slots, *(op.slot for op in self.view.ops)]):
            self._check_nodes(slot)

    def _check_nodes(self, slot: bytes) -> None:
        if not self.view.revoked:
            return
        for process in self.view.nodes:
            held = process.node.slots.current.get(slot)
            if held is None or process.is_byzantine:
                continue
            if process.node.configuration.is_revoked(header_writer(held.header)):
                self.fail(
                    f"node {process.number} holds an entry of slot {slot[-8:]!r} of a writer revoked in its epoch"
                )
                return
