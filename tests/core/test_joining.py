"""Protocol 9 and decision 0022: nodes that sealed are silent but for reports; those that join wait for q of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.carrying import carry
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NodeInfo, SignedConfiguration
from quorumcache.core.ended import Ended
from quorumcache.core.node import Node
from quorumcache.core.repair import Recovery
from quorumcache.core.seals import Ending
from quorumcache.wire.keys import verify
from tests.cluster import START_US, Cluster, configuration_of, key_of, slot
from tests.making import SECOND_US, Draft, passed_on

FIRST = configuration_of(shards=1)


def replaced(before: Configuration, stay: tuple[int, ...], joiners: int) -> Configuration:
    """The next epoch, in which these nodes stay and new ones come."""
    nodes = [before.nodes[i] for i in stay]
    nodes += [NodeInfo(0, f"j{i}", key_of(f"joiner {i}").public, f"127.0.0.1:{8000 + i}") for i in range(joiners)]
    return amend.successor_of(before, nodes=tuple(replace(x, index=i) for i, x in enumerate(nodes)))


def signed(config: Configuration) -> SignedConfiguration:
    admin = key_of("admin")
    return SignedConfiguration(config, ((admin.public, admin.sign(SignedConfiguration(config).signed_message)),))


def ended(node: Node, after: Configuration) -> Ended:
    ending = Ending(node.configuration, node.key, node.sign, verify, lambda _successor: None)
    ending.seal(signed(after))
    return Ended(node, ending)


def joiner(after: Configuration, before: Configuration, number: int = 0) -> tuple[Node, tuple[int, ...]]:
    """A node that joins now, and the shards that it joined."""
    key = key_of(f"joiner {number}")
    info = after.node_by_key(key.public)
    assert info is not None
    node = Node(after, info.index, key.sign, Verifier(verify, [after, before]), started_us=None)
    # It has nothing of before: that of a node that never was.
    empty = Node(before, 0, key.sign, node.verifier, started_us=None)
    return node, carry(empty.slots, node.slots, key.public, START_US, node.verifier.chain).joined


class Move:
    """A cluster of FIRST in which v1 is everywhere and v2, complete, at all nodes but 2; then nodes 0 and 2 stay, two
    leave and two join. Node 0 lies: it never heard of v2. `silent`: who does not answer."""

    def __init__(self) -> None:
        cluster = Cluster(configuration=FIRST)
        for value, at_us, nodes in ((b"v1", START_US, range(4)), (b"v2", START_US + 9, (1, 3))):
            entry = Draft(FIRST).put("k", value, at_us=at_us).entry()
            for node in nodes:
                cluster.nodes[node].handle(passed_on(entry, FIRST), START_US)
        self.after = replaced(FIRST, (0, 2), 2)
        self.ended = [ended(cluster.nodes[i], self.after) for i in range(4)]
        self.node, joined = joiner(self.after, FIRST)
        assert joined == (0,)
        self.recovery = Recovery(self.node, START_US, first_id=1, joined=joined, before=FIRST)
        self.now_us = START_US
        self.silent: set[int] = set()
        self.tamper: Callable[[int, m.Reply], m.Reply] = lambda _peer, reply: reply

    def run(self, for_us: int) -> None:
        end_us = self.now_us + for_us
        while not self.recovery.finished and self.now_us < end_us:
            self.recovery.wake(self.now_us)
            rounds = 0
            while self.recovery.outbox:
                rounds += 1
                assert rounds < 10, "it asks without end"
                sent, self.recovery.outbox = self.recovery.outbox, []
                for peers, request in sent:
                    for peer in set(peers) - self.silent:
                        reply = self.ended[peer].handle(request, self.now_us, self.node.key)
                        self.recovery.receive(peer, self.tamper(peer, reply), self.now_us)
            self.now_us = max(self.now_us + 1, min(self.recovery.deadline_us, end_us))

    @property
    def value(self) -> bytes | None:
        held = self.node.slots.current.get(slot("k"))
        return None if held is None else held.salted[16:]

    @property
    def recovering(self) -> bool:
        return self.node.slots.shards[0].recovering


@pytest.mark.parametrize("silent", [set(), {1}, {2}, {3}, {0}])
def test_a_joiner_learns_all_that_was_complete_from_the_group_of_before(silent: set[int]) -> None:
    """0022: whichever q report, those that leave among them. It need not wait 2 op_time (0016, 2)."""
    move = Move()
    move.silent = silent
    move.run(SECOND_US)
    assert (move.value, move.recovering) == (b"v2", False)
    assert move.node.slots.shards[0].floor_us == START_US + 2 * SECOND_US


def test_a_joiner_waits_for_q_however_long() -> None:
    """0022: a shard that became active with less could vouch for v1, which v2 replaced."""
    move = Move()
    move.silent = {1, 3}
    move.run(120 * SECOND_US)
    assert (move.value, move.recovering) == (None, True)
    draft = Draft(FIRST).put("k", b"v1", at_us=START_US)
    reply = move.node.handle(passed_on(draft.entry(), move.after), move.now_us)
    assert isinstance(reply, m.CommitReply)
    assert m.COMMIT_CODES[reply.codes[0]] == "RECOVERING", "what is below its floor is not vouched for"
    move.silent = {1}
    move.run(20 * SECOND_US)
    assert (move.value, move.recovering) == (b"v2", False)


def test_reports_of_who_recovers_itself_do_not_count() -> None:
    """0022: q that count each other's empty reports know nothing, and do not know it."""
    move = Move()
    move.silent = {1}
    move.ended[3].node.slots.shards[0].recovering = True
    move.run(30 * SECOND_US)
    assert (move.value, move.recovering) == (None, True)
    move.silent = set()
    move.ended[3].node.slots.shards[0].recovering = False
    move.run(30 * SECOND_US)
    assert (move.value, move.recovering) == (b"v2", False)


