"""Protocol 3, prepare: every rule, every refusal, and which rule comes first."""

from __future__ import annotations

import itertools

import pytest

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string
from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.evidence import verify_equivocation
from quorumcache.core.model import slot_of
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.quorum import full_bitmap
from quorumcache.wire.keys import verify
from tests import craft
from tests.cluster import START_US, configuration_of, key_of, slot

SKEW_US = 1_000_000


def node_of(configuration: Configuration | None = None, index: int = 0, **limits: int) -> Node:
    configuration = configuration or configuration_of()
    sign = key_of(f"node {index}").sign
    verifier = Verifier(verify, [configuration])
    return Node(configuration, index, sign, verifier, started_us=None, limits=NodeLimits(**limits))


def ask(node: Node, *batch: craft.Crafted, now_us: int = START_US) -> m.PrepareReply:
    reply = node.handle(craft.prepare(node.configuration, list(batch)), now_us)
    assert isinstance(reply, m.PrepareReply), reply
    return reply


def code_of(node: Node, crafted: craft.Crafted, now_us: int = START_US) -> int:
    """0 for a grant, else why it is refused."""
    reply = ask(node, crafted, now_us=now_us)
    if reply.bitmap == b"\x01":
        assert not reply.refusals
        return 0
    assert reply.bitmap == b"\x00"
    assert reply.signature == b""
    return reply.refusals[0].code


def store(node: Node, crafted: craft.Crafted, now_us: int = START_US) -> None:
    reply = node.handle(craft.commit(node.configuration, craft.entry(node.configuration, crafted)), now_us)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == bytes((m.OK,)), reply


def raise_floor(node: Node, key: str, time_us: int) -> None:
    node.slots.raise_floor(node.slots.shard(slot(key)), time_us)


# --- grants ---


@pytest.mark.parametrize("f", [0, 1, 2, 3])
def test_prepare_rule_8_a_grant_is_the_nodes_signature_over_configuration_group_root_and_bitmap(f: int) -> None:
    node = node_of(configuration_of(f), index=f)
    batch = [craft.craft(f"k{i}", START_US) for i in range(11)]
    reply = ask(node, *batch)
    configuration = node.configuration
    group = configuration.group_of(slot("a"))
    assert reply.bitmap == full_bitmap(11) == b"\xff\x07"
    assert verify(
        node.key, grant_string(configuration.digest, group.id, craft.root_of(batch), reply.bitmap), reply.signature
    )
    assert reply.clock_us == START_US
    assert [p.header.slot for p in node.slots.promises] == [slot(f"k{i}") for i in range(11)]


def test_prepare_grants_what_it_can_of_a_batch_and_signs_only_that() -> None:
    node = node_of()
    raise_floor(node, "b", START_US)
    fresh = [k for k in ("a", "c", "d") if node.slots.shard(slot(k)) is not node.slots.shard(slot("b"))]
    batch = [craft.craft("b", START_US), *(craft.craft(k, START_US) for k in fresh)]
    reply = ask(node, *batch)
    assert [(r.position, r.code) for r in reply.refusals] == [(0, m.BELOW_FLOOR)]
    assert reply.bitmap == bytes(((1 << len(batch)) - 2,))
    group = node.configuration.group_of(slot("a"))
    message = grant_string(node.configuration.digest, group.id, craft.root_of(batch), reply.bitmap)
    assert verify(node.key, message, reply.signature)


def test_prepare_rule_3_the_same_header_is_granted_again_and_recorded_once() -> None:
    node = node_of()
    first = craft.craft("a", START_US)
    replies = [ask(node, first), ask(node, first), ask(node, first, craft.craft("b", START_US))]
    assert [r.bitmap for r in replies] == [b"\x01", b"\x01", b"\x03"]
    assert len(node.slots.promises) == 2


def test_prepare_rule_2_the_current_header_itself_is_granted_again() -> None:
    node = node_of()
    held = craft.craft("a", START_US)
    store(node, held)
    assert code_of(node, held) == 0
    assert not node.slots.promises


# --- rejections of a whole batch ---


def rejected(node: Node, request: m.Request) -> m.Reject:
    reply = node.handle(request, START_US)
    assert isinstance(reply, m.Reject), reply
    assert not node.slots.promises
    return reply


def test_prepare_of_another_configuration_is_rejected() -> None:
    node = node_of()
    other = configuration_of(shards=16)
    reply = rejected(node, craft.prepare(other, [craft.craft("a", START_US)]))
    assert reply.code == m.WRONG_CONFIGURATION
    assert len(reply.detail) <= 400


