"""Votes and grants under one signature (protocol 17, "Signed together"): the form of proofs, who signs, who checks."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.ballots import PROOF_BYTES_MAX, TOGETHER_MAX, BallotSigner, signed_together, string_under
from quorumcache.core.certificate import Verifier, exact_grant_string, grant_string, intent_string, vote_string
from quorumcache.core.exact import verify_lock
from quorumcache.core.instances import Instances
from quorumcache.core.memory import batch_cost
from quorumcache.core.model import Grant, Malformed
from quorumcache.core.node import Node
from quorumcache.wire import codec
from quorumcache.wire.keys import verify
from tests.cluster import START_US, Cluster, key_of
from tests.exact import Hand, exact_configuration, lock_slot

KEY = key_of("node 0")
SOME = [vote_string(bytes(32), bytes(16), i.to_bytes(32, "big"), bytes(48)) for i in range(TOGETHER_MAX)]
PROOFS = {count: signed_together(SOME[:count], KEY.sign)[0] for count in (2, 3, 4, 5, 7, 8, 9, 200, 255, TOGETHER_MAX)}
places = st.sampled_from(sorted(PROOFS)).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1)))


def is_good(message: bytes, proof: bytes) -> bool:
    """What a verifier says that has checked nothing yet, and one that knows the signature already."""
    fresh, knowing = Verifier(verify, []), Verifier(verify, [])
    for count, proofs in PROOFS.items():
        assert knowing.is_ballot_signed(KEY.public, SOME[0], proofs[0]), count
    answer = fresh.is_ballot_signed(KEY.public, message, proof)
    assert knowing.is_ballot_signed(KEY.public, message, proof) is answer
    return answer


# --- the form ---


@settings(max_examples=60, deadline=None)
@given(places)
def test_each_of_a_tree_has_its_proof(place: tuple[int, int]) -> None:
    count, at = place
    proof = PROOFS[count][at]
    assert 100 <= len(proof) <= PROOF_BYTES_MAX == 324
    assert is_good(SOME[at], proof)
    assert not is_good(SOME[at - 1], proof)
    assert not is_good(SOME[at].replace(b" vote ", b" exact grant "), proof)


@settings(max_examples=150, deadline=None)
@given(places, st.integers(0, PROOF_BYTES_MAX * 8 - 1))
@example((4, 0), 8 * 65)
def test_no_bit_of_a_proof_may_be_another(place: tuple[int, int], bit: int) -> None:
    count, at = place
    spoiled = bytearray(PROOFS[count][at])
    spoiled[bit // 8 % len(spoiled)] ^= 1 << bit % 8
    assert not is_good(SOME[at], bytes(spoiled))


@settings(max_examples=150, deadline=None)
@given(places, st.integers(0, (1 << 16) - 1), st.integers(0, (1 << 16) - 1))
def test_a_path_is_of_one_count_and_place(place: tuple[int, int], other_count: int, other_place: int) -> None:
    """One vote has one form in one tree."""
    count, at = place
    proof = PROOFS[count][at]
    for numbers in ((other_count, other_place), (other_count, at), (count, other_place), (count + 1, at)):
        other = proof[:64] + b"".join(number.to_bytes(2, "big") for number in numbers) + proof[68:]
        assert is_good(SOME[at], other) == (numbers == (count, at))


@settings(max_examples=60, deadline=None)
@given(places, st.integers(0, PROOF_BYTES_MAX + 40))
def test_a_proof_has_one_length(place: tuple[int, int], length: int) -> None:
    count, at = place
    proof = PROOFS[count][at]
    other = (proof + bytes(400))[:length]
    assert is_good(SOME[at], other) == (length == len(proof))


def test_a_tree_of_one_or_of_too_many_is_none() -> None:
    """Alone, a vote is signed as it is; more than 256 would need longer paths."""
    for count in (1, TOGETHER_MAX + 1):
        messages = [b"%d" % i for i in range(count)]
        with pytest.raises(ValueError, match="2 to 256"):
            signed_together(messages, KEY.sign)
    assert string_under(SOME[0], bytes(64) + b"\x00\x01\x00\x00") is None
    # A signature over the right root of a tree that is too large.
    leaves = b"".join(PROOFS[2][0][68:100] for _ in range(300))
    head = bytes(64) + (300).to_bytes(2, "big") + bytes(2)
    assert string_under(SOME[0], head + merkle.path_of(leaves, 0)) is None


def test_a_signature_for_several_is_no_other() -> None:
    """Nor is one for something else a proof: each kind has a tag of its own."""
    proof, root = PROOFS[2][0], bytes(range(32))
    verifier = Verifier(verify, [])
    for message in (SOME[0], intent_string(bytes(32), bytes(16), root), grant_string(bytes(32), bytes(16), root, b"")):
        assert not verifier.is_signed(KEY.public, message, proof[:64])
        assert not verifier.is_signed(KEY.public, message, proof)
        assert not verifier.is_ballot_signed(KEY.public, message, proof[:64])
        assert not verifier.is_ballot_signed(KEY.public, SOME[0], KEY.sign(message) + proof[64:])
    assert not verifier.is_ballot_signed(key_of("node 1").public, SOME[0], proof)


def test_one_signature_is_checked_once() -> None:
    verifier = Verifier(verify, [])
    assert all(verifier.is_ballot_signed(KEY.public, SOME[i], PROOFS[200][i]) for i in range(200))
    assert verifier.verified_count == 1


# --- who signs ---


class Shared(Cluster):
    """A cluster whose nodes have who signs together: `frame` asks a node for all of these at once."""

    def __init__(self) -> None:
        super().__init__(configuration=exact_configuration())
        self.signers = [BallotSigner(key_of(f"node {i}").sign) for i in range(4)]
        for i, signer in enumerate(self.signers):
            self.nodes[i].ballots = signer

    def frame(self, node: int, requests: list[m.Request]) -> list[m.BallotReply]:
        waiting = self.signers[node].gather()
        replies = [self.nodes[node].handle(request, self.now_us) for request in requests]
        assert all(reply.signature == b"" for reply in waiting)
        self.signers[node].sign()
        assert all(isinstance(reply, m.BallotReply) for reply in replies)
        return replies  # type: ignore[return-value]


def hands(cluster: Cluster, count: int) -> list[Hand]:
    return [Hand(cluster.configuration, START_US, key=f"k{i}") for i in range(count)]


def votes(cluster: Shared, proposed: list[Hand], nodes: tuple[int, ...] = (0, 1, 2)) -> list[tuple[Grant, ...]]:
    """The votes of these nodes for each, signed together at each node."""
    replies = [cluster.frame(node, [hand.vote() for hand in proposed]) for node in nodes]
    return [
        tuple(Grant(node, b"\x01", replies[at][i].signature) for at, node in enumerate(nodes))
        for i in range(len(proposed))
    ]


def lock_with(hand: Hand, signed: tuple[Grant, ...]) -> m.Lock:
    return msgspec.structs.replace(hand.lock(), votes=signed)


def test_who_is_alone_in_its_frame_is_signed_alone() -> None:
    cluster = Shared()
    (hand,) = hands(cluster, 1)
    (reply,) = cluster.frame(0, [hand.vote()])
    assert reply.signature == hand.signed(hand.stamp, (0,))[0].signature
    # The same again is the same vote, not a second one.
    again, same = cluster.frame(0, [hand.vote(), hand.vote()])
    assert again.signature == same.signature == reply.signature


def test_outside_of_frames_each_is_signed_at_once() -> None:
    cluster = Shared()
    one, two = hands(cluster, 2)
    assert cluster.frame(0, [one.vote()])[0].signature
    reply = cluster.answer(0, two.vote())
    assert isinstance(reply, m.BallotReply)
    assert reply.signature == two.signed(two.stamp, (0,))[0].signature


def test_votes_and_grants_of_a_frame_go_all_the_way() -> None:
    """Vote, lock, commit; the node does not check again what it signed itself."""
    cluster = Shared()
    proposed = hands(cluster, 5)
    signed = votes(cluster, proposed)
    assert all(len(vote.signature) in (100, 132, 164) for each in signed for vote in each)
    before = [cluster.nodes[i].verifier.verified_count for i in range(4)]
    locks: list[m.Request] = [lock_with(hand, each) for hand, each in zip(proposed, signed, strict=True)]
    granted = [cluster.frame(node, locks) for node in range(3)]
    assert [cluster.nodes[i].verifier.verified_count - before[i] for i in range(4)] == [2, 2, 2, 0]
    for i, hand in enumerate(proposed):
        grants = tuple(Grant(node, b"\x01", granted[node][i].signature) for node in range(3))
        commit = hand.commit()
        certificate = msgspec.structs.replace(commit.bundles[0].certificate, grants=grants)
        for node in range(4):
            reply = cluster.answer(node, m.Commit(3, commit.configuration, [bundle_with(commit, certificate)]))
            assert isinstance(reply, m.CommitReply)
            assert reply.codes == bytes([m.OK])
        held = cluster.nodes[3].slots.current[lock_slot(f"k{i}")]
        cluster.nodes[3].verifier.check_entry(cluster.nodes[3].slots.entry_of(held))


def bundle_with(commit: m.Commit, certificate: object) -> m.Bundle:
    return msgspec.structs.replace(commit.bundles[0], certificate=certificate)


def test_a_vote_under_a_tree_is_no_grant_and_none_for_another() -> None:
    cluster = Shared()
    proposed = hands(cluster, 3)
    signed = votes(cluster, proposed)
    one, other = proposed[:2]
    commit = one.commit()
    certificate = msgspec.structs.replace(commit.bundles[0].certificate, grants=signed[0])
    with pytest.raises(Malformed, match="its node did not make"):
        cluster.nodes[3].verifier.check_certificate(certificate)
    assert isinstance(cluster.answer(3, lock_with(one, signed[0])), m.BallotReply)
    for wrong in (lock_with(other, signed[0]), lock_with(other, (*signed[1][:2], signed[0][2]))):
        refused = cluster.answer(3, wrong)
        assert isinstance(refused, m.Reject)
        assert "did not make" in refused.detail


def test_elsewhere_a_signature_has_64_bytes() -> None:
    """A certificate without a ballot takes no proof, whoever made it."""
    cluster = Shared()
    (hand,) = hands(cluster, 1)
    entry = hand.entry()
    message = grant_string(cluster.configuration.digest, hand.group.id, hand.root, b"\x01")
    proofs = [signed_together([message, b"other"], key_of(f"node {i}").sign)[0][0] for i in range(3)]
    grants = tuple(Grant(i, b"\x01", proof) for i, proof in enumerate(proofs))
    plain = msgspec.structs.replace(entry.certificate, ballot=b"", grants=grants)
    with pytest.raises(Malformed, match="did not sign"):
        cluster.nodes[0].verifier.check_certificate(plain)


def test_more_than_256_are_several_trees() -> None:
    signed: list[bytes] = []

    def sign(message: bytes) -> bytes:
        signed.append(message)
        return KEY.sign(message)

    signer, verifier = BallotSigner(sign), Verifier(verify, [])
    replies = signer.gather()
    for number in range(2 * TOGETHER_MAX + 1):
        signer.add(m.BallotReply(number, 0, 0), b"vote %d" % number, lambda *_: None)
    waiting = list(replies)
    signer.sign()
    assert len(signed) == 3
    assert len(waiting[-1].signature) == 64
    for number, reply in enumerate(waiting):
        assert len(codec.encode(reply)) < PROOF_BYTES_MAX + 64
        assert verifier.is_ballot_signed(KEY.public, b"vote %d" % number, reply.signature)


def test_what_was_given_up_is_never_signed() -> None:
    """Whoever has one proof of a tree has its neighbours' too: what a session left behind must not be one of these."""
    cluster = Shared()
    left, kept, other = hands(cluster, 3)
    cluster.signers[0].gather()
    reply = cluster.nodes[0].handle(left.vote(), cluster.now_us)
    assert isinstance(reply, m.BallotReply)
    replies = cluster.frame(0, [kept.vote(), other.vote()])
    assert reply.signature == b""
    leaf = signed_together([string_of(left), string_of(kept)], KEY.sign)[0][1][68:]
    assert all(leaf not in each.signature for each in replies)
    assert {each.signature[64:66] for each in replies} == {b"\x00\x02"}


