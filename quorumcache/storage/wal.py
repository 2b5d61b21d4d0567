"""Looks at SQLite's write-ahead log for what SQLite itself passes over in silence.

On opening, SQLite takes a log's frames up to the first that is not valid, as if nothing had followed. Where a commit
does follow, something before it was damaged. The format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEADER: Final = struct.Struct(">IIII8sII")
_FRAME: Final = struct.Struct(">II8sII")
_MAGIC: Final = 0x377F0682  # or one more, by the byte order of its checksums


def frames_beyond(path: Path, valid_count: int) -> int:
    """How many commits the log at `path` seems to hold beyond its `valid_count` first frames; -1 where it is a log
    whose own head is damaged. Raises OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        head = file.read(_HEADER.size)
        size = path.stat().st_size
        if size < _HEADER.size + _FRAME.size:
            return 0
        magic, _version, page_bytes, _sequence, salt, *sums = _HEADER.unpack(head)
        if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65536 or _checksum(head[:24], magic) != sums:
            return -1
        step = _FRAME.size + page_bytes
        commits = 0
        for at in range(_HEADER.size + valid_count * step, size - step + 1, step):
            file.seek(at)
            _page, pages_after_commit, frame_salt, _sum3, _sum4 = _FRAME.unpack(file.read(_FRAME.size))
            commits += bool(pages_after_commit) and frame_salt == salt
        return commits


def _checksum(head: bytes, magic: int) -> list[int]:
    words = struct.unpack(">6I" if magic & 1 else "<6I", head)
    first = second = 0
    for at in range(0, 6, 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return [first, second]
