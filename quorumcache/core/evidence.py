"""Proofs of misbehaviour, as data: two signed headers under one stamp (protocol 5.7).

Collected by node.py; anyone who knows the configuration verifies them. It must not know how they were come by.
"""

from __future__ import annotations

import msgspec

from quorumcache.core import merkle
from quorumcache.core.certificate import Verifier, intent_string
from quorumcache.core.model import BATCH_COUNT_MAX, Header, Malformed, parse_header


class SignedHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header that a writer signed as part of a batch: where it stands there, and the intent over the batch."""

    header: bytes
    group: bytes
    count: int
    position: int
    path: bytes
    signature: bytes


class Equivocation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Two intents of one writer for one (slot, stamp) with different digests."""

    configuration: bytes
    first: SignedHeader
    second: SignedHeader


def verify_equivocation(proof: Equivocation, verifier: Verifier) -> bytes:
    """The public key (32 bytes) of the writer whom the proof convicts. Raises Malformed where it convicts nobody."""
    if proof.configuration not in verifier.chain:
        raise Malformed("the proof names a configuration that is not known")
    first, second = (_verify_signed(proof.configuration, s, verifier) for s in (proof.first, proof.second))
    if (first.slot, first.stamp) != (second.slot, second.stamp):
        raise Malformed("the two headers are not of one slot and stamp")
    if first.digest == second.digest:
        raise Malformed("the two headers are the same")
    return first.writer


def _verify_signed(configuration: bytes, signed: SignedHeader, verifier: Verifier) -> Header:
    header = parse_header(signed.header)
    if not 1 <= signed.count <= BATCH_COUNT_MAX:
        raise Malformed("a batch of no size that there is")
    root = merkle.root_from_path(header.digest, signed.position, signed.count, signed.path)
    if root is None:
        raise Malformed("a path has not the shape of its batch")
    if not verifier.is_signed(header.writer, intent_string(configuration, signed.group, root), signed.signature):
        raise Malformed("an intent is not signed by the header's writer")
    return header
