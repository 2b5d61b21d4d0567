"""What an entry of an exact namespace says of those before it (protocol 17): which one it replaces, and its line.

The metadata of its header: `after`, the digest of the entry that it replaces (32 bytes; zeros: nothing was there);
a byte, 1 where the line goes back to absent; and the line, of up to 32 entries before it, the latest first: the first
16 bytes of the digest, and the stamp's time. Bytes only: it must not know nodes or ballots.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from quorumcache.core.model import (
    ABSENT,
    HASH_BYTES,
    STAMP_BYTES,
    TIME_US_MAX,
    Header,
    Malformed,
    digest_of,
    header_time,
    parse_header,
    stamp_time,
)

#: How many entries before it a header names, 24 bytes each. Whoever more overtake cannot tell whether it was decided.
LINE_MAX: Final = 32
#: How much of a digest a line has: finding another header with the same half is out of reach.
NAME_BYTES: Final = 16

_ITEM: Final = struct.Struct(">16sQ")
_FIXED_BYTES: Final = HASH_BYTES + 1


class Lineage(msgspec.Struct, frozen=True):
    """`after` as above; `line` of (half a digest, time in microseconds); `is_whole`: it goes back to absent."""

    after: bytes
    line: tuple[tuple[bytes, int], ...]
    is_whole: bool

    @property
    def first_us(self) -> int:
        """The time of the first entry in the line; 0 where it is empty."""
        return self.line[-1][1] if self.line else 0


#: Of an entry that replaces nothing.
FIRST: Final = ABSENT + b"\x01"


def successor_of(header: bytes) -> bytes:
    """The metadata of a header that replaces the entry with this header; empty: nothing."""
    if not header:
        return FIRST
    digest = digest_of(header)
    before = lineage_of(parse_header(header).metadata)
    line = ((digest[:NAME_BYTES], header_time(header)), *before.line)[:LINE_MAX]
    is_whole = before.is_whole and len(before.line) < LINE_MAX
    return b"".join((digest, b"\x01" if is_whole else b"\x00", *(_ITEM.pack(*item) for item in line)))


def lineage_of(metadata: bytes) -> Lineage:
    """The lineage in a header's metadata. Raises Malformed where it is none."""
    count, rest = divmod(len(metadata) - _FIXED_BYTES, _ITEM.size)
    if rest or not 0 <= count <= LINE_MAX or metadata[HASH_BYTES] > 1:
        raise Malformed("metadata that names no entries before its own")
    after, is_whole = metadata[:HASH_BYTES], metadata[HASH_BYTES] == 1
    line = tuple(_ITEM.iter_unpack(metadata[_FIXED_BYTES:]))
    if count < LINE_MAX and not is_whole:
        raise Malformed("a line that ends too early")
    if (after == ABSENT) != (not line) or (line and line[0][0] != after[:NAME_BYTES]):
        raise Malformed("a line that does not begin with what is replaced")
    return Lineage(after, line, is_whole)


def check_lineage(header: Header) -> Lineage:
    """The lineage of a header of an exact namespace. Raises Malformed where it is none, or does not go back in time."""
    lineage = lineage_of(header.metadata)
    above_us = header.time_us
    for _, time_us in lineage.line:
        if time_us >= above_us:
            raise Malformed("a line that does not go back in time")
        above_us = time_us
    return lineage


def is_ballot(ballot: bytes) -> bool:
    """Whether these bytes have the form of a ballot, which is a stamp."""
    return len(ballot) == STAMP_BYTES and stamp_time(ballot) <= TIME_US_MAX
