"""Quorum arithmetic: sizes, tallies, and medians that f liars cannot move outside the correct nodes' range.

Tiny and pure; tests compare each function with a dumb twin. It must not know messages or nodes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


def group_size(f: int) -> int:
    """n = 3f+1: how many nodes hold each key."""
    return 3 * f + 1


def quorum_size(f: int) -> int:
    """q = 2f+1: any two quorums of a group share f+1 nodes, hence a correct one."""
    return 2 * f + 1


def median_of(values: Collection[int]) -> int:
    """The lower median. Of 2f+1 to 3f+1 values, f of them arbitrary, it lies within the range of the others."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[(len(values) - 1) // 2]


def nth_highest(values: Iterable[int], n: int) -> int | None:
    """The n-th highest value (n from 1), or None where there are fewer. With n = f+1, a correct node claims at least
    as much."""
    ordered = sorted(values, reverse=True)
    return ordered[n - 1] if len(ordered) >= n else None


def nth_lowest(values: Iterable[int], n: int) -> int | None:
    """The n-th lowest value (n from 1), or None where there are fewer."""
    ordered = sorted(values)
    return ordered[n - 1] if len(ordered) >= n else None


def bitmap_of(bits: Collection[int], count: int) -> bytes:
    """ceil(count / 8) bytes with the given bits set; bit i is bit i % 8, lowest first, of byte i // 8."""
    bitmap = bytearray((count + 7) >> 3)
    for bit in bits:
        bitmap[bit >> 3] |= 1 << (bit & 7)
    return bytes(bitmap)


def full_bitmap(count: int) -> bytes:
    """The bitmap of a batch of `count` headers with every bit set."""
    return ((1 << count) - 1).to_bytes((count + 7) >> 3, "little")


def is_bitmap(bitmap: bytes, count: int) -> bool:
    """Whether the bitmap has exactly ceil(count / 8) bytes and no spare bit set."""
    return len(bitmap) == (count + 7) >> 3 and int.from_bytes(bitmap, "little") >> count == 0
