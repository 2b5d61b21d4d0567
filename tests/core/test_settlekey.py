"""Full reads of keys with many fields (protocol 6) beside nodes that lie about them: they end, they do not turn at
network speed, and what a quorum holds is found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import compare, keys
from quorumcache.core import messages as m
from quorumcache.core.outcome import Found, Missed, Outcome, Written
from tests.cluster import Client, Cluster
from tests.fields import base_slot, cluster_of, put, value_of
from tests.making import Draft, passed_on
from tests.steps import finish, is_quiet

S = 1_000_000
Lie = Callable[[m.Request, m.Reply], m.Reply | None]


def large(count: int = 700) -> tuple[Cluster, Client]:
    """A key that is too large to be outlined whole, of which correct nodes 1 and 3 lack one field each: nothing that
    three nodes agree on in those two buckets."""
    cluster = cluster_of()
    client = cluster.client()
    for at in range(0, count, 350):
        for token in [put(client, "map", b"%d" % i, b"old") for i in range(at, min(at + 350, count))]:
            assert isinstance(finish(client, token), Written)
    for name, node in ((b"0", 1), (b"1", 3)):
        cluster.down = {node}
        assert isinstance(finish(client, put(client, "map", name, b"new")), Written)
    cluster.down = set()
    return cluster, client


def settled(cluster: Cluster) -> Outcome:
    """A whole-key read in full by a new client."""
    client = cluster.client("w3")
    client.core.read(base_slot("map"), "read", full=True)
    outcome = finish(client, "read")
    assert isinstance(outcome, Found | Missed)
    assert is_quiet(client)
    return outcome


def answers_fields(how: Callable[[m.Fields, m.FieldsReply], m.Reply | None]) -> Lie:
    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.Fields) and isinstance(reply, m.FieldsReply):
            return how(request, reply)
        return reply

    return lie


def other(request: m.Fields, reply: m.FieldsReply) -> m.Reply:
    return m.FieldsReply(request.id, reply.clock_us, bytes(48), reply.digests, reply.entries, False)


def endless(request: m.Fields, reply: m.FieldsReply) -> m.Reply:
    return m.FieldsReply(request.id, reply.clock_us, reply.generation, reply.digests, reply.entries, True)


def cut(request: m.Fields, reply: m.FieldsReply) -> m.Reply:
    return m.FieldsReply(request.id, reply.clock_us, reply.generation, reply.digests[:-32], reply.entries, False)


def unknown(request: m.Fields, reply: m.FieldsReply) -> m.Reply:
    return m.FieldsReply(request.id, reply.clock_us, reply.generation, reply.digests + bytes(32), reply.entries, False)


@pytest.mark.parametrize("how", [other, endless, cut, unknown, lambda request, reply: None])
@pytest.mark.parametrize("outlined", [False, True], ids=["outlined", "misoutlined"])
def test_a_node_that_lies_about_what_it_lists_neither_hides_the_key_nor_spins_its_reader(
    how: Callable[[m.Fields, m.FieldsReply], m.Reply | None], outlined: bool
) -> None:
    """Protocol 5.6: one liar cannot turn a read into a miss where no correct node's floor is above the key."""
    cluster, _ = large()
    listing = answers_fields(how)

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if outlined and isinstance(reply, m.OutlineReply):
            return m.OutlineReply(reply.id, reply.clock_us, reply.base, 0, [], bytes(range(256)) * 33)
        return listing(request, reply)

    cluster.lies[0] = lie
    outcome = settled(cluster)
    assert isinstance(outcome, Found)
    assert outcome.fields is not None
    assert len(outcome.fields) == 700
    assert value_of(cluster.client("w2"), "map") == {b"%d" % i: b"new" if i < 2 else b"old" for i in range(700)}


