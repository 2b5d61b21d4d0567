"""Decision 0022: what a node reports to members that join is what it has by then, however late they ask.

Clusters go over while members that join are still asking: meanwhile clients of the next epoch write, delete, and give
up half way, nodes evict, reap, and drop promises, messages are lost and late, and one node lies. Nobody may ever read
what something acknowledged has replaced.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy

import pytest

from quorumcache.core import messages as m
from quorumcache.core.carrying import carry
from quorumcache.core.certificate import Verifier
from quorumcache.core.model import slot_of
from quorumcache.core.node import Node
from quorumcache.core.outcome import Found, Missed, Written
from quorumcache.core.repair import Recovery
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_slot
from quorumcache.core.types.siblings import encode_seen
from quorumcache.wire.keys import verify
from tests import fields
from tests.cluster import START_US, Client, Cluster, key_of, slot
from tests.core.test_epochs import Move, with_nodes
from tests.making import SECOND_US, Draft

FIVE = fields.configuration(nodes=5, shards=2)
FOUR = fields.configuration(nodes=4, shards=1)
KEYS = ["k0", "k1"]
NAMES = [b"a", b"b"]
#: Nodes of the next epoch: replaced, added, removed, most of them others.
CHANGES = ([0, 1, 2, 3, 7], [0, 2, 3, 4, 8], [0, 2, 4, 8, 9], [0, 1, 2, 3, 4, 5, 6], [0, 1, 6, 7], [3, 4, 5, 6, 7])
Place = tuple[str, str, bytes]


class Known:
    """What may be read at a place: what was acknowledged last, or what never ended."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.open: set[bytes | None] = set()

    def allows(self, value: bytes | None) -> bool:
        return value == self.value or value in self.open


