"""Protocol 3, commit and read: what is no entry, or no slot (the rules are in test_commit.py)."""

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


def raise_floor(node: Node, time_us: int) -> None:
    node.slots.raise_floor(node.slots.shard(slot("a")), time_us)


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


def test_commit_takes_entries_certified_in_an_earlier_epoch_that_counts() -> None:
    now = configuration_of(epoch=2)
    node = node_of(now)
    old = craft.entry(configuration_of(), craft.craft("a", START_US))
    reply = node.handle(m.Commit(1, now.digest, craft.commit(now, old).bundles), START_US)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == bytes((m.OK,))


def test_commit_to_a_full_node_of_young_entries_is_full() -> None:
    node = node_of(bytes_max=4000)
    big = [craft.entry(node.configuration, craft.craft(k, START_US, b"v" * 1000)) for k in ("a", "b")]
    assert commit(node, *big) == bytes((m.OK, m.COMMIT_FULL))
    late_us = START_US + node.slots.age_us + 1
    assert commit(node, big[1], now_us=late_us) == bytes((m.OK,))
    assert held(node) is None
    assert node.slots.shard(slot("a")).floor_us == START_US


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


@pytest.mark.parametrize("bad", [b"", b"\x00", b"\xff", b"\x04test", b"\x04test\x00\x00\x00\x00", slot("a") + b"x"])
def test_read_of_what_is_no_slot_never_raises(bad: bytes) -> None:
    node = node_of()
    reply = node.handle(m.Read(1, node.configuration.digest, [bad], 0, 1), START_US)
    assert isinstance(reply, m.ReadReply)
    assert reply.digests == bytes(32)
    assert isinstance(node.handle(m.ReadFull(1, node.configuration.digest, [bad]), START_US), m.Reject)
