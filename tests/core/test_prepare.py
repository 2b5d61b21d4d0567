"""Prepare at one node (protocol 3): every reason to reject a batch, every refusal, and which rule comes first."""

import dataclasses

import msgspec
import pytest

from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string, intent_string
from quorumcache.core.config import NamespaceInfo, WriterInfo
from quorumcache.core.evidence import Equivocation, verify_equivocation
from quorumcache.core.model import DELETE, Malformed, slot_of
from quorumcache.core.node import NodeLimits
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of, slot
from tests.making import SECOND_US, Alone, Draft


def holding(alone: Alone, at_us: int, writer: str = "w1", key: str = "k", value: bytes = b"held") -> Draft:
    """Have the node hold an entry with this stamp time."""
    draft = alone.draft(writer).put(key, value, at_us=at_us)
    assert alone.commit(draft) == ["OK"]
    return draft


# --- the whole batch ---


def test_a_grant_covers_the_batch_with_one_signature() -> None:
    """protocol 2, Grant: one signature over (configuration digest, group, root, bitmap)."""
    alone = Alone()
    draft = alone.draft()
    for i in range(9):
        draft.put(f"k{i}")
    reply = alone.prepare(draft)
    assert reply.bitmap == b"\xff\x01"
    message = grant_string(alone.configuration.digest, draft.group, draft.root, reply.bitmap)
    assert verify(key_of("node 0").public, message, reply.signature)
    assert reply.clock_us == alone.now_us
    assert reply.refusals == []


def test_a_mixed_batch_grants_what_it_can() -> None:
    """protocol 3, prepare goes header by header: the bitmap and the refusals share out the batch."""
    alone = Alone()
    holding(alone, START_US + 5, key="b")
    reply = alone.prepare(alone.draft().put("a").put("b").put("c"))
    assert reply.bitmap == b"\x05"
    assert [(r.position, r.code) for r in reply.refusals] == [(1, m.STALE)]


@pytest.mark.parametrize("damage", ["signature", "writer", "group"])
def test_reject_bad_signature(damage: str) -> None:
    """protocol 3, prepare: the whole batch is rejected on a bad signature."""
    alone = Alone()
    draft = alone.draft().put()
    request = draft.prepare()
    string = intent_string(alone.configuration.digest, draft.group, draft.root)
    if damage == "signature":
        request.signature = bytes(64)
    elif damage == "writer":
        request.signature = key_of("w2").sign(string)
    else:
        request.signature = draft.key.sign(intent_string(alone.configuration.digest, bytes(16), draft.root))
    assert alone.rejected(request).code == m.BAD_SIGNATURE
    assert alone.promises() == 0


def test_reject_another_configuration() -> None:
    """protocol 3, prepare: another configuration than this node's current one."""
    alone = Alone()
    other = configuration_of(epoch=2)
    reject = alone.rejected(Draft(other).put().prepare())
    assert reject.code == m.WRONG_CONFIGURATION
    assert "epoch 1" in reject.detail


def test_reject_bad_form() -> None:
    """protocol 2, checks of form: nothing of a malformed batch is granted."""
    alone = Alone()
    draft = alone.draft().put("a").put("b")
    good = draft.prepare()
    twice = alone.draft().put("a").put("a", b"other", at_us=START_US + 1)
    foreign = alone.draft().put("a")
    foreign.headers += alone.draft("w2").put("b").headers
    foreign.salted.append(b"")
    short = alone.draft().put("a")
    short.headers[0] = short.headers[0][:-1]
    for what, request in {
        "no headers": msgspec.structs.replace(good, headers=[]),
        "too many headers": msgspec.structs.replace(good, headers=good.headers * 513),
        "a slot twice": twice.prepare(),
        "a header of another writer": foreign.prepare(),
        "an unknown group": msgspec.structs.replace(good, group=bytes(16)),
        "a header cut short": msgspec.structs.replace(good, headers=[short.headers[0]]),
    }.items():
        assert alone.rejected(request).code == m.BAD_FORM, what
    assert not alone.node.slots.promises


def test_reject_a_slot_of_another_group() -> None:
    """protocol 2: a slot belongs to the named group, which verifiers derive themselves."""
    configuration = configuration_of(nodes=7, shards=32)
    keys = [f"k{i}" for i in range(60)]
    first = configuration.group_of(slot(keys[0]))
    other = next(key for key in keys if configuration.group_of(slot(key)) is not first)
    alone = Alone(configuration, index=first.members[0])
    assert alone.grants(alone.draft().put(keys[0]))
    assert alone.rejected(alone.draft().put(keys[0]).put(other).prepare()).code == m.BAD_FORM
    outside = next(i for i in range(7) if i not in first.members)
    assert "serve" in Alone(configuration, index=outside).rejected(alone.draft().put(keys[0]).prepare()).detail


