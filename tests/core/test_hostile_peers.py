"""No message that passes the codec raises out of the core, and no operation is lost or lasts for ever.

Random messages, as a Byzantine peer would send them, and random schedules with a liar among the nodes.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.model import ABSENT, header_stamp
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.outcome import Failed, Found, Missed, Written
from quorumcache.core.repair import Recovery
from quorumcache.wire import codec
from quorumcache.wire.keys import verify
from tests.cluster import START_US, Client, Cluster, configuration_of, key_of
from tests.messages import KEYS, Speech

S = 1_000_000
CONFIGURATION = configuration_of()
SPEECH = Speech(CONFIGURATION)


def travel_request(request: m.Request) -> m.Request:
    """Through the codec, which a message has to pass before anyone handles it."""
    return codec.decode_requests(codec.join([codec.encode(request)]))[0]


def travel_reply(reply: m.Reply) -> m.Reply:
    return codec.decode_replies(codec.join([codec.encode(reply)]))[0]


@settings(max_examples=150)
@given(st.lists(st.tuples(SPEECH.requests, st.integers(0, 3 * S)), min_size=1, max_size=12), st.booleans())
def test_a_node_answers_any_message_and_what_it_answers_can_be_read(
    steps: list[tuple[m.Request, int]], fresh: bool
) -> None:
    """The bounds of messages hold for what a node says, too: else an honest reply would be unreadable."""
    limits = NodeLimits(bytes_max=3000, promises_max=4)
    verifier = Verifier(verify, [CONFIGURATION])
    started_us = START_US if fresh else None
    node = Node(CONFIGURATION, 0, key_of("node 0").sign, verifier, started_us=started_us, limits=limits)
    now_us = START_US
    for request, passed_us in steps:
        now_us += passed_us
        floors = [shard.floor_us for shard in node.slots.shards]
        stamps = {name: held.stamp for name, held in node.slots.current.items()}
        reply = travel_reply(node.handle(travel_request(request), now_us))
        assert reply.id == request.id
        assert type(reply) in (m.TABLE[type(request)], m.Reject)
        node.tick(now_us)
        assert all(a >= b for a, b in zip((s.floor_us for s in node.slots.shards), floors, strict=True))
        for name, stamp in stamps.items():
            held = node.slots.current.get(name)
            assert held.stamp >= stamp if held else node.slots.shard(name).floor_us >= int.from_bytes(stamp[:8], "big")
        assert node.slots.memory.bytes_used <= limits.bytes_max
        assert len(node.slots.promises) <= limits.promises_max
        for name, promises in node.slots.open.items():
            held = node.slots.current.get(name)
            assert all(held is None or p.header.stamp > held.stamp for p in promises)


def finish_all(cluster: Cluster, clients: list[Client], tokens: list[tuple[Client, object]]) -> None:
    """Let op_time and more pass: every operation must have ended, once, and nothing be left of it."""
    for _ in range(7):
        cluster.advance(S)
    cluster.lies.clear()
    cluster.advance(6 * S)
    for client, token in tokens:
        assert token in client.outcomes, "an operation never ended"
    for client in clients:
        assert client.core.is_idle
        assert not client.core._delayed
        assert not client.core._routes
        # But for who was told that the epoch has ended: it asks the silent until they answer.
        assert client.core.deadline_us == client.core.onward.deadline_us


@settings(max_examples=100)
@given(st.data(), st.integers(0, 1000))
def test_a_client_takes_any_reply_from_a_liar_and_every_operation_ends(data: st.DataObject, seed: int) -> None:
    """One node of four answers with anything, to the right id; the other three are correct."""
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"before")

    def lie(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if seed % 3 == 0 and isinstance(request, m.Commit):
            return reply
        made = data.draw(st.none() | SPEECH.replies)
        return None if made is None else travel_reply(msgspec.structs.replace(made, id=request.id))

    cluster.lies[3] = lie
    tokens: list[tuple[Client, object]] = []
    for key in KEYS:
        tokens += [(client, client.read(key)), (client, client.write(key, b"v")), (client, client.read(key, full=True))]
        tokens.append((client, client.scan()))
        client.run()
    finish_all(cluster, [client], tokens)
    outcomes = [client.outcomes[t] for _, t in tokens]
    assert not any(isinstance(o, Failed) for o in outcomes), "protocol 5.6: f faulty nodes stop nothing"


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), SPEECH.replies, st.integers(0, S)), max_size=40), st.booleans())
@example([(1, m.Reject(0, 0, m.SEALED), 0)], True)
def test_a_client_among_liars_only_ends_every_operation_all_the_same(
    replies: list[tuple[int, m.Reply, int]], full: bool
) -> None:
    """Beyond f nothing is promised about values; yet nothing raises and nothing lasts."""
    cluster = Cluster()
    client = cluster.client()
    tokens = [(client, client.write(key, b"v")) for key in KEYS]
    tokens += [(client, client.read(key, full=full)) for key in KEYS]
    tokens += [(client, client.scan(count=1 + len(key))) for key in KEYS]
    client.take()
    for node, reply, passed_us in replies:
        ids = list(client.core._routes)
        if ids:
            made = msgspec.structs.replace(reply, id=ids[passed_us % len(ids)])
            client.core.receive(node, travel_reply(made), cluster.now_us)
        cluster.now_us += passed_us
        client.core.wake(cluster.now_us)
        client.take()
    cluster.down = {0, 1, 2, 3}
    finish_all(cluster, [client], tokens)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4), SPEECH.replies, st.integers(0, S)), max_size=30))
def test_recovery_takes_any_reply_and_ends(replies: list[tuple[int, m.Reply, int]]) -> None:
    cluster = Cluster()
    cluster.start(0)
    recovery = Recovery(cluster.nodes[0], cluster.now_us, first_id=1)
    now_us = cluster.now_us + 10 * S
    recovery.wake(now_us)
    for peer, reply, passed_us in replies:
        routes = list(recovery._routes)
        if routes:
            made = msgspec.structs.replace(reply, id=routes[passed_us % len(routes)])
            recovery.receive(peer, travel_reply(made), now_us)
        now_us += passed_us
        recovery.wake(now_us)
    for _ in range(200):
        if recovery.finished:
            break
        now_us = max(recovery.deadline_us, now_us + 1)
        recovery.wake(now_us)
        recovery.outbox.clear()
    assert recovery.finished
    assert not recovery._routes


# --- schedules ---


class Liar:
    """Node behaviours that stay within what a Byzantine node can do: answers it could have made, at times it likes."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.said: dict[type[m.Request], list[m.Reply]] = {}

    def __call__(self, request: m.Request, reply: m.Reply) -> m.Reply | None:
        """Honest, silent, an older answer of its own, absent, or complaisant."""
        older = self.said.setdefault(type(request), [])
        older.append(reply)
        what = self.chance.randrange(6)
        if what == 0:
            return None
        if what == 1:
            return msgspec.structs.replace(self.chance.choice(older), id=request.id)
        if what == 2 and isinstance(request, m.ReadFull):
            return m.ReadFullReply(request.id, reply.clock_us, [m.FullAnswer(None, 0) for _ in request.slots])
        if what == 2 and isinstance(request, m.Read):
            wanted = max(min(request.values_to, len(request.slots)) - request.values_from, 0)
            return m.ReadReply(request.id, reply.clock_us, ABSENT * len(request.slots), [b"", b""] * wanted)
        if what == 3 and isinstance(request, m.Commit):
            count = sum(len(bundle.items) for bundle in request.bundles)
            return m.CommitReply(request.id, reply.clock_us, bytes(count), [])
        return reply


