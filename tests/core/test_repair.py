"""Protocol 7: recovery of a node that started without stored state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.outcome import Written
from quorumcache.core.repair import Recovery
from tests import craft
from tests.cluster import START_US, Cluster, configuration_of, key_of, slot

S = 1_000_000
Lie = Callable[[m.Request, m.Reply], m.Reply | None]


class Restarted:
    """A cluster whose node 0 starts again, empty, and recovers."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        cluster.start(0)
        self.recovery = Recovery(cluster.nodes[0], cluster.now_us, first_id=1)
        self.asked: list[tuple[int, m.Request]] = []

    def step(self, by_us: int) -> None:
        """Let time pass in one step, then deliver all messages."""
        self.cluster.now_us += by_us
        self.recovery.wake(self.cluster.now_us)
        while self.recovery.outbox:
            sent = [(node, request) for nodes, request in self.recovery.outbox for node in nodes]
            self.recovery.outbox.clear()
            self.asked += sent
            for node, request in sent:
                reply = self.cluster.answer(node, request)
                if reply is not None:
                    self.recovery.receive(node, reply, self.cluster.now_us)

    def run(self, for_us: int = 30 * S) -> None:
        """Let time pass as the recovery asks for, until it is over."""
        end_us = self.cluster.now_us + for_us
        while not self.recovery.finished and self.cluster.now_us < end_us:
            self.step(max(self.recovery.deadline_us - self.cluster.now_us, 1))
        assert self.recovery.finished, "recovery never ends"

    def held(self, key: str) -> bytes | None:
        found = self.cluster.nodes[0].slots.current.get(slot(key))
        return None if found is None else found.salted[16:]


def plant(cluster: Cluster, node: int, crafted: craft.Crafted) -> None:
    entry = craft.entry(cluster.configuration, crafted)
    reply = cluster.nodes[node].handle(craft.commit(cluster.configuration, entry), cluster.now_us)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == b"\x00"


def filled(f: int = 1, count: int = 20, configuration: Configuration | None = None) -> Cluster:
    cluster = Cluster(f, configuration)
    client = cluster.client()
    tokens = [client.write(f"k{i}", b"%d" % i) for i in range(count)]
    client.run()
    assert all(isinstance(client.outcomes[t], Written) for t in tokens)
    return cluster


@pytest.mark.parametrize("f", [1, 2, 3])
def test_recovery_brings_back_what_the_others_hold(f: int) -> None:
    restarted = Restarted(filled(f))
    restarted.run()
    assert [restarted.held(f"k{i}") for i in range(20)] == [b"%d" % i for i in range(20)]
    assert not any(shard.recovering for shard in restarted.cluster.nodes[0].slots.shards)
    assert restarted.recovery.recovered_count == 20


def test_recovery_waits_2_op_time_before_it_asks() -> None:
    """Section 11: a write that still counts an answer given before the restart has ended by then."""
    restarted = Restarted(filled())
    restarted.step(10 * S - 1)
    assert restarted.asked == []
    restarted.step(1)
    assert restarted.asked


def test_recovery_asks_the_others_only() -> None:
    restarted = Restarted(filled())
    restarted.run()
    assert {node for node, _ in restarted.asked} == {1, 2, 3}


def test_a_start_without_state_raises_the_floor_to_now_plus_2_max_skew() -> None:
    """Section 11, two max_skew at start."""
    cluster = Cluster()
    node = cluster.start(0)
    assert {shard.floor_us for shard in node.slots.shards} == {START_US + 2 * S}
    assert all(shard.recovering for shard in node.slots.shards)


def test_without_2f_plus_1_reports_in_time_the_shards_become_active_as_they_are() -> None:
    cluster = filled()
    restarted = Restarted(cluster)
    cluster.down = {3}
    restarted.run()
    assert restarted.held("k0") is None
    assert restarted.recovery.abandoned_count == 8
    assert not any(shard.recovering for shard in cluster.nodes[0].slots.shards)


def test_f_silent_nodes_of_the_others_do_not_stop_recovery_from_f_2_on() -> None:
    cluster = filled(2)
    cluster.down = {5}
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.held("k0") == b"0"


@pytest.mark.parametrize(("floor_us", "expected"), [(START_US - 1, b"v"), (START_US, None), (START_US + 1, None)])
def test_an_entry_is_recovered_only_if_no_reporter_is_absent_with_a_floor_at_or_above_it(
    floor_us: int, expected: bytes | None
) -> None:
    """Protocol 7, recovery's good condition."""
    cluster = Cluster()
    for node in (1, 2):
        plant(cluster, node, craft.craft("a", START_US, b"v"))
    slots = cluster.nodes[3].slots
    slots.raise_floor(slots.shard(slot("a")), floor_us)
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.held("a") == expected


def test_the_highest_entry_is_recovered() -> None:
    cluster = Cluster()
    for node, time_us in ((1, 5), (2, 9), (3, 7)):
        plant(cluster, node, craft.craft("a", START_US + time_us, b"%d" % time_us))
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.held("a") == b"9"


