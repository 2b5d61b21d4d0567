"""Hashes and sets of exact databases: each whole, in the one value of its key, so that every command on it is one
compare-and-set of that key. What the bytes are; it must not know commands or the cluster.

Four bytes that tell the type, and MessagePack: an array of names and values in turn (of a set, of members), in order.
The byte 0xC1 begins no string that is stored as it is (client/envelope.py), so none is taken for a hash.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

import msgspec

from quorumcache.gateway.redis.faults import Fault

HASH: Final = "hash"
SET: Final = "set"
#: How many fields or members, as in other databases.
NAMES_MAX: Final = 65_536
_MARKS: Final = {HASH: b"\xc1qh\x01", SET: b"\xc1qs\x01"}
_KINDS: Final = {mark: kind for kind, mark in _MARKS.items()}
_WORDS: Final = msgspec.msgpack.Decoder(list[bytes])
_ENCODE: Final = msgspec.msgpack.Encoder().encode


def kind_of(stored: bytes) -> str | None:
    """The type of what is stored under a key; None for a string."""
    return _KINDS.get(stored[:4]) if stored[:1] == b"\xc1" else None


def pack(kind: str, items: dict[bytes, bytes]) -> bytes:
    """The bytes to store. Raises Fault for too many names."""
    if len(items) > NAMES_MAX:
        raise Fault(f"ERR a {kind} of {len(items)} names: at most {NAMES_MAX}")
    words = sorted(items) if kind == SET else list(chain.from_iterable(sorted(items.items())))
    return _MARKS[kind] + _ENCODE(words)


def unpack(kind: str, stored: bytes) -> dict[bytes, bytes]:
    """The fields and their values, or the members (each with an empty one). Raises Fault where another client of the
    cluster wrote what is none."""
    try:
        words = _WORDS.decode(memoryview(stored)[4:])
    except msgspec.MsgspecError:
        raise Fault(f"ERR what is stored here begins like a {kind} and is none: DEL it") from None
    if kind == SET:
        return dict.fromkeys(words, b"")
    if len(words) % 2:
        raise Fault("ERR what is stored here begins like a hash and is none: DEL it")
    return dict(zip(words[::2], words[1::2], strict=True))
