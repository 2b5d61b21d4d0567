"""Protocol 9 and decision 0016, the parts together: a cluster moves to its next epoch under real clients of both.

Nodes seal, carry on, join and recover with what core/ has for it; what would travel between them is handed over here.
"""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_fields

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.carrying import carry, stays_in
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NodeInfo, SignedConfiguration
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.ended import Ended
from quorumcache.core.node import Node
from quorumcache.core.outcome import Found, Missed, Written
from quorumcache.core.repair import Recovery
from quorumcache.core.seals import Ending
from quorumcache.wire.keys import SigningKey, verify
from tests.cluster import Client, Cluster, configuration_of, key_of, slot
from tests.making import SECOND_US, Draft, passed_on

KEYS = [f"k{i}" for i in range(6)]
FIRST = configuration_of(nodes=5, shards=8)


def secret_of(info: NodeInfo) -> SigningKey:
    """The key of a node, whatever its place: n3 keeps that of "node 3"."""
    return key_of(f"node {info.name[1:]}")


def value_of(outcome: object) -> bytes | None:
    """What was read; None where it was nothing."""
    return outcome.salted[16:] if isinstance(outcome, Found) else None


def with_nodes(before: Configuration, names: list[int]) -> Configuration:
    """The next epoch, with the nodes of these numbers."""
    nodes = tuple(
        NodeInfo(i, f"n{name}", key_of(f"node {name}").public, f"127.0.0.1:{7000 + name}")
        for i, name in enumerate(names)
    )
    return amend.successor_of(before, nodes=nodes)


class Later(Cluster):
    """The cluster of the next epoch: its nodes come one by one, and its clients know both configurations."""

    def __init__(self, configuration: Configuration, before: Configuration, now_us: int) -> None:
        super().__init__(configuration=configuration)
        self.now_us = now_us
        self.before = before
        self.nodes.clear()
        self.down = {info.index for info in configuration.nodes}

    def client(self, writer: str | None = "w1") -> Client:
        client = super().client(writer)
        key = None if writer is None else key_of(writer)
        number = 100 + len(self.clients)
        client.core = Coordinator(
            self.configuration,
            Verifier(verify, [self.configuration, self.before]),
            writer=key.public if key else None,
            sign=key.sign if key else None,
            nonce=number,
            random_bytes=random.Random(number).randbytes,
            first_id=number << 32,
            guess_us=0,
        )
        return client


class Move:
    """A cluster on its way from its first epoch to the next."""

    def __init__(self, after: Configuration, before: Configuration = FIRST) -> None:
        self.old = Cluster(configuration=before)
        self.before = before
        self.after = after
        self.endings: dict[int, Ending] = {}
        self.sealed: dict[int, Ended] = {}
        admin = key_of("admin")
        signature = admin.sign(SignedConfiguration(after).signed_message)
        self.signed = SignedConfiguration(after, ((admin.public, signature),))
        self.new = Later(after, before, self.old.now_us)

    def seal(self, index: int) -> None:
        node = self.old.nodes[index]
        ending = self.endings[index] = Ending(self.before, node.key, node.sign, verify, lambda _successor: None)
        ending.seal(self.signed)
        self.sealed[index] = Ended(node, ending)
        self.old.nodes[index] = self.sealed[index]  # type: ignore[assignment]

    def activate(self, index: int) -> None:
        """Have a node of the next epoch begin, with what it was in the last one."""
        info = self.after.nodes[index]
        key = secret_of(info)
        source = next(iter(self.endings.values()))
        source.take([ending.seal(self.signed) for ending in self.endings.values()])
        assert source.step is not None, "too few seals"
        now_us = self.new.now_us = max(self.new.now_us, self.old.now_us)
        node = Node(self.after, index, key.sign, Verifier(verify, [self.after, self.before]), started_us=None)
        was = self.before.node_by_key(info.key)
        if was is None:
            empty = Node(self.before, 0, key.sign, node.verifier, started_us=None)
            joined = carry(empty.slots, node.slots, info.key, now_us, node.verifier.chain).joined
        else:
            ended = self.sealed[was.index]
            joined = carry(ended.node.slots, node.slots, info.key, now_us, node.verifier.chain).joined
            ended.went_on(now_us)
        self.new.nodes[index] = node
        self.new.down.discard(index)
        if joined:
            self._recover(node, joined, now_us)

    def report(self, peer: int, request: m.Request, now_us: int, client: bytes) -> m.Reply:
        """What a node of the first epoch reports, as `Membership` has it: of a shard in which it stays, what it has."""
        info = self.after.node_by_key(self.before.nodes[peer].key)
        later = None if info is None else self.new.nodes.get(info.index)
        assert isinstance(request, m.Report)
        if later is None or not stays_in(self.after, self.before, request.shard, later.key):
            return self.sealed[peer].handle(request, now_us, client)
        return later.handle(replace_fields(request, configuration=self.after.digest), now_us)

    def _recover(self, node: Node, joined: tuple[int, ...], now_us: int) -> None:
        recovery = Recovery(node, now_us, first_id=1, joined=joined, before=self.before)
        for _ in range(500):
            if recovery.finished:
                return
            recovery.wake(now_us)
            while recovery.outbox:
                sent, recovery.outbox = recovery.outbox, []
                for peers, request in sent:
                    for peer in peers:
                        reply = self.report(peer, request, now_us, node.key)
                        recovery.receive(peer, reply, now_us)
            now_us = recovery.deadline_us
        raise AssertionError("a member that joined never recovered")


