"""One signature for what a node votes for and grants while it answers one frame (protocol 17).

A vote or grant alone is signed as it is, in 64 bytes. Several are leaves of a tree whose root is signed once; each gets
a proof of its own. Here are the form of proofs, and the one who signs. It must not know the rules of votes, or frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from quorumcache.core import merkle

if TYPE_CHECKING:
    from quorumcache.core.certificate import Sign
    from quorumcache.core.messages import BallotReply

SIGNATURE_BYTES: Final = 64
#: So many votes and grants under one signature at most.
TOGETHER_MAX: Final = 256
_PATH_FROM: Final = SIGNATURE_BYTES + 4
#: A signature, the count of leaves, the place among them, and a path of at most 8 levels.
PROOF_BYTES_MAX: Final = _PATH_FROM + 32 * 8
_TAG: Final = b"quorumcache ballots 1\x00"
_LEAF: Final = b"\x00"

#: Told of a string that was signed, and of the signature.
Remember = Callable[[bytes, bytes], None]


def ballots_string(root: bytes) -> bytes:
    """What a node signs for all the votes and grants under a root (32 bytes)."""
    return _TAG + root


def leaf_of(message: bytes) -> bytes:
    """The leaf of a vote or grant: of the very string that is signed where it is alone."""
    return blake2b(_LEAF + message, digest_size=32).digest()


def string_under(message: bytes, proof: bytes) -> bytes | None:
    """The string that has to be signed with the first 64 bytes of `proof` for that to show a vote or grant; None where
    it has not the one form that its count and place require."""
    if not _PATH_FROM < len(proof) <= PROOF_BYTES_MAX:
        return None
    count = int.from_bytes(proof[SIGNATURE_BYTES : SIGNATURE_BYTES + 2], "big")
    place = int.from_bytes(proof[SIGNATURE_BYTES + 2 : _PATH_FROM], "big")
    if not 2 <= count <= TOGETHER_MAX:
        return None
    root = merkle.root_from_path(leaf_of(message), place, count, proof[_PATH_FROM:])
    return None if root is None else ballots_string(root)


def signed_together(messages: Sequence[bytes], sign: Sign) -> tuple[list[bytes], bytes]:
    """A proof for each of 2 to 256 votes and grants, and the string that was signed, once."""
    count = len(messages)
    if not 2 <= count <= TOGETHER_MAX:
        raise ValueError(f"2 to {TOGETHER_MAX} are signed together, not {count}")
    leaves = b"".join([leaf_of(message) for message in messages])
    string = ballots_string(merkle.root_of(leaves))
    head = sign(string) + count.to_bytes(2, "big")
    return [head + place.to_bytes(2, "big") + merkle.path_of(leaves, place) for place in range(count)], string


class BallotSigner:
    """Signs a node's votes and grants: each at once, or, from `gather` to `sign`, all together.

    Whoever has one proof and can tell what its neighbours say has proofs of these: so nothing of what is signed
    together may leave the node before all of it is stored.
    """

    def __init__(self, sign: Sign) -> None:
        self._sign = sign
        self._waiting: list[tuple[BallotReply, bytes, Remember]] | None = None
        self._replies: list[BallotReply] = []

    def gather(self) -> list[BallotReply]:
        """From now on replies wait for `sign`: they are in this list, in their order. What waits already (it was given
        up, or it would have been signed) is forgotten."""
        self._waiting = []
        self._replies = []
        return self._replies

    def add(self, reply: BallotReply, message: bytes, remember: Remember) -> None:
        """Have the vote or grant of a reply signed. `remember(message, signature)` is told what was: it comes back in
        locks and certificates."""
        if self._waiting is None:
            reply.signature = self._sign(message)
            remember(message, reply.signature)
        else:
            self._waiting.append((reply, message, remember))
            self._replies.append(reply)

    def sign(self) -> None:
        """Sign what waits; from now on each is signed at once."""
        waiting, self._waiting = self._waiting, None
        if not waiting:
            return
        messages = list(dict.fromkeys(message for _, message, _ in waiting))
        signed: dict[bytes, tuple[bytes, bytes]] = {}  # what is voted for -> its proof, and what was signed
        for first in range(0, len(messages), TOGETHER_MAX):
            some = messages[first : first + TOGETHER_MAX]
            if len(some) == 1:
                signed[some[0]] = (self._sign(some[0]), some[0])
            else:
                proofs, string = signed_together(some, self._sign)
                signed.update((message, (proof, string)) for message, proof in zip(some, proofs, strict=True))
        for reply, message, remember in waiting:
            reply.signature, string = signed[message]
            remember(string, reply.signature[:SIGNATURE_BYTES])