class Late(Move):
    """A move in which those that join ask in their own time. `draw` decides all. With `quiet`, nothing is evicted or
    given up, and nobody lies: then nothing may be lost either."""

    def __init__(self, seed: int, *, quiet: bool) -> None:
        self.draw = draw = random.Random(f"late {seed}")
        roles = draw.sample(range(4), 4)
        #: Who lies, and what it had long ago: so it reports, and answers reads. Who got little of what was written
        #: last. Who evicts. Who leaves: its reports come after the others'.
        self.liar, self.behind, self.evicts, self.leaves = (None if quiet else role for role in roles)
        self.frozen: Node | None = None
        if quiet or draw.random() < 0.3:
            # Where more members of a group join than may be faulty, it misses what it had until they have recovered.
            before, names = FIVE, draw.choice(CHANGES[:2] if quiet else CHANGES)
        else:
            before, names = FOUR, [*roles[:3], 7]
        super().__init__(with_nodes(before, names), before)
        self.quiet = quiet
        self.known: dict[Place, Known] = {}
        self.recoveries: list[tuple[Recovery, list[tuple[int, m.Request]], list[tuple[int, m.Reply]]]] = []
        self.number = 0

    # --- joining ---

    def _recover(self, node: Node, joined: tuple[int, ...], now_us: int) -> None:
        self.recoveries.append((Recovery(node, now_us, first_id=1, joined=joined, before=self.before), [], []))

    def report(self, peer: int, request: m.Request, now_us: int, client: bytes) -> m.Reply:
        if self.frozen is not None and peer == self.liar:
            if self.number % 4 == 0:
                return m.ReportReply(request.id, now_us, 0, [], False, False)
            return self.frozen.handle(request, now_us)
        return super().report(peer, request, now_us, client)

    def step(self) -> None:
        """Something of what those that join wait for happens, or not."""
        if not self.recoveries:
            return
        draw, now_us = self.draw, self.new.now_us
        recovery, sent, answers = draw.choice(self.recoveries)
        recovery.wake(now_us)
        sent += [(peer, request) for peers, request in recovery.outbox for peer in peers]
        recovery.outbox.clear()
        if sent and draw.random() < 0.6:
            peer, request = sent.pop(draw.randrange(len(sent)))
            if draw.random() > (0.9 if peer == self.leaves else 0.1):
                answers.append((peer, self.report(peer, request, now_us, recovery.node.key)))
        if answers and draw.random() < 0.6:
            peer, reply = answers.pop(draw.randrange(len(answers)))
            recovery.receive(peer, reply, now_us)

    # --- clients ---

    def run(self, cluster: Cluster, begin: Callable[[Client], object], *, patient: bool = True) -> object:
        """One operation to its end, over a network that loses what goes to one node; None where it was given up."""
        client = cluster.client(self.draw.choice(["w1", "w2"]))
        cluster.clients.remove(client)
        token = begin(client)
        lost = self.draw.choice([None, *range(len(cluster.configuration.nodes))])
        if cluster is self.old and self.frozen is not None and self.draw.random() < 0.8:
            lost = self.behind
        elif cluster is self.new and self.quiet:
            lost = None  # With one that joins, it would be too many for keys with fields to go on as they are.
        for _ in range(400):
            for node, request in client.take():
                if node != lost:
                    client.deliver(node, request)
            if token in client.outcomes:
                return client.outcomes[token]
            if not patient and self.draw.random() < 0.3:
                return None
            cluster.now_us += 20_000
            client.core.wake(cluster.now_us)
            if cluster is self.new:
                self.step()
        raise AssertionError("an operation never ended")

    def write(self, cluster: Cluster) -> None:
        draw = self.draw
        self.number += 1
        value = b"%d" % self.number
        kind, key = draw.choice(["test", "map"]), draw.choice(KEYS)
        name = b"" if kind == "test" else draw.choice(NAMES)
        deletes = draw.random() < 0.25
        patient = self.quiet or draw.random() < 0.8

        def begin(client: Client) -> object:
            if kind == "test":
                return client.delete(key) if deletes else client.write(key, value)
            if not deletes:
                return fields.put(client, kind, name, value, key)
            return (
                fields.delete_key(client, kind, key) if draw.random() < 0.5 else fields.remove(client, kind, name, key)
            )

        all_names = NAMES if kind == "map" else [b""]
        outcome = self.run(cluster, begin, patient=patient)
        for each in all_names if deletes else [name]:
            known = self.known.setdefault((kind, key, each), Known())
            what = None if deletes else value
            if isinstance(outcome, Written) and not (deletes and kind == "map"):
                known.value = what
            else:
                known.open.add(what)

    def check(self, *, strict: bool) -> None:
        """Read everything, from whichever nodes answer."""
        for down in [None] if strict else [None, *self.after.nodes]:
            for kind, key in [(kind, key) for kind in ("test", "map") for key in KEYS]:
                reader = self.new.client(None)
                self.new.clients.remove(reader)
                where = slot(key) if kind == "test" else fields.base_slot(kind, key)
                reader.core.read(where, "read")
                for _ in range(400):
                    for node, request in reader.take():
                        if down is None or node != down.index:
                            reader.deliver(node, request)
                    if "read" in reader.outcomes:
                        break
                    self.new.now_us += 20_000
                    reader.core.wake(self.new.now_us)
                outcome = reader.outcomes["read"]
                if not isinstance(outcome, Found | Missed):
                    assert not strict, outcome
                    continue
                for name in [b""] if kind == "test" else NAMES:
                    known = self.known.get((kind, key, name), Known())
                    value = None
                    if isinstance(outcome, Found):
                        if kind == "test":
                            value = outcome.salted[16:]
                        else:
                            assert outcome.fields is not None
                            found = FIELD_TYPES["map"].value_of(outcome.fields)
                            assert isinstance(found, dict)
                            value = found.get(name)
                    is_miss = value is None and not strict
                    assert is_miss or known.allows(value), (kind, key, name, value, known.value, known.open)

    # --- what befalls nodes ---

    def befall(self) -> None:
        """A node evicts what is old, or time brings what it brings."""
        draw, new = self.draw, self.new
        if draw.random() < 0.4:
            new.now_us += draw.choice([100_000, SECOND_US, 8 * SECOND_US])
            for each in new.nodes.values():
                each.tick(new.now_us)
            return
        evicts = None if self.evicts is None else self.after.node_by_key(self.before.nodes[self.evicts].key)
        if evicts is not None and draw.random() < 0.7:
            slots = new.nodes[evicts.index].slots
        else:
            slots = draw.choice(list(new.nodes.values())).slots
        for place in list(slots.memory.places):
            if slots._may_go(place, new.now_us) and draw.random() < 0.7:
                slots.drop(place, evicted=True)


def late(seed: int, *, quiet: bool) -> Late:
    """A cluster goes over, and on; at the end all that join have recovered."""
    move = Late(seed, quiet=quiet)
    draw, new = move.draw, move.new
    for _ in range(5):
        move.write(move.old)
    if move.liar is not None:
        move.frozen = copy_of(move.old.nodes[move.liar])
    for _ in range(5):
        move.write(move.old)
    move.old.now_us += draw.choice([0, 3 * SECOND_US])
    count = len(move.before.nodes)
    for index in draw.sample(range(count), count):
        move.seal(index)
    for index in draw.sample(range(len(move.after.nodes)), len(move.after.nodes)):
        move.activate(index)
    new.now_us = max(new.now_us, move.old.now_us)
    liar = None if move.liar is None else move.after.node_by_key(move.before.nodes[move.liar].key)
    if liar is not None and move.frozen is not None:
        stale = copy_of(new.nodes[liar.index], empty=True)
        carry(copy_of(move.frozen).slots, stale.slots, stale.key, new.now_us, stale.verifier.chain)
        reads = (m.Read, m.ReadFull, m.Outline, m.Fields)
        new.lies[liar.index] = lambda request, reply: (
            stale.handle(request, new.now_us) if isinstance(request, reads) else reply
        )
    for _ in range(draw.randrange(5, 40)):
        move.step()
        if draw.random() < 0.15:
            move.write(new)
        elif not quiet and draw.random() < 0.5:
            move.befall()
    for _ in range(20_000):
        if all(recovery.finished for recovery, _, _ in move.recoveries):
            break
        new.now_us += 10_000
        move.step()
    else:
        raise AssertionError("a member that joined never recovered")
    return move