def test_prepare_with_a_bad_signature_is_rejected() -> None:
    node = node_of()
    request = craft.prepare(node.configuration, [craft.craft("a", START_US)])
    request.signature = bytes(64)
    assert rejected(node, request).code == m.BAD_SIGNATURE


def test_prepare_whose_intent_is_over_other_headers_is_rejected() -> None:
    """Protocol 2, checks of form: the root is recomputed from the headers."""
    node = node_of()
    request = craft.prepare(node.configuration, [craft.craft("a", START_US)])
    request.headers = [craft.craft("a", START_US + 1).raw]
    assert rejected(node, request).code == m.BAD_SIGNATURE


def test_prepare_of_anothers_header_is_rejected() -> None:
    """Protocol 2, checks of form: every header's writer is the intent's signer."""
    node = node_of()
    batch = [craft.craft("a", START_US), craft.craft("b", START_US, writer="w2")]
    assert rejected(node, craft.prepare(node.configuration, batch)).code == m.BAD_FORM


def test_prepare_with_a_slot_twice_is_rejected() -> None:
    node = node_of()
    batch = [craft.craft("a", START_US), craft.craft("a", START_US + 1)]
    assert rejected(node, craft.prepare(node.configuration, batch)).code == m.BAD_FORM


def test_prepare_for_an_unknown_group_is_rejected() -> None:
    node = node_of()
    request = craft.prepare(node.configuration, [craft.craft("a", START_US)])
    request.group = bytes(16)
    assert rejected(node, request).code == m.BAD_FORM


def test_prepare_at_a_node_outside_the_group_is_rejected() -> None:
    configuration = configuration_of(nodes=9)
    group = configuration.group_of(slot("a"))
    outsider = next(i for i in range(9) if i not in group.members)
    node = node_of(configuration, outsider)
    assert rejected(node, craft.prepare(configuration, [craft.craft("a", START_US)])).code == m.BAD_FORM


def test_prepare_of_a_slot_of_another_group_is_rejected() -> None:
    """Protocol 2, checks of form: slots belong to the named group, which verifiers derive themselves."""
    configuration = configuration_of(nodes=9, shards=64)
    group = configuration.group_of(slot("a"))
    foreign = next(f"k{i}" for i in range(99) if configuration.group_of(slot(f"k{i}")) is not group)
    node = node_of(configuration, group.members[0])
    request = craft.prepare(configuration, [craft.craft("a", START_US), craft.craft(foreign, START_US)])
    assert rejected(node, request).code == m.BAD_FORM


@pytest.mark.parametrize("cut", [0, 1, 94, 95, 96, 100, -1])
def test_prepare_with_a_header_cut_short_is_rejected(cut: int) -> None:
    node = node_of()
    request = craft.prepare(node.configuration, [craft.craft("a", START_US)])
    request.headers = [request.headers[0][:cut]]
    assert rejected(node, request).code == m.BAD_FORM


# --- rule 1 ---


def test_prepare_rule_1_refuses_whom_the_configuration_gives_no_right() -> None:
    spaces = (NamespaceInfo("test", "register", "quorum", ("w2",), 0, 0),)
    node = node_of(configuration_of(namespaces=spaces))
    assert code_of(node, craft.craft("a", START_US, writer="w1")) == m.DENIED
    assert code_of(node, craft.craft("a", START_US, writer="w2")) == 0
    assert code_of(node, craft.craft("a", START_US, writer="stranger")) == m.DENIED


def test_prepare_rule_1_refuses_revoked_writers() -> None:
    node = node_of(configuration_of(revoked=("w1",)))
    reply = ask(node, craft.craft("a", START_US))
    assert reply.refusals[0].code == m.DENIED
    assert "revoked" in reply.refusals[0].detail


def test_prepare_rule_1_limits_and_a_limit_of_0_is_none() -> None:
    bounded = node_of(configuration_of(namespaces=(NamespaceInfo("test", value_bytes_max=4),)))
    assert code_of(bounded, craft.craft("a", START_US, b"1234")) == 0
    assert code_of(bounded, craft.craft("b", START_US, b"12345")) == m.DENIED
    unbounded = node_of(configuration_of(namespaces=(NamespaceInfo("test"),)))
    assert code_of(unbounded, craft.craft("a", START_US, b"12345")) == 0


def test_prepare_rule_1_bounds_how_long_values_live() -> None:
    node = node_of(configuration_of(namespaces=(NamespaceInfo("test", ttl_s_max=60),)))
    latest_us = START_US + 60_000_000 + SKEW_US
    assert code_of(node, craft.craft("a", START_US)) == m.DENIED
    assert code_of(node, craft.craft("a", START_US, expires_at_us=latest_us + 1)) == m.DENIED
    assert code_of(node, craft.craft("a", START_US, expires_at_us=latest_us)) == 0
    assert code_of(node, craft.craft("b", START_US, None)) == 0


