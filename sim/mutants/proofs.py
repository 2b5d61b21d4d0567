"""Mutants of votes and grants under one signature (protocol 17)."""

from __future__ import annotations

from hashlib import blake2b
from types import SimpleNamespace
from typing import Any, Final

from quorumcache.core import ballots, merkle
from quorumcache.core.certificate import Verifier
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add

_AIM: Final[dict[str, Any]] = {
    "features_add": ("exact", "burst"),
    "features_drop": ("revoke",),
    "byzantine_nodes": 1,
    "byzantine_writers": 1,
    "schemes": ("borrowed_proofs",),
}


@add("17, proofs: each path is followed to the root that was signed", fast=True, **_AIM)
def _path_not_checked(patches: Patches) -> None:
    """Who signed a tree once is believed whatever is said to be in it."""
    known: set[bytes] = set()

    def make(check: Any) -> Any:
        def mutant(self: Verifier, signer: bytes, message: bytes, proof: bytes) -> bool:
            name = signer + proof[: ballots.SIGNATURE_BYTES]
            if len(proof) > ballots.SIGNATURE_BYTES and name in known:
                return True
            good: bool = check(self, signer, message, proof)
            if good:
                known.add(name)
            return good

        return mutant

    patches.wrap(Verifier, "is_ballot_signed", make)


@add("17, proofs: a leaf says whether it is a vote or a grant", **_AIM)
def _leaf_without_its_tag(patches: Patches) -> None:
    patches.wrap(ballots, "leaf_of", lambda leaf_of: lambda message: leaf_of(message[message.index(b"\x00") :]))


@add("17, proofs: the root binds the count of leaves", fast=True, **_AIM)
def _count_not_bound(patches: Patches) -> None:
    def root_from_path(leaf: bytes, position: int, count: int, path: bytes) -> bytes | None:
        if merkle.root_from_path(leaf, position, count, path) is None:
            return None
        node, last, siblings = leaf, count - 1, [path[at : at + 32] for at in range(0, len(path), 32)]
        while last:
            if position ^ 1 <= last:
                sibling = siblings.pop(0)
                pair = sibling + node if position & 1 else node + sibling
                node = blake2b(b"\x01" + pair, digest_size=32).digest()
            position, last = position >> 1, last >> 1
        return node

    def root_of(leaves: bytes) -> bytes:
        root = root_from_path(leaves[:32], 0, len(leaves) >> 5, merkle.path_of(leaves, 0))
        assert root is not None
        return root

    patches.set(
        ballots, "merkle", SimpleNamespace(root_of=root_of, root_from_path=root_from_path, path_of=merkle.path_of)
    )


@add("17, proofs: a place is below the count", **_AIM)
def _place_beyond_the_count(patches: Patches) -> None:
    """Of a place that has more bits than the tree has levels, the rest says nothing."""

    def root_from_path(leaf: bytes, position: int, count: int, path: bytes) -> bytes | None:
        return merkle.root_from_path(leaf, position & ((1 << (count - 1).bit_length()) - 1), count, path)

    patches.set(
        ballots,
        "merkle",
        SimpleNamespace(root_of=merkle.root_of, root_from_path=root_from_path, path_of=merkle.path_of),
    )
