"""Protocol 7, recovery over a network that loses and doubles messages (its rules are in test_recovery.py)."""

from __future__ import annotations

from collections.abc import Callable

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.outcome import Written
from quorumcache.core.repair import Recovery
from tests.cluster import Cluster, configuration_of, slot

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


def filled(f: int = 1, count: int = 20, configuration: Configuration | None = None) -> Cluster:
    cluster = Cluster(f, configuration)
    client = cluster.client()
    tokens = [client.write(f"k{i}", b"%d" % i) for i in range(count)]
    client.run()
    assert all(isinstance(client.outcomes[t], Written) for t in tokens)
    return cluster


def test_f_silent_nodes_of_the_others_do_not_stop_recovery_from_f_2_on() -> None:
    cluster = filled(2)
    cluster.down = {5}
    restarted = Restarted(cluster)
    restarted.run()
    assert restarted.held("k0") == b"0"


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
