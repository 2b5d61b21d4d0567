"""How an operation of a client ended. Data, not exceptions: the client library raises what is to be raised."""

from __future__ import annotations

import msgspec

from quorumcache.core.messages import ChangesReply, Position
from quorumcache.core.model import Entry


class Found(msgspec.Struct, frozen=True, gc=False):
    """A read's value: the header's bytes, salt and value, and the whole entry where one was asked for.

    Of a key with fields: the header and entry of its base, and `fields` with headers and salted values: all of them, or
    the one that was asked for, or none where that is absent; tombstones included.
    """

    header: bytes
    salted: bytes
    entry: Entry | None = None
    fields: list[tuple[bytes, bytes]] | None = None


class Missed(msgspec.Struct, frozen=True, gc=False):
    """A read that found nothing it may return. `vouchers` nodes answered that the slot is absent, deleted or expired:
    with f+1 of them, a correct node is among them."""

    vouchers: int


class Written(msgspec.Struct, frozen=True, gc=False):
    """A write that is complete. `overtaken`: it is ordered just before a concurrent one (protocol 4, write 3).
    `generation`: of a field, the one that it was written under; else empty."""

    stamp: bytes
    overtaken: bool = False
    generation: bytes = b""


class Listed(msgspec.Struct, frozen=True):
    """A part of a group's listing: keys in order; those at the places in `doubtful` count only where a read finds them.
    `stop` is where to go on, None at the group's end."""

    keys: list[bytes]
    doubtful: list[int]
    stop: Position | None


class Heard(msgspec.Struct, frozen=True):
    """What nodes answered who asked them for changes, by their numbers."""

    replies: dict[int, ChangesReply]


class Decided(msgspec.Struct, frozen=True, gc=False):
    """A compare-and-set that won: the header and salted value that now stand. The stamp's time is the fencing token.
    `number`: of an addition, the number that it alone was told; what stands may have others added to it."""

    header: bytes
    salted: bytes
    number: int | None = None


class Unchanged(msgspec.Struct, frozen=True, gc=False):
    """A compare-and-set that had nothing to do, or lost, by what is settled in its slot: header and salted value, empty
    where nothing is there any more."""

    header: bytes
    salted: bytes


#: Kinds of `Failed`.
UNAVAILABLE = "unavailable"
DENIED = "denied"
UNKNOWN = "unknown"
MISMATCH = "mismatch"


class Failed(msgspec.Struct, frozen=True):
    """An operation that did not end well: `kind` of the constants above, and what to tell people."""

    kind: str
    detail: str


Outcome = Found | Missed | Written | Listed | Heard | Decided | Unchanged | Failed
