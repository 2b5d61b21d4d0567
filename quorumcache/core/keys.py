"""A key with many fields, as a node holds it: its base, its fields, and one digest over all of it (protocol 6).

What a field means is in types/, the rules of prepare and commit are in fields.py. It must not know messages or quorums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from quorumcache.core.model import ABSENT, DELETE, Malformed, digest_of, value_hash_of
from quorumcache.core.types.base import KEY_FIELDS_MAX, FieldEntry, base_slot_of, generation_of

if TYPE_CHECKING:
    from quorumcache.core.slots import Held

#: Up to this many fields are hashed as they are; more go through buckets, so that one changed field costs one of them.
FLAT_MAX: Final = 64
_FLAT_DOMAIN: Final = b"\x03"
_BUCKETS_DOMAIN: Final = b"\x04"
_BUCKET_DOMAIN: Final = b"\x05"
_FIELD_DOMAIN: Final = b"\x06"

#: What `pack` adds to each field, at most: so much is known without packing.
PACKED_BYTES_EACH: Final = 10

_packer: Final = msgspec.msgpack.Encoder()
_unpacker: Final = msgspec.msgpack.Decoder(list[bytes])


def bucket_of(slot: bytes) -> int:
    """Which of 256 buckets a field's slot belongs to."""
    return crc32(slot) & 0xFF


def bucket_digest(digests: Mapping[bytes, bytes]) -> bytes:
    """The digest (32 bytes) of one bucket: over its fields' digests, in the order of their slots."""
    return blake2b(_BUCKET_DOMAIN + b"".join([digests[slot] for slot in sorted(digests)]), digest_size=32).digest()


def digest_of_buckets(base: bytes, buckets: Mapping[int, bytes]) -> bytes:
    """The digest of a key of more than `FLAT_MAX` fields: its base's digest, then each bucket's number and digest."""
    parts = [_BUCKETS_DOMAIN, base]
    for number in sorted(buckets):
        parts += (bytes((number,)), buckets[number])
    return blake2b(b"".join(parts), digest_size=32).digest()


def digest_of_key(base: bytes, digests: Mapping[bytes, bytes]) -> bytes:
    """The digest (32 bytes) of a whole key: `base` is that of its base, `digests` are those of its fields by slot."""
    if len(digests) <= FLAT_MAX:
        flat = b"".join([digests[slot] for slot in sorted(digests)])
        return blake2b(_FLAT_DOMAIN + base + flat, digest_size=32).digest()
    return digest_of_buckets(base, {n: bucket_digest(part) for n, part in bucketed(digests).items()})


def bucketed(digests: Mapping[bytes, bytes]) -> dict[int, dict[bytes, bytes]]:
    """Fields' digests by bucket."""
    buckets: dict[int, dict[bytes, bytes]] = {}
    for slot, digest in digests.items():
        buckets.setdefault(bucket_of(slot), {})[slot] = digest
    return buckets


def digest_of_field(base: bytes, field: bytes) -> bytes:
    """What a read of one field reports: over the base's digest and the field's (zeros where it is absent)."""
    return blake2b(_FIELD_DOMAIN + base + field, digest_size=32).digest()


def pack(fields: Iterable[FieldEntry]) -> bytes:
    """Headers and salted values in one string, as a reply to a read carries them."""
    return _packer.encode([part for entry in fields for part in entry])


def unpack(packed: bytes) -> list[FieldEntry]:
    """The inverse of `pack`. Raises Malformed."""
    if not packed:
        return []
    try:
        parts = _unpacker.decode(packed)
    except msgspec.DecodeError as fault:
        raise Malformed(f"fields that cannot be read: {fault}") from None
    if len(parts) & 1 or len(parts) > 2 * KEY_FIELDS_MAX:
        raise Malformed("fields without values, or too many of them")
    return list(zip(parts[::2], parts[1::2], strict=True))


def fields_in(digest: bytes, slot: bytes, base: bytes, packed: bytes) -> list[FieldEntry] | None:
    """The fields of a reply to a read of `slot`, where base and fields are what `digest` covers; None where not.

    For the slot of a base, all the key's fields; for that of a field, that one, or none where it is absent.
    """
    try:
        fields = unpack(packed)
    except Malformed:
        return None
    if any(value_hash_of(salted) != raw[51:83] for raw, salted in fields):
        return None
    digests = {raw: digest_of(raw) for raw, _ in fields}
    base_digest = digest_of(base)
    if base_slot_of(slot) == slot:
        by_slot = {slot_in(raw): found for raw, found in digests.items()}
        good = len(by_slot) == len(fields) and digest_of_key(base_digest, by_slot) == digest
    else:
        good = len(fields) <= 1 and digest_of_field(base_digest, next(iter(digests.values()), ABSENT)) == digest
    return fields if good else None


