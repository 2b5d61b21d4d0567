"""Keys with many fields (protocol 6 with its repairs): bases, generations, fields, on real nodes and coordinators."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import PUT
from quorumcache.core.outcome import UNKNOWN, Failed, Found, Missed, Written
from quorumcache.core.types.base import generation_of
from tests.fields import base_slot, cluster_of, delete_key, generation, put, read, remove, slot_at, value_of
from tests.steps import finish, is_quiet

S = 1_000_000


def test_a_first_add_makes_the_base_in_the_same_batch() -> None:
    cluster = cluster_of()
    client = cluster.client()
    token = put(client, "set", b"a")
    assert isinstance(finish(client, token), Written)
    assert value_of(cluster.client("w2"), "set") == {b"a"}
    assert client.core.counts["write_attempts"] == 2  # Base and field, once.
    for node in cluster.nodes.values():
        key = node.slots.keys[base_slot("set")]
        assert len(key.fields) == 1
        assert not node.slots.promises
    assert is_quiet(client)


def test_many_fields_in_one_turn_share_a_base() -> None:
    cluster = cluster_of()
    client = cluster.client()
    tokens = [put(client, "map", b"%d" % i, b"v%d" % i) for i in range(300)]
    for token in tokens:
        assert isinstance(finish(client, token), Written)
    assert value_of(client, "map") == {b"%d" % i: b"v%d" % i for i in range(300)}
    assert read(client, slot_at("map", b"7")).fields[0][1][16:] == b"v7"  # type: ignore[union-attr,index]


def test_two_writers_add_to_one_set() -> None:
    cluster = cluster_of()
    one, two = cluster.client("w1"), cluster.client("w2")
    assert isinstance(finish(one, put(one, "set", b"a")), Written)
    assert isinstance(finish(two, put(two, "set", b"b")), Written)
    assert isinstance(finish(one, remove(one, "set", b"b")), Written)
    assert isinstance(finish(two, put(two, "set", b"c")), Written)
    assert value_of(one, "set") == value_of(two, "set") == {b"a", b"c"}


def test_racing_creators_end_in_one_generation() -> None:
    cluster = cluster_of()
    clients = [cluster.client(w) for w in ("w1", "w2", "w3")]
    tokens = [(c, put(c, "set", b"%d" % i)) for i, c in enumerate(clients)]
    # Interleaved: each client's messages reach the nodes in another order.
    for _ in range(200):
        for i, client in enumerate(clients):
            sent = client.take()
            for node, request in sent if i % 2 else reversed(sent):
                client.deliver(node, request)
    for client, token in tokens:
        assert isinstance(finish(client, token), Written)
    assert value_of(clients[0], "set") == {b"0", b"1", b"2"}


def test_a_delete_ends_the_generation() -> None:
    cluster = cluster_of()
    one, two = cluster.client("w1"), cluster.client("w2")
    finish(one, put(one, "set", b"a"))
    finish(two, put(two, "set", b"b"))
    before = generation(one, "set")
    assert isinstance(finish(one, delete_key(one, "set")), Written)
    assert value_of(two, "set") is None
    # The other still believes in the old generation.
    assert isinstance(finish(two, put(two, "set", b"c")), Written)
    assert value_of(one, "set") == {b"c"}
    assert generation(one, "set") > before


def test_a_node_that_missed_the_base_is_given_it() -> None:
    cluster = cluster_of()
    client = cluster.client()
    cluster.down.add(3)
    finish(client, put(client, "set", b"a"))
    cluster.down.clear()
    cluster.down.add(0)
    assert isinstance(finish(client, put(client, "set", b"b")), Written)
    assert base_slot("set") in cluster.nodes[3].slots.keys
    cluster.down.clear()
    cluster.down.add(1)
    # 0 lacks b, 3 lacks a, 1 is silent: what is read is whole all the same.
    assert value_of(cluster.client("w2"), "set") == {b"a", b"b"}


def test_evicted_never_counts_for_a_field() -> None:
    """Repair 2: else a set silently loses a member to an eviction at one node."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    cluster.nodes[0].slots.drop(base_slot("set"))
    cluster.nodes[1].slots.drop(base_slot("set"))
    cluster.down.add(3)
    # Two hold the key, one is needed more: a new generation is the only way, and says so by being another.
    token = put(client, "set", b"b")
    assert isinstance(finish(client, token), Written)
    cluster.down.clear()
    assert value_of(client, "set") == {b"b"}


