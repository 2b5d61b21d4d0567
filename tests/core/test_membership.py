"""Protocol 9 and decision 0022: nodes and clients go over to the next epoch by themselves, once anyone has the signed
successor. `tests/core/test_epochs.py` has what each of them takes along."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.epochmessages import Signed, shown, signed_of
from quorumcache.core.following import Following
from quorumcache.core.membership import Membership
from quorumcache.core.model import DELETE, PUT
from quorumcache.core.node import Node
from quorumcache.core.onward import go_over
from quorumcache.core.outcome import Failed, Found, Missed, Outcome, Written
from quorumcache.core.seals import Step
from quorumcache.core.succession import counting
from quorumcache.errors import ConfigurationError
from quorumcache.wire.codec import decode_replies, decode_requests, encode, join
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of, slot
from tests.core.test_epochs import FIRST, secret_of, value_of, with_nodes

KEYS = [f"k{i}" for i in range(6)]


class Memory:
    """A record of seals that is kept in memory."""

    def __init__(self) -> None:
        self.sealed: dict[bytes, SignedConfiguration] = {}
        self.steps: list[Step] = []
        self.fails = False

    def remember(self, before: Configuration, successor: SignedConfiguration) -> None:
        if self.fails:
            raise ConfigurationError("the disk is full")
        known = self.sealed.setdefault(before.digest, successor)
        assert known.configuration.digest == successor.configuration.digest

    def began(self, before: Configuration, step: Step) -> None:
        if step not in self.steps:
            self.steps.append(step)


class World:
    """Nodes by their keys, each in whatever epoch it is, and clients. What is sent arrives at once, through the codec;
    `is_lost(from key, to key)` says what does not."""

    def __init__(self, configuration: Configuration = FIRST) -> None:
        self.first = configuration
        self.now_us = START_US
        self.nodes: dict[bytes, Membership] = {}
        self.records: dict[bytes, Memory] = {}
        self.clients: list[Person] = []
        self.is_lost: Callable[[bytes, bytes], bool] = lambda _source, _target: False
        for info in configuration.nodes:
            self.start(info.key, configuration, started_us=None)

    def start(self, key: bytes, configuration: Configuration, *, started_us: int | None) -> Membership:
        info = configuration.node_by_key(key)
        assert info is not None
        secret = secret_of(info)
        record = self.records.setdefault(key, Memory())

        def make(later: Configuration, verifier: Verifier) -> Node:
            place = later.node_by_key(key)
            assert place is not None
            return Node(later, place.index, secret.sign, verifier, started_us=None)

        known: list[Configuration] = []
        steps: list[Step] = []
        for step in record.steps:
            if step.successor.configuration.previous == configuration.digest:
                known.append(configuration)
                steps.append(step)
                configuration = step.successor.configuration
        place = configuration.node_by_key(key)
        assert place is not None
        verifier = Verifier(verify, counting(configuration, known))
        node = Node(configuration, place.index, secret.sign, verifier, started_us=started_us)
        remembered = record.sealed.get(configuration.digest)
        self.nodes[key] = Membership(
            node,
            secret.sign,
            verify,
            record,
            make,
            first_id=1,
            known=known,
            steps=steps,
            remembered=remembered,
        )
        return self.nodes[key]

    def ask(self, source: bytes, target: bytes, request: m.Request) -> m.Reply | None:
        """What the node of a key says, through the codec both ways; None where either way is lost."""
        node = self.nodes.get(target)
        if node is None or self.is_lost(source, target):
            return None
        (read,) = decode_requests(join([encode(request)]))
        (reply,) = decode_replies(join([encode(node.handle(read, self.now_us, source))]))
        return None if self.is_lost(target, source) else reply

    def pump(self) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(1000):
            busy = False
            for key, node in list(self.nodes.items()):
                while node.outbox:
                    busy = True
                    sent, node.outbox = node.outbox, []
                    infos = node.configuration.nodes
                    for indices, request in sent:
                        for index in indices:
                            reply = self.ask(key, infos[index].key, request)
                            if reply is not None:
                                node.receive(index, reply, self.now_us)
            for client in self.clients:
                busy = client.run() or busy
            if not busy:
                return
        raise AssertionError("they never stop talking")

    def advance(self, by_us: int) -> None:
        end_us = self.now_us + by_us
        while self.now_us < end_us:
            self.now_us += 10_000
            for node in self.nodes.values():
                node.wake(self.now_us)
            for client in self.clients:
                client.core.wake(self.now_us)
            self.pump()

    def epochs(self) -> list[int]:
        return [node.configuration.epoch for node in self.nodes.values()]


class Person:
    """A client in a world."""

    def __init__(self, world: World, writer: str | None = "w1", configuration: Configuration | None = None) -> None:
        self.world = world
        number = 1 + len(world.clients)
        key = None if writer is None else key_of(writer)
        configuration = configuration or world.first
        self.key = b"" if key is None else key.public
        self.core = Coordinator(
            configuration,
            Verifier(verify, [configuration]),
            writer=None if key is None else key.public,
            sign=None if key is None else key.sign,
            nonce=number,
            random_bytes=random.Random(number).randbytes,
            first_id=number << 32,
            guess_us=0,
        )
        self.outcomes: dict[int, Outcome] = {}
        self._token = 0
        world.clients.append(self)

    def run(self) -> bool:
        core, world, busy = self.core, self.world, False
        core.flush(world.now_us)
        while core.outbox:
            busy = True
            sent, core.outbox = core.outbox, []
            for indices, request in sent:
                for index in indices:
                    reply = world.ask(self.key, core.configuration.nodes[index].key, request)
                    if reply is not None:
                        core.receive(index, reply, world.now_us)
            if core.onward.chain:
                core = self.core = go_over(core, core.onward.chain, world.now_us)
            core.flush(world.now_us)
        for token, outcome in core.done:
            assert token not in self.outcomes, "an operation ended twice"
            self.outcomes[token] = outcome
        core.done.clear()
        return busy

    def begin_read(self, key: str, *, full: bool = False) -> int:
        self._token += 1
        self.core.read(slot(key), self._token, full=full)
        return self._token

    def begin_write(self, key: str, value: bytes | None) -> int:
        self._token += 1
        self.core.write(slot(key), DELETE if value is None else PUT, value or b"", 0, self._token)
        return self._token

    def get(self, key: str) -> bytes | None:
        token = self.begin_read(key)
        self.world.pump()
        for _ in range(60):
            if token in self.outcomes:
                break
            self.world.advance(100_000)
        assert isinstance(self.outcomes[token], Found | Missed), self.outcomes
        return value_of(self.outcomes[token])

    def set(self, key: str, value: bytes | None) -> None:
        token = self.begin_write(key, value)
        self.world.pump()
        for _ in range(60):
            if token in self.outcomes:
                break
            self.world.advance(100_000)
        assert isinstance(self.outcomes[token], Written), self.outcomes


def signed(after: Configuration, admins: Iterable[str] = ("admin",)) -> SignedConfiguration:
    message = SignedConfiguration(after).signed_message
    return SignedConfiguration(after, tuple((key_of(x).public, key_of(x).sign(message)) for x in admins))


def order(world: World, after: Configuration, *, at: int = 0, to: bytes | None = None) -> m.Reply | None:
    """Have one node seal for a successor."""
    target = to or world.first.nodes[at].key
    return world.ask(b"", target, m.SealEpoch(7, after.previous or b"", signed_of(signed(after)), []))


def harmless(before: Configuration = FIRST) -> Configuration:
    return amend.successor_of(before, grace_us=before.grace_us + 1)


def test_one_node_that_seals_brings_all_of_them_over() -> None:
    """0016, 5: nobody has to see it through."""
    world = World()
    reply = order(world, harmless())
    assert isinstance(reply, m.SealReply)
    assert not reply.begun
    assert len(reply.seals) == 1
    world.advance(200_000)
    assert world.epochs() == [2] * 5
    again = order(world, harmless())
    assert isinstance(again, m.SealReply)
    assert again.begun
    assert all(len(record.steps) == 1 for record in world.records.values())


def test_clients_follow_and_lose_nothing() -> None:
    world = World()
    writer, reader = Person(world), Person(world, None)
    for key in KEYS:
        writer.set(key, key.encode())
    order(world, harmless())
    world.advance(100_000)
    assert [reader.get(key) for key in KEYS] == [key.encode() for key in KEYS]
    writer.set("k0", b"new")
    assert reader.get("k0") == b"new"
    assert (writer.core.configuration.epoch, reader.core.configuration.epoch) == (2, 2)


def test_operations_under_way_go_on_in_the_next_epoch() -> None:
    """0016, 3: reads and writes that were not certified begin anew; nothing ends twice, nothing hangs."""
    world = World()
    writer, reader = Person(world), Person(world, None)
    for key in KEYS:
        writer.set(key, b"before")
    keys = [info.key for info in FIRST.nodes]
    slow = set(keys[:4])
    world.is_lost = lambda source, target: target in slow  # Requests to four of five do not arrive.
    tokens = [writer.begin_write(key, b"after") for key in KEYS[:3]]
    reads = [reader.begin_read(key, full=full) for key in KEYS for full in (False, True)]
    world.pump()
    assert not any(token in writer.outcomes for token in tokens)
    world.is_lost = lambda _source, _target: False
    order(world, harmless())
    world.advance(1_000_000)
    assert all(isinstance(writer.outcomes[token], Written) for token in tokens)
    assert all(isinstance(reader.outcomes[token], Found) for token in reads)
    assert [reader.get(key) for key in KEYS] == [b"after"] * 3 + [b"before"] * 3


def test_a_certificate_that_was_sent_is_sent_again_as_it_is() -> None:
    """0016, 3: after a commit was sent, nothing else is proposed for the write; it counts once q nodes of the next
    epoch have it."""
    world = World(configuration_of())
    writer = Person(world)
    commits: list[m.Request] = []
    ask = world.ask

    def without_commits(source: bytes, target: bytes, request: m.Request) -> m.Reply | None:
        if isinstance(request, m.Commit):
            commits.append(request)
            return None
        return ask(source, target, request)

    world.ask = without_commits  # type: ignore[method-assign]
    token = writer.begin_write("k", b"v")
    world.pump()
    assert commits
    assert token not in writer.outcomes
    world.ask = ask  # type: ignore[method-assign]
    order(world, harmless(world.first))
    world.advance(300_000)
    outcome = writer.outcomes[token]
    assert isinstance(outcome, Written)
    first = commits[0]
    assert isinstance(first, m.Commit)
    for node in world.nodes.values():
        assert node.configuration.epoch == 2
        held = node.node.slots.current[slot("k")]
        assert held.header == first.bundles[0].items[0].header
        assert held.batch.certificate.configuration == world.first.digest


def test_a_node_that_was_away_catches_up_when_it_looks() -> None:
    world = World()
    Person(world).set("k", b"v")
    away = FIRST.nodes[4].key
    world.is_lost = lambda source, target: away in (source, target)
    order(world, harmless())
    world.advance(500_000)
    assert world.nodes[away].configuration.epoch == 1
    world.is_lost = lambda _source, _target: False
    world.nodes[away].look(world.now_us)
    world.advance(300_000)
    assert world.nodes[away].configuration.epoch == 2


def test_a_node_that_sealed_stays_silent_over_a_restart_and_goes_on() -> None:
    """0016, 5 and 7: the record tells it; the others' seals come when they can be reached."""
    world = World()
    first = FIRST.nodes[0].key
    world.is_lost = lambda source, target: first in (source, target) and b"" not in (source, target)
    order(world, harmless())
    world.start(first, FIRST, started_us=world.now_us)
    node = world.nodes[first]
    assert node.is_sealed
    reply = world.ask(b"", first, m.Read(1, FIRST.digest, [slot("k")]))
    assert isinstance(reply, m.Reject)
    assert reply.code == m.SEALED
    world.is_lost = lambda _source, _target: False
    world.advance(2_000_000)
    assert world.epochs() == [2] * 5
    # Started with the first configuration again, it finds its epoch in the record.
    world.start(first, FIRST, started_us=world.now_us)
    assert world.nodes[first].configuration.epoch == 2


