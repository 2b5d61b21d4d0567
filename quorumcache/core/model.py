"""What everything else speaks of: slots, stamps, headers, entries, and their canonical bytes.

This module knows the byte layouts (docs/protocol.md, "Canonical encoding") and the bounds on them. It must not know
messages, quorums, signatures or nodes. All integers are big-endian; all times are microseconds since the epoch.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

import msgspec

HASH_BYTES: Final = 32
SALT_BYTES: Final = 16
STAMP_BYTES: Final = 48
NAMESPACE_BYTES_MAX: Final = 64
KEY_BYTES_MAX: Final = 1024
FIELD_BYTES_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 4096
VALUE_BYTES_MAX: Final = 1 << 20
BATCH_COUNT_MAX: Final = 1024
TIME_US_MAX: Final = (1 << 62) - 1

PUT: Final = 0
DELETE: Final = 1

#: What a read reports, in place of a digest, for a slot that holds nothing.
ABSENT: Final = bytes(HASH_BYTES)

_LEAF_DOMAIN: Final = 0x00
_VALUE_DOMAIN: Final = b"\x02"
_VERSION: Final = 1
# leaf domain, version, kind, time, writer, nonce, value hash, size, expires_at
_FIXED: Final = struct.Struct(">BBBQ32sQ32sIQ")
_FIXED_BYTES: Final = _FIXED.size
_STAMP: Final = struct.Struct(">Q32sQ")
_U16: Final = struct.Struct(">H")
_U64: Final = struct.Struct(">Q")
HEADER_BYTES_MAX: Final = _FIXED_BYTES + 7 + NAMESPACE_BYTES_MAX + KEY_BYTES_MAX + FIELD_BYTES_MAX + METADATA_BYTES_MAX
SLOT_BYTES_MAX: Final = 5 + NAMESPACE_BYTES_MAX + KEY_BYTES_MAX + FIELD_BYTES_MAX


class Malformed(Exception):
    """Bytes that are not the canonical encoding of anything. Stays inside core: a peer's lie is data above it."""


def digest_of(header: bytes) -> bytes:
    """The digest of a header (32 bytes): BLAKE2b-256 of its canonical bytes, which open with the leaf domain."""
    return blake2b(header, digest_size=32).digest()


def value_hash_of(salted: bytes) -> bytes:
    """The hash (32 bytes) that a header names: over the value domain, the 16-byte salt and the value."""
    return blake2b(_VALUE_DOMAIN + salted, digest_size=32).digest()


# --- slots -----------------------------------------------------------------------------------------------------------


def slot_of(namespace: bytes, key: bytes, field: bytes = b"") -> bytes:
    """The slot's canonical bytes: u8 length and namespace, u16 length and key, u16 length and field.

    Raises ValueError when a part is empty (but for the field) or over its bound.
    """
    if not 1 <= len(namespace) <= NAMESPACE_BYTES_MAX:
        raise ValueError(f"a namespace has 1 to {NAMESPACE_BYTES_MAX} bytes, not {len(namespace)}")
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise ValueError(f"a key has 1 to {KEY_BYTES_MAX} bytes, not {len(key)}")
    if len(field) > FIELD_BYTES_MAX:
        raise ValueError(f"a field has at most {FIELD_BYTES_MAX} bytes, not {len(field)}")
    return b"".join(
        (
            bytes((len(namespace),)),
            namespace,
            _U16.pack(len(key)),
            key,
            _U16.pack(len(field)),
            field,
        )
    )


def slot_parts(slot: bytes) -> tuple[bytes, bytes, bytes]:
    """(namespace, key, field) of a slot's canonical bytes. Raises Malformed when they are not exactly that."""
    end = _slot_end(slot, 0)
    if end != len(slot):
        raise Malformed("a slot is longer than its parts")
    namespace_end = 1 + slot[0]
    key_end = namespace_end + 2 + _U16.unpack_from(slot, namespace_end)[0]
    return slot[1:namespace_end], slot[namespace_end + 2 : key_end], slot[key_end + 2 :]


def _slot_end(data: bytes, start: int) -> int:
    try:
        namespace_length = data[start]
        at = start + 1 + namespace_length
        key_length = (data[at] << 8) | data[at + 1]
        at += 2 + key_length
        field_length = (data[at] << 8) | data[at + 1]
    except IndexError:
        raise Malformed("a slot ends before its parts do") from None
    if (
        not 1 <= namespace_length <= NAMESPACE_BYTES_MAX
        or not 1 <= key_length <= KEY_BYTES_MAX
        or field_length > FIELD_BYTES_MAX
    ):
        raise Malformed("a part of a slot is empty or over its bound")
    return at + 2 + field_length


# --- stamps ----------------------------------------------------------------------------------------------------------


def stamp_of(time_us: int, writer: bytes, nonce: int) -> bytes:
    """A stamp (48 bytes). Stamps compare as their bytes do: by time, then writer, then nonce."""
    return _STAMP.pack(time_us, writer, nonce)


def stamp_time(stamp: bytes) -> int:
    """The time in a stamp, in microseconds since the epoch."""
    return int.from_bytes(stamp[:8], "big")


def stamp_parts(stamp: bytes) -> tuple[int, bytes, int]:
    """(time in microseconds, the writer's 32-byte public key, nonce) of a stamp."""
    time_us, writer, nonce = _STAMP.unpack(stamp)
    return time_us, writer, nonce


# --- headers ---------------------------------------------------------------------------------------------------------


