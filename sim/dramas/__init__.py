"""Dramas: scripted situations in which rules matter that random schedules hardly ever test.

Who crashes when, which messages wait where, who writes, what the liars say: the order is the script's, all times, nodes
and choices are the seed's. By what they are about: recovery.py, clocks.py, keyed.py, exact.py, epochs.py. What a script
can do is in stage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from sim.dramas import clocks, epochs, exact, keyed, recovery
from sim.dramas.stage import Stage

#: A drama's acts: each `yield` is a wait, in microseconds.
Drama = Callable[[Stage], Iterator[int]]

DRAMAS: Final[dict[str, Drama]] = {
    "edge_of_the_clock": clocks.edge_of_the_clock,
    "late_for_recovery": recovery.late_for_recovery,
    "answered_then_forgot": recovery.answered_then_forgot,
    "taken_and_lost": recovery.taken_and_lost,
    "two_reports": recovery.two_reports,
    "revoked_meanwhile": recovery.revoked_meanwhile,
    "part_of_a_key": keyed.part_of_a_key,
    "totals_to_come": keyed.totals_to_come,
    "deletion_undone": keyed.deletion_undone,
    "begun_again": keyed.begun_again,
    "lock_forgotten": exact.lock_forgotten,
    "old_ballot": exact.old_ballot,
    "lost_and_back": exact.lost_and_back,
    "two_halves": epochs.two_halves,
    "stamp_of_before": epochs.stamp_of_before,
    "acks_of_two_epochs": epochs.acks_of_two_epochs,
    "joined_on_hearsay": epochs.joined_on_hearsay,
}

#: Those that play on a key with fields, or on one that is written by compare-and-set: of which type.
TYPES: Final[dict[str, str]] = {
    "part_of_a_key": "map",
    "totals_to_come": "counter",
    "deletion_undone": "map",
    "begun_again": "map",
    "lock_forgotten": "exact",
    "old_ballot": "exact",
    "lost_and_back": "exact",
}

#: Those that play between two epochs: nobody orders others then.
EPOCHS: Final = frozenset(("two_halves", "stamp_of_before", "acks_of_two_epochs", "joined_on_hearsay"))

__all__ = ["DRAMAS", "EPOCHS", "TYPES", "Drama", "Stage"]
