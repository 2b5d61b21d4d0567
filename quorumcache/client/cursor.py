"""Prefixes and cursors of listings, as applications have them, and what they stand for.

A cursor is a printable string that says where a listing goes on, and of which configuration, namespace and prefix it
is: nothing is kept for it anywhere. It must not know nodes or pages.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import blake2b
from typing import Annotated, Final

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import KEY_BYTES_MAX, slot_of
from quorumcache.errors import InvalidKey, Misuse

Key = str | bytes

_VERSION: Final = 1
_CURSOR_CHARS_MAX: Final = 2048


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Where a listing goes on: of which configuration, namespace and prefix (as hashes), after which position."""

    version: int
    configuration: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    listing: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]
    position: m.Position


def prefix_bytes(prefix: Key) -> bytes:
    """The bytes that keys are to begin with. Raises InvalidKey for what no key can begin with."""
    if isinstance(prefix, str):
        try:
            data = prefix.encode()
        except UnicodeEncodeError as fault:
            raise InvalidKey(f"a prefix that UTF-8 cannot encode: {fault}") from None
    elif isinstance(prefix, bytes):
        data = prefix
    else:
        raise InvalidKey(f"a prefix of type {type(prefix).__name__}; it is str or bytes, as keys are")
    if len(data) > KEY_BYTES_MAX:
        raise InvalidKey(f"a prefix of {len(data)} bytes; keys have at most {KEY_BYTES_MAX} bytes")
    return data


def as_given(key: bytes, prefix: Key) -> Key:
    """A key as the caller of a listing wants it: bytes where the prefix is, else str, but for what is not UTF-8."""
    if isinstance(prefix, bytes):
        return key
    try:
        return key.decode()
    except UnicodeDecodeError:
        return key


def make_cursor(configuration: Configuration, namespace: bytes, prefix: bytes, position: m.Position) -> str:
    """The cursor of a listing that goes on at this position."""
    cursor = _Cursor(_VERSION, configuration.digest[:8], listing_name(namespace, prefix), position)
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(cursor)).decode().rstrip("=")


def read_cursor(text: object, configuration: Configuration, namespace: bytes, prefix: bytes) -> m.Position:
    """Where the listing goes on. Raises Misuse for what is no cursor, or one of another listing or configuration."""
    if not isinstance(text, str) or not 0 < len(text) <= _CURSOR_CHARS_MAX:
        raise Misuse("this is no cursor: give back the one that came with a page, as it is, or None to begin")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.msgpack.decode(data, type=_Cursor)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise Misuse(
            f"the cursor {text[:40]!r} cannot be read: give back the one that came with a page, as it is"
        ) from None
    if cursor.version != _VERSION:
        raise Misuse("the cursor is of another version of quorumcache: begin the listing again, without one")
    if cursor.configuration != configuration.digest[:8]:
        raise Misuse(
            f"the cursor is of another configuration than this client's, epoch {configuration.epoch}, where keys may "
            "stand in another order: begin the listing again, without one"
        )
    if cursor.listing != listing_name(namespace, prefix):
        raise Misuse("the cursor is of another namespace or prefix: it goes on with the listing that it came from only")
    shard, after = cursor.position.shard, cursor.position.after
    if shard >= configuration.shards or (
        after and (not after.startswith(prefix) or configuration.shard_of(slot_of(namespace, after)) != shard)
    ):
        raise Misuse("the cursor was altered: give back the one that came with a page, as it is")
    return cursor.position


def listing_name(namespace: bytes, prefix: bytes) -> bytes:
    """8 bytes that tell a listing from others, so that its cursors are good for it only."""
    return blake2b(bytes((len(namespace),)) + namespace + prefix, digest_size=8).digest()