def test_nodes_that_join_leave_and_are_replaced() -> None:
    world = World()
    writer = Person(world)
    for key in KEYS:
        writer.set(key, b"v")
    after = with_nodes(FIRST, [0, 1, 2, 3, 7])
    order(world, after)
    world.advance(300_000)
    left = world.nodes[FIRST.nodes[4].key]
    assert left.has_left
    assert left.moved[0].carried is None
    reply = world.ask(b"", left.node.key, m.Read(1, FIRST.digest, [slot("k")]))
    assert isinstance(reply, m.Reject)
    assert reply.code == m.SEALED
    # What joins asks the nodes of the epoch that it knows, until one follows that names its key.
    ids = iter(range(1, 1000))
    following = Following(FIRST, verify, lambda: next(ids), world.now_us, history=False)
    following.wake(world.now_us)
    for indices, request in following.outbox:
        for index in indices:
            answer = world.ask(b"", FIRST.nodes[index].key, request)
            assert answer is not None
            following.receive(index, answer)
    assert [configuration.digest for configuration in following.chain] == [after.digest]
    assert [writer.get(key) for key in KEYS] == [b"v"] * 6


def test_a_stranger_ends_no_epoch() -> None:
    """Whoever has no administrator's signature changes nothing, and what is sent is not even read."""
    world = World()
    after = harmless()
    target = FIRST.nodes[0].key
    for successor in (
        signed_of(SignedConfiguration(after)),
        signed_of(signed(after, ["w1"])),
        Signed(b"{" * 1000, ((key_of("admin").public, bytes(64)),)),
        Signed(b"[]", ((key_of("admin").public, key_of("admin").sign(b"[]")),)),
        signed_of(signed(harmless(after))),
    ):
        reply = world.ask(b"", target, m.SealEpoch(1, FIRST.digest, successor, []))
        assert isinstance(reply, m.Reject), successor
        assert reply.code == m.NOT_ALLOWED
    assert not world.nodes[target].is_sealed


