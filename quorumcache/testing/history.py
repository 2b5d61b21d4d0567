"""What clients did and saw, in order, and whether the cluster kept its promises: integrity, freshness, one value per
stamp (protocol 5, 1 to 3).

All clients of one history run in one event loop, so that its sequence numbers are real time. It must not know the
network, nor trust anything but what was recorded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from quorumcache.core.model import header_stamp, header_writer
from quorumcache.core.outcome import Failed, Found, Missed, Outcome, Written

EXAMPLES_MAX: Final = 5
_SALT_BYTES: Final = 16


@dataclass
class Verdict:
    """What checking a history found. The lists hold a few examples each, for people; the counts are of all."""

    reads: int = 0
    reads_found: int = 0
    reads_missed: int = 0
    writes: int = 0
    failed: int = 0
    forged: int = 0
    stale: int = 0
    split: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept. Misses break none: they may stand in for a value, an older value never."""
        return not (self.forged or self.stale or self.split)

    def note(self, text: str) -> None:
        """Keep an example."""
        if len(self.examples) < EXAMPLES_MAX:
            self.examples.append(text)


class History:
    """Records operations; `check` judges them.

    Call `begin` when an operation starts and hand its number back when it ends. A write's value must be unlike any
    other write's, and is announced before it is sent: it may be read before its writer hears that it is complete.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._issued: dict[tuple[str, bytes], bytes] = {}  # (key, value's hash) -> its writer
        self._ended: dict[str, list[tuple[int, bytes]]] = defaultdict(list)  # key -> (end, stamp), by end
        self._found: list[tuple[str, int, bytes, bytes, bytes]] = []  # key, begin, stamp, value's hash, writer
        self._missed = 0
        self._failed: list[str] = []
        self._writes = 0

    def begin(self) -> int:
        """The number of an operation that starts now."""
        self._sequence += 1
        return self._sequence

    def announce(self, key: str, value: bytes, writer: bytes) -> int:
        """A write that starts now, by the writer with this public key; its number."""
        self._issued[key, _hash(value)] = writer
        return self.begin()

    def end(self, key: str, began: int, outcome: Outcome) -> None:
        """An operation that ended now."""
        self._sequence += 1
        if isinstance(outcome, Found):
            stamp = header_stamp(outcome.header)
            value = _hash(outcome.salted[_SALT_BYTES:])
            self._found.append((key, began, stamp, value, header_writer(outcome.header)))
            self._ended[key].append((self._sequence, stamp))
        elif isinstance(outcome, Written):
            self._writes += 1
            self._ended[key].append((self._sequence, outcome.stamp))
        elif isinstance(outcome, Missed):
            self._missed += 1
        elif isinstance(outcome, Failed):
            self._failed.append(f"{key}: {outcome.kind}: {outcome.detail}")

    def check(self) -> Verdict:
        """Judge every read: was its value written to that key by the writer that its header names, and is its stamp at
        least that of every operation on the key that had ended before it began?"""
        verdict = Verdict(
            reads=len(self._found) + self._missed,
            reads_found=len(self._found),
            reads_missed=self._missed,
            writes=self._writes,
            failed=len(self._failed),
            examples=self._failed[:EXAMPLES_MAX],
        )
        ends: dict[str, list[int]] = {}
        highest: dict[str, list[bytes]] = {}
        for key, ended in self._ended.items():
            ends[key] = [end for end, _ in ended]
            top = b""
            highest[key] = [top := max(top, stamp) for _, stamp in ended]
        values: dict[tuple[str, bytes], bytes] = {}
        for key, began, stamp, value, writer in self._found:
            if self._issued.get((key, value)) != writer:
                verdict.forged += 1
                verdict.note(f"{key}: a value that the writer {writer.hex()[:8]} never wrote there")
            if values.setdefault((key, stamp), value) != value:
                verdict.split += 1
                verdict.note(f"{key}: two values under one stamp")
            before = bisect_left(ends[key], began)
            if before and stamp < highest[key][before - 1]:
                verdict.stale += 1
                verdict.note(f"{key}: a value older than one that was complete before the read began")
        return verdict


def _hash(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()
