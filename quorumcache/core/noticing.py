"""What a node notices of others' misbehaviour, what it keeps of it and hands out, and what it signs of its own answers
(protocol 16).

One proof for each key convicted, and a bounded number of them. It must not know the rules of prepare and commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from quorumcache.core import merkle
from quorumcache.core.evidence import (
    DoubleGrant,
    Equivocation,
    GrantedHeader,
    Proof,
    SignedHeader,
    Witnessed,
    contradict,
)
from quorumcache.core.model import Certificate, Entry, Grant, Header, parse_header
from quorumcache.core.slots import Held, Promise

if TYPE_CHECKING:
    from quorumcache.core.node import Node


def has_granted(node: Node, held: Held) -> bool:
    """Whether this node granted the current entry's very header: its certificate says so.

    A node that did not may have promised another header under this stamp, and must not sign a second one.
    """
    certificate, position = held.batch.certificate, held.position
    return certificate.configuration == node.configuration.digest and any(
        grant.node == node.index and grant.bitmap[position >> 3] >> (position & 7) & 1 for grant in certificate.grants
    )


def accuse(node: Node, first: Promise, second: Promise) -> None:
    """Keep the proof that a writer signed two headers under one stamp, both of which were to be promised here."""
    if _is_news(node, first.header.writer):
        _keep(node, Equivocation(node.configuration.digest, _of_promise(first), _of_promise(second)))


def accuse_beside(node: Node, held: Held, wanted: Promise) -> None:
    """Note that a writer wants a promise under the stamp of an entry of its that is current here, and not that one."""
    certificate = held.batch.certificate
    if certificate.configuration == node.configuration.digest and _is_news(node, certificate.writer):
        entry = held.entry(with_value=False)
        _keep(node, Equivocation(certificate.configuration, _of_entry(entry), _of_promise(wanted)))


def stored_over(node: Node, header: Header, held: Held, promises: Iterable[Promise]) -> None:
    """Note what an entry that was verified says of its writer, where promises are open in its slot."""
    for promise in promises:
        if contradict(header, promise.header):
            accuse_beside(node, held, promise)


def two_certified(node: Node, first: Held, second: Held) -> None:
    """Note what two certified entries under one stamp prove: of their writer, and of all who granted both. With at
    most f faulty nodes in the group there are no two such entries."""
    for proof in proofs_of(first.entry(with_value=False), second.entry(with_value=False), node.configuration.nodes):
        key = parse_header(proof.first.header).writer if isinstance(proof, Equivocation) else proof.node
        if proof.configuration == node.configuration.digest and _is_news(node, key):
            _keep(node, proof)


def proofs_of(first: Entry, second: Entry, nodes: tuple[object, ...]) -> list[Equivocation | DoubleGrant]:
    """All that two verified entries prove, where their headers contradict each other; nothing where they do not."""
    one, other = first.certificate, second.certificate
    if one.configuration != other.configuration or not contradict(
        parse_header(first.header), parse_header(second.header)
    ):
        return []
    proofs: list[Equivocation | DoubleGrant] = [Equivocation(one.configuration, _of_entry(first), _of_entry(second))]
    granted = {grant.node: grant for grant in one.grants if _promises(grant, first.position)}
    for grant in other.grants:
        if _promises(grant, second.position) and (before := granted.get(grant.node)) is not None:
            key: bytes = nodes[grant.node].key  # type: ignore[attr-defined]
            proofs.append(DoubleGrant(one.configuration, key, _granted(first, before), _granted(second, grant)))
    return proofs


def statement_of(node: Node, slot: bytes, challenge: bytes, now_us: int) -> Witnessed:
    """What this node has to say of a slot now, not signed yet."""
    held = node.slots.current.get(slot)
    floor_us = node.slots.shard(slot).floor_us
    header = b"" if held is None else held.header
    return Witnessed(node.incarnation, challenge, now_us, floor_us, slot, header, b"")


def _is_news(node: Node, key: bytes) -> bool:
    # One proof convicts: more of them would only crowd out those against others.
    return key not in node.accused and len(node.accused) < node.limits.evidence_max


def _keep(node: Node, proof: Proof) -> None:
    node.accused.add(proof.node if not isinstance(proof, Equivocation) else parse_header(proof.first.header).writer)
    node.evidence.append(proof)


def _promises(grant: Grant, position: int) -> bool:
    return bool(grant.bitmap[position >> 3] >> (position & 7) & 1)


def _of_promise(promise: Promise) -> SignedHeader:
    path = merkle.path_of(promise.leaves, promise.position)
    return SignedHeader(
        promise.header.raw, promise.group, len(promise.leaves) // 32, promise.position, path, promise.intent
    )


def _of_entry(entry: Entry) -> SignedHeader:
    certificate: Certificate = entry.certificate
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