class Header(msgspec.Struct, frozen=True, gc=False):
    """A header, parsed, with its canonical bytes and digest. Made by `parse_header` or `make_header` only."""

    raw: bytes
    digest: bytes
    slot: bytes
    stamp: bytes
    time_us: int
    writer: bytes
    kind: int
    value_hash: bytes
    size: int
    expires_at_us: int
    namespace: bytes
    metadata: bytes


def parse_header(raw: bytes) -> Header:
    """The header whose canonical encoding `raw` is. Raises Malformed for anything else.

    The layout has fixed offsets and explicit lengths, so each header has one encoding: bytes that parse, and are
    used up by it, are canonical.
    """
    try:
        domain, version, kind, time_us, writer, _nonce, value_hash, size, expires_at = _FIXED.unpack_from(raw)
    except struct.error:
        raise Malformed("a header ends before its fixed part does") from None
    if domain != _LEAF_DOMAIN or version != _VERSION:
        raise Malformed("a header of another version")
    if kind > DELETE or (kind == DELETE and (size or expires_at)):
        raise Malformed("a header of no known kind")
    if size > VALUE_BYTES_MAX or time_us > TIME_US_MAX or expires_at > TIME_US_MAX:
        raise Malformed("a size or time over its bound")
    slot_end = _slot_end(raw, _FIXED_BYTES)
    metadata = raw[slot_end + 2 :]
    if len(raw) < slot_end + 2 or raw[slot_end] << 8 | raw[slot_end + 1] != len(metadata):
        raise Malformed("a header whose metadata has another length than it says")
    if len(metadata) > METADATA_BYTES_MAX:
        raise Malformed("metadata over its bound")
    return Header(
        raw,
        blake2b(raw, digest_size=32).digest(),
        raw[_FIXED_BYTES:slot_end],
        raw[3:51],
        time_us,
        writer,
        kind,
        value_hash,
        size,
        expires_at,
        raw[_FIXED_BYTES + 1 : _FIXED_BYTES + 1 + raw[_FIXED_BYTES]],
        metadata,
    )


def encode_header(
    slot: bytes,
    stamp: bytes,
    kind: int,
    value_hash: bytes,
    size: int,
    expires_at_us: int,
    metadata: bytes = b"",
) -> bytes:
    """The canonical bytes of a header; `slot` and `stamp` are canonical bytes themselves."""
    return b"".join(
        (
            b"\x00\x01\x01" if kind else b"\x00\x01\x00",
            stamp,
            value_hash,
            size.to_bytes(4, "big"),
            _U64.pack(expires_at_us),
            slot,
            len(metadata).to_bytes(2, "big"),
            metadata,
        )
    )


def header_stamp(raw: bytes) -> bytes:
    """The stamp (48 bytes) inside a header's canonical bytes."""
    return raw[3:51]


def header_time(raw: bytes) -> int:
    """The stamp's time inside a header's canonical bytes, in microseconds."""
    return int.from_bytes(raw[3:11], "big")


def header_writer(raw: bytes) -> bytes:
    """The writer's public key (32 bytes) inside a header's canonical bytes."""
    return raw[11:43]


def header_value_hash(raw: bytes) -> bytes:
    """The value hash (32 bytes) inside a header's canonical bytes."""
    return raw[51:83]


def header_salted_bytes(raw: bytes) -> int:
    """How many bytes salt and value have together."""
    return SALT_BYTES + int.from_bytes(raw[83:87], "big")


def header_expires_at(raw: bytes) -> int:
    """The time at which the value expires, in microseconds; 0 is never."""
    return int.from_bytes(raw[87:95], "big")


def header_is_delete(raw: bytes) -> bool:
    """Whether the header is a tombstone."""
    return raw[2] == DELETE


def header_slot(raw: bytes) -> bytes:
    """The slot inside a header's canonical bytes (which must have parsed before)."""
    return raw[_FIXED_BYTES : _slot_end(raw, _FIXED_BYTES)]


# --- certificates and entries, as data (core/certificate.py verifies them) --------------------------------------------


class Grant(msgspec.Struct, frozen=True, array_like=True, gc=False, forbid_unknown_fields=True):
    """One node's promise: its index in the configuration, which headers of the batch (bit i of byte i // 8, lowest
    bit first), and its signature."""

    node: int
    bitmap: bytes
    signature: bytes


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a batch's entries share: the writer's intent and the nodes' grants over one Merkle root.

    `configuration` (32 bytes), `group` (16), `root` (32), `count` of headers, `writer` (32), `signature` (64),
    and the grants, by ascending node index. `ballot` (48 bytes) is empty but in exact namespaces, where the batch is
    one header and the grants are over root and ballot (protocol 17).
    """

    configuration: bytes
    group: bytes
    root: bytes
    count: int
    writer: bytes
    signature: bytes
    grants: tuple[Grant, ...]
    ballot: bytes = b""


class Entry(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """A write with its certificate: the header's bytes, salt and value in one, where the header stands in its batch,
    and the Merkle path from there to the root. Anyone who knows the configuration can verify it."""

    header: bytes
    salted: bytes
    certificate: Certificate
    position: int
    path: bytes

    @property
    def stamp(self) -> bytes:
        """The header's stamp, 48 bytes."""
        return self.header[3:51]

    @property
    def time_us(self) -> int:
        """The stamp's time in microseconds."""
        return int.from_bytes(self.header[3:11], "big")

    @property
    def value(self) -> bytes:
        """The value, without its salt."""
        return self.salted[SALT_BYTES:]
