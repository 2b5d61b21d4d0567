"""Reads of a cluster, and nodes that hold, claim or withhold what the test wants, for the tests of reads."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import ABSENT, Entry
from quorumcache.core.outcome import Found, Outcome
from tests import craft
from tests.cluster import Client, Cluster, slot

S = 1_000_000
FS = pytest.mark.parametrize("f", [1, 2, 3])
Lie = Callable[[m.Request, m.Reply], m.Reply | None]


def read(client: Client, key: str, within_us: int = 6 * S) -> Outcome:
    """Read, let time pass until it ended, and return how."""
    token = client.read(key)
    client.run()
    for _ in range(within_us // 10_000):
        if token in client.outcomes:
            return client.outcomes[token]
        client.cluster.advance(10_000)
    raise AssertionError("the read never ended")


def value(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Found), outcome
    return outcome.salted[16:]


def plant(cluster: Cluster, node: int, crafted: craft.Crafted) -> Entry:
    """Make one node hold a certified entry, whatever the others do."""
    entry = craft.entry(cluster.configuration, crafted)
    reply = cluster.nodes[node].handle(craft.commit(cluster.configuration, entry), cluster.now_us)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == b"\x00"
    return entry


def raise_floor(cluster: Cluster, node: int, key: str, time_us: int) -> None:
    slots = cluster.nodes[node].slots
    slots.raise_floor(slots.shard(slot(key)), time_us)


def current(cluster: Cluster, key: str) -> list[bytes | None]:
    """What each node holds under a key."""
    held = [node.slots.current.get(slot(key)) for node in cluster.nodes.values()]
    return [None if h is None else h.salted[16:] for h in held]


def kinds(sent: list[tuple[int, m.Request]]) -> list[tuple[int, str]]:
    return [(node, type(request).__name__) for node, request in sent]


def on(kind: type[m.Request], answer: Lie) -> Lie:
    """A lie about one kind of request."""
    return lambda request, reply: answer(request, reply) if isinstance(request, kind) else reply


def withhold(request: m.Request, reply: m.Reply) -> m.Reply:
    assert isinstance(reply, m.ReadReply)
    reply.values = [b""] * len(reply.values)
    return reply


def say_absent(request: m.Request, reply: m.Reply) -> m.Reply:
    if isinstance(request, m.Read):
        return m.ReadReply(
            reply.id,
            reply.clock_us,
            ABSENT * len(request.slots),
            [b"", b""] * (max(request.values_to - request.values_from, 0)),
        )
    if isinstance(request, m.ReadFull):
        return m.ReadFullReply(reply.id, reply.clock_us, [m.FullAnswer(None, 0) for _ in request.slots])
    return reply