@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("seed", range(15))
def test_random_schedules_with_f_liars_show_no_stale_read(f: int, seed: int) -> None:
    """Protocol 5.3: once a write or a read has returned stamp t, later reads return t or newer, or a miss.

    Messages are reordered, lost and delayed at random; nodes evict and restart empty; f nodes lie.
    """
    chance = random.Random(f"schedule {f} {seed}")
    cluster = Cluster(f)
    for liar in range(f):
        cluster.lies[liar] = Liar(chance)
    clients = [cluster.client(writer) for writer in ("w1", "w2", None)]
    under_way: list[tuple[Client, int, m.Request]] = []
    #: token -> (slot, what had to be seen by then): the highest stamp returned before the operation began.
    begun: dict[tuple[int, object], tuple[str, bytes]] = {}
    highest = dict.fromkeys(KEYS, b"")
    ended: set[tuple[int, object]] = set()
    restarted_us = dict.fromkeys(cluster.nodes, 0)

    def look() -> None:
        for number, client in enumerate(clients):
            for token, outcome in client.outcomes.items():
                if (number, token) in ended:
                    continue
                ended.add((number, token))
                key, before = begun[number, token]
                stamp = b""
                if isinstance(outcome, Found):
                    stamp = header_stamp(outcome.header)
                    assert stamp >= before, f"stale: f={f} seed={seed}"
                elif isinstance(outcome, Written) and not outcome.overtaken:
                    stamp = outcome.stamp
                highest[key] = max(highest[key], stamp)

    for _ in range(400):
        what = chance.random()
        number = chance.randrange(len(clients))
        client = clients[number]
        key = chance.choice(KEYS)
        if what < 0.12:
            if number == 2 or chance.random() < 0.5:
                token = client.read(key, full=chance.random() < 0.3)
            else:
                token = client.write(key, chance.randbytes(3))
            begun[number, token] = (key, highest[key])
        elif what < 0.17:
            cluster.now_us += chance.choice((1, 1000, 30_000, 300_000, 2_500_000))
            for c in clients:
                c.core.wake(cluster.now_us)
        elif what < 0.19:
            node = cluster.nodes[chance.randrange(f, len(cluster.nodes))]
            held = [n for n, h in node.slots.current.items() if h.time_us < cluster.now_us - 2 * S]
            if held:
                node.slots.drop(chance.choice(held))
        elif what < 0.195:
            index = chance.randrange(f, len(cluster.nodes))
            if cluster.now_us > max(restarted_us.values()) + 10 * S:
                restarted_us[index] = cluster.now_us
                cluster.start(index)
        elif under_way:
            c, node_index, request = under_way.pop(chance.randrange(len(under_way)))
            if chance.random() > 0.05:
                c.deliver(node_index, request)
        for c in clients:
            under_way += [(c, node_index, request) for node_index, request in c.take()]
        look()
    for _ in range(70):
        cluster.advance(100_000)
        look()
    assert len(ended) == len(begun), "an operation never ended"
    assert any(isinstance(o, Found | Missed) for c in clients for o in c.outcomes.values())
