"""What the adversary does about votes and grants under one signature (protocol 17): trees of its nodes' own making, and
the proofs of correct nodes shown for what they are not of.

Its powers are those of exact.py, whose lies and schemes these go with. It must not know checkers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.ballots import SIGNATURE_BYTES, TOGETHER_MAX, signed_together
from quorumcache.core.certificate import exact_grant_string, vote_string
from quorumcache.core.model import Certificate, Entry, Grant, digest_of, header_slot, stamp_of
from quorumcache.core.settle import commit_of
from sim.adversary.exact import ExactProposal, Lie, Scheme, after, ballot_for, last_of, new_proposal

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode
    from sim.adversary.writers import ByzantineWriter
    from sim.crypto import Key

_PATH_FROM: Final = SIGNATURE_BYTES + 4


def in_a_tree(key: Key, message: bytes, draw: random.Random) -> bytes:
    """A valid proof of a tree that has this vote or grant somewhere, among leaves of the adversary's choice."""
    count = draw.choice((2, 3, 5, 8, TOGETHER_MAX))
    others = [b"quorumcache vote 1\x00%d" % i for i in range(count - 1)]
    place = draw.randrange(count)
    return signed_together([*others[:place], message, *others[place:]], key.sign)[0][place]


def turned(proof: bytes, draw: random.Random) -> bytes:
    """A proof in another form: another count or place, a shorter or longer path, another leaf's, none at all."""
    signature, count, place, path = proof[:SIGNATURE_BYTES], proof[64:66], proof[66:68], proof[_PATH_FROM:]
    way = draw.randrange(7)
    if way == 0:
        return signature
    if way == 1:
        return signature + count + place + path[:-32]
    if way == 2:
        return signature + count + place + path + bytes(32)
    if way == 3:
        return signature + b"\x00\x01\x00\x00" + path
    if way == 4:
        return signature + count + bytes([place[0], place[1] ^ 1]) + path
    if way == 5:
        return signature + count + count + path
    return counted_otherwise(proof, draw)


def counted_otherwise(proof: bytes, draw: random.Random) -> bytes:
    """The same signature and path, under another place or count that have the path go the same way, where there are
    any: a place beyond the count, or a leaf at the end of a tree, which may be of several sizes."""
    if len(proof) <= _PATH_FROM:
        return proof
    count, place = int.from_bytes(proof[64:66], "big"), int.from_bytes(proof[66:68], "big")
    forms = [(count, place + (1 << bits)) for bits in range((count - 1).bit_length(), 10)]
    if draw.random() < 0.7:
        counts = range(2, TOGETHER_MAX + 1)
        same = [
            (c, p) for c in counts for p in sorted({place, c - 1}) if p < c and _turns(c, p) == _turns(count, place)
        ]
        forms = [form for form in same if form != (count, place)] or forms
    count, place = draw.choice(forms)
    return proof[:64] + count.to_bytes(2, "big") + place.to_bytes(2, "big") + proof[_PATH_FROM:]


def _turns(count: int, place: int) -> list[int]:
    """On which sides of a path its siblings stand."""
    turns, last = [], count - 1
    while last:
        if place ^ 1 <= last:
            turns.append(place & 1)
        place >>= 1
        last >>= 1
    return turns


def _tree(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Votes for all and grants all, in trees of its own making, some of them in a form that nobody should take."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    string = vote_string if isinstance(request, m.Vote) else exact_grant_string
    root = merkle.root_of(digest_of(request.header))
    proof = in_a_tree(node.key, string(request.configuration, request.group, root, request.ballot), node.draw)
    if node.draw.random() < 0.4:
        proof = turned(proof, node.draw)
    return m.BallotReply(request.id, honest.clock_us, 0, proof)


PROOF_LIES: Final[dict[str, Lie]] = {"odd_trees": _tree}


# --- schemes ---


def _borrow(writer: ByzantineWriter) -> None:
    """Asks for votes for several headers at once, so that nodes sign them together; locks what it can, properly. Then
    it shows what nodes signed for one header for another, as grants, in another ballot, or in another form."""
    draw = writer.draw
    slots = list(writer.exact_slots)
    proposals = []
    for i in range(draw.choice((2, 3, 4))):
        slot = slots[i % len(slots)]
        proposals.append(new_proposal(writer, slot, last_of(writer, slot)))
    # In each slot from the lowest ballot up: a node votes for one after the other.
    asked = sorted(((ballot_for(writer, p), p) for p in proposals), key=lambda pair: pair[0])
    pause_us = writer.pause_us()
    for delay_us, (ballot, proposal) in enumerate(asked):
        nodes = list(proposal.group.members)
        after(writer, 1 + 100 * delay_us, lambda p=proposal, b=ballot, n=nodes: p.vote(b, n))  # type: ignore[misc]
    ballot, proposal = draw.choice(asked)
    nodes = list(proposal.group.members)
    if draw.random() < 0.7:
        # Whoever checks the signature of a tree knows it from then on.
        after(writer, pause_us, lambda: proposal.lock(ballot, writer.some(nodes, 2)))
    after(writer, 2 * pause_us, lambda: _show(writer, proposal, ballot, nodes))


def _show(writer: ByzantineWriter, proposal: ExactProposal, ballot: bytes, nodes: list[int]) -> None:
    votes = proposal.votes.get(ballot, {})
    if len(votes) < writer.configuration.q:
        return
    way, slot = writer.draw.randrange(4), header_slot(proposal.header)
    if way == 0:
        other = new_proposal(writer, slot, last_of(writer, slot))
        other.votes[max(ballot, other.header[3:51])] = dict(votes)
        other.lock(max(ballot, other.header[3:51]), nodes)
    elif way == 1:
        later = stamp_of(writer.world.now_us, writer.key.public, writer.draw.getrandbits(64))
        proposal.votes[max(later, ballot)] = dict(votes)
        proposal.lock(max(later, ballot), nodes)
    elif way == 2:
        grants = tuple(votes[node] for node in sorted(votes))[: writer.configuration.q]
        head = (proposal.configuration.digest, proposal.group.id, proposal.root, 1)
        certificate = Certificate(*head, proposal.author, proposal.signature, grants, ballot)
        entry = Entry(proposal.header, proposal.salted, certificate, 0, b"")
        for node in nodes:
            request = commit_of(writer.new_id(), proposal.configuration.digest, entry)
            writer.network.send(writer.address, node, request)
    else:
        proposal.votes[ballot] = {
            node: Grant(node, vote.bitmap, counted_otherwise(vote.signature, writer.draw))
            for node, vote in votes.items()
        }
        proposal.lock(ballot, nodes)


PROOF_SCHEMES: Final[dict[str, Scheme]] = {"borrowed_proofs": _borrow}
