"""What is kept beside a value that a loader made: how long that took, until when it is fresh, whether it is None.

A few bytes before the serialized value. No serializer's bytes begin as an envelope does, but for those of plain
`bytes`, which are put into an envelope of their own then. It must not know loaders, keys, or the network.
"""

from __future__ import annotations

import math
import struct
from typing import Final, NamedTuple

#: What any mark in stored bytes begins with: 0xC1 begins neither UTF-8, JSON, msgpack nor pickle.
MAGIC: Final = b"\xc1qc\x01"

# what is inside, microseconds that the loader took, time in microseconds until which it is fresh (0: no end)
_FIXED: Final = struct.Struct(">4sBIQ")
#: By how much an envelope makes a value longer.
BYTES: Final = _FIXED.size
_PLAIN, _COMPUTED, _NONE = 0, 1, 2
_COMPUTE_US_MAX: Final = (1 << 32) - 1


class Envelope(NamedTuple):
    """What was inside. `data`: the serialized value, or None for the value None; `compute_us`: how long the loader
    took; `fresh_until_us`: cluster time, 0 for no end."""

    data: bytes | None
    compute_us: int
    fresh_until_us: int


class Stale:
    """In place of a value that is kept for emergencies only."""


STALE: Final = Stale()


def wrap(data: bytes | None, compute_us: int, fresh_until_us: int) -> bytes:
    """The bytes to store; `data` None is the value None."""
    kind = _NONE if data is None else _COMPUTED
    return _FIXED.pack(MAGIC, kind, min(max(compute_us, 0), _COMPUTE_US_MAX), fresh_until_us) + (data or b"")


def escape(data: bytes) -> bytes:
    """Serialized bytes that could be taken for an envelope, or for what else marks itself so, so that they are not."""
    return _FIXED.pack(MAGIC, _PLAIN, 0, 0) + data if data[:2] == MAGIC[:2] else data


def parse(data: bytes) -> Envelope:
    """What stored bytes hold; bytes without an envelope hold themselves."""
    if data[:4] == MAGIC and len(data) >= _FIXED.size:
        _, kind, compute_us, fresh_until_us = _FIXED.unpack_from(data)
        if kind in (_PLAIN, _COMPUTED):
            return Envelope(data[_FIXED.size :], compute_us, fresh_until_us)
        if kind == _NONE:
            return Envelope(None, compute_us, fresh_until_us)
    return Envelope(data, 0, 0)


def touched(data: bytes, fresh_until_us: int) -> bytes:
    """The same with another end of freshness."""
    envelope = parse(data)
    if data[:4] != MAGIC or not envelope.fresh_until_us:
        return data
    return wrap(envelope.data, envelope.compute_us, fresh_until_us)


def is_due(now_us: int, fresh_until_us: int, compute_us: int, eagerness: float, chance: float) -> bool:
    """Whether to make the value anew before its end, so that not all who need it do so at its end.

    XFetch: Vattani, Chierichetti, Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015. The longer
    it takes to make and the nearer the end, the likelier. `chance`: uniform in [0, 1); `eagerness`: 1 is the optimum.
    """
    if not fresh_until_us:
        return False
    return now_us - compute_us * eagerness * math.log(1.0 - chance) >= fresh_until_us
