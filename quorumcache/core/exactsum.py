"""Increments of one key that wait for each other in one client, made one: each is told a number of its own.

Those that would follow each other at once, with nobody in between, may as well take effect together: one header stands
for the whole row, and each gets the number that it would have got in its turn. Numbers and bytes only: it must not know
slots, ballots or queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import Final

import msgspec

from quorumcache.core.exactwrite import Change
from quorumcache.core.model import PUT, SALT_BYTES, header_expires_at
from quorumcache.core.outcome import Decided, Outcome, Unchanged

#: Of a number that is added to, and of what is added.
DIGITS_MAX: Final = 40
_NUMBER_MAX: Final = int("9" * DIGITS_MAX)


class Addition(msgspec.Struct, frozen=True):
    """A `Changer` that adds `by` to the number that the slot has as decimal text; nothing there is 0, and then the
    number expires at `expires_at_us` (0: never). It wants nothing where the value is no such number."""

    by: int
    expires_at_us: int = 0

    def __call__(self, header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        return Additions([self])(header, salted, cluster_us)


class Additions:
    """A `Changer` that does what all of these would, one right after the other."""

    def __init__(self, additions: Sequence[Addition]) -> None:
        self._additions = additions
        self._numbers: list[int] = []

    def __call__(self, header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        number = number_of(salted[SALT_BYTES:] if header else b"0")
        if number is None:
            return None
        sums = list(accumulate((addition.by for addition in self._additions), initial=number))
        # Who finds a number that is too long adds nothing to it, and neither do those after.
        counted = sum(1 for _ in takewhile(_is_short, sums[:-1]))
        self._numbers = sums[1 : counted + 1]
        expires_at_us = header_expires_at(header) if header else self._additions[0].expires_at_us
        return Change(PUT, b"%d" % self._numbers[-1], expires_at_us)

    def outcomes(self, outcome: Outcome) -> list[Outcome]:
        """How each of them ended, where all of them together ended so."""
        if not isinstance(outcome, Decided):
            return [outcome] * len(self._additions)
        # What was decided is what the last call made: a header is given up before another is made.
        assert b"%d" % self._numbers[-1] == outcome.salted[SALT_BYTES:]
        told: list[Outcome] = [Decided(outcome.header, outcome.salted, number) for number in self._numbers]
        rest = len(self._additions) - len(told)
        return told + [Unchanged(outcome.header, outcome.salted)] * rest


def number_of(text: bytes) -> int | None:
    """The number that this is the decimal text of; None where it is none, or one of too many digits."""
    digits = text[1:] if text[:1] == b"-" else text
    return int(text) if digits.isdigit() and len(digits) <= DIGITS_MAX else None


def _is_short(number: int) -> bool:
    return abs(number) <= _NUMBER_MAX
