"""Proofs of misbehaviour, as data, and what proves what (protocol 5.7 and 16).

Three things convict: two intents of one writer, or two grants of one node, for one (slot, stamp) with different
digests; and a node's signed answer that takes back an earlier one. All here is pure: anyone who knows the configuration
comes to the same verdict. It must not know how proofs were come by, nodes or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from quorumcache.core import merkle
from quorumcache.core.certificate import Verifier, grant_string, intent_string
from quorumcache.core.config import Configuration, NodeInfo
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    HEADER_BYTES_MAX,
    SLOT_BYTES_MAX,
    Entry,
    Grant,
    Header,
    Malformed,
    parse_header,
    slot_parts,
)
from quorumcache.core.quorum import is_bitmap
from quorumcache.core.types.base import rank_of

_WITNESS_TAG: Final = b"quorumcache witness 1\x00"
_CHALLENGE_TAG: Final = b"quorumcache challenge 1\x00"
CHALLENGE_BYTES: Final = 32
INCARNATION_BYTES: Final = 16

_Bytes = Annotated[bytes, Meta(max_length=64)]
_Header = Annotated[bytes, Meta(max_length=HEADER_BYTES_MAX)]
_Path = Annotated[bytes, Meta(max_length=320)]
_TimeUs = Annotated[int, Meta(ge=0, le=1 << 62)]


class SignedHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header that a writer signed as part of a batch: where it stands there, and the intent over the batch."""

    header: _Header
    group: _Bytes
    count: int
    position: int
    path: _Path
    signature: _Bytes


class GrantedHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A header that a node promised as part of a batch: where it stands there, and the grant over the batch."""

    header: _Header
    group: _Bytes
    count: int
    position: int
    path: _Path
    bitmap: Annotated[bytes, Meta(max_length=BATCH_COUNT_MAX // 8)]
    signature: _Bytes


class Witnessed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a node signed that it holds in a slot: the header of its current entry (empty: absent), and the floor of its
    shard. `incarnation` names the node's start that it speaks for, `challenge` what it had seen when it signed."""

    incarnation: _Bytes
    challenge: _Bytes
    clock_us: _TimeUs
    floor_us: _TimeUs
    slot: Annotated[bytes, Meta(max_length=SLOT_BYTES_MAX)]
    header: _Header
    signature: _Bytes


class Equivocation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Two intents of one writer for one (slot, stamp) with different digests."""

    configuration: _Bytes
    first: SignedHeader
    second: SignedHeader


class DoubleGrant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Two grants of one node (its public key) for one (slot, stamp) with different digests."""

    configuration: _Bytes
    node: _Bytes
    first: GrantedHeader
    second: GrantedHeader


