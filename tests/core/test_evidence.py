"""Protocol 5.7 and 16: what proves misbehaviour, who notices it, and that correct nodes and writers form no proof."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import coordinator as coordinators
from quorumcache.core import messages as m
from quorumcache.core import noticing
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import NamespaceInfo
from quorumcache.core.evidence import (
    DoubleGrant,
    Equivocation,
    GrantedHeader,
    Retraction,
    SignedHeader,
    Witnessed,
    challenge_after,
    proves,
    retracts,
    witness_string,
)
from quorumcache.core.model import DELETE, PUT, TIME_US_MAX, Malformed, header_slot, slot_of
from quorumcache.core.node import Node
from quorumcache.core.outcome import Written
from quorumcache.wire.keys import verify
from tests.cluster import START_US, Cluster, configuration_of, key_of, slot
from tests.making import SECOND_US, Alone, Draft
from tests.steps import finish

CONFIGURATION = configuration_of()
OTHERS = (1, 2, 3)
CHAIN = Verifier(verify, [CONFIGURATION])


def convicted(node: Node) -> list[tuple[str, bytes]]:
    """Whom the node's evidence convicts, each proof verified by somebody else."""
    verdicts = [proves(proof, Verifier(verify, [node.configuration])) for proof in node.evidence]
    return sorted((verdict.role, verdict.key) for verdict in verdicts)


W1 = ("writer", key_of("w1").public)


# --- who notices ---


def test_a_node_does_not_grant_what_is_current_where_it_may_have_promised_another() -> None:
    """Protocol 3, prepare rule 2: otherwise an equivocating writer makes a correct node sign a proof against itself:
    it promises D', is given D, certified by the others under the same stamp, and is asked for D."""
    alone = Alone()
    assert alone.grants(alone.draft().put("k", b"D'"))
    agreed = alone.draft().put("k", b"D")
    assert alone.codes(agreed.commit(nodes=OTHERS)) == ["OK"]
    refusal = alone.refusal(agreed)
    assert refusal.code == m.STALE
    assert refusal.proof is not None
    assert convicted(alone.node) == [W1]


def test_a_node_grants_what_is_current_again_where_the_certificate_has_its_own_grant() -> None:
    """Protocol 3, prepare rule 2."""
    alone = Alone()
    draft = alone.draft().put("k", b"D")
    assert alone.grants(draft)
    assert alone.commit(draft) == ["OK"]
    assert alone.grants(draft)
    assert not alone.node.evidence


def test_a_field_that_is_current_is_granted_again_only_where_this_node_granted_it() -> None:
    """Protocol 6, rule 2, as for registers."""
    space = NamespaceInfo("maps", "map", "quorum", ("*",), 1 << 20, 0)
    configuration = configuration_of(namespaces=(space,))
    alone = Alone(configuration)
    base = Draft(configuration).put(value=b"", slot_bytes=slot_of(b"maps", b"k"))
    assert alone.codes(base.commit(nodes=OTHERS)) == ["OK"]
    assert alone.refusal(base).code == m.STALE


def test_a_promise_under_the_stamp_of_a_current_entry_convicts() -> None:
    """Protocol 3, prepare rule 2: refused as STALE, and both intents are kept."""
    alone = Alone()
    assert alone.commit(alone.draft().put("k", b"one")) == ["OK"]
    assert alone.refusal(alone.draft().put("k", b"two")).code == m.STALE
    assert convicted(alone.node) == [W1]


def test_a_certified_entry_under_the_stamp_of_a_promise_convicts() -> None:
    """Protocol 16: a commit may tell as much as a prepare."""
    alone = Alone()
    assert alone.grants(alone.draft().put("k", b"one"))
    assert alone.codes(alone.draft().put("k", b"two").commit(nodes=OTHERS)) == ["OK"]
    assert convicted(alone.node) == [W1]