def test_a_lying_report_neither_counts_nor_keeps_the_joiner_busy() -> None:
    """Protocol 7: one that is no report is forgotten; and with fewer than q left it asks again later, not at once."""
    move = Move()

    def tamper(peer: int, reply: m.Reply) -> m.Reply:
        if peer in (0, 3) and isinstance(reply, m.ReportReply):
            return m.ReportReply(reply.id, reply.clock_us, 0, reply.entries * 2, False)
        return reply

    move.tamper = tamper
    move.run(60 * SECOND_US)
    assert (move.value, move.recovering) == (None, True)
    assert 4 <= move.recovery.abandoned_count <= 7, "once each 2 op_time"
    move.tamper = lambda _peer, reply: reply
    move.run(30 * SECOND_US)
    assert move.value == b"v2"


def test_a_restart_and_a_joining_are_recovered_apart() -> None:
    """0022: a node may recover from a restart in some shards while it joins others."""
    before = configuration_of(shards=4)
    after = replaced(before, (0, 2, 3), 1)
    node, joined = joiner(after, before)
    assert joined == (0, 1, 2, 3)
    node.slots.shards[2].recovering = False
    assert Recovery(node, START_US, first_id=1, joined=joined).finished
    restarted = Recovery(node, START_US, first_id=1, joined=(0, 1))
    joining = Recovery(node, START_US, first_id=1, joined=(0, 1), before=before)
    for recovery, shards, peers, digest in (
        (restarted, {3}, {0, 1, 2}, after.digest),
        (joining, {0, 1}, {0, 1, 2, 3}, before.digest),
    ):
        recovery.wake(START_US + 20 * SECOND_US)
        asked = [(request, peer) for nodes, request in recovery.outbox for peer in nodes]
        assert {request.shard for request, _ in asked if isinstance(request, m.Report)} == shards
        assert {peer for _, peer in asked} == peers
        assert {request.configuration for request, _ in asked} == {digest}


def test_a_node_that_sealed_answers_reports_alone_and_to_those_who_join() -> None:
    """Protocol 9: from its seal on a node answers nothing in its epoch, or a reader finds q there later."""
    move = Move()
    silent, digest = move.ended[1], FIRST.digest
    draft = Draft(FIRST).put("new", at_us=START_US + 20)
    entries = len(silent.node.slots.current)
    for request in (
        m.Read(1, digest, [slot("k")]),
        m.ReadFull(1, digest, [slot("k")]),
        m.Ping(1, digest),
        m.ShardList(1, digest, 0, b""),
        m.ExactReport(1, digest, 0, b""),
        draft.prepare(),
        draft.commit(),
    ):
        for client in (None, b"", key_of("w1").public, move.node.key, FIRST.nodes[0].key):
            reply = silent.handle(request, START_US, client)
            assert isinstance(reply, m.Reject)
            assert reply.code == m.SEALED, request
            assert "epoch 1 has ended at this node, for epoch 2" in reply.detail
    assert (len(silent.node.slots.current), len(silent.node.slots.promises)) == (entries, 0)
    report = m.Report(1, digest, 0, b"")
    for client, may in (
        (move.node.key, True),
        (FIRST.nodes[0].key, True),
        (FIRST.nodes[1].key, False),
        (key_of("w1").public, False),
        (b"", False),
    ):
        assert isinstance(silent.handle(report, START_US, client), m.ReportReply) == may
    other = silent.handle(m.Ping(1, move.after.digest), START_US)
    assert isinstance(other, m.Reject)
    assert other.code == m.WRONG_CONFIGURATION
    beyond = silent.handle(m.Report(1, digest, 7, b""), START_US, move.node.key)
    assert isinstance(beyond, m.Reject)
    assert beyond.code == m.BAD_FORM


def test_only_an_epoch_that_was_sealed_has_ended() -> None:
    node = Cluster(configuration=FIRST).nodes[0]
    with pytest.raises(ValueError, match="goes on"):
        Ended(node, Ending(FIRST, node.key, node.sign, verify, lambda _successor: None))


def test_what_a_node_left_is_kept_as_long_as_somebody_asks() -> None:
    """0022: an hour after the last report it is forgotten. Who leaves the cluster keeps it as long as it runs."""
    cluster = Cluster(configuration=FIRST)
    entry = Draft(FIRST).put("k", b"v1").entry()
    cluster.nodes[0].handle(passed_on(entry, FIRST), START_US)
    leaves, leaves_all = (ended(cluster.nodes[i], replaced(FIRST, (1, 2, 3), 1)) for i in (0, 0))
    leaves.went_on(START_US)
    client = key_of("joiner 0").public

    def reported(by: Ended, after_s: int) -> bool:
        request = m.Report(1, FIRST.digest, 0, b"")
        reply = by.handle(request, START_US + after_s * SECOND_US, client)
        assert isinstance(reply, m.ReportReply | m.Reject)
        return isinstance(reply, m.ReportReply) and reply.entries == [entry]

    assert reported(leaves, 3500)
    assert reported(leaves, 7000), "an hour from then on"
    assert not leaves_all.keeps_left(START_US)
    assert reported(leaves_all, 100_000)
    assert leaves.keeps_left(START_US + 10_000 * SECOND_US)
    assert not leaves.keeps_left(START_US + 11_000 * SECOND_US)
    assert not reported(leaves, 11_000)
