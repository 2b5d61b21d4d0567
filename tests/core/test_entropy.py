"""Anti-entropy (protocol 8): a node that missed writes has them again; a lying peer plants nothing and costs little."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import entropy
from quorumcache.core import messages as m
from quorumcache.core.entropy import AntiEntropy, sum_of
from quorumcache.core.model import DELETE
from quorumcache.core.node import Node
from quorumcache.core.outcome import Written
from tests.cluster import Cluster, slot
from tests.fields import base_slot, cluster_of, delete_key, put
from tests.steps import finish, raise_floor, value_of

S = 1_000_000


def run(cluster: Cluster, index: int, *, seconds: int = 10, **options: int) -> AntiEntropy:
    """Let one node's anti-entropy go on for a while."""
    machine = AntiEntropy(cluster.nodes[index], first_id=index << 40, now_us=cluster.now_us, **options)
    end_us = cluster.now_us + seconds * S
    while cluster.now_us < end_us:
        machine.wake(cluster.now_us)
        while machine.outbox:
            out, machine.outbox = machine.outbox, []
            for nodes, request in out:
                for peer in nodes:
                    reply = cluster.answer(peer, request)
                    if reply is not None:
                        machine.receive(peer, reply, cluster.now_us)
        cluster.now_us = min(max(machine.deadline_us, cluster.now_us + 1000), end_us)
    return machine


def agree(one: Node, other: Node) -> bool:
    return all(
        sum_of(one.slots, a) == sum_of(other.slots, b)
        for a, b in zip(one.slots.shards, other.slots.shards, strict=True)
    )


def test_a_node_that_was_away_has_everything_again() -> None:
    cluster = cluster_of()
    client = cluster.client()
    finish(client, client.write("before", b"old"))
    cluster.down = {3}
    for i in range(40):
        assert isinstance(finish(client, client.write(f"k{i}", b"%d" % i)), Written)
    finish(client, client.write("before", b"new"))
    finish(client, client.delete("k0"))
    for i in range(30):
        finish(client, put(client, "map", b"%d" % i, b"x"))
    finish(client, put(client, "set", b"gone"))
    finish(client, delete_key(client, "set"))
    cluster.down = set()
    machine = run(cluster, 3)
    assert agree(cluster.nodes[3], cluster.nodes[0])
    assert cluster.nodes[3].slots.current[slot("k0")].header[2] == DELETE
    assert len(cluster.nodes[3].slots.keys[base_slot("map")].fields) == 30
    assert machine.repaired_count >= 41 + 31 + 1
    assert not any(machine.differing.values())
    cluster.down = {0}
    assert value_of(client, "before") == b"new"


def test_a_large_key_is_compared_by_buckets() -> None:
    cluster = cluster_of()
    client = cluster.client()
    for begin in range(0, 2000, 200):
        tokens = [put(client, "map", b"%d" % i, b"old") for i in range(begin, begin + 200)]
        for token in tokens:
            finish(client, token)
    cluster.down = {3}
    finish(client, put(client, "map", b"7", b"new"))
    cluster.down = set()
    machine = run(cluster, 3)
    assert agree(cluster.nodes[3], cluster.nodes[0])
    assert machine.repaired_count == 1


def test_what_is_at_or_below_the_floor_is_not_taken() -> None:
    """Protocol 3, commit rule 4: it may have been here, and have been replaced."""
    cluster = cluster_of()
    client = cluster.client()
    cluster.down = {3}
    finish(client, client.write("k", b"v"))
    cluster.down = set()
    raise_floor(cluster, 3, "k", cluster.now_us + S)
    machine = run(cluster, 3)
    assert slot("k") not in cluster.nodes[3].slots.current
    assert machine.repaired_count == 0
    # Nor is it asked for, round after round.
    assert cluster.nodes[0].request_counts.get("ReadFull", 0) == 0


def test_a_newer_entry_is_not_replaced_by_an_older() -> None:
    cluster = cluster_of()
    client = cluster.client()
    finish(client, client.write("k", b"old"))
    cluster.down = {0}
    finish(client, client.write("k", b"new"))
    cluster.down = set()
    run(cluster, 3)
    assert cluster.nodes[3].slots.current[slot("k")].salted[16:] == b"new"
    run(cluster, 0)
    assert cluster.nodes[0].slots.current[slot("k")].salted[16:] == b"new"


def liars() -> dict[str, Callable[[m.Request, m.Reply], m.Reply | None]]:
    def other_sums(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.ShardSumsReply):
            return m.ShardSumsReply(reply.id, reply.clock_us, b"x" * len(reply.sums))
        return reply

    def invents(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.ShardSumsReply):
            return m.ShardSumsReply(reply.id, reply.clock_us, b"x" * len(reply.sums))
        if isinstance(reply, m.ShardListReply):
            items = [m.Named(item.slot, b"y" * 32, item.time_us + S) for item in reply.items]
            return m.ShardListReply(reply.id, reply.clock_us, items, True)
        if isinstance(reply, m.ReadFullReply):
            for answer in reply.answers:
                if answer.entry is not None:
                    answer.entry.salted = b"salt of sixteen.forged"
        return reply

    def silent(request: m.Request, reply: m.Reply) -> None:
        return None

    def short(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.ShardSumsReply):
            return m.ShardSumsReply(reply.id, reply.clock_us, b"")
        return reply

    def rejects(request: m.Request, reply: m.Reply) -> m.Reply:
        return m.Reject(request.id, reply.clock_us, m.OVERLOADED, "no")

    return {"other sums": other_sums, "invents": invents, "silent": silent, "short": short, "rejects": rejects}


