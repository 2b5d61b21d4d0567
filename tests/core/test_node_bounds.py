"""Protocol 3, prepare: limits at their edges, and bounds whatever a writer sends (the rules are in test_prepare.py)."""

from __future__ import annotations

import itertools

import pytest

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.evidence import verify_equivocation
from quorumcache.core.model import slot_of
from quorumcache.core.node import Node, NodeLimits
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


def test_prepare_rule_4_one_writer_cannot_crowd_out_evidence_against_others() -> None:
    node = node_of(evidence_max=2)
    for writer, attempt in itertools.product(("w1", "w2", "w3"), range(4)):
        code_of(node, craft.craft("a", START_US, b"%d" % attempt, writer=writer))
    writers = [verify_equivocation(e, Verifier(verify, [node.configuration])) for e in node.evidence]
    assert writers == [key_of("w1").public, key_of("w2").public]


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
    node = node_of(bytes_max=4000)
    store(node, craft.craft("a", START_US, b"v" * 1000))
    assert code_of(node, craft.craft("b", START_US, b"v" * 1000)) == m.FULL
    assert code_of(node, craft.craft("c", START_US, b"v")) == 0, "a small one still fits"
    late_us = START_US + node.slots.age_us + 1
    assert code_of(node, craft.craft("b", late_us, b"v" * 1000), now_us=late_us) == 0
    assert node.slots.evicted_count == 1
    assert node.slots.shard(slot("a")).floor_us == START_US
