"""Data keys: what clients seal values with, so that nodes keep what they cannot read.

A sealed value is XChaCha20-Poly1305 (libsodium through PyNaCl) under one of several data keys, bound to cluster, slot
and stamp: it opens in the place and under the write it was sealed for, and nowhere else. Belongs here: keys, their
file, bytes in and out. It must not know clients or nodes; never shows a secret in text or errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from quorumcache.errors import CannotOpen, KeyFileError
from quorumcache.wire.keys import create_secret_file, read_secret_file

KEY_BYTES: Final = 32
ID_BYTES: Final = 8
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
#: A sealed value: u8 form | id of the data key | nonce | what was sealed, and its tag.
SEALED_BYTES_MORE: Final = 1 + ID_BYTES + NONCE_BYTES + TAG_BYTES
#: How many data keys one client may hold, to open what was sealed under older ones.
DATA_KEYS_MAX: Final = 16

_FORM: Final = b"\x01"
_TAG: Final = b"quorumcache sealed 1\0"
_FIRST_LINE: Final = "quorumcache data keys 1"
# Who a key is used for, as BLAKE2b's personalisation: one key is never used for two things.
_FOR_ID: Final = b"qc data id"
_FOR_VALUES: Final = b"qc data values"
_FOR_NAMES: Final = b"qc data names"


class DataKeys:
    """The data keys of a client: the first seals, all of them open. `names` hides the keys of entries, where asked for.

    Rotation: give every client the new key as its last; when all have it, put it first everywhere; when all that was
    sealed under the old one has been written anew or has expired, take that away. `names` is not rotated: another one
    makes every key another key.
    """

    __slots__ = ("_for_values", "_ids", "_keys", "_names")

    def __init__(self, keys: Sequence[bytes], *, names: bytes | None = None) -> None:
        """`keys`: 1 to 16 different ones of 32 secret bytes; `names`: another such one."""
        if not 1 <= len(keys) <= DATA_KEYS_MAX or len(set(keys)) != len(keys):
            raise ValueError(f"1 to {DATA_KEYS_MAX} different data keys are needed, not {len(keys)}")
        for key in (*keys, *(() if names is None else (names,))):
            if len(key) != KEY_BYTES:
                raise ValueError(f"a data key of {len(key)} bytes; exactly {KEY_BYTES} are needed")
        self._keys = tuple(keys)
        self._names = names
        self._ids = tuple(blake2b(key, digest_size=ID_BYTES, person=_FOR_ID).digest() for key in keys)
        self._for_values = {
            id_: blake2b(key=key, digest_size=KEY_BYTES, person=_FOR_VALUES).digest()
            for id_, key in zip(self._ids, keys, strict=True)
        }

    @classmethod
    def generate(cls) -> DataKeys:
        """New keys from the operating system's randomness."""
        return cls([os.urandom(KEY_BYTES)], names=os.urandom(KEY_BYTES))

    @property
    def ids(self) -> tuple[str, ...]:
        """The keys' ids in hex, the sealing one's first. They follow from the keys, and are no secret."""
        return tuple(id_.hex() for id_ in self._ids)

    @property
    def has_names(self) -> bool:
        """Whether it can hide the keys of entries."""
        return self._names is not None

    def with_key(self, key: bytes, *, first: bool = False) -> DataKeys:
        """These keys and another one: as the last, which only opens, or as the first, which seals from now on."""
        others = [other for other in self._keys if other != key]
        return DataKeys([key, *others] if first else [*others, key], names=self._names)

    def hidden_name(self, key: bytes) -> bytes:
        """What nodes get to see in place of an entry's key: 32 bytes, always the same for it."""
        assert self._names is not None, "asked for hidden names without a key for them"
        return blake2b(key, key=self._names, digest_size=32, person=_FOR_NAMES).digest()

    def seal(self, place: bytes, stamp: bytes, value: bytes) -> bytes:
        """The value, sealed under the first key for this place and stamp: `SEALED_BYTES_MORE` longer than it was."""
        id_ = self._ids[0]
        nonce = os.urandom(NONCE_BYTES)
        body = crypto_aead_xchacha20poly1305_ietf_encrypt(value, _TAG + place + stamp, nonce, self._for_values[id_])
        return b"".join((_FORM, id_, nonce, body))

    def open(self, place: bytes, stamp: bytes, sealed: bytes) -> bytes:
        """The value that was sealed. Raises CannotOpen, which says why as far as can be known."""
        if len(sealed) < SEALED_BYTES_MORE or sealed[:1] != _FORM:
            raise CannotOpen(
                "the value is not sealed, though the configuration says that clients seal the values of its namespace: "
                "who wrote it did not, so do not trust it"
            )
        id_ = sealed[1 : 1 + ID_BYTES]
        key = self._for_values.get(id_)
        if key is None:
            raise CannotOpen(
                f"the value is sealed under the data key {id_.hex()}, and this client has {', '.join(self.ids)}: "
                "get that key from whoever gives them out"
            )
        at = 1 + ID_BYTES
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed[at + NONCE_BYTES :], _TAG + place + stamp, sealed[at : at + NONCE_BYTES], key
            )
        except CryptoError:
            raise CannotOpen(
                f"the value names the data key {id_.hex()} and does not open with it: it was sealed for another key of "
                "the cache, another write or another cluster, or was altered; an authorised writer put it there"
            ) from None

    def __repr__(self) -> str:
        return f"DataKeys(ids={', '.join(self.ids)})"


def place_of(cluster_id: str, slot: bytes) -> bytes:
    """The place that a value is sealed for: the slot (namespace, key as nodes see it, field) in this cluster."""
    name = cluster_id.encode()
    return bytes((len(name),)) + name + slot


def write_data_keys(path: str | os.PathLike[str], keys: DataKeys) -> None:
    """Create a file of data keys that only its owner may read. Raises KeyFileError where it exists or cannot be."""
    lines = [_FIRST_LINE, *(f"key: {key.hex()}" for key in keys._keys)]
    if keys._names is not None:
        lines.append(f"names: {keys._names.hex()}")
    create_secret_file(Path(path), "".join(f"{line}\n" for line in lines))


def read_data_keys(path: str | os.PathLike[str]) -> DataKeys:
    """The data keys in a file, in its order. Raises KeyFileError, which shows nothing of the file's content."""
    path = Path(path)
    content = read_secret_file(path, hint="quorumcache keygen FILE --role data")
    lines = content.decode("ascii", "replace").splitlines()
    if not lines or lines[0] != _FIRST_LINE:
        raise _unusable(path, f"its first line is not {_FIRST_LINE!r}")
    keys: list[bytes] = []
    names: bytes | None = None
    for number, line in enumerate(lines[1:], 2):
        what, _, text = line.partition(": ")
        if what not in ("key", "names") or len(text) != 64 or set(text) - set("0123456789abcdef"):
            raise _unusable(path, f"line {number} is neither 'key: ' nor 'names: ' with 64 lowercase hex digits")
        if what == "key":
            keys.append(bytes.fromhex(text))
        elif names is None:
            names = bytes.fromhex(text)
        else:
            raise _unusable(path, "it has two lines 'names: '")
    try:
        return DataKeys(keys, names=names)
    except ValueError as fault:
        raise _unusable(path, str(fault)) from None


def _unusable(path: Path, problem: str) -> KeyFileError:
    return KeyFileError(f"{path}: is no usable file of data keys: {problem}. Restore a copy, or make new ones.")
