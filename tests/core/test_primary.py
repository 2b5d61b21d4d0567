"""Protocol 10, mode primary: one round trip, the next node where the first fails, everything forwarded and the same in
the end; nothing that its writer did not sign.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core import primary
from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.model import Certificate, Entry, Malformed, parse_header
from quorumcache.core.node import Node
from quorumcache.core.outcome import DENIED, UNKNOWN, Failed, Found, Missed, Written
from quorumcache.core.repair import Recovery
from quorumcache.errors import ConfigurationError
from tests.cluster import Client, Cluster, configuration_of, key_of, slot
from tests.making import Draft
from tests.steps import S, finish


def configuration(ack: int = 1, **changes: Any) -> Configuration:
    return configuration_of(namespaces=(NamespaceInfo("test", mode="primary", ack=ack),), **changes)


def clustered(ack: int = 1, **changes: Any) -> Cluster:
    return Cluster(configuration=configuration(ack, **changes))


def order_of(cluster: Cluster, key: str) -> tuple[int, ...]:
    config = cluster.configuration
    return config.order_of_shard(config.shard_of(slot(key)))


def forward(cluster: Cluster, rounds: int = 20) -> None:
    """Let nodes pass on what they took, to those that are up."""
    for _ in range(rounds):
        quiet = True
        for index, node in cluster.nodes.items():
            if index in cluster.down:
                continue
            node.forwarding.wake(cluster.now_us)
            outbox, node.forwarding.outbox = node.forwarding.outbox, []
            for peers, request in outbox:
                for peer in peers:
                    quiet = False
                    reply = cluster.answer(peer, request)
                    if reply is not None:
                        node.forwarding.receive(peer, reply, cluster.now_us)
        if quiet:
            return


def value_at(node: Node, key: str) -> bytes | None:
    held = node.slots.current.get(slot(key))
    return None if held is None else held.salted[16:]


def found(outcome: object) -> bytes:
    assert isinstance(outcome, Found), outcome
    return outcome.salted[16:]


def test_a_write_and_a_read_ask_one_node_each() -> None:
    cluster = clustered()
    client = cluster.client()
    first = order_of(cluster, "k")[0]
    token = client.write("k", b"v")
    sent = client.take()
    assert [(node, type(request)) for node, request in sent] == [(first, m.Put)]
    for node, request in sent:
        client.deliver(node, request)
    assert isinstance(client.outcomes[token], Written)
    token = client.read("k")
    sent = client.take()
    assert [(node, type(request)) for node, request in sent] == [(first, m.Get)]
    for node, request in sent:
        client.deliver(node, request)
    assert found(client.outcomes[token]) == b"v"
    assert [value_at(node, "k") for node in cluster.nodes.values()].count(b"v") == 1
    forward(cluster)
    assert [value_at(node, "k") for node in cluster.nodes.values()] == [b"v"] * 4
    assert all(node.forwarding.is_idle for node in cluster.nodes.values())


@pytest.mark.parametrize("ack", [1, 2, 3, 4])
def test_a_write_ends_when_as_many_nodes_as_ack_says_store_it(ack: int) -> None:
    cluster = clustered(ack)
    client = cluster.client()
    token = client.write("k", b"v")
    sent = client.take()
    assert [node for node, _ in sent] == list(order_of(cluster, "k")[:ack])
    for node, request in sent:
        assert token not in client.outcomes
        client.deliver(node, request)
    assert isinstance(client.outcomes[token], Written)
    assert [value_at(node, "k") for node in cluster.nodes.values()].count(b"v") == ack


def test_the_next_takes_over_from_a_silent_primary_which_catches_up_when_it_returns() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    client.set("k", b"old")
    forward(cluster)
    cluster.down = {order[0]}
    token = client.write("k", b"new")
    assert isinstance(finish(client, token), Written)
    token = client.read("k")
    assert found(finish(client, token)) == b"new"
    assert value_at(cluster.nodes[order[1]], "k") == b"new"
    forward(cluster)
    assert cluster.nodes[order[1]].forwarding.lag(cluster.now_us)[order[0]][0] == 1
    cluster.down = set()
    cluster.advance(6 * S)
    forward(cluster)
    assert value_at(cluster.nodes[order[0]], "k") == b"new"
    assert found(client.get("k")) == b"new"


def test_a_primary_that_is_known_to_be_away_is_not_waited_for() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    client.core.reachable(order[0], False)
    client.write("k", b"v")
    assert [node for node, _ in client.take()] == [order[1]]


def test_what_a_node_lost_with_its_state_is_read_from_the_next() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    client.set("k", b"v")
    forward(cluster)
    cluster.advance(1)
    cluster.start(order[0])
    assert found(client.get("k")) == b"v"
    # Nobody has anything: that is a miss, though one node has not recovered yet.
    assert isinstance(client.get("other"), Missed)


def test_recovery_goes_above_what_came_meanwhile_and_past_what_no_rule_allows() -> None:
    """Protocol 10: floors do not count, so what a liar forwards to a node that recovers may be older."""
    cluster = clustered()
    client = cluster.client()
    old = Draft(cluster.configuration, "w3").put("k", b"old", at_us=cluster.now_us)
    cluster.advance(1000)
    client.set("k", b"new")
    forward(cluster)
    cluster.start(0)
    node = cluster.nodes[0]
    node.handle(m.Forward(1, cluster.configuration.digest, [bundle_of(signed_entry(old))]), cluster.now_us)
    assert value_at(node, "k") == b"old"
    recovery = Recovery(node, cluster.now_us, first_id=1)
    cluster.advance(11 * S)
    ahead = Draft(cluster.configuration, "w3").put("k", b"ahead", at_us=cluster.now_us + 3600 * S)

    def shows_ahead(request: m.Request, reply: m.Reply) -> m.Reply:
        if not isinstance(reply, m.ReportReply) or not reply.entries:
            return reply
        return msgspec.structs.replace(reply, entries=[signed_entry(ahead)])

    cluster.lies[1] = shows_ahead
    for _ in range(200):
        recovery.wake(cluster.now_us)
        outbox, recovery.outbox = recovery.outbox, []
        for peers, request in outbox:
            for peer in peers:
                reply = cluster.answer(peer, request)
                assert reply is not None
                recovery.receive(peer, reply, cluster.now_us)
        if recovery.finished:
            break
        cluster.advance(1000)
    assert recovery.finished
    assert value_at(node, "k") == b"new"


def test_a_write_below_what_is_there_goes_above_it() -> None:
    cluster = clustered()
    client, other = cluster.client("w1"), cluster.client("w3")
    client.core.clock.report(0, cluster.now_us + S // 2, cluster.now_us)
    ahead = Draft(cluster.configuration, "w3").put("k", b"ahead", at_us=cluster.now_us + S // 2)
    reply = cluster.nodes[order_of(cluster, "k")[0]].handle(put_of(cluster, ahead), cluster.now_us)
    assert isinstance(reply, m.PutReply)
    assert reply.codes == bytes((m.OK,))
    token = other.write("k", b"above")
    assert isinstance(finish(other, token), Written)
    assert found(client.get("k")) == b"above"


def put_of(cluster: Cluster, draft: Draft, *, forward: bool = True) -> m.Put:
    return m.Put(
        7,
        cluster.configuration.digest,
        draft.group,
        draft.key.public,
        draft.intent,
        draft.headers,
        draft.salted,
        forward,
    )


def signed_entry(draft: Draft, position: int = 0) -> Entry:
    certificate = draft.certificate()
    certificate = msgspec.structs.replace(certificate, grants=())
    return msgspec.structs.replace(draft.entry(position), certificate=certificate)


def bundle_of(entry: Entry) -> m.Bundle:
    return m.Bundle(entry.certificate, b"", [m.Item(entry.position, entry.header, entry.salted, entry.path)])


def test_entries_without_grants_count_in_this_mode_alone() -> None:
    """The most dangerous mistake: where q nodes have to grant, an intent is nothing."""
    quorum = Cluster()
    entry = signed_entry(Draft(quorum.configuration).put("k", b"v"))
    node = quorum.nodes[0]
    for request in (
        m.Commit(1, quorum.configuration.digest, [bundle_of(entry)]),
        m.Forward(1, quorum.configuration.digest, [bundle_of(entry)]),
        put_of(quorum, Draft(quorum.configuration).put("k", b"v")),
    ):
        reply = node.handle(request, quorum.now_us)
        assert isinstance(reply, m.Reject), type(request)
    with pytest.raises(Malformed, match="where q nodes have to grant"):
        node.verifier.check_entry(entry)
    assert not node.slots.current
    # A promise open for the very header does not open a way around.
    draft = Draft(quorum.configuration).put("k", b"v")
    assert isinstance(node.handle(draft.prepare(), quorum.now_us), m.PrepareReply)
    leaves = m.Bundle(
        msgspec.structs.replace(draft.certificate(), grants=()), draft.leaves, draft.commit().bundles[0].items
    )
    assert isinstance(node.handle(m.Commit(1, quorum.configuration.digest, [leaves]), quorum.now_us), m.Reject)
    assert not node.slots.current


def test_what_was_granted_is_not_for_this_mode() -> None:
    cluster = clustered()
    node = cluster.nodes[0]
    draft = Draft(cluster.configuration).put("k", b"v")
    reply = node.handle(draft.prepare(), cluster.now_us)
    assert isinstance(reply, m.PrepareReply)
    assert [refusal.code for refusal in reply.refusals] == [m.DENIED]
    assert "mode is primary" in reply.refusals[0].detail


@pytest.mark.parametrize("change", ["signature", "value", "header", "group", "writer", "twice", "count"])
def test_a_batch_that_is_not_what_its_writer_signed_is_rejected(change: str) -> None:
    cluster = clustered()
    draft = Draft(cluster.configuration).put("k", b"v").put("l", b"w")
    request = put_of(cluster, draft)
    other = Draft(cluster.configuration).put("k", b"other")
    changed = {
        "signature": {"signature": bytes(64)},
        "value": {"salted": [draft.salted[0] + b"x", draft.salted[1]]},
        "header": {"headers": [other.headers[0], draft.headers[1]], "salted": [other.salted[0], draft.salted[1]]},
        "group": {"group": bytes(16)},
        "writer": {"writer": key_of("w3").public},
        "twice": {"headers": [draft.headers[0]] * 2, "salted": [draft.salted[0]] * 2},
        "count": {"salted": draft.salted[:1]},
    }[change]
    reply = cluster.nodes[0].handle(msgspec.structs.replace(request, **changed), cluster.now_us)
    assert isinstance(reply, m.Reject)
    assert not cluster.nodes[0].slots.current


def test_nobody_can_have_another_store_what_its_writer_may_not_write() -> None:
    """Rights are checked where an entry comes from a peer too: the primary may be the liar."""
    cluster = clustered(revoked=("w2",))
    entry = signed_entry(Draft(cluster.configuration, "w2").put("k", b"v"))
    digest = cluster.configuration.digest
    reply = cluster.nodes[0].handle(m.Forward(1, digest, [bundle_of(entry)]), cluster.now_us)
    assert isinstance(reply, m.ForwardReply)
    assert reply.codes == bytes((m.DENIED,))
    late = signed_entry(Draft(cluster.configuration).put("k", b"v", at_us=cluster.now_us + 2 * S))
    reply = cluster.nodes[0].handle(m.Forward(1, digest, [bundle_of(late)]), cluster.now_us)
    assert isinstance(reply, m.ForwardReply)
    assert reply.codes == bytes((m.AHEAD,))
    for spoiled in (
        msgspec.structs.replace(late, salted=b"x" * 20),
        msgspec.structs.replace(late, certificate=msgspec.structs.replace(late.certificate, signature=bytes(64))),
        msgspec.structs.replace(late, path=bytes(32)),
    ):
        assert isinstance(cluster.nodes[0].handle(m.Forward(1, digest, [bundle_of(spoiled)]), cluster.now_us), m.Reject)
    assert not cluster.nodes[0].slots.current


def test_a_primary_that_lies_is_passed_over() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    client.set("k", b"v")
    forward(cluster)

    def forges(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if not isinstance(reply, m.GetReply) or not reply.bundles:
            return reply
        item = reply.bundles[0].items[0]
        forged = m.Item(item.position, item.header, item.salted[:16] + b"forged", item.path)
        return msgspec.structs.replace(reply, bundles=[m.Bundle(reply.bundles[0].certificate, b"", [forged])])

    cluster.lies[order[0]] = forges
    assert found(client.get("k")) == b"v"
    assert client.core.counts["lies_rejected"] == 1


def test_denials_and_silence_end_with_their_errors() -> None:
    cluster = clustered()
    stranger = cluster.client("stranger")
    token = stranger.write("k", b"v")
    outcome = finish(stranger, token)
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED
    client = cluster.client()
    cluster.down = {0, 1, 2, 3}
    token = client.write("k", b"v")
    outcome = finish(client, token)
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN


def test_one_node_alone_cannot_deny() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    cluster.lies[order[0]] = lambda _, reply: (
        m.PutReply(reply.id, reply.clock_us, bytes((m.DENIED,)), [], "no") if isinstance(reply, m.PutReply) else reply
    )
    token = client.write("k", b"v")
    assert isinstance(finish(client, token), Written)
    assert value_at(cluster.nodes[order[1]], "k") == b"v"


def saying(code: int, times: Any = None) -> Any:
    """A liar that answers each put with a code, and a time for each stamp."""

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if not isinstance(request, m.Put) or not isinstance(reply, m.PutReply):
            return reply
        said = [times(parse_header(raw).time_us) if times else 0 for raw in request.headers]
        return m.PutReply(reply.id, reply.clock_us, bytes([code]) * len(said), said, "no")

    return lie


@pytest.mark.parametrize(
    "lie", [saying(m.STALE, lambda time_us: time_us), saying(m.AHEAD, lambda time_us: time_us - S)]
)
def test_a_primary_cannot_keep_a_write_from_ending_by_what_it_says_of_time(lie: Any) -> None:
    """Protocol 10, put: who says `STALE` twice, or `AHEAD` beyond all clocks, is not waited for."""
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    cluster.lies[order[0]] = lie
    token = client.write("k", b"v")
    assert isinstance(finish(client, token), Written)
    assert value_at(cluster.nodes[order[1]], "k") == b"v"


def test_the_first_passes_on_a_write_that_it_got_only_when_it_was_asked_again() -> None:
    """Protocol 10, forward: the first that was asked, whichever of the requests came through."""
    cluster = clustered(ack=2)
    client = cluster.client()
    order = order_of(cluster, "k")
    cluster.down = {order[0]}
    token = client.write("k", b"v")
    client.run()
    cluster.down = {order[2], order[3]}
    assert isinstance(finish(client, token), Written)
    assert cluster.nodes[order[0]].forwarding.lag(cluster.now_us)[order[3]][0] == 1


def test_a_write_that_all_rejected_may_have_taken_effect() -> None:
    """Protocol 10, put: one that rejects it may have stored it, then or before."""
    cluster = clustered()
    client = cluster.client()
    for node in cluster.nodes:
        cluster.lies[node] = lambda request, reply: m.Reject(reply.id, reply.clock_us, m.BAD_FORM, "so it says")
    outcome = finish(client, client.write("k", b"v"))
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN


def test_a_read_asks_the_third_at_once_where_the_first_is_silent_and_the_second_behind() -> None:
    cluster = clustered()
    client = cluster.client()
    order = order_of(cluster, "k")
    client.set("k", b"v")
    forward(cluster)
    cluster.down = {order[0]}
    cluster.lies[order[1]] = lambda request, reply: (
        m.GetReply(reply.id, reply.clock_us, 1, [], True) if isinstance(reply, m.GetReply) else reply
    )
    token = client.read("k")
    assert found(finish(client, token, within_us=cluster.configuration.grace_us + 20_000)) == b"v"


def test_types_with_fields_and_unreachable_acks_are_refused_by_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="only registers"):
        configuration_of(namespaces=(NamespaceInfo("test", "set", mode="primary"),))
    for ack, mode in ((0, "primary"), (5, "primary"), (2, "quorum")):
        with pytest.raises(ConfigurationError, match="ack"):
            configuration_of(namespaces=(NamespaceInfo("test", mode=mode, ack=ack),))


def test_a_full_queue_leaves_the_oldest_to_anti_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(primary, "QUEUE_MAX", 3)
    cluster = clustered()
    client = cluster.client()
    node = cluster.nodes[order_of(cluster, "k")[0]]
    for i in range(5):
        node.forwarding.note(slot(f"k{i}"), range(4), cluster.now_us)
    assert node.forwarding.left_count == 6
    assert client.set("k", b"v")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30))
def test_in_the_end_all_nodes_hold_the_same_and_the_highest(seed: int) -> None:
    """Writers race, equivocate and use one stamp twice; nodes are away, lose batches, and get them in any order."""
    draw = random.Random(seed)
    cluster = clustered(draw.choice([1, 2]))
    writers = [cluster.client(w) for w in ("w1", "w2", "w3")]
    for _ in range(draw.randrange(5, 25)):
        step = draw.random()
        if step < 0.5:
            cluster.down = set(draw.sample(range(4), draw.choice([0, 0, 1])))
            writer, key = draw.choice(writers), draw.choice("abc")
            token = writer.write(key, b"%d" % draw.randrange(100))
            outcome = finish(writer, token)
            assert isinstance(outcome, Written), outcome
        elif step < 0.65:
            cluster.down = set()
            time_us = cluster.now_us + draw.randrange(1000)
            for value in (b"one", b"other"):
                draft = Draft(cluster.configuration, "w1", nonce=77).put("a", value, at_us=time_us)
                node = cluster.nodes[draw.randrange(4)]
                node.handle(put_of(cluster, draft, forward=True), cluster.now_us)
        elif step < 0.8:
            cluster.advance(draw.randrange(S))
        else:
            forward(cluster, 1)
    cluster.down = set()
    for _ in range(8):
        cluster.advance(6 * S)
        forward(cluster)
    assert all(node.forwarding.is_idle for node in cluster.nodes.values())
    for key in "abc":
        states = {
            None if held is None else (held.stamp, held.digest)
            for held in (node.slots.current.get(slot(key)) for node in cluster.nodes.values())
        }
        assert len(states) == 1, key


def test_a_certificate_with_grants_is_none_of_this_mode() -> None:
    cluster = clustered()
    certificate: Certificate = Draft(cluster.configuration).put("k").certificate()
    with pytest.raises(Malformed, match="no grants"):
        cluster.nodes[0].verifier.check_intent(certificate)


def test_full_reads_carry_the_signed_entry() -> None:
    cluster = clustered()
    client: Client = cluster.client()
    client.set("k", b"v")
    outcome = client.get("k", full=True)
    assert isinstance(outcome, Found)
    assert outcome.entry is not None
    assert cluster.nodes[0].verifier.check_entry(outcome.entry).slot == slot("k")