def test_two_certified_entries_under_one_stamp_convict_all_who_granted_both() -> None:
    """Protocol 16: with more than f liars, the certificates themselves name f + 1 of them."""
    alone = Alone()
    assert alone.codes(alone.draft().put("k", b"one").commit(nodes=(1, 2, 3))) == ["OK"]
    assert alone.codes(alone.draft().put("k", b"two").commit(nodes=(1, 2, 3))) == ["OK"]
    nodes = [("node", key_of(f"node {i}").public) for i in (1, 2, 3)]
    assert convicted(alone.node) == sorted([W1, *nodes])


def test_what_is_noticed_is_bounded() -> None:
    """Habit 6: one proof a key."""
    alone = Alone()
    for i in range(5):
        assert alone.grants(alone.draft().put(f"k{i}", b"one"))
        assert alone.codes(alone.draft().put(f"k{i}", b"two").commit(nodes=OTHERS)) == ["OK"]
    assert len(alone.node.evidence) == 1


def test_a_node_hands_proofs_to_those_who_may_read_the_slot_they_are_about() -> None:
    """Protocol 16: a proof names a key."""
    closed = NamespaceInfo("test", "register", "quorum", ("*",), readers=("w2",))
    alone = Alone(configuration_of(namespaces=(closed,)))
    assert alone.grants(alone.draft().put("k", b"one"))
    alone.prepare(alone.draft().put("k", b"two"))
    for client, count in ((b"", 0), (key_of("w3").public, 0), (key_of("w2").public, 1), (key_of("node 2").public, 1)):
        reply = alone.node.handle(m.Evidence(1, alone.configuration.digest), alone.now_us, client)
        assert isinstance(reply, m.EvidenceReply)
        assert (len(reply.proofs), reply.next) == (count, 0)


def test_proofs_come_page_by_page() -> None:
    """Habit 6."""
    alone = Alone()
    assert alone.grants(alone.draft().put("k", b"one"))
    alone.prepare(alone.draft().put("k", b"two"))
    alone.node.evidence *= m.EVIDENCE_PROOFS_MAX + 3
    found, first = 0, 0
    for _ in range(2):
        reply = alone.node.handle(m.Evidence(1, alone.configuration.digest, first), alone.now_us)
        assert isinstance(reply, m.EvidenceReply)
        found, first = found + len(reply.proofs), reply.next
    assert (found, first) == (m.EVIDENCE_PROOFS_MAX + 3, 0)


def test_a_client_keeps_what_two_verified_entries_prove() -> None:
    """Protocol 16: it needs more than f liars, and names them."""
    cluster = Cluster()
    one, two = (Draft(cluster.configuration).put("k", value).entry(nodes=OTHERS) for value in (b"one", b"two"))
    for index in OTHERS:

        def lie(request: m.Request, reply: m.Reply, index: int = index) -> m.Reply:
            if isinstance(request, m.ReadFull):
                return m.ReadFullReply(reply.id, reply.clock_us, [m.FullAnswer(two if index == 1 else one, 0)])
            if isinstance(request, m.Read):
                return m.ReadReply(reply.id, reply.clock_us, bytes([index]) * 32, [])
            return reply

        cluster.lies[index] = lie
    client = cluster.client("w2")
    token = client.read("k")
    finish(client, token)
    proofs = [proves(proof, CHAIN) for proof in client.core.evidence.values()]
    assert sorted((v.role, v.key) for v in proofs) == sorted(
        [W1, *(("node", key_of(f"node {i}").public) for i in OTHERS)]
    )


# --- what convicts, and what does not ---


def granted(draft: Draft, node: int = 1, **changes: object) -> GrantedHeader:
    grant = draft.grant(node)
    entry = draft.entry(0)
    made = GrantedHeader(
        draft.headers[0], draft.group, len(draft.headers), 0, entry.path, grant.bitmap, grant.signature
    )
    return msgspec.structs.replace(made, **changes)


ONE, TWO = Draft(CONFIGURATION).put("k", b"one"), Draft(CONFIGURATION).put("k", b"two").put("l")
NODE = key_of("node 1").public


def test_two_grants_of_a_node_for_two_headers_under_one_stamp_convict_it() -> None:
    """Protocol 5.7."""
    verdict = proves(DoubleGrant(CONFIGURATION.digest, NODE, granted(ONE), granted(TWO)), CHAIN)
    assert (verdict.role, verdict.key, verdict.slot) == ("node", NODE, slot("k"))


