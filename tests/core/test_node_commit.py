"""Protocol 3, commit and read: every rule, their order, and what a node does with what is no entry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.model import Entry
from quorumcache.core.node import Node, NodeLimits
from quorumcache.wire.keys import verify
from tests import craft
from tests.cluster import START_US, configuration_of, key_of, slot


def node_of(configuration: Configuration | None = None, *, started_us: int | None = None, **limits: int) -> Node:
    configuration = configuration or configuration_of()
    verifier = Verifier(verify, [configuration, configuration_of(), configuration_of(epoch=2)])
    sign = key_of("node 0").sign
    return Node(configuration, 0, sign, verifier, started_us=started_us, limits=NodeLimits(**limits))


def commit(node: Node, *entries: Entry, now_us: int = START_US) -> bytes:
    """The codes of a commit."""
    reply = node.handle(craft.commit(node.configuration, *entries), now_us)
    assert isinstance(reply, m.CommitReply), reply
    return reply.codes


def entry(node: Node, time_us: int, value: bytes | None = b"v", **changes: object) -> Entry:
    return craft.entry(node.configuration, craft.craft("a", time_us, value, **changes))  # type: ignore[arg-type]


def promise(node: Node, crafted: craft.Crafted, now_us: int = START_US) -> None:
    reply = node.handle(craft.prepare(node.configuration, [crafted]), now_us)
    assert isinstance(reply, m.PrepareReply)
    assert reply.bitmap == b"\x01", reply


def held(node: Node) -> bytes | None:
    found = node.slots.current.get(slot("a"))
    return None if found is None else found.salted[16:]


def open_count(node: Node) -> int:
    return len(node.slots.open.get(slot("a"), ()))


def floor(node: Node) -> int:
    return node.slots.shard(slot("a")).floor_us


def raise_floor(node: Node, time_us: int) -> None:
    node.slots.raise_floor(node.slots.shard(slot("a")), time_us)


# --- rules ---


def test_commit_rule_1_the_current_entry_again_is_ok() -> None:
    node = node_of()
    e = entry(node, START_US)
    assert commit(node, e, e) == bytes((m.OK, m.OK))
    assert node.slots.current[slot("a")].batch.held_count == 1


def test_commit_rule_1_comes_before_rule_2() -> None:
    """What a node already holds of a writer that was revoked while it held it."""
    node = node_of()
    e = entry(node, START_US)
    commit(node, e)
    node.configuration.__dict__["_revoked"] = frozenset((key_of("w1").public,))
    assert commit(node, e) == bytes((m.OK,))


def test_commit_rule_2_revoked_comes_before_superseded() -> None:
    """Section 11, order of the commit rules: a hidden entry of a revoked writer must not be vouched for with OK."""
    node = node_of(configuration_of(revoked=("w2",)))
    assert commit(node, entry(node, START_US + 1)) == bytes((m.OK,))
    assert commit(node, entry(node, START_US, writer="w2")) == bytes((m.REVOKED,))
    assert commit(node, entry(node, START_US + 2, writer="w2")) == bytes((m.REVOKED,))
    assert held(node) == b"v"


def test_commit_rule_2_revoked_comes_before_evicted() -> None:
    node = node_of(configuration_of(revoked=("w2",)))
    raise_floor(node, START_US)
    assert commit(node, entry(node, START_US, writer="w2")) == bytes((m.REVOKED,))


def test_commit_rule_3_superseded_is_ok_and_changes_nothing() -> None:
    node = node_of()
    commit(node, entry(node, START_US + 1, b"new"))
    assert commit(node, entry(node, START_US, b"old")) == bytes((m.OK,))
    assert held(node) == b"new"


def test_commit_rule_3_comes_before_rule_4() -> None:
    """Where a newer entry is, the floor says nothing: it stands in for absent slots."""
    node = node_of()
    commit(node, entry(node, START_US + 1, b"new"))
    raise_floor(node, START_US + 5)
    assert commit(node, entry(node, START_US, b"old")) == bytes((m.OK,))
    assert commit(node, entry(node, START_US + 3, b"newer")) == bytes((m.OK,))
    assert held(node) == b"newer"


def test_commit_rule_4_at_the_floor_is_evicted_with_the_floor() -> None:
    node = node_of()
    raise_floor(node, START_US)
    reply = node.handle(craft.commit(node.configuration, entry(node, START_US)), START_US)
    assert reply == m.CommitReply(2, START_US, bytes((m.EVICTED,)), [START_US])
    assert held(node) is None
    assert commit(node, entry(node, START_US + 1)) == bytes((m.OK,))


def test_commit_rule_4_drops_promises_up_to_the_stamp() -> None:
    """Section 11: a node that answers EVICTED must drop its promise, or a later commit brings the entry back."""
    node = node_of()
    below, above = craft.craft("a", START_US + 1), craft.craft("a", START_US + 3)
    promise(node, below)
    promise(node, above)
    raise_floor(node, START_US + 2)
    assert commit(node, entry(node, START_US + 2)) == bytes((m.EVICTED,))
    assert open_count(node) == 1
    assert commit(node, craft.entry(node.configuration, below)) == bytes((m.EVICTED,))
    assert commit(node, craft.entry(node.configuration, above)) == bytes((m.OK,))


def test_commit_rule_4_an_open_promise_is_kept_though_the_floor_has_passed_it() -> None:
    node = node_of()
    promised = craft.craft("a", START_US)
    promise(node, promised)
    raise_floor(node, START_US + 5)
    assert commit(node, entry(node, START_US, b"another", nonce=9)) == bytes((m.EVICTED,)), "not this very promise"
    node = node_of()
    promise(node, promised)
    raise_floor(node, START_US + 5)
    assert commit(node, craft.entry(node.configuration, promised)) == bytes((m.OK,))


def test_commit_rule_4_is_recovering_where_the_shard_is() -> None:
    node = node_of(started_us=START_US)
    assert floor(node) == START_US + 2_000_000
    assert commit(node, entry(node, START_US)) == bytes((m.RECOVERING,))
    assert commit(node, entry(node, START_US + 2_000_001)) == bytes((m.OK,)), "above the floor it is stored"


def test_commit_rule_5_stores_and_drops_promises_up_to_the_stamp() -> None:
    node = node_of()
    for i in (0, 1, 2):
        promise(node, craft.craft("a", START_US + i))
    assert commit(node, entry(node, START_US + 1)) == bytes((m.OK,))
    assert [p.header.time_us for p in node.slots.open[slot("a")]] == [START_US + 2]
    assert len(node.slots.promises) == 1


def test_commit_takes_entries_certified_in_an_earlier_epoch_that_counts() -> None:
    now = configuration_of(epoch=2)
    node = node_of(now)
    old = craft.entry(configuration_of(), craft.craft("a", START_US))
    reply = node.handle(m.Commit(1, now.digest, craft.commit(now, old).bundles), START_US)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == bytes((m.OK,))


def test_commit_of_one_batch_answers_each_item() -> None:
    node = node_of()
    batch = [craft.craft(f"k{i}", START_US) for i in range(5)]
    reply = node.handle(craft.commit_batch(node.configuration, batch), START_US)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == bytes(5)
    for crafted in batch:
        found = node.slots.current[crafted.raw[95:-2]]
        assert Verifier(verify, [node.configuration]).check_entry(found.entry()).digest == crafted.digest


def test_commit_to_a_full_node_of_young_entries_is_full() -> None:
    node = node_of(bytes_max=3000)
    big = [craft.entry(node.configuration, craft.craft(k, START_US, b"v" * 1000)) for k in ("a", "b")]
    assert commit(node, *big) == bytes((m.OK, m.COMMIT_FULL))
    late_us = START_US + node.slots.age_us + 1
    assert commit(node, big[1], now_us=late_us) == bytes((m.OK,))
    assert held(node) is None
    assert floor(node) == START_US


# --- what is no entry ---


def spoil_bitmaps(e: Entry) -> None:
    configuration = configuration_of()
    batch = [craft.craft("a", START_US), craft.craft("b", START_US)]
    e.certificate = craft.certificate(configuration, batch, bitmaps={1: b"\x02"})
    good = craft.entry(configuration, batch[0], batch, e.certificate)
    e.header, e.salted, e.position, e.path = good.header, good.salted, good.position, good.path


def with_nodes(*nodes: int) -> Callable[[Entry], None]:
    def spoil(e: Entry) -> None:
        e.certificate = craft.certificate(configuration_of(), [craft.craft("a", START_US)], nodes)

    return spoil


def replaced(**changes: object) -> Callable[[Entry], None]:
    def spoil(e: Entry) -> None:
        fields = {name: getattr(e.certificate, name) for name in e.certificate.__struct_fields__}
        e.certificate = type(e.certificate)(**{**fields, **changes})

    return spoil


def attribute(name: str, value: object) -> Callable[[Entry], None]:
    return lambda e: setattr(e, name, value)


SPOILED: dict[str, Callable[[Entry], None]] = {
    "too few grants": with_nodes(0, 1),
    "a signer twice": with_nodes(0, 1, 1),
    "signers out of order": with_nodes(0, 2, 1),
    "a signer out of range": with_nodes(0, 1, 99),
    "q grants, but not of this header": spoil_bitmaps,
    "an unknown configuration": replaced(configuration=bytes(32)),
    "an unknown group": replaced(group=bytes(16)),
    "no count": replaced(count=0),
    "a negative count": replaced(count=-1),
    "an absurd count": replaced(count=1 << 63),
    "a count too high": replaced(count=2),
    "a root of another length": replaced(root=b""),
    "another root": replaced(root=bytes(32)),
    "a writer of another length": replaced(writer=b""),
    "another writer": replaced(writer=key_of("w2").public),
    "no intent": replaced(signature=b""),
    "a wrong intent": replaced(signature=bytes(64)),
    "no grants": replaced(grants=()),
    "a wrong position": attribute("position", 1),
    "an absurd position": attribute("position", 1 << 62),
    "a negative position": attribute("position", -1),
    "a path too long": attribute("path", bytes(32)),
    "a path of odd length": attribute("path", b"x"),
    "no header": attribute("header", b""),
    "a header cut short": attribute("header", craft.craft("a", START_US).raw[:-1]),
    "another header": attribute("header", craft.craft("a", START_US + 1).raw),
    "another value": attribute("salted", b"s" * 16 + b"other"),
    "no salt": attribute("salted", b""),
    "a value cut short": attribute("salted", b"s" * 16 + b"valu"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_commit_rejects_what_is_not_certified(name: str) -> None:
    """Protocol 2, checks of form: no exception leaves the node, and nothing is stored."""
    node = node_of()
    spoiled = craft.entry(node.configuration, craft.craft("a", START_US))
    SPOILED[name](spoiled)
    reply = node.handle(craft.commit(node.configuration, spoiled), START_US)
    assert isinstance(reply, m.Reject), reply
    assert reply.code == m.BAD_FORM
    assert not node.slots.current


@pytest.mark.parametrize("spoil", ["leaves", "short leaves", "path too", "position", "other item"])
def test_commit_rejects_a_bundle_whose_leaves_do_not_fit(spoil: str) -> None:
    node = node_of()
    batch = [craft.craft(k, START_US) for k in ("a", "b", "c")]
    request = craft.commit_batch(node.configuration, batch)
    bundle = request.bundles[0]
    if spoil == "leaves":
        bundle.leaves = bytes(96)
    elif spoil == "short leaves":
        bundle.leaves = bundle.leaves[:64]
    elif spoil == "path too":
        bundle.items[0].path = bytes(32)
    elif spoil == "position":
        bundle.items[0].position = 1023
    else:
        bundle.items[0].header = craft.craft("z", START_US).raw
    assert isinstance(node.handle(request, START_US), m.Reject)


def test_commit_takes_no_shortcut_for_a_promise_of_another_writer_or_group() -> None:
    """The signature cache and the promise shortcut save work, never checks: a promised header needs its grants."""
    node = node_of()
    promised = craft.craft("a", START_US)
    promise(node, promised)
    alone = craft.entry(node.configuration, promised)
    alone.certificate = craft.certificate(node.configuration, [promised], [0, 1])
    assert isinstance(node.handle(craft.commit(node.configuration, alone), START_US), m.Reject)


def test_commit_signature_cache_is_keyed_by_the_signature_too() -> None:
    """Section 11: else garbage signatures ride on a cached good one, and readers later discard what the node holds."""
    node = node_of()
    good = craft.entry(node.configuration, craft.craft("a", START_US))
    commit(node, good)
    node.slots.drop(slot("a"))
    grants = list(good.certificate.grants)
    grants[1] = type(grants[1])(1, grants[1].bitmap, bytes(64))
    replaced(grants=tuple(grants))(good)
    assert isinstance(node.handle(craft.commit(node.configuration, good), START_US), m.Reject)


# --- reads ---


def test_read_reports_expired_entries_and_tombstones_like_any_other() -> None:
    """Protocol 3, read (R)."""
    node = node_of()
    gone = entry(node, START_US, expires_at_us=START_US + 1)
    commit(node, gone)
    reply = node.handle(m.Read(1, node.configuration.digest, [slot("a"), slot("b")], 0, 2), START_US + 10)
    assert isinstance(reply, m.ReadReply)
    assert reply.digests[32:] == bytes(32)
    assert reply.values == [gone.header, gone.salted, b"", b""]
    full = node.handle(m.ReadFull(1, node.configuration.digest, [slot("a")]), START_US + 10)
    assert isinstance(full, m.ReadFullReply)
    assert full.answers[0].entry == gone


def test_read_full_of_an_absent_slot_tells_the_floor() -> None:
    node = node_of()
    raise_floor(node, START_US)
    reply = node.handle(m.ReadFull(1, node.configuration.digest, [slot("a")]), START_US)
    assert isinstance(reply, m.ReadFullReply)
    assert reply.answers == [m.FullAnswer(None, START_US)]


@pytest.mark.parametrize("bad", [b"", b"\x00", b"\xff", b"\x04test", b"\x04test\x00\x00\x00\x00", slot("a") + b"x"])
def test_read_of_what_is_no_slot_never_raises(bad: bytes) -> None:
    node = node_of()
    reply = node.handle(m.Read(1, node.configuration.digest, [bad], 0, 1), START_US)
    assert isinstance(reply, m.ReadReply)
    assert reply.digests == bytes(32)
    assert isinstance(node.handle(m.ReadFull(1, node.configuration.digest, [bad]), START_US), m.Reject)


def test_read_values_stop_at_the_bound_of_a_reply() -> None:
    node = node_of()
    keys = [f"k{i}" for i in range(8)]
    for key in keys:
        commit(node, craft.entry(node.configuration, craft.craft(key, START_US, bytes(1 << 20))))
    slots = [slot(key) for key in keys]
    reply = node.handle(m.Read(1, node.configuration.digest, slots, 0, 8), START_US)
    assert isinstance(reply, m.ReadReply)
    assert [bool(v) for v in reply.values[1::2]] == [True] * 4 + [False] * 4
