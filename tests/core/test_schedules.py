"""Random schedules: clients, a Byzantine node, a network that drops, repeats and reorders; no stale read (protocol 5).

A small cousin of the simulator: one slot, a few operations, real nodes and coordinators, everything drawn from
one seed. Checked of every operation that ends: integrity, no stale read, one value per stamp, and that it ends at all.
"""

from __future__ import annotations

import random

import pytest

from quorumcache.core import messages as m
from quorumcache.core import settle
from quorumcache.core.model import Entry, stamp_parts
from quorumcache.core.outcome import Found, Written
from quorumcache.core.slots import Slots
from tests.cluster import START_US, Client, Cluster, configuration_of, key_of, slot
from tests.making import SECOND_US, Draft, passed_on

KEYS = ("k",)
STEPS = 400


class Liar:
    """Nodes 0 to f-1 as they please: silent, vouching for anything, showing what another node holds or nothing."""

    def __init__(self, rng: random.Random, cluster: Cluster) -> None:
        self.rng = rng
        self.cluster = cluster

    def __call__(self, request: m.Request, reply: m.Reply) -> m.Reply | None:
        how = self.rng.randrange(8)
        if how == 0:
            return None
        if how == 1:
            return self._denies(request, reply)
        if how <= 5 and isinstance(request, m.Read | m.ReadFull):
            configuration = self.cluster.configuration
            other = self.cluster.nodes[self.rng.randrange(configuration.f, configuration.n)]
            return other.handle(request, self.cluster.now_us)
        if how <= 5 and isinstance(request, m.Commit):
            return m.CommitReply(request.id, reply.clock_us + 10**9, bytes(len(request.bundles)), [])
        return reply

    def _denies(self, request: m.Request, reply: m.Reply) -> m.Reply:
        at_us = START_US + self.rng.randrange(-5, 60) * SECOND_US
        if isinstance(request, m.Read):
            empty = [b""] * 2 * (request.values_to - request.values_from)
            return m.ReadReply(request.id, at_us, bytes(32 * len(request.slots)), empty)
        if isinstance(request, m.ReadFull):
            return m.ReadFullReply(request.id, at_us, [m.FullAnswer(None, self.rng.choice((0, at_us)))] * 1)
        if isinstance(request, m.Prepare):
            code = self.rng.choice((m.STALE, m.BELOW_FLOOR, m.AHEAD, m.BUSY, m.DENIED))
            refusals = [m.Refusal(i, code, at_us) for i in range(len(request.headers))]
            return m.PrepareReply(request.id, at_us, bytes((len(request.headers) + 7) // 8), b"", refusals)
        return reply


class Operation:
    """One operation: when it began and ended, in steps, and what came of it."""

    def __init__(self, client: Client, key: str, token: object, began: int) -> None:
        self.client = client
        self.key = key
        self.token = token
        self.began = began
        self.ended = -1
        self.stamp = b""


class Schedule:
    """One run. `wild` adds eviction, and restarts without state of one correct node at a time."""

    def __init__(self, seed: int, f: int, *, wild: bool) -> None:
        self.rng = random.Random(f"schedule {seed} {f} {wild}")
        self.cluster = Cluster(configuration=configuration_of(f, shards=1))
        self.liar = Liar(self.rng, self.cluster)
        for node in range(f):
            self.cluster.lies[node] = self.liar
        self.writers = [self.cluster.client(w) for w in ("w1", "w2")]
        self.clients = [*self.writers, self.cluster.client(None)]
        self.wild = wild
        self.restarted_us = 0
        self.cut: set[tuple[Client, int]] = set()
        self.requests: list[tuple[Client, int, m.Request]] = []
        self.replies: list[tuple[Client, int, m.Reply]] = []
        self.open: list[Operation] = []
        self.ended: list[Operation] = []
        self.written: dict[bytes, bytes] = {}
        self.count = 0
        self.step_number = 0
        self.prepare_stage()

    def prepare_stage(self) -> None:
        """Begin where it is dangerous: t complete at a quorum that the liars are in, the older u at the others, and,
        where it is wild, t evicted again at one node."""
        configuration, rng = self.cluster.configuration, self.rng
        f, n = configuration.f, configuration.n
        correct = rng.sample(range(f, n), n - f)
        older = Draft(configuration).put(KEYS[0], b"k older", at_us=START_US - 2000).entry()
        newer = Draft(configuration).put(KEYS[0], b"k newer", at_us=START_US - 1000).entry()
        holders = [*range(f), *correct[: f + 1]]
        for node in range(n):
            for entry in (older, newer) if node in holders else (older,):
                if entry is newer or rng.random() < 0.9:
                    self.cluster.nodes[node].handle(passed_on(entry, configuration), START_US)
        if self.wild and rng.random() < 0.7:
            self.cluster.nodes[correct[0]].slots.drop(slot(KEYS[0]))
        complete = Operation(self.clients[0], KEYS[0], None, -1)
        complete.stamp = newer.stamp
        self.ended.append(complete)
        self.cut_links()

    def begin(self, client: Client) -> None:
        key = self.rng.choice(KEYS)
        if client in self.writers and self.rng.random() < 0.5:
            self.count += 1
            value = b"%s %d" % (key.encode(), self.count)
            token = client.write(key, value)
        else:
            token = client.read(key, full=self.rng.random() < 0.1)
        self.open.append(Operation(client, key, token, self.step_number))

    def send(self) -> None:
        for client in self.clients:
            for node, request in client.take():
                if (client, node) not in self.cut and self.rng.random() < 0.95:
                    self.requests.append((client, node, request))
                    if self.rng.random() < 0.05:
                        self.requests.append((client, node, request))

    def deliver(self) -> None:
        """One message that waits, not always the oldest."""
        choices = [queue for queue in (self.requests, self.replies) if queue]
        if not choices:
            return
        queue = self.rng.choice(choices)
        at = 0 if self.rng.random() < 0.6 else self.rng.randrange(len(queue))
        if queue is self.requests:
            client, node, request = self.requests.pop(at)
            reply = self.cluster.answer(node, request)
            if reply is not None and self.rng.random() < 0.95:
                self.replies.append((client, node, reply))
        else:
            client, node, answer = self.replies.pop(at)
            client.core.receive(node, answer, self.cluster.now_us)

    def disturb(self) -> None:
        correct = self.rng.randrange(self.cluster.configuration.f, self.cluster.configuration.n)
        slots = self.cluster.nodes[correct].slots
        now_us = self.cluster.now_us
        if self.rng.random() < 0.8:
            key = slot(self.rng.choice(KEYS))
            held = slots.current.get(key)
            if held is not None and not slots.shards[0].recovering:  # However young: age is for liveness only.
                slots.drop(key)
        elif now_us > self.restarted_us + 2 * SECOND_US:
            # Its recovery is left out: it becomes active as it is when the waiting is over.
            self.restarted_us = now_us
            self.cluster.start(correct)

    def cut_links(self) -> None:
        """Each client is cut off from up to f correct nodes, until the next time."""
        f, n = self.cluster.configuration.f, self.cluster.configuration.n
        self.cut = {(client, node) for client in self.clients for node in self.rng.sample(range(f, n), f)}

    def step(self) -> None:
        self.step_number += 1
        what = self.rng.random()
        if what < 0.15 and len(self.open) < 8:
            self.begin(self.rng.choice(self.clients))
        elif what < 0.18:
            self.cluster.now_us += self.rng.choice((1, 1000, 25_000, 25_000, 250_000))
            for client in self.clients:
                client.core.wake(self.cluster.now_us)
            for node in self.cluster.nodes.values():
                node.tick(self.cluster.now_us)
        elif what < 0.21:
            self.cut_links()
        elif what < 0.225 and self.wild:
            self.disturb()
        else:
            for _ in range(self.rng.randrange(7)):
                self.deliver()
                self.send()
        self.send()
        self.note()

    def note(self) -> None:
        for operation in list(self.open):
            operation.client._collect()
            outcome = operation.client.outcomes.get(operation.token)
            if outcome is None:
                continue
            self.open.remove(operation)
            operation.ended = self.step_number
            if isinstance(outcome, Written):
                operation.stamp = outcome.stamp
            elif isinstance(outcome, Found):
                operation.stamp = outcome.header[3:51]
                self.check_value(operation.key, outcome)
            if operation.stamp:
                self.check_fresh(operation, isinstance(outcome, Found))
            self.ended.append(operation)

    def check_value(self, key: str, found: Found) -> None:
        """protocol 5.1 and 5.2: a value that an authorised writer wrote there; one value per stamp."""
        stamp, value = found.header[3:51], found.salted[16:]
        assert value.startswith(key.encode() + b" "), "integrity"
        assert stamp_parts(stamp)[1] in {key_of("w1").public, key_of("w2").public}
        assert self.written.setdefault(slot(key) + stamp, found.header) == found.header, "one value per stamp"

    def check_fresh(self, operation: Operation, is_read: bool) -> None:
        """protocol 5.3: once a write or a read has returned t, later reads return t or newer, or a miss. The same
        holds for the stamps of later writes, or they would be invisible."""
        before = [o.stamp for o in self.ended if o.key == operation.key and o.ended < operation.began]
        if is_read and before:
            assert operation.stamp >= max(before), "stale"

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
        # Everything ends: let all that waits arrive or be lost, and time pass.
        self.cut.clear()
        for _ in range(400):
            if not self.open:
                return
            for _ in range(30):
                self.deliver()
                self.send()
            self.cluster.now_us += 100_000
            for client in self.clients:
                client.core.wake(self.cluster.now_us)
            self.send()
            self.note()
        raise AssertionError("an operation never ended")


@pytest.mark.parametrize("wild", [False, True], ids=["steady", "evictions-and-restarts"])
@pytest.mark.parametrize("f", [1, 2])
@pytest.mark.parametrize("block", range(4))
def test_no_stale_read(block: int, f: int, wild: bool) -> None:
    """protocol 5.1, 5.2, 5.3 and 5.6: integrity, one value per stamp, no stale reads, and an end to everything."""
    found = 0
    for seed in range(10 * block, 10 * block + 10):
        schedule = Schedule(seed, f, wild=wild)
        try:
            schedule.run()
        except AssertionError as broken:
            raise AssertionError(f"{broken}; replay with Schedule({seed}, {f}, wild={wild}).run()") from broken
        found += sum(bool(o.stamp) for o in schedule.ended)
    assert found > 20, "a schedule in which nothing succeeds shows nothing"


def run_many(count: int) -> None:
    for seed in range(count):
        Schedule(seed, 1, wild=True).run()


@pytest.mark.parametrize("rule", ["good sets", "floors"])
def test_schedules_can_fail(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test that cannot fail: without the good-set rule (protocol 4, read 2), or with floors that stay where they
    are (protocol 7), some schedule shows a stale read."""
    if rule == "floors":
        monkeypatch.setattr(Slots, "raise_floor", lambda self, shard, time_us: None)
    else:
        good = settle.good_entries

        def any_set(answers: dict[int, settle.Answer], q: int) -> list[tuple[Entry, set[int]]]:
            return good({node: settle.Answer(a.entry, 0) for node, a in answers.items()}, q)

        monkeypatch.setattr(settle, "good_entries", any_set)
    with pytest.raises(AssertionError, match="stale"):
        run_many(150)