@pytest.mark.parametrize(
    "second",
    [
        granted(ONE),
        granted(TWO, node=2),
        granted(TWO, bitmap=b"\x02"),
        granted(TWO, bitmap=b"\x07"),
        granted(TWO, bitmap=b""),
        granted(TWO, position=1),
        granted(TWO, position=-1),
        granted(TWO, count=1 << 40),
        granted(TWO, signature=bytes(64)),
        granted(TWO, group=bytes(16)),
        granted(Draft(CONFIGURATION).put("k", b"two", at_us=START_US + 1)),
        granted(Draft(CONFIGURATION, nonce=1).put("k", b"two")),
        granted(Draft(CONFIGURATION, "w2").put("k", b"two")),
    ],
)
def test_less_than_two_grants_convicts_no_node(second: GrantedHeader) -> None:
    with pytest.raises(Malformed):
        proves(DoubleGrant(CONFIGURATION.digest, NODE, granted(ONE), second), CHAIN)


def test_a_key_that_is_no_nodes_is_not_convicted_as_a_node() -> None:
    with pytest.raises(Malformed, match="no node"):
        proves(DoubleGrant(CONFIGURATION.digest, key_of("w1").public, granted(ONE), granted(TWO)), CHAIN)


def witnessed(header: bytes, floor_us: int = 0, after: Witnessed | None = None, **changes: object) -> Witnessed:
    """A signed answer of node 1 about the key "k", given after another."""
    challenge = bytes(32) if after is None else challenge_after(CONFIGURATION.digest, after)
    made = Witnessed(b"i" * 16, challenge, START_US, floor_us, slot("k"), header, b"")
    made = msgspec.structs.replace(made, **changes)
    return msgspec.structs.replace(made, signature=key_of("node 1").sign(witness_string(CONFIGURATION.digest, made)))


def put(at_us: int, value: bytes = b"v") -> bytes:
    return Draft(CONFIGURATION).put("k", value, at_us=at_us).headers[0]


NEW, OLD, OTHER = put(START_US), put(START_US - 1), put(START_US, b"other")


def retraction(first: Witnessed, second: Witnessed) -> Retraction:
    return Retraction(CONFIGURATION.digest, NODE, first, second)


@pytest.mark.parametrize(
    ("header", "floor_us", "how"),
    [
        (OLD, 0, "older"),
        (OTHER, 0, "another"),
        (b"", START_US - 1, "gone"),
        (b"", 0, "gone"),
    ],
)
def test_signed_answers_that_take_back_earlier_ones_convict(header: bytes, floor_us: int, how: str) -> None:
    """Protocol 16, retraction."""
    first = witnessed(NEW)
    verdict = proves(retraction(first, witnessed(header, floor_us, first)), CHAIN)
    assert verdict.key == NODE
    assert how in verdict.offence


def test_a_floor_that_falls_convicts() -> None:
    first = witnessed(b"", START_US)
    assert "floor" in proves(retraction(first, witnessed(b"", START_US - 1, first)), CHAIN).offence


@pytest.mark.parametrize(
    "second",
    [
        witnessed(NEW, 0, witnessed(NEW)),
        witnessed(put(START_US + 1), 0, witnessed(NEW)),
        witnessed(b"", START_US, witnessed(NEW)),
        witnessed(OLD),
        witnessed(OLD, 0, witnessed(NEW), incarnation=b"j" * 16),
        witnessed(OLD, 0, witnessed(NEW), slot=slot("l")),
        witnessed(b"", 0, witnessed(NEW), slot=slot("l")),
        msgspec.structs.replace(witnessed(OLD, 0, witnessed(NEW)), clock_us=1),
        msgspec.structs.replace(witnessed(OLD, 0, witnessed(NEW)), signature=b""),
        witnessed(OLD, 0, witnessed(NEW), challenge=b""),
    ],
)
def test_signed_answers_that_take_nothing_back_convict_nobody(second: Witnessed) -> None:
    """Newer, evicted under its floor, of another start, of another slot, not shown to be later, or not signed."""
    with pytest.raises(Malformed):
        proves(retraction(witnessed(NEW), second), CHAIN)