def test_a_lying_peer_plants_nothing_and_holds_nobody_up() -> None:
    for name, lie in liars().items():
        cluster = cluster_of()
        client = cluster.client()
        cluster.down = {3}
        for i in range(10):
            finish(client, client.write(f"k{i}", b"v"))
        finish(client, put(client, "set", b"a"))
        cluster.down = set()
        cluster.lies[0] = lie
        machine = run(cluster, 3, seconds=60)
        assert agree(cluster.nodes[3], cluster.nodes[1]), name
        assert machine.repaired_count == 12, name
        if name == "invents":
            # What it costs grows rarer: useless rounds earn pauses.
            asked = cluster.nodes[0].request_counts.get("ReadFull", 0)
            assert asked < 30 * 10 / 2, asked


def test_the_budget_bounds_what_is_asked_for() -> None:
    cluster = cluster_of()
    client = cluster.client()
    cluster.down = {3}
    for i in range(60):
        finish(client, client.write(f"k{i}", b"v" * 3000))
    cluster.down = set()
    slow = run(cluster, 3, seconds=4, bytes_per_s=20_000)
    # About 4 KiB each; what is in flight when the budget ends is all that goes beyond it.
    assert 0 < slow.repaired_count <= 20 + 8 * 8
    run(cluster, 3, seconds=30, bytes_per_s=20_000)
    assert agree(cluster.nodes[3], cluster.nodes[0])


def test_shards_that_recover_are_left_to_that() -> None:
    """Of what a wiped node lacks hardly anything is above its floor: naming it all, in each round, took most of the
    time that recovery took."""
    cluster = cluster_of()
    client = cluster.client()
    for token in [client.write(f"k{i}", b"v") for i in range(50)]:
        finish(client, token)
    cluster.start(3)
    run(cluster, 3)
    counts = cluster.nodes[0].request_counts
    assert counts.get("ShardList", 0) == counts.get("ShardSums", 0) == 0
    late = cluster.client()
    cluster.down = {3}
    cluster.advance(4 * S)
    assert isinstance(finish(late, late.write("new", b"v")), Written)
    cluster.down = set()
    for shard in cluster.nodes[3].slots.shards:
        cluster.nodes[3].slots.activate(shard)
    run(cluster, 3)
    assert value_of(late, "new") == b"v"
    assert slot("new") in cluster.nodes[3].slots.current


@pytest.mark.parametrize(("count", "size", "bytes_per_s"), [(40, 100, 4 << 20), (60, 3000, 20_000), (200, 50, 50_000)])
def test_a_node_that_was_away_is_complete_within_the_stated_time(count: int, size: int, bytes_per_s: int) -> None:
    """docs/operations.md: two seconds for each peer, one that is down among them, and the bytes at so many a second."""
    cluster = cluster_of()
    client = cluster.client()
    cluster.down = {3}
    for token in [client.write(f"k{i}", b"v" * size) for i in range(count)]:
        finish(client, token)
    cluster.down = {0}
    # One that is silent holds a round up for ten seconds, and one round is under way while it goes down.
    stated_s = 2 * 3 + 10 + count * (size + 1024 + 256) // bytes_per_s + 1
    run(cluster, 3, seconds=stated_s, bytes_per_s=bytes_per_s)
    assert agree(cluster.nodes[3], cluster.nodes[1])


def test_a_peer_that_names_keys_without_end_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page is in order and of the right shard, and nothing is behind it: the round ends all the same."""
    monkeypatch.setattr(entropy, "VAIN_BYTES_MAX", 200_000)
    cluster = cluster_of()
    client = cluster.client()
    cluster.down = {3}
    for i in range(10):
        finish(client, client.write(f"k{i}", b"v"))
    cluster.down = set()
    pages = 0

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        nonlocal pages
        if isinstance(reply, m.ShardSumsReply):
            return m.ShardSumsReply(reply.id, reply.clock_us, b"x" * len(reply.sums))
        if isinstance(request, m.ShardList):
            pages += 1
            here = (slot(f"{pages:05}-{n}") for n in range(4000))
            names = sorted(s for s in here if cluster.configuration.shard_of(s) == request.shard)[:100]
            items = [m.Named(s, b"y" * 32, cluster.now_us + 60 * S) for s in names]
            return m.ShardListReply(reply.id, reply.clock_us, items, True)
        return reply

    cluster.lies[0] = lie
    machine = run(cluster, 3, seconds=20)
    assert agree(cluster.nodes[3], cluster.nodes[1])
    assert machine.rounds_count > 3
    assert machine.useless_count > 0
