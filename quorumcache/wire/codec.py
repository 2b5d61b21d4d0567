"""Bytes <-> messages: msgpack, strictly and within bounds (docs/protocol.md, "Messages").

A payload is an array of messages; a message is an array that starts with its type's number. Unknown types, extra or
missing fields, wrong types and lengths over their bounds are refused. Certificates, entries and proofs that are kept in
files go through `encode_whole` and `decode_whole`, which also insist on the one canonical encoding. It must not know
frames, sessions or what messages mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec

from quorumcache.core import messages as m

MESSAGES_PER_FRAME_MAX: Final = 256
#: The largest payload: eight full answers with values of 1 MiB each, and their certificates.
PAYLOAD_BYTES_MAX: Final = 12 << 20

_encoder: Final = msgspec.msgpack.Encoder()
_requests: Final = msgspec.msgpack.Decoder(
    Annotated[list[m.AnyRequest], msgspec.Meta(max_length=MESSAGES_PER_FRAME_MAX)]
)
_replies: Final = msgspec.msgpack.Decoder(Annotated[list[m.AnyReply], msgspec.Meta(max_length=MESSAGES_PER_FRAME_MAX)])
T = TypeVar("T")


class Unreadable(Exception):
    """Bytes that are not what they should be: a peer's fault, or a damaged file. The caller knows whose."""


def encode(message: m.Request | m.Reply) -> bytes:
    """One message, as bytes; `join` makes a payload of several."""
    return _encoder.encode(message)


def join(encoded: Sequence[bytes]) -> bytes:
    """The payload (a msgpack array) of messages that are encoded already: 1 to 256 of them."""
    count = len(encoded)
    if not 1 <= count <= MESSAGES_PER_FRAME_MAX:
        raise ValueError(f"a frame carries 1 to {MESSAGES_PER_FRAME_MAX} messages, not {count}")
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(encoded)


def decode_requests(payload: bytes) -> list[m.AnyRequest]:
    """The requests in a payload. Raises Unreadable where it is not one."""
    return _decode(_requests, payload, "requests")


def decode_replies(payload: bytes) -> list[m.AnyReply]:
    """The replies in a payload. Raises Unreadable where it is not one."""
    return _decode(_replies, payload, "replies")


def _decode(decoder: msgspec.msgpack.Decoder[T], payload: bytes, what: str) -> T:
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Unreadable(f"a payload of {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Unreadable(f"a payload that does not hold {what}: {fault}") from None


def encode_whole(value: Any) -> bytes:
    """Data that is kept in a file (an entry, a proof), as its canonical bytes."""
    return _encoder.encode(value)


def decode_whole(data: bytes, kind: type[T]) -> T:
    """The inverse of `encode_whole`. Raises Unreadable where `data` is not the canonical encoding of one."""
    if len(data) > PAYLOAD_BYTES_MAX:
        raise Unreadable(f"{len(data)} bytes; at most {PAYLOAD_BYTES_MAX} are allowed")
    try:
        value = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Unreadable(f"not the encoding of {kind.__name__}: {fault}") from None
    if _encoder.encode(value) != data:
        raise Unreadable(f"not the canonical encoding of {kind.__name__}")
    return value