@pytest.mark.parametrize("field", [b"x", b"\x00\x00", b"a\x00\x00", b"\x00"])
def test_prepare_rule_1_a_register_has_no_fields(field: bytes) -> None:
    """A field that ends with two zero bytes must not pass for the empty one."""
    node = node_of()
    assert code_of(node, craft.craft(slot_of(b"test", b"a", field), START_US)) == m.DENIED


def test_prepare_rule_1_a_register_has_no_metadata() -> None:
    node = node_of()
    assert code_of(node, craft.craft("a", START_US, metadata=b"m")) == m.DENIED


def test_prepare_rule_1_an_unknown_namespace_is_denied() -> None:
    assert code_of(node_of(), craft.craft(slot_of(b"other", b"a"), START_US)) == m.DENIED


# --- the other rules ---


def test_prepare_rule_2_stale_carries_a_proof_without_the_value() -> None:
    node = node_of()
    held = craft.craft("a", START_US + 10)
    store(node, held)
    refusal = ask(node, craft.craft("a", START_US + 5)).refusals[0]
    assert refusal.code == m.STALE
    assert refusal.proof is not None
    assert refusal.proof.salted == b""
    header = Verifier(verify, [node.configuration]).check_entry(refusal.proof, with_value=False)
    assert header.digest == held.digest


def test_prepare_rule_2_equal_stamps_are_stale() -> None:
    node = node_of()
    store(node, craft.craft("a", START_US, b"one"))
    assert code_of(node, craft.craft("a", START_US, b"two")) == m.STALE


def test_prepare_rule_2_compares_whole_stamps_not_times() -> None:
    node = node_of()
    store(node, craft.craft("a", START_US, nonce=7))
    assert code_of(node, craft.craft("a", START_US, nonce=6)) == m.STALE
    assert code_of(node, craft.craft("a", START_US, nonce=8)) == 0


def test_prepare_rule_4_equivocation_keeps_both_intents_as_evidence_that_convicts() -> None:
    node = node_of()
    first = [craft.craft("b", START_US), craft.craft("a", START_US, b"one"), craft.craft("c", START_US)]
    assert ask(node, *first).bitmap == b"\x07"
    assert code_of(node, craft.craft("a", START_US, b"two")) == m.EQUIVOCATION
    assert len(node.evidence) == 1
    assert verify_equivocation(node.evidence[0], Verifier(verify, [node.configuration])) == key_of("w1").public


def test_prepare_rule_4_one_writer_cannot_crowd_out_evidence_against_others() -> None:
    node = node_of(evidence_max=2)
    for writer, attempt in itertools.product(("w1", "w2", "w3"), range(4)):
        code_of(node, craft.craft("a", START_US, b"%d" % attempt, writer=writer))
    writers = [verify_equivocation(e, Verifier(verify, [node.configuration])) for e in node.evidence]
    assert writers == [key_of("w1").public, key_of("w2").public]


def test_prepare_rule_5_at_the_floor_is_below_it_and_the_floor_is_told() -> None:
    node = node_of()
    raise_floor(node, "a", START_US)
    refusal = ask(node, craft.craft("a", START_US)).refusals[0]
    assert (refusal.code, refusal.time_us) == (m.BELOW_FLOOR, START_US)
    assert code_of(node, craft.craft("a", START_US + 1)) == 0


def test_prepare_rule_5_holds_where_the_slot_is_not_absent_too() -> None:
    node = node_of()
    store(node, craft.craft("a", START_US - 10))
    raise_floor(node, "a", START_US)
    assert code_of(node, craft.craft("a", START_US - 5)) == m.BELOW_FLOOR


def test_prepare_rule_6_ahead_tells_the_clock_and_the_bound_is_exact() -> None:
    node = node_of()
    assert code_of(node, craft.craft("a", START_US + SKEW_US)) == 0
    refusal = ask(node, craft.craft("b", START_US + SKEW_US + 1)).refusals[0]
    assert (refusal.code, refusal.time_us) == (m.AHEAD, START_US)


def test_prepare_rule_7_a_writer_has_at_most_max_open_promises_on_a_slot() -> None:
    node = node_of()
    for i in range(4):
        assert code_of(node, craft.craft("a", START_US + i)) == 0
    assert code_of(node, craft.craft("a", START_US + 4)) == m.BUSY
    assert code_of(node, craft.craft("a", START_US + 4, writer="w2")) == 0
    assert code_of(node, craft.craft("b", START_US + 4)) == 0
    assert code_of(node, craft.craft("a", START_US + 3)) == 0, "rule 3 comes first"