def slot_in(raw: bytes) -> bytes:
    """The slot in a header's bytes, as far as they go: for bytes that a digest will vouch for, or refute."""
    at = 95
    try:
        key_at = at + 3 + raw[at]
        field_at = key_at + (raw[key_at - 2] << 8 | raw[key_at - 1]) + 2
        return raw[at : field_at + (raw[field_at - 2] << 8 | raw[field_at - 1])]
    except IndexError:
        return raw


class Key:
    """A key with its base and fields. `barrier_us` is its own floor: the time of the latest stamp, of an entry or a
    promise, that nothing here tells of any more, up to which nothing is promised again; `newest_us` is that of the
    latest of its entries."""

    __slots__ = (
        "_buckets",
        "_digest",
        "_dirty",
        "_known",
        "barrier_us",
        "base",
        "fields",
        "generation",
        "newest_us",
        "size",
    )

    def __init__(self, base: Held) -> None:
        self.base = base
        self.generation = generation_of(base.header)
        self.fields: dict[bytes, Held] = {}
        self.size = 0
        self.barrier_us = 0
        self.newest_us = base.time_us
        self._digest = b""
        self._buckets: dict[int, dict[bytes, bytes]] | None = None
        self._known: dict[int, bytes] = {}
        self._dirty: set[int] = set()

    @property
    def is_deleted(self) -> bool:
        """Whether its base is a tombstone."""
        return self.base.header[2] == 1

    def raise_barrier(self, time_us: int) -> None:
        """What has stamps up to this time may have been promised here, though nothing of it is left."""
        self.barrier_us = max(self.barrier_us, time_us)

    def rebase(self, base: Held) -> list[Held]:
        """Take another base, of higher rank. Returns the fields that a deletion or another generation took away."""
        gone: list[Held] = []
        generation = generation_of(base.header)
        if generation != self.generation or base.header[2] == DELETE:
            gone = list(self.fields.values())
            for held in (self.base, *gone):
                self.raise_barrier(held.time_us)
            self.fields = {}
            self.size = 0
            self.generation = generation
            self._buckets = None
        self.base = base
        self.newest_us = max(self.newest_us, base.time_us)
        self._digest = b""
        return gone

    def put(self, slot: bytes, held: Held) -> None:
        """Make `held` a field's entry."""
        before = self.fields.get(slot)
        if before is not None:
            self.size -= before.size
        self.fields[slot] = held
        self.size += held.size
        self.newest_us = max(self.newest_us, held.time_us)
        self._changed(slot, held.digest)

    def remove(self, slot: bytes) -> Held:
        """Let go of a field that another one replaced."""
        held = self.fields.pop(slot)
        self.size -= held.size
        # It is gone, but its stamp may not be promised again.
        self.raise_barrier(held.time_us)
        self._changed(slot, None)
        return held

    def _changed(self, slot: bytes, digest: bytes | None) -> None:
        self._digest = b""
        if self._buckets is not None:
            number = bucket_of(slot)
            bucket = self._buckets.setdefault(number, {})
            if digest is None:
                bucket.pop(slot, None)
            else:
                bucket[slot] = digest
            self._dirty.add(number)

    def buckets(self) -> dict[int, bytes]:
        """The digests of its buckets that are not empty, by number."""
        if self._buckets is None:
            self._buckets = bucketed({slot: held.digest for slot, held in self.fields.items()})
            self._known = {}
            self._dirty = set(self._buckets)
        for number in self._dirty:
            bucket = self._buckets.get(number)
            if bucket:
                self._known[number] = bucket_digest(bucket)
            else:
                self._known.pop(number, None)
                self._buckets.pop(number, None)
        self._dirty.clear()
        return self._known

    def digest(self) -> bytes:
        """The digest over all of it."""
        if not self._digest:
            if len(self.fields) <= FLAT_MAX:
                self._buckets = None
                self._digest = digest_of_key(self.base.digest, {s: held.digest for s, held in self.fields.items()})
            else:
                self._digest = digest_of_buckets(self.base.digest, self.buckets())
        return self._digest

    def digest_of(self, slot: bytes) -> bytes:
        """What a read of one field reports."""
        held = self.fields.get(slot)
        return digest_of_field(self.base.digest, ABSENT if held is None else held.digest)

    def in_bucket(self, number: int) -> dict[bytes, bytes]:
        """The slots of one bucket with their fields' digests."""
        self.buckets()
        assert self._buckets is not None
        return self._buckets.get(number, {})