def test_an_unvouched_miss_is_waited_for() -> None:
    """Repair 3: a generation is not given up because nodes are slow."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    cluster.nodes[0].slots.drop(base_slot("set"))
    cluster.down.add(3)
    other = cluster.client("w2")
    token = put(other, "set", b"b")
    other.run()
    cluster.advance(S)
    assert token not in other.outcomes
    cluster.down.clear()
    assert isinstance(finish(other, token), Written)
    assert value_of(client, "set") == {b"a", b"b"}


@pytest.mark.parametrize("count", [3, 200, 2000])
def test_a_read_of_differing_nodes_takes_the_highest_of_each_field(count: int) -> None:
    cluster = cluster_of()
    client = cluster.client()
    for i in range(0, count, 100):
        tokens = [put(client, "map", b"%d" % j, b"old") for j in range(i, min(i + 100, count))]
        for token in tokens:
            assert isinstance(finish(client, token), Written)
    # Each of three fields is missed by another node.
    for name, node in ((b"0", 0), (b"1", 1), (b"2", 2)):
        cluster.down = {node}
        assert isinstance(finish(client, put(client, "map", name, b"new")), Written)
    cluster.down = {3}
    expected = {b"%d" % j: b"new" if j < 3 else b"old" for j in range(count)}
    assert value_of(cluster.client("w2"), "map") == expected
    assert client.core.counts["lies_rejected"] == 0
    cluster.down = {0}  # Written back: now another quorum has all of it.
    assert value_of(cluster.client("w3"), "map") == expected


def test_one_field_of_differing_nodes() -> None:
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "map", b"a", b"1"))
    cluster.down = {0}
    finish(client, put(client, "map", b"a", b"2"))
    cluster.down = {1}
    finish(client, put(client, "map", b"a", b"3"))
    cluster.down = {3}
    found = read(cluster.client("w2"), slot_at("map", b"a"))
    assert isinstance(found, Found)
    assert found.fields is not None
    assert found.fields[0][1][16:] == b"3"


def test_an_absent_field_of_a_key_that_is_there() -> None:
    cluster = cluster_of()
    client = cluster.client()
    assert isinstance(read(client, slot_at("map", b"a")), Missed)
    finish(client, put(client, "map", b"a", b"1"))
    found = read(client, slot_at("map", b"b"))
    assert isinstance(found, Found)
    assert found.fields == []


def test_a_new_time_to_live_goes_on_with_the_generation() -> None:
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    before = generation(client, "set")
    client.core.write(base_slot("set"), PUT, b"", cluster.now_us + 10 * S, "touch")
    assert isinstance(finish(client, "touch"), Written)
    assert generation(client, "set") == before
    assert value_of(client, "set") == {b"a"}
    cluster.advance(20 * S)
    assert value_of(client, "set") is None
    assert isinstance(finish(client, put(client, "set", b"b")), Written)
    assert value_of(client, "set") == {b"b"}
    assert generation(client, "set") > before


def test_a_touch_of_what_is_not_there_is_a_miss() -> None:
    cluster = cluster_of()
    client = cluster.client()
    client.core.write(base_slot("set"), PUT, b"", cluster.now_us + 10 * S, "touch")
    assert isinstance(finish(client, "touch"), Missed)


def test_a_restarted_node_recovers_the_whole_key() -> None:
    """Protocol 7: a key as a whole, or not at all."""
    from quorumcache.core.repair import Recovery

    cluster = cluster_of()
    client = cluster.client()
    for i in range(0, 200, 50):
        for token in [put(client, "map", b"%d" % j, b"x") for j in range(i, i + 50)]:
            finish(client, token)
    node = cluster.start(0)
    assert not node.slots.keys
    recovery = Recovery(node, cluster.now_us, first_id=1)
    cluster.now_us += 11 * S
    for _ in range(2000):
        if recovery.finished:
            break
        recovery.wake(cluster.now_us)
        out, recovery.outbox = recovery.outbox, []
        for nodes, request in out:
            for peer in nodes:
                reply = cluster.answer(peer, request)
                assert isinstance(reply, m.ReportReply)
                recovery.receive(peer, reply, cluster.now_us)
        cluster.now_us += 1000
    key = node.slots.keys[base_slot("map")]
    assert len(key.fields) == 200
    assert key.digest() == cluster.nodes[1].slots.keys[base_slot("map")].digest()
    assert generation_of(key.base.header) == cluster.nodes[1].slots.keys[base_slot("map")].generation


def test_a_recovering_node_does_not_confirm_fields() -> None:
    """Repair 2: RECOVERING and EVICTED never count for a field."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    cluster.start(0)
    cluster.down.add(1)
    token = put(client, "set", b"b")
    client.run()
    cluster.advance(S)
    assert token not in client.outcomes
    cluster.down.clear()
    assert isinstance(finish(client, token), Written)
    assert value_of(client, "set") == {b"a", b"b"}