class Retraction(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """Two signed answers of one node (its public key), the second given after the first and taking it back."""

    configuration: _Bytes
    node: _Bytes
    first: Witnessed
    second: Witnessed


Proof = Equivocation | DoubleGrant | Retraction


class Verdict(NamedTuple):
    """Whom a proof convicts: "writer" or "node", the public key (32 bytes), of what, in which slot. `stamp` is the one
    that two things were signed under, empty for a retraction."""

    role: str
    key: bytes
    offence: str
    slot: bytes
    stamp: bytes


def contradict(first: Header, second: Header) -> bool:
    """Whether nobody may sign both: one slot and stamp, two digests."""
    return first.slot == second.slot and first.stamp == second.stamp and first.digest != second.digest


def retracts(first: Witnessed, second: Witnessed) -> str:
    """How what a node holds took back what it held before, within one incarnation; empty where it did not.

    Only for slots that `may_witness` allows. Whether `second` really was signed later is for the caller to know.
    """
    if second.floor_us < first.floor_us:
        return "the floor of its shard has fallen"
    if not first.header:
        return ""
    before = parse_header(first.header)
    if not second.header:
        if second.floor_us < before.time_us:
            return "the entry is gone, and the floor does not stand for it"
        return ""
    after = parse_header(second.header)
    rank, rank_before = rank_of(after.raw), rank_of(before.raw)
    if rank < rank_before:
        return "an older entry is there again"
    if rank == rank_before and after.digest != before.digest:
        return "another entry is there under the same stamp"
    return ""


def may_witness(configuration: Configuration, slot: bytes) -> bool:
    """Whether nodes sign what they hold in this slot: that of a register or of a key's base, in a namespace whose reads
    and writes go by quorums and whose type is not exact. Raises Malformed for what is no slot."""
    namespace, _, field = slot_parts(slot)
    info = configuration.namespace(namespace)
    return not field and info is not None and info.mode == "quorum" and info.type != "exact"


def witness_string(configuration: bytes, witnessed: Witnessed) -> bytes:
    """What a node signs for a witnessed answer."""
    return b"".join(
        (
            _WITNESS_TAG,
            configuration,
            witnessed.incarnation,
            witnessed.challenge,
            witnessed.clock_us.to_bytes(8, "big"),
            witnessed.floor_us.to_bytes(8, "big"),
            len(witnessed.slot).to_bytes(2, "big"),
            witnessed.slot,
            witnessed.header,
        )
    )


def challenge_after(configuration: bytes, witnessed: Witnessed) -> bytes:
    """The challenge (32 bytes) that only who has seen this answer can give: what is signed over it, is signed later."""
    signed = witness_string(configuration, witnessed) + witnessed.signature
    return blake2b(_CHALLENGE_TAG + signed, digest_size=CHALLENGE_BYTES).digest()


def proves(proof: Proof, verifier: Verifier) -> Verdict:
    """Whom the proof convicts, and of what. Raises Malformed, with the reason, where it convicts nobody."""
    configuration = verifier.chain.get(proof.configuration)
    if configuration is None:
        raise Malformed("the proof names a configuration that is not known")
    if isinstance(proof, Equivocation):
        first, second = (check_signed(proof.configuration, s, verifier) for s in (proof.first, proof.second))
        _require_contradiction(first, second)
        return Verdict("writer", first.writer, "signed two headers under one stamp", first.slot, first.stamp)
    if configuration.node_by_key(proof.node) is None:
        raise Malformed("the configuration has no node with this key")
    if isinstance(proof, DoubleGrant):
        grants = (proof.first, proof.second)
        first, second = (_check_granted(proof.configuration, proof.node, g, verifier) for g in grants)
        _require_contradiction(first, second)
        return Verdict("node", proof.node, "promised two headers under one stamp", first.slot, first.stamp)
    return _check_retraction(proof, configuration, verifier)


def proofs_of(first: Entry, second: Entry, nodes: Sequence[NodeInfo]) -> list[Equivocation | DoubleGrant]:
    """All that two verified entries prove, where their headers contradict each other; nothing where they do not."""
    one, other = first.certificate, second.certificate
    if one.configuration != other.configuration or not contradict(
        parse_header(first.header), parse_header(second.header)
    ):
        return []
    proofs: list[Equivocation | DoubleGrant] = [Equivocation(one.configuration, signed_in(first), signed_in(second))]
    if one.ballot or other.ballot:
        return proofs  # Who grants both, in two ballots, breaks no rule (protocol 17).
    granted = {grant.node: grant for grant in one.grants if _promises(grant, first.position)}
    for grant in other.grants:
        if _promises(grant, second.position) and (before := granted.get(grant.node)) is not None:
            key = nodes[grant.node].key
            proofs.append(DoubleGrant(one.configuration, key, _granted(first, before), _granted(second, grant)))
    return proofs


def verify_equivocation(proof: Equivocation, verifier: Verifier) -> bytes:
    """The public key (32 bytes) of the writer whom the proof convicts. Raises Malformed where it convicts nobody."""
    return proves(proof, verifier).key


def check_signed(configuration: bytes, signed: SignedHeader, verifier: Verifier) -> Header:
    """The header, once its writer's intent was verified. Raises Malformed."""
    header, root = _in_batch(signed)
    if not verifier.is_signed(header.writer, intent_string(configuration, signed.group, root), signed.signature):
        raise Malformed("an intent is not signed by the header's writer")
    return header


def check_witnessed(configuration: bytes, node: bytes, witnessed: Witnessed, verifier: Verifier) -> None:
    """Check form and signature of a node's signed answer. Raises Malformed."""
    if len(witnessed.incarnation) != INCARNATION_BYTES or len(witnessed.challenge) != CHALLENGE_BYTES:
        raise Malformed("a signed answer is not of the right form")
    if not verifier.is_signed(node, witness_string(configuration, witnessed), witnessed.signature):
        raise Malformed("a signed answer is not signed by the node")
    if witnessed.header and parse_header(witnessed.header).slot != witnessed.slot:
        raise Malformed("a signed answer is about another slot than its entry")


def _in_batch(part: SignedHeader | GrantedHeader) -> tuple[Header, bytes]:
    header = parse_header(part.header)
    if not 1 <= part.count <= BATCH_COUNT_MAX:
        raise Malformed("a batch of no size that there is")
    root = merkle.root_from_path(header.digest, part.position, part.count, part.path)
    if root is None:
        raise Malformed("a path has not the shape of its batch")
    return header, root


def _check_granted(configuration: bytes, node: bytes, granted: GrantedHeader, verifier: Verifier) -> Header:
    header, root = _in_batch(granted)
    bitmap, position = granted.bitmap, granted.position
    if not is_bitmap(bitmap, granted.count) or not bitmap[position >> 3] >> (position & 7) & 1:
        raise Malformed("a grant does not promise the header")
    if not verifier.is_signed(node, grant_string(configuration, granted.group, root, bitmap), granted.signature):
        raise Malformed("a grant is not signed by the node")
    return header


def _require_contradiction(first: Header, second: Header) -> None:
    if (first.slot, first.stamp) != (second.slot, second.stamp):
        raise Malformed("the two headers are not of one slot and stamp")
    if not contradict(first, second):
        raise Malformed("the two headers are the same")


def _check_retraction(proof: Retraction, configuration: Configuration, verifier: Verifier) -> Verdict:
    first, second = proof.first, proof.second
    for witnessed in (first, second):
        check_witnessed(proof.configuration, proof.node, witnessed, verifier)
    if first.slot != second.slot or not may_witness(configuration, first.slot):
        raise Malformed("the two answers are not of one slot that answers are signed for")
    if first.incarnation != second.incarnation:
        raise Malformed("the node was started anew between the two answers")
    if second.challenge != challenge_after(proof.configuration, first):
        raise Malformed("nothing shows that the second answer was given after the first")
    how = retracts(first, second)
    if not how:
        raise Malformed("the second answer does not take back the first")
    return Verdict("node", proof.node, f"took back what it had signed: {how}", first.slot, b"")


def _promises(grant: Grant, position: int) -> bool:
    return bool(grant.bitmap[position >> 3] >> (position & 7) & 1)


def signed_in(entry: Entry) -> SignedHeader:
    """What an entry's writer signed, as a part of a proof."""
    certificate = entry.certificate
    return SignedHeader(
        entry.header, certificate.group, certificate.count, entry.position, entry.path, certificate.signature
    )


def _granted(entry: Entry, grant: Grant) -> GrantedHeader:
    certificate = entry.certificate
    return GrantedHeader(
        entry.header,
        certificate.group,
        certificate.count,
        entry.position,
        entry.path,
        grant.bitmap,
        grant.signature,
    )
