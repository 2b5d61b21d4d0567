"""Large requests in pieces (protocol 3): the answers of the uncut ones, whatever happens between two pieces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import cutting
from quorumcache.core import messages as m
from quorumcache.core.cutting import Cut, cut
from quorumcache.core.node import Node, NodeLimits
from tests.cluster import START_US, configuration_of, slot
from tests.core.test_epochs import FIRST
from tests.core.test_glance import CONFIGURATION, LIMITS, Step, batches, commit_of, drafts_of, state_of
from tests.core.test_membership import World, harmless, order, signed
from tests.making import Alone, Draft

SHORT = configuration_of(max_skew_us=1000, op_time_us=1000, grace_us=500)


def in_pieces(node: Node, request: m.Request, now_us: int, count: int) -> m.Reply:
    """The answer to a request, cut if it can be."""
    piecewise = cut(node, request, count)
    if piecewise is None:
        return node.handle(request, now_us)
    while True:
        reply = piecewise.step(now_us)
        if piecewise.finished:
            assert reply is not None
            return reply


@settings(max_examples=100, deadline=None)
@given(batches, st.sampled_from(LIMITS), st.integers(1, 3))
def test_a_request_in_pieces_is_answered_as_the_whole_one(steps: list[Step], limits: NodeLimits, count: int) -> None:
    whole, cut_up = Alone(CONFIGURATION, limits=limits), Alone(CONFIGURATION, limits=limits)
    for draft, commits, now_us in drafts_of(steps):
        requests: list[m.Request] = [draft.prepare()]
        if commits is not None:
            requests.append(commit_of(draft, commits))
        for request in requests:
            assert whole.node.handle(request, now_us) == in_pieces(cut_up.node, request, now_us, count)
            assert state_of(whole) == state_of(cut_up)
            assert whole.node.slots.memory.bytes_used == cut_up.node.slots.memory.bytes_used
            assert whole.node.slots.memory.promises_bytes == cut_up.node.slots.memory.promises_bytes
    assert whole.node.request_counts == cut_up.node.request_counts


def test_what_is_large_is_cut_and_what_is_small_is_not() -> None:
    node = Alone()
    for count, is_cut in ((cutting.PIECE_COUNT, False), (cutting.PIECE_COUNT + 1, True)):
        draft = node.draft()
        for i in range(count):
            draft.put(f"key {i}")
        assert (cut(node.node, draft.prepare()) is not None) == is_cut
        assert (cut(node.node, draft.commit()) is not None) == is_cut
    large = node.draft().put("a", bytes(cutting.PIECE_BYTES)).put("b", bytes(cutting.PIECE_BYTES))
    assert pieces_of(cut(node.node, large.commit())) == 2
    one = node.draft().put("a", bytes(1 << 20))
    assert cut(node.node, one.commit()) is None
    # Each bundle has signatures of its own to be verified.
    bundles = [node.draft(nonce=i).put(f"k{i}").commit().bundles[0] for i in range(5)]
    assert pieces_of(cut(node.node, m.Commit(1, node.configuration.digest, bundles))) == 5


def pieces_of(piecewise: Cut | None) -> int:
    """How many pieces there are."""
    assert piecewise is not None
    count = 0
    while not piecewise.finished:
        piecewise.step(START_US)
        count += 1
    return count


events = st.lists(
    st.one_of(
        st.just(("piece",)),
        st.tuples(st.just("write"), st.integers(0, 7), st.integers(-3, 3)),
        st.tuples(st.just("prepare"), st.integers(0, 7), st.integers(-3, 3)),
        st.tuples(st.just("later"), st.sampled_from([1, 2000, 9000])),
    ),
    max_size=25,
)


def happens(node: Alone, event: tuple[Any, ...], number: int) -> None:
    """What others ask a node, or time does to it."""
    if event[0] == "later":
        node.now_us += event[1]
        node.node.tick(node.now_us)
        return
    draft = Draft(SHORT, "w2", nonce=number).put(f"key {event[1]}", b"other", at_us=START_US + event[2])
    node.node.handle(draft.prepare(), node.now_us)
    if event[0] == "write":
        node.node.handle(draft.commit(), node.now_us)


@settings(max_examples=100, deadline=None)
@given(events)
def test_what_is_granted_in_pieces_is_kept_whatever_happens_in_between(what: list[tuple[Any, ...]]) -> None:
    """Protocol 3: of each header that the grant names, the promise is open, or its slot has something as new, or the
    floor stands for it."""
    node = Alone(SHORT, limits=NodeLimits(promises_max=9))
    draft = Draft(SHORT)
    for i in range(8):
        draft.put(f"key {i}")
    piecewise, reply = cut(node.node, draft.prepare(), 2), None
    assert piecewise is not None
    for number, event in enumerate([*what, *[("piece",)] * 9]):
        if event[0] != "piece":
            happens(node, event, number)
        elif not piecewise.finished:
            reply = piecewise.step(node.now_us)
    assert isinstance(reply, m.PrepareReply)
    refused = {refusal.position for refusal in reply.refusals}
    for i in range(8):
        assert (reply.bitmap[0] >> i & 1) == (i not in refused)
        if i in refused:
            continue
        here = node.node.slots.open.get(slot(f"key {i}"), ())
        held = node.node.slots.current.get(slot(f"key {i}"))
        assert (
            any(promise.header.raw == draft.headers[i] for promise in here)
            or (held is not None and held.stamp >= draft.headers[i][3:51])
            or node.floor(f"key {i}") >= START_US
        )


@settings(max_examples=100, deadline=None)
@given(events)
def test_entries_in_pieces_are_stored_as_if_each_piece_had_come_alone(what: list[tuple[Any, ...]]) -> None:
    """Protocol 3, commit: whatever others write, and time drops, in between."""
    nodes = Alone(SHORT), Alone(SHORT)
    draft = Draft(SHORT)
    for i in range(8):
        draft.put(f"key {i}")
    for node in nodes:
        node.prepare(draft)
    commit, codes, floors, reply = draft.commit(), b"", list[int](), None
    bundle = commit.bundles[0]
    piecewise = cut(nodes[0].node, commit, 2)
    assert piecewise is not None
    for number, event in enumerate([*what, *[("piece",)] * 4]):
        if event[0] != "piece":
            for node in nodes:
                happens(node, event, number)
        elif not piecewise.finished:
            reply = piecewise.step(nodes[0].now_us)
            at = len(codes)
            part = m.Bundle(bundle.certificate, bundle.leaves, bundle.items[at : at + 2])
            alone = nodes[1].node.handle(m.Commit(2, SHORT.digest, [part]), nodes[1].now_us)
            assert isinstance(alone, m.CommitReply)
            codes += alone.codes
            floors += alone.floors or [0, 0]
    assert isinstance(reply, m.CommitReply)
    assert (reply.codes, reply.floors) == (codes, floors if any(floors) else [])
    for a, b in zip(nodes[0].node.slots.current.items(), nodes[1].node.slots.current.items(), strict=True):
        assert (a[0], a[1].digest) == (b[0], b[1].digest)
    assert [s.floor_us for s in nodes[0].node.slots.shards] == [s.floor_us for s in nodes[1].node.slots.shards]


@pytest.mark.parametrize("moves_on", [False, True])
def test_a_node_that_seals_between_two_pieces_grants_and_stores_no_more(moves_on: bool) -> None:
    """Protocol 9: from its seal on a node answers nothing in its epoch but the seal."""
    world = World()
    members = FIRST.groups[Draft(FIRST).put("k0").group].members
    key = FIRST.nodes[members[0]].key
    node = world.nodes[key]
    group = FIRST.group_of(slot("k0"))
    keys = [f"k{i}" for i in range(200) if FIRST.group_of(slot(f"k{i}")) is group][:6]
    draft, later = Draft(FIRST), Draft(FIRST, nonce=1)
    for each in keys:
        draft.put(each)
        later.put(each, at_us=START_US + 1)
    node.handle(draft.prepare(), START_US)
    cuts = [node.cut(draft.commit(), 2), node.cut(later.prepare(), 2)]
    for piecewise, steps in zip(cuts, (1, 5), strict=True):
        assert piecewise is not None
        for _ in range(steps):
            assert node.go_on(piecewise, START_US) is None
    before = node.node
    assert 0 < len(before.slots.current) < 6
    after = harmless()
    node.seal(signed(after), START_US)
    if moves_on:
        order(world, after)
        world.pump()
        world.advance(1_000_000)
        assert node.configuration.epoch == after.epoch
    held, open_ = len(node.node.slots.current), len(node.node.slots.promises)
    for piecewise in cuts:
        assert piecewise is not None
        reply = node.go_on(piecewise, world.now_us)
        assert piecewise.finished
        assert isinstance(reply, m.Reject)
        assert reply.code == m.SEALED
    assert (len(node.node.slots.current), len(node.node.slots.promises)) == (held, open_)
    assert node.cut(draft.commit(), 2) is None