def test_of_a_revoked_writer_nothing_is_recovered_not_the_next_highest() -> None:
    """Protocol 7, section 11: the next-highest may be older than what a quorum completed."""
    cluster = Cluster()
    plant(cluster, 1, craft.craft("a", START_US, b"old"))
    for node in (2, 3):
        plant(cluster, node, craft.craft("a", START_US + 1, b"revoked", writer="w2"))
    restarted = Restarted(cluster)
    cluster.nodes[0].configuration.__dict__["_revoked"] = frozenset((key_of("w2").public,))
    restarted.run()
    assert restarted.held("a") is None


def test_what_was_written_meanwhile_is_not_replaced() -> None:
    cluster = Cluster()
    for node in (1, 2, 3):
        plant(cluster, node, craft.craft("a", START_US, b"old"))
    restarted = Restarted(cluster)
    cluster.now_us += 3 * S
    plant(cluster, 0, craft.craft("a", START_US + 3 * S, b"new"))
    restarted.run()
    assert restarted.held("a") == b"new"


def lies() -> dict[str, Lie]:
    configuration = configuration_of()

    def report(change: Callable[[m.ReportReply], None]) -> Lie:
        def lie(request: m.Request, reply: m.Reply) -> m.Reply:
            if isinstance(reply, m.ReportReply):
                change(reply)
            return reply

        return lie

    def twice(reply: m.ReportReply) -> None:
        reply.entries = reply.entries + reply.entries

    def uncertified(reply: m.ReportReply) -> None:
        entry = craft.entry(configuration, craft.craft("k0", START_US + S, b"forged"))
        entry.certificate = craft.certificate(configuration, [craft.craft("a", START_US)])
        reply.entries = [entry]

    def elsewhere(reply: m.ReportReply) -> None:
        reply.entries = [craft.entry(configuration, craft.craft(k, START_US)) for k in ("k0", "k1", "k2", "k3")]

    def endless(reply: m.ReportReply) -> None:
        reply.entries, reply.more = [], True

    return {
        "out of order": report(lambda reply: reply.entries.reverse()),
        "twice": report(twice),
        "uncertified": report(uncertified),
        "entries of other shards": report(elsewhere),
        "an empty page that is not the last": report(endless),
        "another kind of reply": lambda request, reply: m.Pong(request.id, reply.clock_us),
        "a reject": lambda request, reply: m.Reject(request.id, reply.clock_us, m.OVERLOADED),
    }


@pytest.mark.parametrize("name", lies())
def test_a_lying_reporter_wastes_time_but_plants_nothing(name: str) -> None:
    cluster = filled(2, 60, configuration_of(2, shards=2))
    if name == "uncertified" or name == "entries of other shards":
        cluster = filled(1, 60, configuration_of(shards=2))
    liar = len(cluster.nodes) - 1
    cluster.lies[liar] = lies()[name]
    restarted = Restarted(cluster)
    restarted.run()
    for i in range(60):
        assert restarted.held(f"k{i}") in (None, b"%d" % i)
    if cluster.configuration.f == 2:
        assert restarted.held("k0") == b"0", "five honest reporters are 2f+1"


def test_a_reporter_that_lies_low_is_outvoted_by_the_certificate_of_another() -> None:
    cluster = filled()
    cluster.lies[3] = lambda request, reply: (
        m.ReportReply(reply.id, reply.clock_us, 0, [], False) if isinstance(reply, m.ReportReply) else reply
    )
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.held("k0") == b"0"


def test_large_shards_come_page_by_page() -> None:
    cluster = filled(1, 300, configuration_of(shards=1))
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.recovery.recovered_count == 300
    assert len(restarted.asked) == 3 * 5, "300 entries in pages of 64"


def test_lost_messages_are_sent_again_and_doubled_replies_do_no_harm() -> None:
    cluster = filled(1, 100, configuration_of(shards=1))
    lost = {"count": 0}

    def lose(request: m.Request, reply: m.Reply) -> m.Reply | None:
        lost["count"] += 1
        return None if lost["count"] % 2 else reply

    cluster.lies = {1: lose, 2: lose}
    restarted = Restarted(cluster)
    original = restarted.recovery.receive

    def twice(peer: int, reply: m.Reply, now_us: int) -> None:
        original(peer, reply, now_us)
        original(peer, reply, now_us)
        original((peer + 1) % 4, reply, now_us)

    restarted.recovery.receive = twice  # type: ignore[method-assign]
    restarted.run()
    assert restarted.recovery.recovered_count == 100


def test_recovery_is_woken_at_the_end_of_a_shards_grace_time() -> None:
    """With enough reports, the last reporter gets the grace time and no more."""
    cluster = filled(2)
    cluster.down = {6}
    restarted = Restarted(cluster)
    restarted.step(10 * S)
    assert restarted.recovery.deadline_us <= cluster.now_us + 200_000
    restarted.step(200_000)
    assert restarted.recovery.finished
    assert restarted.held("k0") == b"0"


def test_shards_that_a_node_does_not_serve_need_no_recovery() -> None:
    configuration = configuration_of(nodes=9, shards=64)
    cluster = Cluster(configuration=configuration)
    restarted = Restarted(cluster)
    served = [i for i, g in enumerate(configuration.shard_groups) if 0 in g.members]
    assert [s.number for s in cluster.nodes[0].slots.shards if s.recovering] == served
    restarted.run()
