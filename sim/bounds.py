"""Bounds of the core made so small that a short run reaches what lies beyond them, for as long as it lasts.

A key counts as large from its second field on: reads of it are answered with digests of its buckets, and only those
that differ are sent. It must not know what is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quorumcache.core import keys, messages

FLAT_MAX = 1


@contextmanager
def large_keys(are_wanted: bool) -> Iterator[None]:
    """The core with these bounds, until the block ends; as it is where they are not wanted."""
    if not are_wanted:
        yield
        return
    before = keys.FLAT_MAX, messages.OUTLINE_BYTES_MAX
    try:
        keys.FLAT_MAX, messages.OUTLINE_BYTES_MAX = FLAT_MAX, 1  # type: ignore[misc]
        yield
    finally:
        keys.FLAT_MAX, messages.OUTLINE_BYTES_MAX = before  # type: ignore[misc]