def test_answers_about_fields_and_about_namespaces_without_quorums_convict_nobody() -> None:
    field = slot_of(b"test", b"k", b"f")
    first = witnessed(b"", START_US, slot=field)
    with pytest.raises(Malformed):
        proves(retraction(first, witnessed(b"", 0, first, slot=field)), CHAIN)


# --- what no correct party does ---

STEP = st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 1), st.integers(-3, 3))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(steps=st.lists(STEP, min_size=4, max_size=40))
def test_no_schedule_makes_a_correct_node_sign_a_proof_against_itself(steps: list[tuple[int, int, int, int]]) -> None:
    """Protocol 5.7 and 16: whatever an equivocating writer prepares and gets certified by all the other nodes, in
    league with it; with evictions, promises that age out, starts without state and clocks that jump while it runs."""
    alone = Alone(CONFIGURATION)
    grants: dict[bytes, bytes] = {}
    before: Witnessed | None = None
    incarnation = 0
    for what, stamp, value, jump in steps:
        draft = alone.draft().put("k", b"v%d" % value, at_us=START_US + stamp * SECOND_US // 2)
        node, now_us = alone.node, alone.now_us
        if what < 4:
            reply = node.handle(draft.prepare(), now_us)
            assert isinstance(reply, m.PrepareReply)
            if reply.bitmap == b"\1":
                assert grants.setdefault(draft.headers[0][3:51], draft.headers[0]) == draft.headers[0]
        elif what < 7:
            node.handle(draft.commit(nodes=OTHERS), now_us)
        elif what == 7 and slot("k") in node.slots.current:
            node.slots.drop(slot("k"))
        elif what == 8:
            # While it runs, its clock may go anywhere.
            alone.now_us += jump * 4 * SECOND_US
            node.tick(alone.now_us)
        elif what == 9 and jump == 3:
            # Across a start it does not run backwards (protocol 1).
            incarnation, before = incarnation + 1, None
            alone.now_us = now_us = max(START_US + 2 * SECOND_US, now_us)
            alone.node = node = Node(
                CONFIGURATION, 0, key_of("node 0").sign, Verifier(verify, [CONFIGURATION]), started_us=now_us
            )
        now = noticing.statement_of(node, slot("k"), bytes(32), now_us)
        if before is not None:
            assert retracts(before, now) == ""
        before = now
    assert all(role == "writer" or key != node.key for role, key in convicted(alone.node))


def test_the_schedules_above_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that they are about, broken: they find it."""
    monkeypatch.setattr(noticing, "has_granted", lambda node, held: True)
    schedule = test_no_schedule_makes_a_correct_node_sign_a_proof_against_itself.hypothesis.inner_test  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        schedule([(0, 0, 0, 0), (4, 0, 1, 0), (0, 0, 1, 0)])


class Intents:
    """All headers that a cluster's clients asked promises for, by slot and stamp."""

    def __init__(self) -> None:
        self.seen: dict[bytes, bytes] = {}

    def __call__(self, request: m.Request) -> None:
        for header in request.headers if isinstance(request, m.Prepare) else ():
            assert self.seen.setdefault(header[3:51] + header_slot(header), header) == header, "two under one stamp"


@pytest.mark.parametrize("seed", range(12))
def test_a_writer_signs_one_header_a_stamp_whatever_nodes_answer(seed: int) -> None:
    """Protocol 5.7: floors, clocks and refusals made up by more liars than there should be; two clients of one key."""
    rng = random.Random(seed)
    cluster = Cluster()
    intents = Intents()

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        intents(request)
        reply = msgspec.structs.replace(reply, clock_us=reply.clock_us + rng.choice((0, 0, 0, -3, 3)) * SECOND_US)
        if isinstance(request, m.Prepare) and rng.random() < 0.5:
            count = len(request.headers)
            code = rng.choice((m.BELOW_FLOOR, m.AHEAD, m.BUSY, m.STALE))
            times = (0, START_US, cluster.now_us + rng.randrange(9 * SECOND_US), TIME_US_MAX - 1, TIME_US_MAX)
            refusals = [m.Refusal(i, code, rng.choice(times)) for i in range(count)]
            return m.PrepareReply(request.id, reply.clock_us, bytes((count + 7) // 8), b"", refusals)
        return None if rng.random() < 0.1 else reply

    for index in range(rng.randrange(1, 5)):
        cluster.lies[index] = lie
    for index in range(4):
        cluster.lies.setdefault(index, lambda request, reply: (intents(request), reply)[1])
    clients = [cluster.client("w1"), cluster.client("w1"), cluster.client("w2")]
    for _ in range(20):
        client = rng.choice(clients)
        for key in rng.sample("abc", rng.randrange(1, 4)):
            client.core.write(slot(key), PUT, rng.randbytes(4), 0, object())
        client.run()
        cluster.advance(rng.choice((0, 1, 20_000, SECOND_US)))
    cluster.advance(20 * SECOND_US)
    assert len(intents.seen) >= 20


def test_a_writer_that_forgets_what_it_proposed_within_a_batch_uses_no_stamp_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Protocol 15, highest stamp time seen: what is noted of one slot of a batch may push out another's, just as
    cluster time comes to that one's stamp."""
    monkeypatch.setattr(coordinators, "_AHEAD_MAX", 2)
    cluster, intents = Cluster(), Intents()
    client = cluster.client("w1")
    assert isinstance(finish(client, client.write("a", b"1")), Written)
    core, now_us = client.core, cluster.now_us
    then_us = now_us + 1_000

    def propose(keys: str, at_us: int) -> list[int]:
        for key in keys:
            core.write(slot(key), PUT, b"x", 0, object())
        core.flush(at_us)
        sent = [request for _, request in core.outbox if isinstance(request, m.Prepare)]
        core.outbox.clear()
        for request in sent:
            intents(request)
        core.finish_write(core._in_flight[slot("x")], Written(b""))
        return [int.from_bytes(header[3:11], "big") for request in sent for header in request.headers]

    assert core.clock.offset_us == 0
    core.note_ahead(slot("x"), then_us - 1, now_us)
    assert propose("x", now_us) == [then_us]
    core.note_ahead(slot("a"), then_us + 5, now_us)
    assert propose("ax", then_us) == [then_us + 6, then_us + 1]


def test_at_the_end_of_time_stamps_still_differ() -> None:
    """Protocol 5.7: where no later time is left, the nonce differs."""
    cluster = Cluster()
    client = cluster.client("w1")
    stamps = []
    for _ in range(2):
        client.core.note_ahead(slot("a"), TIME_US_MAX, cluster.now_us)
        client.core.write(slot("a"), PUT, b"x", 0, object())
        client.core.flush(cluster.now_us)
        sent = [request for _, request in client.core.outbox if isinstance(request, m.Prepare)]
        stamps += [header[3:51] for request in sent for header in request.headers]
        client.core.outbox.clear()
        client.core.abandon(cluster.now_us)
    assert len(set(stamps)) == len(stamps) == 2


def test_evidence_has_a_vector_of_its_own() -> None:
    """The signed string of an answer is what the page says."""
    made = Witnessed(b"i" * 16, b"c" * 32, 1, 2, b"slot", b"header", b"")
    expected = b"quorumcache witness 1\0" + b"d" * 32 + b"i" * 16 + b"c" * 32
    expected += (1).to_bytes(8, "big") + (2).to_bytes(8, "big") + b"\0\4slotheader"
    assert witness_string(b"d" * 32, made) == expected


def test_proofs_of_different_kinds_are_told_apart() -> None:
    """And a delete is a header like any other."""
    gone = Draft(CONFIGURATION).put("k", b"", kind=DELETE)
    signed = [SignedHeader(d.headers[0], d.group, 1, 0, b"", d.intent) for d in (ONE, gone)]
    assert proves(Equivocation(CONFIGURATION.digest, *signed), CHAIN).role == "writer"
