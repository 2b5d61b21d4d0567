"""Merkle roots and paths of a batch: the shape of RFC 6962, with BLAKE2b-256.

A leaf is a header's digest (its bytes open with the leaf domain 0x00); an inner node hashes 0x01 and its two children;
the root hashes 0x03, the count of leaves (u32) and the top. A level's odd last node moves up unhashed, which gives
RFC 6962's tree. This module must not know what a leaf stands for.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final

_NODE = b"\x01"
_ROOT = b"\x03"
#: `upper_of` keeps the tree from this height up: a quarter of the leaves' bytes, about.
_UPPER_HEIGHT: Final = 3
_BLOCK: Final = 32 << _UPPER_HEIGHT


# A node asks for the root of the same leaves twice, at prepare and at commit. At most 64 of 32 KiB are kept.
@lru_cache(maxsize=64)
def root_of(leaves: bytes) -> bytes:
    """The root (32 bytes) over `leaves`, the 32-byte digests joined in order; at least one."""
    count = len(leaves) >> 5
    if not count or len(leaves) & 31:
        raise ValueError("leaves are 32 bytes each, at least one")
    level = leaves
    while len(level) > 32:
        level = _next_level(level)
    return blake2b(_ROOT + count.to_bytes(4, "big") + level, digest_size=32).digest()


def _next_level(level: bytes) -> bytes:
    paired = len(level) & ~63
    above = [blake2b(_NODE + level[at : at + 64], digest_size=32).digest() for at in range(0, paired, 64)]
    if paired != len(level):
        above.append(level[paired:])
    return b"".join(above)


def path_of(leaves: bytes, position: int) -> bytes:
    """The siblings (32 bytes each, joined, from the leaf up) that lead from leaf `position` to the root."""
    if not 0 <= position < len(leaves) >> 5:
        raise ValueError("no such leaf")
    path = []
    for level in _levels(leaves):
        at = (position ^ 1) << 5
        if at < len(level):
            path.append(level[at : at + 32])
        position >>= 1
    return b"".join(path)


# Who asks for one path of a batch asks for many: a report of a shard, a full read. Without this, each would hash the
# whole batch again. At most 64 trees of 64 KiB.
@lru_cache(maxsize=64)
def _levels(leaves: bytes) -> tuple[bytes, ...]:
    """The levels of the tree, from the leaves up, without the top."""
    levels = []
    level = leaves
    while len(level) > 32:
        levels.append(level)
        level = _next_level(level)
    return tuple(levels)


def upper_of(leaves: bytes) -> bytes:
    """The upper part of the tree, for `path_in`: the levels from height 3 up, joined, without the top."""
    level = leaves
    for _ in range(_UPPER_HEIGHT):
        level = _next_level(level)
    levels = []
    while len(level) > 32:
        levels.append(level)
        level = _next_level(level)
    return b"".join(levels)


def upper_bytes(count: int) -> int:
    """The length of `upper_of` so many leaves."""
    width, size = -(-count // (1 << _UPPER_HEIGHT)), 0
    while width > 1:
        size += 32 * width
        width = (width + 1) // 2
    return size


def path_in(leaves: bytes, upper: bytes, position: int) -> bytes:
    """As `path_of`, at 6 hashes for any batch, where the upper part of its tree is kept beside the leaves."""
    block = position >> _UPPER_HEIGHT
    level, at = leaves[block * _BLOCK : (block + 1) * _BLOCK], position & ((1 << _UPPER_HEIGHT) - 1)
    path = []
    for height in range(_UPPER_HEIGHT):
        if height:
            level, at = _next_level(level), at >> 1
        sibling = (at ^ 1) << 5
        if sibling < len(level):
            path.append(level[sibling : sibling + 32])
    start, width = 0, -(-len(leaves) // _BLOCK)
    while width > 1:
        if block ^ 1 < width:
            sibling = start + ((block ^ 1) << 5)
            path.append(upper[sibling : sibling + 32])
        start += width << 5
        width, block = (width + 1) // 2, block >> 1
    return b"".join(path)


def root_from_path(leaf: bytes, position: int, count: int, path: bytes) -> bytes | None:
    """The root (32 bytes) to which `path` leads from `leaf`, or None where the path has not the shape that
    `position` and `count` require."""
    if not 0 <= position < count or len(path) & 31:
        return None
    node, at, index, last = leaf, 0, position, count - 1
    while last:
        if index ^ 1 <= last:
            sibling = path[at : at + 32]
            if len(sibling) != 32:
                return None
            pair = sibling + node if index & 1 else node + sibling
            node = blake2b(_NODE + pair, digest_size=32).digest()
            at += 32
        index >>= 1
        last >>= 1
    if at != len(path):
        return None
    return blake2b(_ROOT + count.to_bytes(4, "big") + node, digest_size=32).digest()