def test_a_node_that_changes_its_outline_under_a_listing_does_not_break_its_reader() -> None:
    """It is given a base that it claims to lack, is asked again, shows a small key, and then answers the listing."""
    cluster, _ = large()
    client = cluster.client("w3")
    held: list[m.Reply] = []
    shown: list[m.Entry] = []
    key = cluster.nodes[0].slots.keys[base_slot("map")]
    shown.append(key.base.entry())
    client.core.write(base_slot("map"), 0, b"", cluster.now_us + 60 * S, "touch")
    assert isinstance(finish(client, "touch"), Written)
    outlines = 0

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        nonlocal outlines
        if isinstance(request, m.Outline) and isinstance(reply, m.OutlineReply):
            outlines += 1
            if outlines == 1:
                return m.OutlineReply(request.id, reply.clock_us, shown[0], 0, [], reply.buckets)
            entry = next(iter(key.fields.values())).entry()
            return m.OutlineReply(request.id, reply.clock_us, key.base.entry(), 0, [entry], b"")
        if isinstance(request, m.Fields):
            held.append(reply)
            return None
        return reply

    cluster.lies[0] = lie
    client.core.read(base_slot("map"), "read", full=True)
    later: list[tuple[int, m.Request]] = []
    for _ in range(30):
        for node, request in client.take():
            if node == 0 and isinstance(request, m.Commit):
                later.append((node, request))
            else:
                client.deliver(node, request)
        if later:
            client.deliver(*later.pop())
        if outlines > 1:
            for reply in held:
                client.core.receive(0, reply, cluster.now_us)
    assert isinstance(finish(client, "read"), Found)


def test_a_late_answer_to_an_earlier_base_counts_for_nothing() -> None:
    """While a base is written back a higher one shows; then come the answers about the first."""
    cluster = cluster_of()
    client = cluster.client()
    assert isinstance(finish(client, put(client, "map", b"x", b"1")), Written)
    generation = cluster.nodes[1].slots.keys[base_slot("map")].generation

    def touch(at_us: int) -> m.Entry:
        draft = Draft(cluster.configuration, "w2", nonce=9)
        return draft.put(slot_bytes=base_slot("map"), value=b"", at_us=at_us, metadata=generation).entry()

    cluster.nodes[3].handle(passed_on(touch(cluster.now_us + 1000), cluster.configuration), cluster.now_us)
    client.core.read(base_slot("map"), "read", full=True)
    late: list[tuple[int, m.Request]] = []
    outlines = [sent for sent in client.take() if isinstance(sent[1], m.Outline)]
    for node, request in outlines[1:]:
        client.deliver(node, request)
    late += client.take()
    cluster.nodes[0].handle(passed_on(touch(cluster.now_us + 2000), cluster.configuration), cluster.now_us)
    client.deliver(*outlines[0])
    for node, request in [*client.take(), *late]:
        client.deliver(node, request)
    assert isinstance(finish(client, "read"), Found)


def test_a_node_is_asked_again_so_often_and_no_more() -> None:
    """While a correct node is slow to answer, a liar says of each listing that its generation changed meanwhile."""
    cluster, _ = large()
    cluster.down = {3}
    asked = 0

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        nonlocal asked
        asked += isinstance(request, m.Outline)
        return answers_fields(other)(request, reply)

    cluster.lies[0] = lie
    client = cluster.client("w3")
    client.core.read(base_slot("map"), "read", full=True)
    client.run()
    assert asked < 20
    cluster.down.clear()
    assert isinstance(finish(client, "read"), Found)


def test_a_full_read_takes_steps_in_proportion_to_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One node lacks most of a key, one claims to: what is written back goes in few messages, and neither an answer
    nor a bucket makes the reader look at all of it again."""
    cluster = cluster_of()
    client = cluster.client()
    assert isinstance(finish(client, put(client, "map", b"first")), Written)
    cluster.down = {3}
    for at in range(0, 1500, 500):
        for token in [put(client, "map", b"%d" % i) for i in range(at, at + 500)]:
            assert isinstance(finish(client, token), Written)
    cluster.down = set()
    steps = 0

    def counted(slot: bytes) -> int:
        nonlocal steps
        steps += 1
        return keys.bucket_of(slot)

    monkeypatch.setattr(compare, "bucket_of", counted)
    cluster.lies[0] = lambda request, reply: (
        m.OutlineReply(reply.id, reply.clock_us, reply.base, 0, [], b"") if isinstance(reply, m.OutlineReply) else reply
    )
    reader = cluster.client("w3")
    reader.core.read(base_slot("map"), "read", full=True)
    sent = 0
    for _ in range(100):
        out = reader.take()
        sent += len(out)
        for node, request in out:
            reader.deliver(node, request)
    outcome = finish(reader, "read")
    assert isinstance(outcome, Found)
    assert len(outcome.fields or ()) == 1501
    assert sent < 100
    assert steps < 60 * 1500
    assert len(cluster.nodes[3].slots.keys[base_slot("map")].fields) == 1501
