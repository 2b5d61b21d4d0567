"""Keys for the simulator: the real ones, or a fake that cannot be forged by construction.

A key object is the only way to sign with its key, in both suites; who holds no reference to it cannot make its
signatures. The fake's are keyed hashes, made and verified by a ledger that alone has their secret. Both suites have the
same public keys, so that a run goes the same way with either. It must not know who owns which key.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol

from quorumcache.wire.keys import SigningKey
from quorumcache.wire.keys import verify as verify_real

SUITES: Final = ("fake", "real")


class Key(Protocol):
    """A secret key: `public` is 32 bytes, `sign` gives 64."""

    public: bytes

    def sign(self, message: bytes) -> bytes:
        """The signature over a message."""


@lru_cache(maxsize=4096)
def _real_key(name: str) -> SigningKey:
    return SigningKey(blake2b(b"simulated key " + name.encode(), digest_size=32).digest())


class Ledger:
    """The fake keys of one world. It remembers no signature, so that long runs need no more memory than short ones."""

    _secret: Final = b"known to ledgers alone"

    def enter(self, public: bytes, message: bytes) -> bytes:
        """The signature of a key over a message. Only key objects call this."""
        return blake2b(message, key=public + self._secret, digest_size=64).digest()

    def verify(self, public: bytes, message: bytes, signature: bytes) -> bool:
        """Whether this very signature was made with that key's object over this message."""
        return len(public) == 32 and self.enter(public, message) == signature


class FakeKey:
    """A key whose signatures a ledger makes."""

    __slots__ = ("_ledger", "public")

    def __init__(self, public: bytes, ledger: Ledger) -> None:
        self.public = public
        self._ledger = ledger

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over a message."""
        return self._ledger.enter(self.public, message)


class Suite:
    """The keys of one world, by name; the same name gives the same public key in both kinds."""

    def __init__(self, kind: str) -> None:
        if kind not in SUITES:
            raise ValueError(f"no such crypto: {kind!r}; one of {', '.join(SUITES)}")
        self.kind = kind
        self._ledger = Ledger()
        self.verify = self._ledger.verify if kind == "fake" else verify_real

    def key(self, name: str) -> Key:
        """The key of this name."""
        real = _real_key(name)
        return FakeKey(real.public, self._ledger) if self.kind == "fake" else real