def test_a_field_under_a_generation_that_is_ahead_has_a_stamp_of_its_writer() -> None:
    """Protocol 6: a field is not below its generation; nor does it take another writer's stamp for that."""
    cluster = cluster_of()
    one, two = cluster.client("w1"), cluster.client("w2")
    one.core.note_ahead(base_slot("set"), cluster.now_us + 900_000, cluster.now_us)
    assert isinstance(finish(one, put(one, "set", b"a")), Written)
    token = put(two, "set", b"b")
    two.run()
    assert isinstance(two.outcomes[token], Written)
    assert value_of(one, "set") == {b"a", b"b"}


def test_a_delete_that_waits_for_the_flush_is_not_mixed_up_with_a_new_base() -> None:
    """Protocol 4: one client has at most one write in flight per slot, those that it makes by itself included."""
    cluster = cluster_of()
    client = cluster.client()
    added = put(client, "set", b"a")
    sent = client.take()
    deleted = delete_key(client, "set")  # Not flushed yet, when the read of the base ends.
    for node, request in sent:
        client.deliver(node, request)
    assert isinstance(finish(client, deleted), Written)
    assert isinstance(finish(client, added), Written)
    assert is_quiet(client)


def test_answers_to_the_write_back_of_another_base_are_ignored() -> None:
    """Protocol 6, read: only what is said of the base that is being settled counts."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    cluster.down = {0, 1}
    old = delete_key(client, "set")  # Prepared nowhere: too few answer.
    client.run()
    cluster.down = {3}
    assert isinstance(finish(client, old), Written)
    assert isinstance(finish(client, put(client, "set", b"b")), Written)
    cluster.down = set()
    cluster.nodes[2].slots.drop(base_slot("set"))
    # 3 still has the first base, 2 nothing: each reader settles one base, then learns of the other, in any order.
    other = cluster.client("w2")
    for order in ((3, 2, 0, 1), (2, 3, 1, 0), (0, 3, 2, 1)):
        token = ("read", order)
        other.core.read(base_slot("set"), token)
        for _ in range(20):
            for node, request in sorted(other.take(), key=lambda sent: order.index(sent[0])):
                other.deliver(node, request)
        assert finish(other, token)


def _takes_no_commits(request: m.Request, reply: m.Reply) -> m.Reply | None:
    return None if isinstance(request, m.Commit) else reply


def _grants_nothing(request: m.Request, reply: m.Reply) -> m.Reply | None:
    if not isinstance(request, m.Prepare):
        return reply
    refusals = [m.Refusal(i, m.AHEAD, 0) for i in range(len(request.headers))]
    return m.PrepareReply(request.id, reply.clock_us, bytes((len(refusals) + 7) // 8), b"", refusals)


@pytest.mark.parametrize("lie", [_takes_no_commits, _grants_nothing])
def test_a_liar_who_names_a_generation_cannot_keep_a_key_from_being_written(lie: object) -> None:
    """Protocol 5.6 and 6: where reads name a generation that no quorum takes writes under, the writer ends it."""
    cluster = cluster_of()
    client = cluster.client()
    finish(client, put(client, "set", b"a"))
    cluster.nodes[0].slots.drop(base_slot("set"))
    cluster.lies[3] = lie  # type: ignore[assignment]
    assert isinstance(finish(client, put(client, "set", b"b")), Written)
    assert value_of(cluster.client("w2"), "set") == {b"b"}


def test_what_was_committed_under_a_generation_that_is_over_never_failed_for_certain() -> None:
    """Protocol 4: "nothing was written" is only said of what nobody may have seen."""
    cluster = cluster_of()
    one, two = cluster.client("w1"), cluster.client("w2")
    finish(one, put(one, "set", b"a"))
    finish(two, put(two, "set", b"b"))
    token = put(two, "set", b"c")
    for node, request in two.take():
        two.deliver(node, request)
    commits = two.take()
    assert all(isinstance(request, m.Commit) for _, request in commits)
    two.deliver(*commits[0])  # Seen there.
    assert isinstance(finish(one, delete_key(one, "set")), Written)
    for node, request in commits[1:]:
        two.deliver(node, request)
    cluster.down = {0, 1, 2, 3}
    outcome = finish(two, token, 12 * S)
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN


def test_a_full_node_takes_the_deletion_of_a_large_key() -> None:
    """Protocol 6: what a new generation takes away makes room for its base (found by simulation, seed 1266)."""
    cluster = cluster_of()
    client = cluster.client()
    for token in [put(client, "map", b"%d" % i, b"v" * 100) for i in range(50)]:
        assert isinstance(finish(client, token), Written)
    for node in cluster.nodes.values():
        memory = node.slots.memory
        memory.bytes_max = memory.bytes_used + 400
    draft = delete_key(client, "map")
    client.run()
    assert isinstance(client.outcomes.get(draft), Written), "the tombstone and its batch need more than is left"