def test_reject_what_no_node_answers() -> None:
    """Habit 5: a peer's nonsense is answered, never raised."""
    alone = Alone()
    assert alone.rejected(m.Request(1, alone.configuration.digest)).code == m.BAD_FORM


# --- rule by rule ---


def test_rule_1_denied_rights() -> None:
    """protocol 3, prepare rule 1: rights, unknown namespaces, revoked and unknown writers."""
    configuration = configuration_of(
        writers=("w1", "w2"),
        namespaces=(NamespaceInfo("test", "register", "quorum", ("w1",), 1 << 20, 0),),
    )
    alone = Alone(configuration)
    assert alone.grants(alone.draft("w1").put())
    assert alone.refusal(alone.draft("w2").put()).code == m.DENIED
    assert alone.refusal(alone.draft("nobody").put()).code == m.DENIED
    elsewhere = alone.refusal(alone.draft("w1").put(slot_bytes=slot_of(b"else", b"k")))
    assert elsewhere.code == m.DENIED
    assert "namespace" in elsewhere.detail


@pytest.mark.parametrize("status", ["revoked", "retired"])
def test_rule_1_denied_status(status: str) -> None:
    """protocol 3, prepare rule 1, and protocol 5.5: neither a revoked nor a retired writer gets new grants."""
    writers = (WriterInfo("w1", key_of("w1").public, status),)
    alone = Alone(dataclasses.replace(configuration_of(), writers=writers))
    refusal = alone.refusal(alone.draft().put())
    assert refusal.code == m.DENIED
    assert ("revoked" in refusal.detail) == (status == "revoked")


def test_rule_1_denied_limits() -> None:
    """protocol 3, prepare rule 1: limits on size and lifetime, and what the type forbids."""
    alone = Alone(configuration_of(namespaces=(NamespaceInfo("test", "register", "quorum", ("*",), 10, 60),)))
    soon = START_US + 30 * SECOND_US
    assert alone.grants(alone.draft().put("a", b"0123456789", expires_at_us=soon))
    assert alone.refusal(alone.draft().put("b", b"0123456789a", expires_at_us=soon)).code == m.DENIED
    assert alone.refusal(alone.draft().put("c", expires_at_us=START_US + 62 * SECOND_US)).code == m.DENIED
    assert alone.refusal(alone.draft().put("d", expires_at_us=0)).code == m.DENIED
    assert alone.refusal(alone.draft().put("e", expires_at_us=soon, metadata=b"m")).code == m.DENIED
    assert alone.refusal(alone.draft().put(expires_at_us=soon, slot_bytes=slot_of(b"test", b"k", b"f"))).code == (
        m.DENIED
    )
    assert alone.grants(alone.draft().put("f", b"", kind=DELETE)), "a delete needs no lifetime"


def test_rule_2_stale_with_proof() -> None:
    """protocol 3, prepare rule 2: STALE with the current header and certificate, but without its value."""
    alone = Alone()
    held = holding(alone, START_US)
    for at_us in (START_US - 1, START_US):
        refusal = alone.refusal(alone.draft().put("k", b"other", at_us=at_us))
        assert refusal.code == m.STALE
        assert refusal.proof is not None
        assert refusal.proof.header == held.headers[0]
        assert refusal.proof.salted == b""
        assert alone.node.verifier.check_entry(refusal.proof, with_value=False).digest == held.leaves
    assert alone.grants(alone.draft().put("k", b"other", at_us=START_US + 1))


def test_rule_2_the_very_same_header_is_granted_again() -> None:
    """protocol 3, prepare rule 2: (the very same header: granted again)."""
    alone = Alone()
    assert alone.grants(holding(alone, START_US))
    assert alone.promises() == 0, "and nothing is promised: it is current"


def test_rule_2_proofs_stay_within_a_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """Habit 6: a reply's proofs are bounded; beyond that, refusals come without."""
    monkeypatch.setattr(m, "REPLY_VALUES_BYTES_MAX", 2000)
    alone = Alone()
    for i in range(4):
        holding(alone, START_US + 5, key=f"k{i}")
    draft = alone.draft()
    for i in range(4):
        draft.put(f"k{i}")
    proofs = [refusal.proof is not None for refusal in alone.prepare(draft).refusals]
    assert proofs == [True, False, False, False]


