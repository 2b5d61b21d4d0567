"""Test vectors: bytes that another implementation has to come to as well (protocol 2 and the message table).

tests/vectors/*.json hold them, everything as hex but for numbers. After a change that is meant to change bytes,
`pytest tests/wire/test_vectors.py --update-vectors` writes them anew; such a change breaks every cluster there is.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.ballots import signed_together
from quorumcache.core.certificate import exact_grant_string, grant_string, intent_string, vote_string
from quorumcache.core.config import SignedConfiguration, canonical
from quorumcache.core.epochmessages import Shown, signed_of
from quorumcache.core.evidence import Equivocation, SignedHeader
from quorumcache.core.model import DELETE, digest_of, header_stamp, slot_of, stamp_of, value_hash_of
from quorumcache.core.seals import Seal
from quorumcache.wire import codec, handshake
from quorumcache.wire.frame import Sealer
from tests.cluster import START_US, configuration_of, key_of
from tests.exact import Hand
from tests.making import Draft

VECTORS = Path(__file__).parent.parent / "vectors"
CONFIGURATION = configuration_of()


def batch() -> Draft:
    """Three headers of one batch: a value that expires, a delete, an empty value."""
    draft = Draft(CONFIGURATION, "w1", nonce=0x0102030405060708)
    draft.put("first", b"a value", at_us=START_US, expires_at_us=START_US + 60_000_000)
    draft.put("second", b"", at_us=START_US + 1, kind=DELETE)
    return draft.put("third", b"", at_us=START_US)


def model() -> dict[str, Any]:
    draft = batch()
    return {
        "slots": [
            {"namespace": n, "key": k.hex(), "field": f.hex(), "bytes": slot_of(n.encode(), k, f).hex()}
            for n, k, f in (("test", b"first", b""), ("a.b-c_9", b"\0\xff", b"field"), ("n", b"k" * 300, b""))
        ],
        "stamps": [
            {"time_us": t, "writer": w.hex(), "nonce": n, "bytes": stamp_of(t, w, n).hex()}
            for t, w, n in ((0, bytes(32), 0), (START_US, key_of("w1").public, 1 << 63))
        ],
        "values": [
            {"salt": salted[:16].hex(), "value": salted[16:].hex(), "hash": value_hash_of(salted).hex()}
            for salted in draft.salted
        ],
        "headers": [
            {"stamp": header_stamp(raw).hex(), "bytes": raw.hex(), "digest": digest_of(raw).hex()}
            for raw in draft.headers
        ],
    }


def certificate() -> dict[str, Any]:
    draft = batch()
    digest, leaves = CONFIGURATION.digest, draft.leaves
    return {
        "writer_seed": draft.key.seed.hex(),
        "writer_public": draft.key.public.hex(),
        "node_seeds": [key_of(f"node {i}").seed.hex() for i in range(4)],
        "node_publics": [info.key.hex() for info in CONFIGURATION.nodes],
        "configuration_digest": digest.hex(),
        "group_id": draft.group.hex(),
        "roots": [{"count": n, "root": merkle.root_of(leaves[: 32 * n]).hex()} for n in (1, 2, 3)],
        "paths": [merkle.path_of(leaves, i).hex() for i in range(3)],
        "intent_string": intent_string(digest, draft.group, draft.root).hex(),
        "intent_signature": draft.intent.hex(),
        "grant_strings": [
            {
                "node": node,
                "bitmap": bits.hex(),
                "string": grant_string(digest, draft.group, draft.root, bits).hex(),
                "signature": draft.grant(node, bits).signature.hex(),
            }
            for node, bits in ((0, b"\x07"), (1, b"\x07"), (2, b"\x05"))
        ],
        "entry": codec.encode_whole(draft.entry(1)).hex(),
        "equivocation": codec.encode_whole(equivocation()).hex(),
    }


def ballots() -> dict[str, Any]:
    """Votes and grants that a node signed together, of 2, 3 and 5."""
    hand, key = Hand(CONFIGURATION, START_US), key_of("node 0")
    head = (CONFIGURATION.digest, hand.group.id, hand.root)
    strings = [vote_string(*head, hand.ballot(START_US + i)) for i in range(3)]
    strings += [exact_grant_string(*head, hand.ballot(START_US + i)) for i in range(2)]
    trees = []
    for count in (2, 3, 5):
        proofs, signed = signed_together(strings[:count], key.sign)
        trees.append({"signed": signed.hex(), "proofs": [proof.hex() for proof in proofs]})
    return {"public": key.public.hex(), "strings": [string.hex() for string in strings], "trees": trees}


def equivocation() -> Equivocation:
    first, second = (Draft(CONFIGURATION).put("k", value) for value in (b"one", b"two"))
    signed = [SignedHeader(d.headers[0], d.group, 1, 0, b"", d.intent) for d in (first, second)]
    return Equivocation(CONFIGURATION.digest, signed[0], signed[1])


def every_message() -> list[m.Request | m.Reply]:
    draft = batch()
    one = Draft(CONFIGURATION).put("first", b"v")
    digest, clock_us = CONFIGURATION.digest, START_US + 7
    slots = [slot_of(b"test", key) for key in (b"first", b"second")]
    entry = one.entry()
    proof = m.Refusal(2, m.STALE, 0, one.entry(), "")
    proof.proof.salted = b""  # type: ignore[union-attr]
    passing = m.Bundle(entry.certificate, b"", [m.Item(0, entry.header, entry.salted, entry.path)])
    committed = draft.commit(2)
    hand = Hand(CONFIGURATION, START_US)
    admin = key_of("admin")
    signed = SignedConfiguration(CONFIGURATION, ((admin.public, admin.sign(b"vector")),))
    step = Shown(signed_of(signed), [Seal(draft.key.public, draft.key.sign(b"seal"))])
    ballot = hand.ballot(START_US + 1)
    locked = m.Locked(hand.header, hand.salted, hand.signature, ballot, hand.signed(ballot, (0, 1, 2)))
    return [
        draft.prepare(1),
        m.PrepareReply(
            1, clock_us, b"\x01", draft.grant(0, b"\x01").signature, [m.Refusal(1, m.AHEAD, clock_us), proof]
        ),
        m.Commit(2, digest, [*committed.bundles, passing]),
        m.CommitReply(2, clock_us, bytes((m.OK, m.EVICTED, m.REVOKED, m.RECOVERING)), [0, START_US, 0, 0]),
        m.Read(3, digest, slots, 0, 1),
        m.ReadReply(3, clock_us, digest_of(draft.headers[0]) + bytes(32), [draft.headers[0], draft.salted[0]]),
        m.ReadFull(4, digest, slots),
        m.ReadFullReply(4, clock_us, [m.FullAnswer(entry, START_US), m.FullAnswer(None, START_US)]),
        m.Report(5, digest, 7, slots[0]),
        m.ReportReply(5, clock_us, START_US, [entry], True, True),
        m.Outline(6, digest, slots[0]),
        m.OutlineReply(6, clock_us, entry, START_US, [entry], b"\x07" + digest),
        m.Fields(7, digest, slots[0], b"\x00\xff", slots[1], digest[:8]),
        m.FieldsReply(7, clock_us, draft.headers[0][3:51], digest, [entry], True),
        m.ShardSums(8, digest, 7, 9),
        m.ShardSumsReply(8, clock_us, digest),
        m.ShardList(9, digest, 7, slots[0]),
        m.ShardListReply(9, clock_us, [m.Named(slots[0], digest, START_US)], True),
        m.Reject((1 << 63) - 1, clock_us, m.OVERLOADED, "too busy"),
        m.Ping(0, digest),
        m.Pong(0, clock_us),
        m.Scan(6, digest, draft.group, b"test", b"f", m.Position(7, b"fifth"), 1000),
        m.ScanReply(6, clock_us, [b"first"], digest_of(draft.headers[0]), m.Position(8)),
        m.Evidence(8, digest, 3),
        m.EvidenceReply(8, clock_us, [equivocation()], 4),
        m.Witness(9, digest, slots[0], digest),
        m.WitnessReply(9, clock_us, digest[:16], START_US, draft.headers[0], bytes(64)),
        m.Put(8, digest, draft.group, draft.key.public, draft.intent, draft.headers, draft.salted, True),
        m.PutReply(8, clock_us, bytes((m.OK, m.STALE, m.DENIED)), [0, START_US, 0], "no right"),
        m.Forward(9, digest, [passing]),
        m.ForwardReply(9, clock_us, bytes((m.OK,))),
        m.Get(10, digest, slots),
        m.GetReply(10, clock_us, 2, [passing], True),
        m.Vote(11, digest, hand.group.id, hand.header, hand.salted, hand.signature, ballot, hand.stamp, locked.votes),
        m.Lock(11, digest, hand.group.id, hand.header, hand.salted, hand.signature, ballot, locked.votes),
        m.BallotReply(11, clock_us, m.LOCKED, b"", START_US, ballot, hand.entry(ballot), locked, "locked"),
        m.ExactReport(12, digest, 7, slots[0]),
        m.ExactReportReply(12, clock_us, START_US, [m.ExactHeld(hand.entry(ballot), locked)], True),
        m.Changes(7, digest, b"test", b"f", False, START_US, 12),
        m.ChangesReply(7, clock_us, START_US, 14, draft.headers[:2], False, True),
        m.Follow(13, digest, True),
        m.FollowReply(13, clock_us, [step], step, [canonical(CONFIGURATION)]),
        m.SealEpoch(14, digest, step.successor, step.seals),
        m.SealReply(14, clock_us, step.seals, True),
    ]


def messages() -> dict[str, Any]:
    return {type(message).__name__: codec.encode(message).hex() for message in every_message()}


def frame() -> dict[str, Any]:
    key = bytes(range(32))
    payload = codec.join([codec.encode(m.Ping(1, CONFIGURATION.digest))])
    sealer = Sealer(key)
    client, node = b"c" * 32, b"n" * 32
    opening = handshake.Opening("test", CONFIGURATION.digest, CONFIGURATION.nodes[0].key, client)
    channel, welcome = handshake.welcome(
        opening.hello,
        handshake.read_hello(opening.hello),
        key_of("node 0").sign,
        node,
        clock_us=START_US,
        credit_bytes=1 << 20,
        compress=False,
    )
    return {
        "key": key.hex(),
        "payload": payload.hex(),
        "first_frame": sealer.seal(payload).hex(),
        "second_frame": sealer.seal(payload).hex(),
        "client_secret": client.hex(),
        "node_secret": node.hex(),
        "hello": opening.hello.hex(),
        "welcome": welcome.hex(),
        "first_frame_to_client": channel.sealer.seal(payload).hex(),
        "refused": handshake.refusal(handshake.OTHER_CLUSTER, "another cluster").hex(),
    }


@pytest.mark.parametrize("vectors", [model, certificate, ballots, messages, frame])
def test_vectors(vectors: Any, request: pytest.FixtureRequest) -> None:
    """protocol 2: the canonical encoding, byte by byte."""
    path = VECTORS / f"{vectors.__name__}.json"
    text = json.dumps(vectors(), indent=1) + "\n"
    if request.config.getoption("--update-vectors"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert json.loads(path.read_text()) == vectors()
    assert path.read_text() == text


def test_every_message_has_a_vector() -> None:
    """The message table, all of it, and each vector decodes to what it was made of."""
    made = every_message()
    assert {type(message) for message in made} == {*m.TABLE, *m.TABLE.values(), m.Reject}
    stored = json.loads((VECTORS / "messages.json").read_text())
    for message in made:
        decode: Any = codec.decode_requests if isinstance(message, m.Request) else codec.decode_replies
        assert decode(codec.join([bytes.fromhex(stored[type(message).__name__])])) == [message]