def write_some(cluster: Cluster, draw: random.Random, known: dict[str, bytes], count: int, tag: str) -> None:
    """Writes that end well, noted in `known`; of half of them one node hears nothing."""
    client = cluster.client("w1")
    for i in range(count):
        key, value = draw.choice(KEYS), f"{tag}{i}".encode()
        cluster.now_us += 1000
        token = client.write(key, value)
        lost = draw.choice([None, *FIRST.nodes]) if draw.random() < 0.5 else None
        for _ in range(40):
            for node, request in client.take():
                if lost is None or node != lost.index:
                    client.deliver(node, request)
            if token in client.outcomes:
                break
            cluster.advance(50_000)
        assert isinstance(client.outcomes[token], Written), client.outcomes.get(token)
        known[key] = value


@pytest.mark.parametrize("seed", range(12))
def test_nothing_acknowledged_is_lost_or_read_stale_over_a_change(seed: int) -> None:
    """0016, 1 to 4: add two, remove one, replace one, revoke a writer, in any order of sealing and activating."""
    draw = random.Random(f"epochs {seed}")
    names = draw.choice([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3], [0, 1, 2, 3, 7], [0, 2, 4, 8, 9]])
    after = with_nodes(FIRST, names)
    if draw.random() < 0.5:
        writers = tuple(replace(w, status="revoked") if w.name == "w3" else w for w in after.writers)
        after = replace(after, writers=writers)
    move = Move(after)
    known: dict[str, bytes] = {}
    write_some(move.old, draw, known, 12, "e")
    for index in draw.sample(range(5), 5):
        if len(move.endings) < 2:
            write_some(move.old, draw, known, 1, f"s{index}")
        move.seal(index)
    for index in draw.sample(range(len(names)), len(names)):
        move.activate(index)
    reader = move.new.client(None)
    for key in KEYS:
        token = reader.read(key)
        reader.run()
        move.new.advance(6 * SECOND_US)
        outcome = reader.outcomes[token]
        assert isinstance(outcome, Found | Missed), outcome
        assert value_of(outcome) == known.get(key)
    # Above the floors of those that joined.
    move.new.now_us += 3 * SECOND_US
    write_some(move.new, draw, known, 6, "n")
    for key in KEYS:
        outcome = move.new.client(None).get(key)
        assert outcome is not None
        assert value_of(outcome) == known.get(key)