def test_a_second_successor_is_refused_for_good() -> None:
    """0016, 6: administrators who sign two stop the cluster at worst."""
    world = World()
    world.is_lost = lambda source, target: b"" not in (source, target)
    order(world, harmless())
    other = amend.successor_of(FIRST, grace_us=FIRST.grace_us + 2)
    reply = order(world, other)
    assert isinstance(reply, m.Reject)
    assert "seals it for no other" in reply.detail
    world.is_lost = lambda _source, _target: False
    world.advance(500_000)
    assert world.epochs() == [2] * 5
    reply = order(world, other)
    assert isinstance(reply, m.Reject)
    assert "has begun" in reply.detail


def test_a_node_that_cannot_remember_does_not_seal() -> None:
    world = World()
    world.records[FIRST.nodes[0].key].fails = True
    reply = order(world, harmless())
    assert isinstance(reply, m.Reject)
    assert "disk is full" in reply.detail
    assert not world.nodes[FIRST.nodes[0].key].is_sealed
    assert Person(world).get("k") is None


def test_liars_lead_no_client_astray() -> None:
    """0016, 8: f nodes that show a successor without seals, and say that all is over, change nothing for a client."""
    world = World(configuration_of())
    liar = world.nodes[world.first.nodes[0].key]
    after = harmless(world.first)
    handle = liar.handle

    def lie(request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        if isinstance(request, m.Follow):
            step = Step(signed(after), ())
            return m.FollowReply(request.id, now_us, [shown(step)], None, [])
        if isinstance(request, m.Read | m.Prepare | m.Commit):
            return m.Reject(request.id, now_us, m.SEALED, "it is over")
        return handle(request, now_us, client)

    liar.handle = lie  # type: ignore[method-assign]
    writer = Person(world)
    for key in KEYS:
        writer.set(key, b"v")
        assert writer.get(key) == b"v"
    assert writer.core.configuration.epoch == 1


def test_a_client_that_begins_late_learns_what_was_before() -> None:
    """Certificates of earlier epochs count: who knows the last configuration only asks for those before it."""
    world = World(configuration_of())
    Person(world).set("k", b"v")
    second = harmless(world.first)
    order(world, second)
    world.advance(200_000)
    third = harmless(second)
    order(world, third)
    world.advance(200_000)
    assert world.epochs() == [3] * 4
    late = Person(world, None, third)
    assert late.core.onward.lacks_history
    late.core.onward.look(world.now_us)
    world.pump()
    assert not late.core.onward.lacks_history
    token = late.begin_read("k", full=True)
    world.pump()
    assert value_of(late.outcomes[token]) == b"v"


def test_a_write_of_a_writer_that_is_revoked_meanwhile_does_not_count() -> None:
    """0016, 3: it ends as denied, or unknown; no read shows it."""
    world = World(configuration_of())
    writer = Person(world, "w3")
    writers = tuple(replace(w, status="revoked") if w.name == "w3" else w for w in world.first.writers)
    world.is_lost = lambda source, target: key_of("w3").public in (source, target)
    token = writer.begin_write("k", b"v")
    world.pump()
    order(world, amend.successor_of(world.first, writers=writers))
    world.advance(200_000)
    world.is_lost = lambda _source, _target: False
    world.advance(6_000_000)
    assert isinstance(writer.outcomes[token], Failed)
    assert Person(world, None, None).get("k") is None


@pytest.mark.parametrize("seed", range(6))
def test_epoch_after_epoch_under_load(seed: int) -> None:
    """Clients write and read all the while, messages are lost, nodes are slow to hear: nothing acknowledged is lost."""
    draw = random.Random(f"membership {seed}")
    world = World(configuration_of())
    world.is_lost = lambda _source, _target: draw.random() < 0.05
    writers = [Person(world, name) for name in ("w1", "w2")]
    reader = Person(world, None)
    known: dict[str, bytes] = {}
    configuration = world.first
    for round_ in range(4):
        for number in range(6):
            key, value = draw.choice(KEYS), f"{round_}.{number}".encode()
            draw.choice(writers).set(key, value)
            known[key] = value
            if number == 3:
                configuration = harmless(configuration)
                while not isinstance(order(world, configuration, to=draw.choice(list(world.nodes))), m.SealReply):
                    world.advance(100_000)
        for key in KEYS:
            assert reader.get(key) == known.get(key)
            for node in world.nodes.values():
                node.look(world.now_us)
    world.advance(3_000_000)
    assert world.epochs() == [5] * 4
