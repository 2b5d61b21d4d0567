"""Revocation is final (protocol 5.5): a read that starts after q nodes activated an epoch in which a writer is revoked
never returns what it wrote. So no write of a revoked writer lurks: the bound is zero.
"""

from __future__ import annotations

from sim.checkers.base import Checker, told
from sim.record import OK, Op


class Revocation(Checker):
    """Compares what is read with who is revoked, and since when."""

    name = "revocation"

    def ended(self, op: Op) -> None:
        """Whose value did the read return?"""
        since_us = self.view.revoked.get(op.writer)
        if op.kind == "read" and op.outcome == OK and since_us is not None and op.start_us > since_us:
            self.fail(f"{told(op)} returned a value of a writer that was revoked at {since_us % 10**9 / 1000:.3f} ms")