def _read_in_both(seals: int) -> list[bytes | None]:
    """What a client that knows FIRST alone reads, after a write was complete in the next epoch: f = 1 of four lies."""
    before = configuration_of()
    after = amend.successor_of(before, grace_us=before.grace_us + 1)
    old = Cluster(configuration=before)
    new = Later(after, before, old.now_us + 1000)
    writer = old.client("w1")
    assert isinstance(writer.set("k", b"before"), Written)
    admin = key_of("admin")
    signed = SignedConfiguration(after, ((admin.public, admin.sign(SignedConfiguration(after).signed_message)),))
    for index in range(seals):
        node = old.nodes[index]
        ending = Ending(before, node.key, node.sign, verify, lambda _successor: None)
        ending.seal(signed)
        if index:  # Node 0 lies.
            old.nodes[index] = Ended(node, ending)  # type: ignore[assignment]
    for index in range(seals):
        was = old.nodes[index]
        slots = was.node.slots if isinstance(was, Ended) else was.slots
        key = key_of(f"node {index}")
        node = Node(after, index, key.sign, Verifier(verify, [after, before]), started_us=None)
        carry(slots, node.slots, key.public, new.now_us, node.verifier.chain)
        new.nodes[index] = node
        new.down.discard(index)
    if seals < before.q:
        # Against the rule, one more goes on without a seal, and answers in both.
        node = Node(after, 3, key_of("node 3").sign, Verifier(verify, [after, before]), started_us=None)
        slots = deepcopy(old.nodes[3].slots, {id(before): before})  # It goes on with the same in both.
        carry(slots, node.slots, node.key, new.now_us, node.verifier.chain)
        new.nodes[3] = node
        new.down.discard(3)
    assert isinstance(new.client("w2").set("k", b"after"), Written)
    reader = old.client(None)
    token = reader.read("k")
    reader.run()
    old.advance(6 * SECOND_US)
    outcome = reader.outcomes[token]
    return [value_of(outcome)] if isinstance(outcome, Found | Missed) else []


def test_a_client_of_before_reads_nothing_old_once_something_new_is_complete() -> None:
    """0016, 1: with q seals no quorum is left in e; it finds none and says so. The mutant *seal by 2f* is caught."""
    assert _read_in_both(seals=3) == []
    assert _read_in_both(seals=2) == [b"before"]


def test_a_hoard_released_after_the_revocation_appears_nowhere() -> None:
    """0016, 4: certificates that a writer kept to itself, handed to one node after another while the epoch changes."""
    writers = tuple(replace(w, status="revoked") if w.name == "w3" else w for w in FIRST.writers)
    move = Move(amend.successor_of(FIRST, writers=writers))
    honest = move.old.client("w1")
    assert isinstance(honest.set("k0", b"honest"), Written)
    hoard = [
        Draft(FIRST, "w3", nonce=i).put(key, b"hoard", at_us=move.old.now_us + 9 + i) for i, key in enumerate(KEYS)
    ]
    for draft in hoard:
        for index in FIRST.groups[draft.group].members:
            move.old.nodes[index].handle(draft.prepare(), move.old.now_us)
    entries = [d.entry(nodes=FIRST.groups[d.group].members[:3]) for d in hoard]

    def release(cluster: Cluster, index: int) -> None:
        for entry in entries:
            if index in cluster.nodes:
                cluster.nodes[index].handle(passed_on(entry, cluster.configuration), cluster.now_us)

    for index in range(5):
        if index > 2:
            release(move.old, index)  # The last ones to seal still take it.
        move.seal(index)
        release(move.old, index)
    assert any(slot(key) in ended.node.slots.current for ended in move.sealed.values() for key in KEYS[1:])
    for index in range(5):
        release(move.new, index)
        move.activate(index)
        release(move.new, index)
        move.new.advance(6 * SECOND_US)
        for key in KEYS:
            token = (reader := move.new.client(None)).read(key)
            reader.run()
            move.new.advance(6 * SECOND_US)
            outcome = reader.outcomes[token]
            assert value_of(outcome) != b"hoard"
    for node in move.new.nodes.values():
        assert all(slot(key) not in node.slots.current for key in KEYS[1:])