def string_of(hand: Hand, *, grant: bool = False) -> bytes:
    string = exact_grant_string if grant else vote_string
    return string(hand.configuration.digest, hand.group.id, hand.root, hand.stamp)


# --- where proofs are kept ---


def test_a_lock_with_proofs_is_shown_and_verified() -> None:
    cluster = Shared()
    one, _ = proposed = hands(cluster, 2)
    signed = votes(cluster, proposed)
    cluster.frame(3, [lock_with(one, signed[0])])
    rival = Hand(cluster.configuration, START_US + 1, key="k0", value=b"rival")
    reply = cluster.answer(3, rival.vote(rival.ballot(START_US + 9)))
    assert isinstance(reply, m.BallotReply)
    assert reply.locked is not None
    assert verify_lock(Verifier(verify, [cluster.configuration]), cluster.configuration, reply.locked).raw == one.header
    (back,) = codec.decode_replies(codec.join([codec.encode(reply)]))
    assert back == reply
    spoiled = msgspec.structs.replace(reply.locked, votes=signed[1])
    with pytest.raises(Malformed):
        verify_lock(Verifier(verify, [cluster.configuration]), cluster.configuration, spoiled)


def test_paths_count_as_memory() -> None:
    """Of locks and of certificates, and they leave with them."""
    cluster = Shared()
    proposed = hands(cluster, 2)
    signed = votes(cluster, proposed)
    extra = sum(len(vote.signature) - 64 for vote in signed[0])
    assert extra == 3 * 36
    costs = []
    for node, request in ((0, proposed[0].lock()), (1, lock_with(proposed[0], signed[0]))):
        memory = cluster.nodes[node].slots.memory
        before = memory.promises_bytes
        assert isinstance(cluster.answer(node, request), m.BallotReply)
        costs.append(memory.promises_bytes - before)
    assert costs[1] - costs[0] == extra
    table = cluster.nodes[1].slots.instances
    assert isinstance(table, Instances)
    for slot, _ in table.items():
        table.put_back(slot, None)
    assert cluster.nodes[1].slots.memory.promises_bytes == 0
    entry = proposed[0].entry()
    longer = msgspec.structs.replace(entry.certificate, grants=signed[0])
    verifier = cluster.nodes[0].verifier
    batch = verifier.batch_of(entry)
    assert batch_cost(type(batch)(longer, b"", b"")) - batch_cost(batch) == extra


def test_who_restarts_signs_the_same_in_whatever_form() -> None:
    """What it voted for is stored, the form of its signature is not: asked again it says the same, and nothing else."""
    cluster = Shared()
    one, two = hands(cluster, 2)
    cluster.frame(0, [one.vote(), two.vote()])
    old = cluster.nodes[0]
    new = Node(cluster.configuration, 0, KEY.sign, Verifier(verify, [cluster.configuration]), started_us=None)
    assert old.slots.instances is not None
    assert new.slots.instances is not None
    for slot, instance in old.slots.instances.items():
        new.slots.instances.put_back(slot, instance)
    reply = new.handle(one.vote(), cluster.now_us)
    assert isinstance(reply, m.BallotReply)
    assert reply.signature == one.signed(one.stamp, (0,))[0].signature
    rival = Hand(cluster.configuration, START_US, key="k0", value=b"rival")
    refused = new.handle(rival.vote(one.stamp), cluster.now_us)
    assert isinstance(refused, m.BallotReply)
    assert refused.code == m.BUSY
