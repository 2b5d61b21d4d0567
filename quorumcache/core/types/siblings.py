"""Siblings: every write is kept until another says that it has seen it (protocol 6; after Riak's siblings and dotted
version vectors: Preguica et al., 2010).

Each write has a field of its own, which no other writer can write. Its metadata holds `seen`: (writer, nonce) -> the
highest stamp time that its author had seen of that client object. An entry is replaced where another's `seen` covers
it and all that it had seen.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar, Final, NamedTuple

from quorumcache.core.model import DELETE, METADATA_BYTES_MAX, SALT_BYTES, Header
from quorumcache.core.types.base import GENERATION_BYTES, FieldEntry, FieldType, highest, metadata_of

#: A field: its writer's key, and 8 bytes that its author drew.
SIBLING_FIELD_BYTES: Final = 40
#: Few: each write is compared with all of them.
SIBLINGS_MAX: Final = 256
#: Of one writer: what says to have seen as many client objects as there is room for, nothing can replace.
SIBLINGS_OF_WRITER_MAX: Final = 64
_ITEM: Final = struct.Struct(">40sQ")
#: As many client objects as the metadata has room for.
SEEN_MAX: Final = (METADATA_BYTES_MAX - GENERATION_BYTES) // _ITEM.size

#: (writer's key, 32 bytes, and nonce, 8 bytes) -> stamp time in microseconds.
Seen = dict[bytes, int]


class Context(NamedTuple):
    """What a read of siblings showed, to write with: whoever writes with it replaces what it covers."""

    seen: Mapping[bytes, int]
    generation: bytes


def author_of(raw: bytes) -> bytes:
    """The client object that wrote a header: the writer's key and the nonce of its stamp, 40 bytes."""
    return raw[11:51]


def time_of(raw: bytes) -> int:
    """The stamp's time in microseconds."""
    return int.from_bytes(raw[3:11], "big")


@lru_cache(maxsize=2 * SIBLINGS_MAX)
def seen_of(raw: bytes) -> Mapping[bytes, int]:
    """What the author of this header had seen. Kept for a while, as each write is compared with all others."""
    return dict(_ITEM.iter_unpack(metadata_of(raw)[GENERATION_BYTES:]))


def encode_seen(seen: Mapping[bytes, int]) -> bytes:
    """The inverse of `seen_of`. Beyond the `SEEN_MAX` client objects that there is room for, those seen longest ago are
    left out: then what they wrote is not replaced, which loses nothing."""
    items = sorted(seen.items())
    if len(items) > SEEN_MAX:
        items = sorted(sorted(items, key=lambda item: item[1])[-SEEN_MAX:])
    return b"".join(_ITEM.pack(author, time_us) for author, time_us in items)


def join(vectors: Iterable[Mapping[bytes, int]]) -> Seen:
    """The least vector that covers all of these."""
    joined: Seen = {}
    for vector in vectors:
        for author, time_us in vector.items():
            if time_us > joined.get(author, 0):
                joined[author] = time_us
    return joined


def covers(seen: Mapping[bytes, int], raw: bytes) -> bool:
    """Whether who has seen `seen` has seen this entry, and all that its author had seen."""
    get = seen.get
    if get(author_of(raw), 0) < time_of(raw):
        return False
    return all(get(author, 0) >= time_us for author, time_us in seen_of(raw).items())


def standing(headers: Iterable[bytes]) -> list[bytes]:
    """Those of these headers that none of the others replaces, in the order of their stamps."""
    known = sorted(set(headers), key=lambda raw: (raw[3:51], raw))
    vectors = [seen_of(raw) for raw in known]
    left = []
    for raw, own in zip(known, vectors, strict=True):
        # `covers`, of all at once: each vector is parsed once, however many there are.
        author, time_us = author_of(raw), time_of(raw)
        knowing = [vector for vector in vectors if vector.get(author, 0) >= time_us and vector is not own]
        if not any(all(vector.get(a, 0) >= t for a, t in own.items()) for vector in knowing):
            left.append(raw)
    return left


class Siblings(FieldType):
    """All values that nobody has replaced."""

    name: ClassVar[str] = "siblings"
    fields_max: ClassVar[int] = SIBLINGS_MAX
    promised_max: ClassVar[int] = SIBLINGS_MAX // 4

    def fault_of_form(self, header: Header, field: bytes, details: bytes) -> str:
        """A field of the writer's own; a vector in order, without what it could not have seen: itself."""
        if len(field) != SIBLING_FIELD_BYTES or field[:32] != header.writer:
            return "a sibling's field has 40 bytes, and belongs to the writer whose key it begins with"
        if header.kind == DELETE:
            return "siblings are replaced, not deleted one by one"
        if len(details) % _ITEM.size:
            return "a vector has 48 bytes for each client object"
        authors = [author for author, _ in _ITEM.iter_unpack(details)]
        if any(a >= b for a, b in pairwise(authors)):
            return "a vector names each client object once, in order"
        if dict(_ITEM.iter_unpack(details)).get(author_of(header.raw), 0) >= header.time_us:
            return "a sibling cannot have seen itself"
        return ""

    def seen_us(self, header: Header) -> int:
        """The latest time in its vector."""
        return max((t for _, t in _ITEM.iter_unpack(header.metadata[GENERATION_BYTES:])), default=0)

    def after_us(self, details: bytes, author: bytes) -> int:
        """What it says it saw of its own author: another may have said so of a time to come."""
        return 0 if len(details) % _ITEM.size else dict(_ITEM.iter_unpack(details)).get(author, 0)

    def replaced(self, raw: bytes, others: Iterable[bytes]) -> bool:
        """Whether another has seen this one, and all that it had seen."""
        return any(other != raw and covers(seen_of(other), raw) for other in others)

    def standing(self, headers: Iterable[bytes]) -> list[bytes]:
        """Those that nobody has seen who had seen all that they had."""
        return standing(headers)

    def fits(self, header: Header, others: Collection[bytes]) -> bool:
        """Whether key and writer keep within their bounds, with what this one replaces gone."""
        seen = seen_of(header.raw)
        standing = [raw for raw in others if not covers(seen, raw)]
        own = sum(raw[11:43] == header.writer for raw in standing)
        return len(standing) < self.fields_max and own < SIBLINGS_OF_WRITER_MAX

    @property
    def full_detail(self) -> str:
        """What is said where it does not fit."""
        return f"the key has {SIBLINGS_MAX} siblings, or {SIBLINGS_OF_WRITER_MAX} of this writer: merge some first"

    @property
    def replaces(self) -> bool:
        """They do."""
        return True

    def value_of(self, fields: Iterable[FieldEntry]) -> list[bytes]:
        """The values that none replaces, in the order of their stamps."""
        found = dict(highest(fields).values())
        return [found[raw][SALT_BYTES:] for raw in standing(found)]

    def seen_in(self, fields: Iterable[FieldEntry]) -> Seen:
        """What a reader of these fields has seen: to write with."""
        headers = [raw for raw, _ in highest(fields).values()]
        return join([*(seen_of(raw) for raw in headers), *({author_of(raw): time_of(raw)} for raw in headers)])
