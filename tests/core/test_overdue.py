"""A node that promised and missed the commit has the entry before its promise ages out (protocol 8)."""

from __future__ import annotations

from typing import Any

import pytest

from quorumcache.core import messages as m
from quorumcache.core.entropy import AntiEntropy
from quorumcache.core.outcome import Written
from tests.cluster import slot
from tests.core.test_entropy import agree
from tests.fields import cluster_of
from tests.steps import finish

S = 1_000_000
LATE = 3


class Late:
    """A cluster whose node 3 hears prepares and no commits; and its anti-entropy, which has no rounds to itself."""

    def __init__(self) -> None:
        self.cluster = cluster_of()
        self.client = self.cluster.client()
        self.node = self.cluster.nodes[LATE]
        self.asked: list[tuple[int, m.Request]] = []
        self.deaf = True
        real = self.cluster.answer

        def answer(node: int, request: m.Request) -> m.Reply | None:
            return None if self.deaf and node == LATE and isinstance(request, m.Commit) else real(node, request)

        self.cluster.answer = answer  # type: ignore[method-assign]

    def write(self, *keys: str, value: bytes = b"v") -> None:
        for token in [self.client.write(key, value) for key in keys]:
            assert isinstance(finish(self.client, token), Written)

    def run(self, seconds: float, *, rounds: bool = False, **options: int) -> AntiEntropy:
        """Anti-entropy and ticks, as a node runs them. Without `rounds`, every peer is passed over."""
        cluster = self.cluster
        machine = AntiEntropy(self.node, first_id=1 << 40, now_us=cluster.now_us, **options)
        if not rounds:
            machine._pauses = dict.fromkeys(machine.peers, 1 << 30)
        end_us = cluster.now_us + round(seconds * S)
        while cluster.now_us < end_us:
            self.node.tick(cluster.now_us)
            machine.wake(cluster.now_us)
            while machine.outbox:
                out, machine.outbox = machine.outbox, []
                for nodes, request in out:
                    for peer in nodes:
                        self.asked.append((peer, request))
                        reply = cluster.answer(peer, request)
                        if reply is not None:
                            machine.receive(peer, reply, cluster.now_us)
            cluster.now_us += 50_000
        return machine

    def kinds(self) -> set[str]:
        return {type(request).__name__ for _, request in self.asked}


def test_what_was_promised_and_missed_is_there_before_the_promise_ages_out() -> None:
    late = Late()
    late.write(*(f"k{i}" for i in range(40)))
    assert len(late.node.slots.promises) == 40
    machine = late.run(7)
    assert agree(late.node, late.cluster.nodes[0])
    assert not late.node.slots.promises
    assert late.node.slots.dropped_promises_count == 0
    assert machine.repaired_count == 40
    assert late.kinds() == {"Read", "ReadFull"}


def test_without_it_the_floor_keeps_it_out_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it is there: rounds with the peers come too late, and what is below the floor is not taken."""
    monkeypatch.setattr("quorumcache.core.overdue.Overdue.ask", lambda *_: 0)
    late = Late()
    late.write("k")
    late.run(10)
    late.run(30, rounds=True)
    assert slot("k") not in late.node.slots.current
    assert not agree(late.node, late.cluster.nodes[0])


def test_nothing_is_asked_about_writes_that_may_be_under_way() -> None:
    late = Late()
    late.write("k")
    late.run(late.cluster.configuration.op_time_us / S - 0.1)
    assert late.asked == []


def test_a_write_that_never_was_committed_brings_nothing_and_its_promise_goes() -> None:
    late = Late()
    late.write("k", value=b"before")
    late.deaf = False
    late.cluster.lies = dict.fromkeys((0, 1), lambda request, reply: None)
    late.client.write("other", b"v")
    late.cluster.lies = {}
    late.run(10)
    assert slot("other") not in late.node.slots.current
    assert not late.node.slots.promises
    assert {type(request) for _, request in late.asked} <= {m.Read, m.ReadFull}


def lies() -> dict[str, Any]:
    def forged(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.ReadFullReply):
            for answer in reply.answers:
                if answer.entry is not None:
                    answer.entry.salted = b"salt of sixteen.forged"
        return reply

    def nothing(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.ReadFullReply):
            return m.ReadFullReply(reply.id, reply.clock_us, [])
        return reply

    def short(request: m.Request, reply: m.Reply) -> m.Reply:
        return m.ReadReply(reply.id, reply.clock_us, b"x", []) if isinstance(reply, m.ReadReply) else reply

    def another(request: m.Request, reply: m.Reply) -> m.Reply:
        return m.Reject(reply.id, reply.clock_us, m.OVERLOADED, "no")

    return {"forged": forged, "nothing": nothing, "short": short, "another": another}


@pytest.mark.parametrize("name", sorted(lies()))
def test_a_lying_peer_plants_nothing_and_keeps_nothing_away(name: str) -> None:
    late = Late()
    late.write("a", "b", "c")
    late.cluster.lies[0] = lies()[name]
    late.run(7)
    late.cluster.lies.clear()
    assert agree(late.node, late.cluster.nodes[1])


def test_who_promises_much_and_commits_nothing_costs_a_bounded_part() -> None:
    """The bytes per second bound it, and the number of promises that are asked for at once."""
    late = Late()
    late.write(*(f"k{i}" for i in range(300)))
    late.run(7, bytes_per_s=2000)
    reads = [request for _, request in late.asked if isinstance(request, m.Read)]
    assert 0 < sum(len(request.slots) for request in reads) < 100


def test_replies_that_nobody_asked_for_are_ignored() -> None:
    late = Late()
    late.write("k")
    machine = AntiEntropy(late.node, first_id=1 << 40, now_us=late.cluster.now_us)
    machine._pauses = dict.fromkeys(machine.peers, 1 << 30)
    late.cluster.now_us += late.cluster.configuration.op_time_us + 1
    machine.wake(late.cluster.now_us)
    (peers, request), *_ = machine.outbox
    reply = late.cluster.answer(peers[0], request)
    assert reply is not None
    machine.outbox.clear()
    machine.receive((peers[0] + 1) % 3, reply, late.cluster.now_us)
    assert machine.outbox == []
    machine.receive(peers[0], reply, late.cluster.now_us)
    assert [type(request) for _, request in machine.outbox] == [m.ReadFull]