def copy_of(node: Node, *, empty: bool = False) -> Node:
    """The node as it is now."""
    copy = Node(node.configuration, node.index, node.sign, node.verifier, started_us=None)
    if not empty:
        copy.slots = deepcopy(node.slots, {id(node.configuration): node.configuration})
    return copy


@pytest.mark.parametrize("seed", range(20))
def test_nothing_over_is_read_however_late_members_ask(seed: int) -> None:
    late(seed, quiet=False).check(strict=False)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_acknowledged_is_lost_where_nothing_goes(seed: int) -> None:
    late(seed, quiet=True).check(strict=True)


def test_the_floor_of_a_report_has_to_be_as_late_as_its_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the floor of the seal, what stood below something that was evicted since comes back."""
    report = Late.report

    def earlier(self: Late, peer: int, request: m.Request, now_us: int, client: bytes) -> m.Reply:
        reply = report(self, peer, request, now_us, client)
        if isinstance(reply, m.ReportReply) and isinstance(request, m.Report):
            reply.floor_us = self.sealed[peer].node.slots.shards[request.shard].floor_us
        return reply

    monkeypatch.setattr(Late, "report", earlier)
    stale = 0
    for seed in (1, 6, 11):
        move = late(seed, quiet=False)
        try:
            move.check(strict=False)
        except AssertionError:
            stale += 1
    assert stale


# --- siblings, which go for one another ---

SIBLINGS = fields.base_slot("siblings", "the last key")


def sibling(draft: Draft, number: int, seen: dict[bytes, int], under: bytes) -> Draft:
    """Add a value of w1 that has seen these."""
    where = field_slot(SIBLINGS, key_of("w1").public + number.to_bytes(8, "big"))
    return draft.put(slot_bytes=where, metadata=under + encode_seen(seen), at_us=START_US + 10_000 + number)


def siblings(count: int) -> tuple[Node, Callable[[int, dict[bytes, int]], None]]:
    """A node that has a key with so many siblings and, before it, entries that leave little room on a page; and how it
    gets another."""
    node = Node(FOUR, 0, key_of("node 0").sign, Verifier(verify, [FOUR]), started_us=None)
    bases = Draft(FOUR).put(slot_bytes=SIBLINGS)
    for number in range(60):
        bases.put(slot_bytes=slot_of(b"siblings", b"%02d" % number))
    under = bases.headers[0][3:51]

    def commit(draft: Draft) -> None:
        reply = node.handle(draft.commit(), START_US + 20_000)
        assert isinstance(reply, m.CommitReply)
        assert set(reply.codes) == {m.OK}

    commit(bases)
    many = Draft(FOUR)
    for number in range(100, 100 + count - 1):
        sibling(many, number, {}, under)
    commit(many)
    commit(sibling(Draft(FOUR, nonce=7), 100 + count - 1, {}, under))
    return node, lambda number, seen: commit(sibling(Draft(FOUR), number, seen, under))


def authors(node: Node) -> set[int]:
    key = node.slots.keys.get(SIBLINGS)
    return set() if key is None else {int.from_bytes(where[-8:], "big") for where in key.fields}


@pytest.mark.parametrize(("count", "is_whole"), [(20, True), (63, True), (70, False)])
def test_a_sibling_that_goes_between_two_pages_is_not_forgotten(count: int, is_whole: bool) -> None:
    """One on the second page goes for a new one on the first, so that neither is reported: where the key can be on one
    page, it is; and where it cannot, nothing of it is taken."""
    reporter, more = siblings(count)
    node = Node(FOUR, 1, key_of("node 1").sign, Verifier(verify, [FOUR]), started_us=START_US)
    recovery = Recovery(node, START_US, first_id=1)
    now_us = recovery.deadline_us
    asked = 0
    while not recovery.finished:
        recovery.wake(now_us)
        sent, recovery.outbox = recovery.outbox, []
        for peers, request in sent:
            for peer in peers:
                recovery.receive(peer, reporter.handle(request, now_us), now_us)
        asked += 1
        if asked == 1:
            # It has seen the last one, and is before all of them.
            last = max(authors(reporter))
            more(99, {key_of("w1").public + (7).to_bytes(8, "big"): START_US + 10_000 + last})
            assert last not in authors(reporter)
        now_us += 1000
    assert len(authors(reporter)) == count
    last = 100 + count - 1
    found = authors(node)
    if is_whole:
        assert found
        assert {99, last}.intersection(found)
    else:
        assert not found
