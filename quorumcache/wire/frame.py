"""Frames: payloads sealed for one direction of one session, and opened again.

A frame is: u8 flags (bit 0: the body is compressed with zlib), u32 length of the payload, 16-byte tag, body. The tag is
BLAKE2b-128, keyed with the direction's key, over a u64 count of the frames before this one, the flags, the length
and the body: so a frame that was altered, cut, repeated or reordered on its way ends its session. Over TLS, which sees
to all of that, frames have no tag: then there is no key. It must not know messages.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from hashlib import blake2b
from typing import Final

from quorumcache.wire.codec import PAYLOAD_BYTES_MAX, Unreadable

_HEAD: Final = struct.Struct(">BI")
_COUNTED: Final = struct.Struct(">QBI")
TAG_BYTES: Final = 16
#: What comes before the body, without a tag and with one.
BARE_HEAD_BYTES: Final = _HEAD.size
HEAD_BYTES: Final = BARE_HEAD_BYTES + TAG_BYTES
FRAME_BYTES_MAX: Final = HEAD_BYTES + PAYLOAD_BYTES_MAX
COMPRESSED: Final = 1
#: Payloads below this are never compressed.
COMPRESS_BYTES_MIN: Final = 4096


class Sealer:
    """Seals the payloads of one direction, in order. `key`: 32 bytes, or None for frames without tags; `compress`:
    whether the peer agreed to it."""

    __slots__ = ("_compress", "_count", "_key")

    def __init__(self, key: bytes | None, *, compress: bool = False) -> None:
        self._key = key
        self._compress = compress
        self._count = 0

    def seal(self, payload: bytes) -> bytes:
        """The next frame, with this payload."""
        length = len(payload)
        if length > PAYLOAD_BYTES_MAX:
            raise ValueError(f"a payload of {length} bytes; at most {PAYLOAD_BYTES_MAX} fit a frame")
        flags, body = 0, payload
        if self._compress and length >= COMPRESS_BYTES_MIN:
            packed = zlib.compress(payload, 1)
            if len(packed) < length:
                flags, body = COMPRESSED, packed
        if self._key is None:
            return _HEAD.pack(flags, length) + body
        tag = blake2b(key=self._key, digest_size=TAG_BYTES)
        tag.update(_COUNTED.pack(self._count, flags, length))
        tag.update(body)
        self._count += 1
        return b"".join((_HEAD.pack(flags, length), tag.digest(), body))


class Opener:
    """Opens the frames of one direction, in order. `key` and `compress` as in Sealer."""

    __slots__ = ("_compress", "_count", "_key")

    def __init__(self, key: bytes | None, *, compress: bool = False) -> None:
        self._key = key
        self._compress = compress
        self._count = 0

    def open(self, frame: bytes) -> bytes:
        """The payload of the next frame. Raises Unreadable where it is not that: nothing after it can be trusted."""
        at = BARE_HEAD_BYTES if self._key is None else HEAD_BYTES
        if not at <= len(frame) <= FRAME_BYTES_MAX:
            raise Unreadable(f"a frame of {len(frame)} bytes; {at} to {FRAME_BYTES_MAX} are allowed")
        flags, length = _HEAD.unpack_from(frame)
        body = frame[at:]
        if self._key is not None:
            tag = blake2b(key=self._key, digest_size=TAG_BYTES)
            tag.update(_COUNTED.pack(self._count, flags, length))
            tag.update(body)
            if not hmac.compare_digest(tag.digest(), frame[BARE_HEAD_BYTES:HEAD_BYTES]):
                raise Unreadable("a frame whose tag is wrong: altered, repeated or out of order")
            self._count += 1
        if flags == 0:
            if length != len(body):
                raise Unreadable("a frame of another length than it says")
            return body
        if flags != COMPRESSED or not self._compress or length > PAYLOAD_BYTES_MAX:
            raise Unreadable("a frame with flags that were not agreed on, or over its bound")
        return _inflate(body, length)


def _inflate(body: bytes, length: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        payload = unpacker.decompress(body, length + 1)
    except zlib.error as fault:
        raise Unreadable(f"a frame that does not decompress: {fault}") from None
    if len(payload) != length or not unpacker.eof or unpacker.unused_data:
        raise Unreadable("a compressed frame of another length than it says")
    return payload