def test_rule_3_the_same_promise_is_granted_again() -> None:
    """protocol 3, prepare rule 3: granted again, with the same signature, and recorded once."""
    alone = Alone()
    draft = alone.draft().put()
    first, second = alone.prepare(draft), alone.prepare(draft)
    assert (first.bitmap, first.signature) == (second.bitmap, second.signature)
    assert alone.promises() == 1


def test_rule_3_in_another_batch_too() -> None:
    """protocol 3, prepare rule 3: the header decides, not the batch it comes in."""
    alone = Alone()
    assert alone.grants(alone.draft().put("a"))
    assert alone.prepare(alone.draft().put("a").put("b")).bitmap == b"\x03"
    assert alone.promises("a") == 1


def test_rule_4_equivocation_leaves_evidence() -> None:
    """protocol 3, prepare rule 4, and protocol 5.7: both intents are kept, and convict the writer for anyone."""
    alone = Alone()
    assert alone.grants(alone.draft().put("k", b"one"))
    assert alone.prepare(alone.draft().put("a").put("k", b"two")).refusals[0].code == m.EQUIVOCATION
    (proof,) = alone.node.evidence
    assert verify_equivocation(proof, alone.node.verifier) == key_of("w1").public
    for damaged in (
        msgspec.structs.replace(proof, second=proof.first),
        msgspec.structs.replace(proof, configuration=bytes(32)),
        Equivocation(proof.configuration, proof.first, msgspec.structs.replace(proof.second, signature=bytes(64))),
        Equivocation(proof.configuration, proof.first, msgspec.structs.replace(proof.second, position=7)),
    ):
        with pytest.raises(Malformed):
            verify_equivocation(damaged, alone.node.verifier)


def test_rule_4_two_slots_or_stamps_are_no_equivocation() -> None:
    """protocol 5.7: only one (slot, stamp) with different digests convicts; correct parties never produce one."""
    alone = Alone()
    assert alone.grants(alone.draft().put("k", b"one"))
    assert alone.grants(alone.draft().put("l", b"two"))
    assert alone.grants(alone.draft().put("k", b"two", at_us=START_US + 1))
    assert alone.grants(alone.draft(nonce=1).put("k", b"three"))
    assert alone.node.evidence == []


def test_rule_4_evidence_is_bounded() -> None:
    """Habit 6: one proof convicts a writer, and at most evidence_max writers have one kept."""
    alone = Alone(limits=NodeLimits(evidence_max=2))
    for writer in ("w1", "w2", "w3"):
        assert alone.grants(alone.draft(writer).put("k", b"one"))
        for i in range(3):
            assert alone.refusal(alone.draft(writer).put("k", b"%d" % i)).code == m.EQUIVOCATION
    convicted = [verify_equivocation(proof, alone.node.verifier) for proof in alone.node.evidence]
    assert convicted == [key_of("w1").public, key_of("w2").public]


@pytest.mark.parametrize("present", [False, True])
def test_rule_5_below_floor(present: bool) -> None:
    """protocol 3, prepare rule 5: stamp.time <= floor, whether the slot is absent or not, with the floor."""
    alone = Alone()
    if present:
        holding(alone, START_US - 50)
    alone.node.slots.raise_floor(alone.node.slots.shard(slot("k")), START_US)
    refusal = alone.refusal(alone.draft().put(at_us=START_US))
    assert (refusal.code, refusal.time_us) == (m.BELOW_FLOOR, START_US)
    assert alone.grants(alone.draft().put(at_us=START_US + 1))


def test_rule_5_a_floor_holds_for_its_shard_only() -> None:
    """protocol 3: per shard, a floor."""
    alone = Alone()
    shard_of = alone.configuration.shard_of
    other = next(k for k in map(str, range(99)) if shard_of(slot(k)) != shard_of(slot("k")))
    alone.node.slots.raise_floor(alone.node.slots.shard(slot("k")), START_US)
    assert alone.grants(alone.draft().put(other))


def test_rule_6_ahead() -> None:
    """protocol 3, prepare rule 6: stamp.time > now + max_skew, with the node's clock."""
    alone = Alone()
    assert alone.grants(alone.draft().put("a", at_us=START_US + SECOND_US))
    refusal = alone.refusal(alone.draft().put("b", at_us=START_US + SECOND_US + 1))
    assert (refusal.code, refusal.time_us) == (m.AHEAD, alone.now_us)


