"""What a node holds, piece by piece: entries, promises, and what it knows of a shard (protocol 3 and 7).

Data alone: slots.py and promises.py find and keep it, the rules are in node.py.
"""

from __future__ import annotations

import msgspec

from quorumcache.core.certificate import Batch
from quorumcache.core.model import Entry, Header, header_salted_bytes


class Held(msgspec.Struct, eq=False, gc=False):
    """A stored entry. `path` is None where the batch knows its leaves; `row` is storage's number for it, 0: none.
    `salted`, salt and value, is empty where storage alone has it."""

    digest: bytes
    header: bytes
    salted: bytes
    batch: Batch
    position: int
    path: bytes | None
    row: int = 0

    @property
    def stamp(self) -> bytes:
        """The entry's stamp, 48 bytes."""
        return self.header[3:51]

    @property
    def time_us(self) -> int:
        """The stamp's time in microseconds."""
        return int.from_bytes(self.header[3:11], "big")

    @property
    def size(self) -> int:
        """The bytes of header, salt and value, wherever the latter are."""
        return len(self.header) + header_salted_bytes(self.header)

    def entry(self, *, with_value: bool = True) -> Entry:
        """The entry as it is passed on, with its own path; without salt and value where only proof is wanted."""
        path = self.batch.path_of(self.position) if self.path is None else self.path
        return Entry(
            self.header,
            self.salted if with_value else b"",
            self.batch.certificate,
            self.position,
            path,
        )


class Promise(msgspec.Struct, eq=False, gc=False):
    """An open promise: the header granted, when, and its writer's intent with the batch it was part of: the latter
    two make evidence, should the writer sign another header under the same stamp. `row` is storage's number for it."""

    header: Header
    recorded_us: int
    group: bytes
    intent: bytes
    leaves: bytes
    position: int
    row: int = 0


class Shard:
    """A shard's floor (microseconds, never decreasing), whether it is recovering, and which slots it has."""

    __slots__ = ("floor_us", "number", "recovering", "slots", "sum")

    def __init__(self, number: int, floor_us: int, recovering: bool) -> None:
        self.number = number
        self.floor_us = floor_us
        self.recovering = recovering
        # A dict for its order: a set's would depend on the interpreter's hash seed.
        self.slots: dict[bytes, None] = {}
        #: What anti-entropy made of it when it was last asked; empty since something changed.
        self.sum = b""
