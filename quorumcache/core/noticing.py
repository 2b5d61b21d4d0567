"""What a node notices of others' misbehaviour, what it keeps of it and hands out, and what it signs of its own answers
(protocol 16).

One proof for each key convicted, and a bounded number of them. It must not know the rules of prepare and commit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.evidence import (
    Equivocation,
    Proof,
    SignedHeader,
    Witnessed,
    contradict,
    may_witness,
    proofs_of,
    signed_in,
    witness_string,
)
from quorumcache.core.model import Header, Malformed, parse_header
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
    """Keep the proof that a writer signed two headers under one stamp, both of which were to be promised here. A
    promise of an earlier epoch has no intent any more: no proof spans two."""
    if first.intent and second.intent and _is_news(node, first.header.writer):
        _keep(node, Equivocation(node.configuration.digest, _of_promise(first), _of_promise(second)))


def accuse_beside(node: Node, held: Held, wanted: Promise) -> None:
    """Note that a writer wants a promise under the stamp of an entry of its that is current here, and not that one."""
    certificate = held.batch.certificate
    is_of_now = certificate.configuration == node.configuration.digest and wanted.intent
    if is_of_now and _is_news(node, certificate.writer):
        entry = held.entry(with_value=False)
        _keep(node, Equivocation(certificate.configuration, signed_in(entry), _of_promise(wanted)))


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


def statement_of(node: Node, slot: bytes, challenge: bytes, now_us: int) -> Witnessed:
    """What this node has to say of a slot now, not signed yet."""
    held = node.slots.current.get(slot)
    floor_us = node.slots.shard(slot).floor_us
    header = b"" if held is None else held.header
    return Witnessed(node.incarnation, challenge, now_us, floor_us, slot, header, b"")


def evidence(node: Node, request: m.Evidence, now_us: int, client: bytes | None) -> m.Reply:
    """A page of what this node can prove, to whoever may read the slots that it is about."""
    rights = node.configuration.rights_table
    found: list[Proof] = []
    at = request.first
    while at < len(node.evidence) and len(found) < m.EVIDENCE_PROOFS_MAX:
        proof = node.evidence[at]
        at += 1
        if (
            client is None
            or node.configuration.node_by_key(client) is not None
            or rights.may_read(client, parse_header(proof.first.header).slot)
        ):
            found.append(proof)
    return m.EvidenceReply(request.id, now_us, found, at if at < len(node.evidence) else 0)


def witness(node: Node, request: m.Witness, now_us: int) -> m.Reply:
    """What is current in a slot, signed."""
    configuration = node.configuration
    if not may_witness(configuration, request.slot):
        raise Malformed("answers are signed for registers and bases only, where reads go by quorums")
    if node.index not in configuration.group_of(request.slot).members:
        raise Malformed("this node does not serve the slot")
    if not node.incarnation:
        raise Malformed("this node signs no answers")
    made = statement_of(node, request.slot, request.challenge, now_us)
    signature = node.sign(witness_string(configuration.digest, made))
    return m.WitnessReply(request.id, now_us, made.incarnation, made.floor_us, made.header, signature)


def _is_news(node: Node, key: bytes) -> bool:
    # One proof convicts: more of them would only crowd out those against others.
    return key not in node.accused and len(node.accused) < node.limits.evidence_max


def _keep(node: Node, proof: Proof) -> None:
    node.accused.add(proof.node if not isinstance(proof, Equivocation) else parse_header(proof.first.header).writer)
    node.evidence.append(proof)


def _of_promise(promise: Promise) -> SignedHeader:
    path = merkle.path_of(promise.leaves, promise.position)
    return SignedHeader(
        promise.header.raw, promise.group, len(promise.leaves) // 32, promise.position, path, promise.intent
    )