def test_rule_7_busy_writer() -> None:
    """protocol 3, prepare rule 7: max_open promises of one writer on one slot; another writer is not in the way."""
    alone = Alone()
    for i in range(4):
        assert alone.grants(alone.draft().put(at_us=START_US + i))
    assert alone.refusal(alone.draft().put(at_us=START_US + 9)).code == m.BUSY
    assert alone.grants(alone.draft("w2").put(at_us=START_US + 9))
    assert alone.grants(alone.draft().put("l"))


def test_rule_7_busy_table() -> None:
    """protocol 3, prepare rule 7: the node's table of promises is full of young ones."""
    alone = Alone(limits=NodeLimits(promises_max=3))
    assert alone.prepare(alone.draft().put("a").put("b").put("c").put("d")).bitmap == b"\x07"
    assert alone.refusal(alone.draft().put("d")).code == m.BUSY
    assert alone.grants(alone.draft().put("a")), "what is promised already is granted again (rule 3)"
    assert alone.commit(alone.draft().put("a")) == ["OK"]
    assert alone.grants(alone.draft().put("d")), "a commit makes room"


def test_rule_8_grant_is_recorded() -> None:
    """protocol 3, prepare rule 8: record the promise, grant."""
    alone = Alone()
    assert alone.grants(alone.draft().put())
    assert alone.promises() == 1
    assert alone.value() is None, "a prepared write is invisible (protocol 4)"


# --- precedence: the first rule that applies decides ---


def world(rules: set[int]) -> tuple[Alone, Draft]:
    """A node and a header to which all the given prepare rules (1, 2, 4, 5, 6, 7) apply."""
    late = 6 in rules
    at_us = START_US + (2 * SECOND_US if late else 0)
    alone = Alone(
        configuration_of(revoked=("w1",) if 1 in rules else ()),
        limits=NodeLimits(promises_max=4 if 7 in rules else 100),
    )
    # Everything is put in place while the clock is late enough; then it may be set back, so that the header is AHEAD.
    alone.now_us = at_us
    insider = Alone(configuration_of())
    draft = Draft(alone.configuration, "w1").put("k", b"v", at_us=at_us)
    slots = alone.node.slots
    if 4 in rules:
        trusting = Alone(insider.configuration)
        trusting.now_us = at_us
        assert trusting.grants(Draft(insider.configuration, "w1").put("k", b"another", at_us=at_us))
        for promise in trusting.node.slots.promises:
            slots.add_promise(promise)
    if 7 in rules:
        alone.prepare(alone.draft("w2").put("m1").put("m2").put("m3").put("m4"))
    if 2 in rules:
        assert alone.commit(alone.draft("w3").put("k", b"held", at_us=at_us + 1)) == ["OK"]
    if 4 in rules and 2 in rules:
        slots.add_promise(next(iter(trusting.node.slots.promises)))
    if 5 in rules:
        slots.raise_floor(slots.shard(slot("k")), at_us)
    if late:
        alone.now_us = START_US
    return alone, draft


CODES = {1: m.DENIED, 2: m.STALE, 4: m.EQUIVOCATION, 5: m.BELOW_FLOOR, 6: m.AHEAD, 7: m.BUSY}


@pytest.mark.parametrize("first", list(CODES))
def test_precedence_alone(first: int) -> None:
    """protocol 3, prepare: each rule by itself gives its own refusal."""
    alone, draft = world({first})
    assert alone.refusal(draft).code == CODES[first]


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a in CODES for b in CODES if a < b], ids=lambda rule: f"rule{rule}"
)
def test_precedence_of_two(first: int, second: int) -> None:
    """protocol 3, prepare: header by header, the first rule that applies."""
    alone, draft = world({first, second})
    assert alone.refusal(draft).code == CODES[first]


def test_precedence_of_all() -> None:
    """protocol 3, prepare: all rules at once, taken away one by one."""
    rules = dict.fromkeys(CODES)
    for first in CODES:
        alone, draft = world(set(rules))
        assert alone.refusal(draft).code == CODES[first]
        del rules[first]


@pytest.mark.parametrize("second", [5, 6, 7])
def test_precedence_rule_3_before_what_came_later(second: int) -> None:
    """protocol 3, prepare rule 3 comes before 5, 6 and 7: a resent prepare is granted again whatever has changed."""
    alone = Alone(limits=NodeLimits(promises_max=1))
    draft = alone.draft().put()
    assert alone.grants(draft)
    if second == 5:
        alone.node.slots.raise_floor(alone.node.slots.shard(slot("k")), START_US + 9)
    elif second == 6:
        alone.now_us -= 5 * SECOND_US
    else:
        assert alone.refusal(alone.draft().put("another")).code == m.BUSY
    assert alone.grants(draft)