def test_prepare_rule_7_promises_age_out_instead_of_blocking() -> None:
    """Section 11: two client crashes between prepare and commit would otherwise block the slot for ever."""
    node = node_of()
    for i in range(4):
        code_of(node, craft.craft("a", START_US + i))
    old_us = START_US + node.slots.promise_age_us
    assert code_of(node, craft.craft("a", old_us), now_us=old_us) == m.BUSY
    assert code_of(node, craft.craft("a", old_us + 1), now_us=old_us + 1) == 0
    assert node.slots.shard(slot("a")).floor_us == START_US, "dropping a promise raises the floor to its stamp's time"
    assert code_of(node, craft.craft("a", START_US), now_us=old_us + 1) == m.BELOW_FLOOR


def test_prepare_rule_7_a_full_table_of_young_promises_is_busy_and_of_old_ones_gives_way() -> None:
    node = node_of(promises_max=3)
    for i in range(3):
        code_of(node, craft.craft(f"k{i}", START_US))
    assert code_of(node, craft.craft("a", START_US)) == m.BUSY
    old_us = START_US + node.slots.promise_age_us + 1
    assert code_of(node, craft.craft("a", old_us), now_us=old_us) == 0


def test_prepare_rule_7_a_table_far_over_its_bound_is_not_fatal() -> None:
    """As after a restart with a lower bound."""
    node = node_of()
    for i in range(0, 20_000, 1000):
        ask(node, *(craft.craft(f"k{i + j}", START_US) for j in range(1000)))
    node.slots.promises_max = 3
    old_us = START_US + node.slots.promise_age_us + 1
    assert code_of(node, craft.craft("a", old_us), now_us=old_us) == 0
    assert len(node.slots.promises) <= 3


def test_prepare_refuses_with_full_where_nothing_is_old_enough_to_go() -> None:
    node = node_of(bytes_max=3000)
    store(node, craft.craft("a", START_US, b"v" * 1000))
    assert code_of(node, craft.craft("b", START_US, b"v" * 1000)) == m.FULL
    assert code_of(node, craft.craft("c", START_US, b"v")) == 0, "a small one still fits"
    late_us = START_US + node.slots.age_us + 1
    assert code_of(node, craft.craft("b", late_us, b"v" * 1000), now_us=late_us) == 0
    assert node.slots.evicted_count == 1
    assert node.slots.shard(slot("a")).floor_us == START_US


# --- precedence ---

#: Situations on slot "a" at START_US, by rule, in the rules' order; each makes its own rule apply to the header.
SITUATIONS = ("denied", "stale", "equivocation", "below", "ahead", "busy")
CODES = {
    "denied": m.DENIED,
    "stale": m.STALE,
    "equivocation": m.EQUIVOCATION,
    "below": m.BELOW_FLOOR,
    "ahead": m.AHEAD,
    "busy": m.BUSY,
}


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(SITUATIONS, 2)))
def test_prepare_the_first_rule_that_applies_decides(first: str, second: str) -> None:
    """Every pair of rules, made to apply both to one header: the earlier one answers."""
    node = node_of()
    both = {first, second}
    time_us = START_US + (2 * SKEW_US if "ahead" in both else 100)
    late_us = START_US + 2 * SKEW_US  # When the past of this slot happened, where it needs a clock that allowed it.
    if "busy" in both:
        for i in range(4 - ("equivocation" in both)):
            assert code_of(node, craft.craft("a", time_us + 1 + i), now_us=late_us) == 0
    if "equivocation" in both:
        assert code_of(node, craft.craft("a", time_us, b"another"), now_us=late_us) == 0
    if "stale" in both:
        raised = craft.craft("a", time_us, b"current", writer="w1", nonce=8)
        held_open = list(node.slots.open.get(slot("a"), ()))
        store(node, raised, now_us=late_us)
        for promise in held_open:  # Above rule 2 nothing is left of them: put them back, for the order to matter.
            if promise.header.stamp <= raised.stamp:
                node.slots.add_promise(promise)
    if "below" in both:
        raise_floor(node, "a", time_us)
    value = b"v" * 10
    if "denied" in both:
        spaces = (NamespaceInfo("test", value_bytes_max=5),)
        object.__setattr__(node.configuration, "_namespaces_by_name", {b"test": spaces[0]})
    assert code_of(node, craft.craft("a", time_us, value)) == CODES[first]
