"""Writers of fields whose key does not stay: deleted and begun anew under them, or held by a liar (protocol 6)."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.outcome import Written
from quorumcache.core.refusal import backoff_us
from tests.cluster import Client
from tests.fields import base_slot, cluster_of, delete_key, generation, put, value_of
from tests.making import Draft
from tests.steps import finish

S = 1_000_000


def rounds_of(far: Client, token: object, between: object, *, rounds_max: int = 12) -> list[set[type]]:
    """Deliver the client's messages round by round, 20 ms apart, until the operation ends. `between` is called before
    each round that brings a prepare to the nodes: while it was on its way. Returns each round's kinds of messages, but
    for commits."""
    rounds: list[set[type]] = []
    cluster = far.cluster
    while token not in far.outcomes:
        assert len(rounds) < rounds_max, rounds
        sent = far.take()
        if sent:
            rounds.append({type(request) for _, request in sent} - {m.Commit})
            if m.Prepare in rounds[-1]:
                between()  # type: ignore[operator]
        for node, request in sent:
            far.deliver(node, request)
        cluster.now_us += 20_000
        far.core.wake(cluster.now_us)
    return rounds


@pytest.mark.parametrize("f", [1, 2])
def test_a_field_is_before_the_deletion_that_its_write_met(f: int) -> None:
    """Protocol 6, overtaken: who is far from the nodes, and whose key is deleted each time before its prepare arrives,
    ends, ordered just before the first deletion that was not complete when it began."""
    cluster = cluster_of(f)
    far, near = cluster.client("w1"), cluster.client("w2")
    finish(near, put(near, "map", b"a"))
    under = generation(near, "map")
    token = put(far, "map", b"x", b"1")

    def delete_and_begin_anew() -> None:
        finish(near, delete_key(near, "map"))

    rounds = rounds_of(far, token, delete_and_begin_anew)
    outcome = far.outcomes[token]
    assert isinstance(outcome, Written)
    assert outcome.overtaken
    assert outcome.generation == under, "the one that had not ended when it began"
    assert rounds == [{m.ReadFull}, {m.Prepare}], "the refusals show all there is to know"
    assert value_of(near, "map") is None


def test_a_field_is_not_before_a_deletion_that_was_there() -> None:
    """Protocol 6, overtaken: a deletion that was complete when the write began is not what ends it, though the client
    knew only of the generation before. It is written after that."""
    cluster = cluster_of()
    client, other = cluster.client("w1"), cluster.client("w2")
    finish(client, put(client, "map", b"a"))
    finish(other, delete_key(other, "map"))
    outcome = finish(client, put(client, "map", b"x", b"1"))
    assert isinstance(outcome, Written)
    assert not outcome.overtaken
    assert value_of(other, "map") == {b"x": b"1"}


def test_a_field_adopts_the_generation_that_refusals_show() -> None:
    """Protocol 6, a writer: what more than f nodes show is there, so no read is needed to write under it. A single
    node's word is not enough."""
    cluster = cluster_of()
    far, near = cluster.client("w1"), cluster.client("w2")
    finish(near, put(near, "map", b"a"))
    token = put(far, "map", b"x", b"1")
    begun: list[bytes] = []

    def begin_anew_once() -> None:
        if not begun:
            finish(near, delete_key(near, "map"))
            finish(near, put(near, "map", b"b", b"2"))
            begun.append(generation(near, "map"))

    rounds = rounds_of(far, token, begin_anew_once)
    outcome = far.outcomes[token]
    assert isinstance(outcome, Written)
    assert not outcome.overtaken
    assert outcome.generation == begun[0]
    assert rounds[1:3] == [{m.Prepare}, {m.Prepare}], "no read in between"
    assert value_of(near, "map") == {b"b": b"2", b"x": b"1"}


def test_what_one_node_shows_is_not_adopted() -> None:
    """Protocol 6, a writer: a liar's later base, though certified, is no reason to write under it: it may be all that
    there is of it, and the key's end."""
    cluster = cluster_of()
    client = cluster.client("w1")
    finish(client, put(client, "map", b"a"))
    under = generation(client, "map")
    cluster.now_us += S
    later = (
        Draft(cluster.configuration, "w2", nonce=99)
        .put(slot_bytes=base_slot("map"), value=b"", at_us=cluster.now_us)
        .entry()
    )

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.Prepare):
            return m.PrepareReply(request.id, reply.clock_us, b"\0", b"", [m.Refusal(0, m.GENERATION, 0, later)])
        return reply

    cluster.lies[0] = lie
    cluster.down.add(3)  # So the liar's refusal is one that counts.
    token = put(client, "map", b"x", b"1")
    client.run()
    cluster.advance(500_000)
    cluster.down.clear()
    assert isinstance(finish(client, token), Written)
    assert generation(client, "map") == under
    assert value_of(client, "map") == {b"a": b"", b"x": b"1"}


def switching_liar() -> object:
    """A node that refuses all fields, and tells every other reader that it has the key, the rest that it has not."""
    told: list[int] = []

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.ReadFull) and isinstance(reply, m.ReadFullReply):
            told.append(request.id)
            if len(set(told)) % 2:
                return m.ReadFullReply(request.id, reply.clock_us, [m.FullAnswer(None, 0) for _ in reply.answers])
        if isinstance(request, m.Prepare) and len(request.headers) == 1 and b"=" in request.headers[0][95:]:
            return m.PrepareReply(request.id, reply.clock_us, b"\0", b"", [m.Refusal(0, m.GENERATION, 1 << 40)])
        return reply

    return lie


def test_a_liar_that_switches_stories_does_not_hold_a_key() -> None:
    """Protocol 6, a writer: a correct node has let go of a key, a liar names it to some reads and not to others. Found,
    the key takes no field; missed, the nodes that have it refuse a new one. Once the writer's patience is over, it ends
    the generation that it tried in vain, whatever it is told by then."""
    cluster = cluster_of()
    other, client = cluster.client("w2"), cluster.client("w1")
    finish(other, put(other, "map", b"a"))
    cluster.now_us += 10 * S
    slots = cluster.nodes[0].slots
    slots.drop(base_slot("map"))
    cluster.lies[1] = switching_liar()  # type: ignore[assignment]
    for name in (b"x", b"y", b"z"):
        token = put(client, "map", name, b"1")
        assert isinstance(finish(client, token, 5 * S), Written)
    cluster.lies.clear()
    assert set(value_of(other, "map")) == {b"x", b"y", b"z"}  # type: ignore[call-overload]


def test_a_base_that_waits_for_another_looks_often_enough() -> None:
    """Protocol 6, prepare: a base that meets BUSY waits for the other's to end; no longer between two looks than a
    tenth of op_time, which may be short."""
    configuration = cluster_of().configuration
    waits = [backoff_us(tries, configuration) for tries in range(20)]
    assert waits == sorted(waits)
    assert waits[-1] == configuration.op_time_us // 10
