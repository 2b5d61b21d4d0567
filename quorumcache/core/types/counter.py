"""Counters: each client object has a field of its own, with the totals of what it added and took away (protocol 6).

Totals only grow, so that a field's newest entry has all that the earlier ones said; the value is the sum over fields.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from quorumcache.core.model import DELETE, Header
from quorumcache.core.types.base import GENERATION_BYTES, FieldEntry, FieldType, highest, metadata_of

#: A field: its writer's key, and 8 bytes that its client object drew.
COUNTER_FIELD_BYTES: Final = 40
TOTAL_MAX: Final = (1 << 63) - 1
_TOTALS: Final = struct.Struct(">QQ")


def totals_of(raw: bytes) -> tuple[int, int]:
    """(incremented, decremented) of a counter's field, from its header's canonical bytes."""
    added, taken = _TOTALS.unpack(metadata_of(raw)[GENERATION_BYTES:])
    return added, taken


def encode_totals(added: int, taken: int) -> bytes:
    """The inverse of `totals_of`: what follows the generation in the metadata. Raises ValueError beyond 2^63-1."""
    if not 0 <= added <= TOTAL_MAX or not 0 <= taken <= TOTAL_MAX:
        raise ValueError("a counter's totals are 0 to 2^63-1")
    return _TOTALS.pack(added, taken)


class Counter(FieldType):
    """A sum that many writers add to and take from."""

    name: ClassVar[str] = "counter"

    def fault_of_form(self, header: Header, field: bytes, details: bytes) -> str:
        """The writer's own field, its totals, no value; deleting single fields would make the sum run backwards."""
        if len(field) != COUNTER_FIELD_BYTES or field[:32] != header.writer:
            return "a counter's field belongs to the writer whose key it begins with"
        if header.kind == DELETE or header.size:
            return "a counter's field is never deleted and has no value"
        if len(details) != _TOTALS.size or max(_TOTALS.unpack(details)) > TOTAL_MAX:
            return "a counter's field has two totals of 0 to 2^63-1"
        return ""

    def fault_beside(self, header: Header, current: bytes | None, promised: Sequence[Header]) -> str:
        """Totals are never below those of the current entry or of a promise under a lower stamp, and never above those
        of a promise under a higher one."""
        added, taken = totals_of(header.raw)
        if current is not None:
            here_added, here_taken = totals_of(current)
            if added < here_added or taken < here_taken:
                return "a counter's totals never go down"
        for other in promised:
            other_added, other_taken = totals_of(other.raw)
            if other.stamp < header.stamp:
                if added < other_added or taken < other_taken:
                    return "a counter's totals are not below those promised before"
            elif added > other_added or taken > other_taken:
                return "a counter's totals are not above those promised under a later stamp"
        return ""

    def value_of(self, fields: Iterable[FieldEntry]) -> int:
        """What was added less what was taken away, over all fields."""
        total = 0
        for raw, _ in highest(fields).values():
            added, taken = totals_of(raw)
            total += added - taken
        return total


class Tally:
    """The totals of one field, as its client object counts them: what is confirmed, and what is under way.

    One write at a time: `begin`, then `details` for each attempt, then `confirm`, or a fresh tally with another field.
    """

    __slots__ = ("_added", "_generation", "_open_added", "_open_taken", "_taken", "field")

    def __init__(self, field: bytes) -> None:
        self.field = field
        self._generation = b""
        self._added = self._taken = 0
        self._open_added = self._open_taken = 0

    def begin(self, amounts: Iterable[int]) -> None:
        """These amounts go with the next write."""
        self._open_added = self._open_taken = 0
        for amount in amounts:
            if amount > 0:
                self._open_added += amount
            else:
                self._open_taken -= amount

    def details(self, generation: bytes) -> bytes:
        """The totals under this generation: what was counted under another has gone with that."""
        added, taken = (self._added, self._taken) if generation == self._generation else (0, 0)
        return encode_totals(added + self._open_added, taken + self._open_taken)

    @property
    def is_worn(self) -> bool:
        """Whether its totals come near their bound, so that it is time for another field."""
        return max(self._added, self._taken) > TOTAL_MAX >> 2

    def confirm(self, generation: bytes) -> None:
        """The write under way is complete, under this generation."""
        if generation != self._generation:
            self._generation = generation
            self._added = self._taken = 0
        self._added += self._open_added
        self._taken += self._open_taken
        self._open_added = self._open_taken = 0
