"""Random schedules for keys with many fields: correct clients, Byzantine nodes and writers, and a network that drops,
repeats and reorders. What protocol 5 and 6 promise is checked of all that correct parties say and are told.

A small cousin of the simulator, as test_schedules.py is for registers: one key, real nodes and coordinators, all drawn
from one seed. Checked: a completed field is not lost within its generation, generations do not go back, deletions hold,
every operation ends, once; no correct node promises two headers under one stamp; no memory is left when all is dropped.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.keys import Key, digest_of_key
from quorumcache.core.model import DELETE, PUT, Entry, digest_of, header_slot, parse_header, stamp_of
from quorumcache.core.outcome import Found, Written
from quorumcache.core.repair import Recovery
from quorumcache.core.types.base import field_slot, generation_of, is_base_slot
from quorumcache.core.types.counter import encode_totals
from quorumcache.core.types.siblings import Siblings, encode_seen, seen_of
from tests.cluster import Client, Cluster, key_of
from tests.fields import base_slot, configuration, slot_at
from tests.making import Draft, passed_on

S = 1_000_000
STEPS = 250
NAMES = (b"a", b"b", b"c")


class Pool:
    """Certified entries that Byzantine writers and nodes have, whether or not any correct node ever stored them."""

    def __init__(self, rng: random.Random, cluster: Cluster, kind: str) -> None:
        self.rng = rng
        self.cluster = cluster
        self.kind = kind
        self.entries: list[Entry] = []
        self.generations: list[bytes] = []
        self.count = 0
        self.bits: dict[int, int] = {}

    def bases(self) -> list[Entry]:
        return [entry for entry in self.entries if is_base_slot(header_slot(entry.header))]

    def grow(self) -> None:
        """A Byzantine writer has something promised, by the rules or as the liars please."""
        rng, cluster = self.rng, self.cluster
        self.count += 1
        # Few times to choose from, so that it often signs two things under one stamp.
        at_us = (cluster.now_us // 400_000 + rng.randrange(-2, 3)) * 400_000
        draft = Draft(cluster.configuration, "w3", nonce=rng.randrange(2))
        known = self.generations[-4:]
        for at in rng.sample(range(3), rng.randrange(1, 3)):
            generation = rng.choice([*known, draft_stamp(draft, at_us)])
            what = rng.randrange(4)
            if at == 0 and what < 2:
                draft.put(slot_bytes=base_slot(self.kind), value=b"", kind=what, at_us=at_us)
            elif at == 0:
                draft.put(slot_bytes=base_slot(self.kind), value=b"", at_us=at_us, metadata=generation)
            elif self.kind == "siblings":
                seen = {other[8:]: at_us - rng.randrange(S) for other in known if rng.random() < 0.5}
                slot = field_slot(base_slot(self.kind), bytes([self.count % 256, at]) * 8)
                draft.put(
                    slot_bytes=slot, value=b"%d" % self.count, at_us=at_us, metadata=generation + encode_seen(seen)
                )
            elif self.kind == "map":
                slot = slot_at(self.kind, rng.choice(NAMES[at - 1 :: 2]))
                draft.put(slot_bytes=slot, value=b"%d" % self.count, at_us=at_us, metadata=generation, kind=PUT)
            else:
                slot = field_slot(base_slot(self.kind), key_of("w3").public + bytes(7) + bytes([at]))
                totals = encode_totals(rng.randrange(99), 0)
                draft.put(slot_bytes=slot, value=b"", at_us=at_us, metadata=generation + totals)
        if not draft.headers:
            return
        f = cluster.configuration.f
        granted = [node for node in range(f, cluster.configuration.n) if self.prepared(node, draft)]
        for position, raw in enumerate(draft.headers):
            nodes = [n for n in granted if self.bits[n] >> position & 1]
            if len(nodes) + f >= cluster.configuration.q:
                self.entries.append(draft.entry_of(position, {n: self.bits[n] for n in nodes}, range(f)))
                if is_base_slot(header_slot(raw)):
                    self.generations.append(generation_of(raw))

    def prepared(self, node: int, draft: Draft) -> bool:
        reply = self.cluster.watch.answer(node, draft.prepare())  # type: ignore[attr-defined]
        if not isinstance(reply, m.PrepareReply):
            return False
        self.bits[node] = int.from_bytes(reply.bitmap, "little")
        return self.bits[node] > 0

    def spread(self) -> None:
        """One of its entries comes to some node."""
        if self.entries:
            entry = self.rng.choice(self.entries[-12:])
            node = self.rng.randrange(self.cluster.configuration.n)
            self.cluster.nodes[node].handle(passed_on(entry, self.cluster.configuration), self.cluster.now_us)


def draft_stamp(draft: Draft, at_us: int) -> bytes:
    return stamp_of(at_us, draft.key.public, draft.nonce)


class Watch:
    """Sees what correct nodes promise: never two headers under one (slot, stamp), not even after a restart."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.promised: dict[tuple[int, bytes, bytes], bytes] = {}

    def answer(self, node: int, request: m.Request) -> m.Reply | None:
        reply = self.cluster.answer(node, request)
        if node >= self.cluster.configuration.f and isinstance(reply, m.PrepareReply):
            assert isinstance(request, m.Prepare)
            bits = int.from_bytes(reply.bitmap, "little")
            for position, raw in enumerate(request.headers):
                if bits >> position & 1:
                    header = parse_header(raw)
                    before = self.promised.setdefault((node, header.slot, header.stamp), header.digest)
                    assert before == header.digest, "a correct node promised two headers under one stamp"
        return reply


class Liar:
    """Nodes 0 to f-1: silent, denying, showing what others hold, or what nobody holds yet."""

    def __init__(self, rng: random.Random, cluster: Cluster, pool: Pool) -> None:
        self.rng = rng
        self.cluster = cluster
        self.pool = pool
        self.old: list[m.Reply] = []

    def __call__(self, request: m.Request, reply: m.Reply) -> m.Reply | None:
        rng = self.rng
        self.old = [*self.old[-20:], reply]
        how = rng.randrange(10)
        if how == 0:
            return None
        if how == 1 and isinstance(request, m.Prepare):
            return self.refuses(request, reply)
        if how <= 3 and isinstance(request, m.Commit) and isinstance(reply, m.CommitReply):
            codes = bytes(rng.choice((m.OK, m.EVICTED, m.OTHER, m.NO_BASE, m.RECOVERING)) for _ in reply.codes)
            return m.CommitReply(request.id, reply.clock_us + rng.choice((0, 10**9)), codes, [])
        if how <= 4:
            same = [old for old in self.old if type(old) is type(reply)]
            old = rng.choice(same)
            fields = {name: getattr(old, name) for name in old.__struct_fields__}
            return type(old)(**{**fields, "id": request.id})
        if how <= 6 and not isinstance(request, m.Commit | m.Prepare):
            other = self.cluster.nodes[rng.randrange(self.cluster.configuration.f, self.cluster.configuration.n)]
            return other.handle(request, self.cluster.now_us)
        if how == 7 and isinstance(reply, m.OutlineReply):
            return self.outlines(reply)
        if how == 7 and isinstance(reply, m.FieldsReply):
            return m.FieldsReply(reply.id, reply.clock_us, reply.generation, reply.digests[32:], reply.entries, False)
        return reply

    def outlines(self, reply: m.OutlineReply) -> m.Reply:
        base = self.rng.choice([None, reply.base, *self.pool.bases()[-3:]])
        of_it = [] if base is None else [e for e in [*reply.entries, *self.pool.entries[-20:]] if belongs(e, base)]
        some = [entry for entry in of_it if self.rng.random() < 0.6]
        return m.OutlineReply(reply.id, reply.clock_us, base, self.rng.choice((0, reply.floor_us)), some, b"")

    def refuses(self, request: m.Prepare, reply: m.Reply) -> m.Reply:
        rng = self.rng
        code = rng.choice((m.STALE, m.BELOW_FLOOR, m.AHEAD, m.BUSY, m.DENIED, m.GENERATION))
        proofs = [None, *(Entry(e.header, b"", e.certificate, e.position, e.path) for e in self.pool.entries[-4:])]
        at_us = self.cluster.now_us + rng.randrange(-S, 3 * S)
        refusals = [m.Refusal(i, code, at_us, rng.choice(proofs)) for i in range(len(request.headers))]
        return m.PrepareReply(request.id, reply.clock_us, bytes((len(request.headers) + 7) // 8), b"", refusals)


def belongs(entry: Entry, base: Entry) -> bool:
    return not is_base_slot(header_slot(entry.header)) and generation_of(entry.header) == generation_of(base.header)


class Operation:
    def __init__(self, client: Client, token: object, what: str, slot: bytes, began: int) -> None:
        self.client = client
        self.token = token
        self.what = what
        self.slot = slot
        self.began = began


class Schedule:
    def __init__(self, seed: int, kind: str, f: int = 1, *, wild: bool = True) -> None:
        self.rng = random.Random(f"keys {seed} {kind} {f} {wild}")
        self.kind = kind
        self.wild = wild
        self.cluster = Cluster(configuration=configuration(f, shards=1))
        self.watch = self.cluster.watch = Watch(self.cluster)  # type: ignore[attr-defined]
        self.pool = Pool(self.rng, self.cluster, kind)
        for node in range(f):
            self.cluster.lies[node] = Liar(self.rng, self.cluster, self.pool)
        self.clients = [self.cluster.client(w) for w in ("w1", "w2", "w1", None)]
        self.cut: set[tuple[Client, int]] = set()
        self.requests: list[tuple[Client, int, m.Request]] = []
        self.replies: list[tuple[Client, int, m.Reply]] = []
        self.open: list[Operation] = []
        self.step_number = 0
        self.count = 0
        self.found = 0
        self.totals: dict[Client, int] = {}
        #: (step at which it ended, generation, slot or empty, stamp): what later reads may not be behind of.
        self.complete: list[tuple[int, bytes, bytes, bytes]] = []
        self.seen: dict[bytes, int] = {}
        self.written: dict[tuple[bytes, bytes], bytes] = {}
        self.cut_links()

    def cut_links(self) -> None:
        f, n = self.cluster.configuration.f, self.cluster.configuration.n
        self.cut = {(client, node) for client in self.clients for node in self.rng.sample(range(f, n), f)}

    # --- operations ---

    def begin(self) -> None:
        rng, kind = self.rng, self.kind
        client = rng.choice(self.clients)
        self.count += 1
        token = self.count
        base = base_slot(kind)
        what = rng.random()
        if client is self.clients[3] or what < 0.3:
            slot = base if kind != "map" or rng.random() < 0.6 else slot_at(kind, rng.choice(NAMES))
            client.core.read(slot, token, full=rng.random() < 0.3)
            self.open.append(Operation(client, token, "read", slot, self.step_number))
            return
        if what < 0.36:
            client.core.write(base, DELETE, b"", 0, token)
            self.open.append(Operation(client, token, "delete", base, self.step_number))
            return
        if what < 0.44:
            expires_us = rng.choice((0, self.cluster.now_us + rng.randrange(3 * S)))
            client.core.write(base, PUT, b"", expires_us, token)
            self.open.append(Operation(client, token, "touch", base, self.step_number))
            return
        value, details, how = b"%d" % self.count, b"", PUT
        if kind == "map":
            slot = slot_at(kind, rng.choice(NAMES))
            how = rng.choice((PUT, PUT, DELETE))
        elif kind == "siblings":
            if any(o.client is client and o.what == "put" for o in self.open):
                return
            slot = field_slot(base, key_of(client_writer(self, client)).public + rng.randbytes(8))
            details = encode_seen(self.seen if rng.random() < 0.7 else {})
        else:
            owner = key_of(client_writer(self, client)).public
            slot, value = field_slot(base, owner + bytes(7) + bytes([self.clients.index(client)])), b""
            self.totals[client] = self.totals.get(client, 0) + 1
            details = encode_totals(self.totals[client], 0)
        expires_us = rng.choice((0, self.cluster.now_us + 2 * S))
        client.core.write(slot, how, b"" if how else value, 0, token, details, expires_us)
        self.open.append(Operation(client, token, "put", slot, self.step_number))

    def note(self) -> None:
        for operation in list(self.open):
            operation.client._collect()
            outcome = operation.client.outcomes.get(operation.token)
            if outcome is None:
                continue
            self.open.remove(operation)
            now = self.step_number
            if isinstance(outcome, Found):
                self.found += 1
                self.check(operation, outcome)
                generation = generation_of(outcome.header)
                self.complete.append((now, generation, b"", b""))
                for raw, _ in outcome.fields or ():
                    self.complete.append((now, generation, header_slot(raw), raw[3:51]))
                if self.kind == "siblings":
                    self.seen = Siblings().seen_in(outcome.fields or ())
            elif isinstance(outcome, Written) and operation.what == "put":
                self.complete.append((now, outcome.generation, operation.slot, outcome.stamp))
            elif isinstance(outcome, Written) and operation.what == "delete":
                self.complete.append((now, outcome.stamp, b"gone", outcome.stamp))
            else:
                assert operation.what != "read" or not isinstance(outcome, Written)

    def check(self, operation: Operation, found: Found) -> None:
        generation = generation_of(found.header)
        fields = {header_slot(raw): raw for raw, _ in found.fields or ()}
        whole = is_base_slot(operation.slot)
        for raw, salted in found.fields or ():
            known = self.written.setdefault((header_slot(raw), raw[3:51]), raw + salted)
            assert known == raw + salted, "one value per stamp"
            assert generation_of(raw) == generation, "a field of another generation"
        for ended, least, slot, stamp in self.complete:
            if ended >= operation.began:
                continue
            assert generation >= least, "the generation went back"
            if slot == b"gone":
                assert generation > stamp, "a deletion was undone"
            elif slot and generation == least and (whole or slot == operation.slot):
                if self.kind == "siblings":
                    self.check_sibling(slot, stamp, fields)
                else:
                    assert slot in fields, "a completed field was lost"
                    assert fields[slot][3:51] >= stamp, "a completed field went back"

    def check_sibling(self, slot: bytes, stamp: bytes, fields: dict[bytes, bytes]) -> None:
        if slot in fields:
            assert fields[slot][3:51] >= stamp
            return
        covered = any(seen_of(raw).get(stamp[8:], 0) >= int.from_bytes(stamp[:8], "big") for raw in fields.values())
        assert covered, "a completed sibling was lost"

    # --- the network, and bad luck ---

    def send(self) -> None:
        for client in self.clients:
            for node, request in client.take():
                if (client, node) not in self.cut and self.rng.random() < 0.95:
                    self.requests.append((client, node, request))
                    if self.rng.random() < 0.05:
                        self.requests.append((client, node, request))

    def deliver(self) -> None:
        choices = [queue for queue in (self.requests, self.replies) if queue]
        if not choices:
            return
        queue = self.rng.choice(choices)
        at = 0 if self.rng.random() < 0.6 else self.rng.randrange(len(queue))
        if queue is self.requests:
            client, node, request = self.requests.pop(at)
            reply = self.watch.answer(node, request)
            if reply is not None and self.rng.random() < 0.95:
                self.replies.append((client, node, reply))
        else:
            client, node, answer = self.replies.pop(at)
            client.core.receive(node, answer, self.cluster.now_us)

    def disturb(self) -> None:
        rng, cluster = self.rng, self.cluster
        node = rng.randrange(cluster.configuration.f, cluster.configuration.n)
        slots = cluster.nodes[node].slots
        what = rng.random()
        if what < 0.5:
            base = base_slot(self.kind)
            if base in slots.current and not slots.shards[0].recovering:
                slots.drop(base)
        elif what < 0.8:
            for promise in list(slots.promises)[: rng.randrange(3)]:
                slots.drop_promise(promise)
        else:
            self.restart(node)

    def restart(self, node: int) -> None:
        """Without state; then, when all that counts its earlier answers has ended, recovered from the others."""
        cluster = self.cluster
        fresh = cluster.start(node)
        self.pass_time(11 * S)
        recovery = Recovery(fresh, cluster.now_us - 11 * S, first_id=1)
        for _ in range(200):
            if recovery.finished:
                break
            recovery.wake(cluster.now_us)
            out, recovery.outbox = recovery.outbox, []
            for nodes, request in out:
                for peer in nodes:
                    reply = cluster.answer(peer, request)
                    if reply is not None:
                        recovery.receive(peer, reply, cluster.now_us)
                    if self.rng.random() < 0.3:
                        self.pool.spread()
            cluster.now_us += 100_000

    def pass_time(self, by_us: int) -> None:
        end_us = self.cluster.now_us + by_us
        while self.cluster.now_us < end_us:
            self.cluster.now_us += min(by_us, 250_000)
            for client in self.clients:
                client.core.wake(self.cluster.now_us)
            for _ in range(20):
                self.send()
                self.deliver()
            self.note()
        for node in self.cluster.nodes.values():
            node.tick(self.cluster.now_us)

    def step(self) -> None:
        self.step_number += 1
        rng = self.rng
        what = rng.random()
        if what < 0.15 and len(self.open) < 10:
            self.begin()
        elif what < 0.20:
            self.pass_time(rng.choice((1, 1000, 25_000, 25_000, 250_000)))
        elif what < 0.22:
            self.cut_links()
        elif what < 0.25:
            self.pool.grow()
        elif what < 0.29:
            self.pool.spread()
        elif what < 0.30 and self.wild:
            self.disturb()
        else:
            for _ in range(rng.randrange(12)):
                self.deliver()
                self.send()
        self.send()
        self.note()

    def close(self, client: Client) -> None:
        """The client is closed in the middle of what it does: each operation has its one outcome all the same."""
        client.core.abandon(self.cluster.now_us)
        self.note()
        assert not any(operation.client is client for operation in self.open), "an operation was forgotten"

    def run(self) -> None:
        for _ in range(STEPS):
            self.step()
        if self.rng.random() < 0.5:
            self.close(self.rng.choice(self.clients))
        self.cut.clear()
        for _ in range(200):
            if not self.open:
                break
            self.step_number += 1
            for _ in range(60):
                self.deliver()
                self.send()
            self.pass_time(100_000)
        assert not self.open, "an operation never ended"
        for client in self.clients:
            for _ in range(100):
                client.run()
                client.core.wake(self.cluster.now_us)
                self.cluster.now_us += 100_000
                if client.core.is_idle:
                    break
            assert client.core.is_idle, "something of an operation is left"
        for proof in (p for node in self.cluster.nodes.values() for p in node.evidence):
            assert parse_header(proof.first.header).writer == key_of("w3").public, "evidence against a correct writer"
        for node in self.cluster.nodes.values():
            check_node(node.slots)


def client_writer(schedule: Schedule, client: Client) -> str:
    return ("w1", "w2", "w1")[schedule.clients.index(client)]


def check_node(slots) -> None:  # type: ignore[no-untyped-def]
    """Digests are those of what is held; nothing is left when all of it is dropped."""
    for key in slots.keys.values():
        assert key.digest() == digest_of_key(key.base.digest, {s: digest_of(h.header) for s, h in key.fields.items()})
        assert key.size == sum(len(h.header) + len(h.salted) for h in key.fields.values())
        assert {slots.current[s] for s in key.fields} == set(key.fields.values()) if key.fields else True
    for slot in [slot for slot in slots.current if is_base_slot(slot)]:
        slots.drop(slot)
    for promise in list(slots.promises):
        slots.drop_promise(promise)
    assert not slots.current
    assert not slots.keys
    assert slots.memory.bytes_used == 0
    assert not slots.memory.places


def run_many(seeds: Iterable[int], kind: str, f: int, wild: bool) -> int:
    found = 0
    for seed in seeds:
        schedule = Schedule(seed, kind, f, wild=wild)
        try:
            schedule.run()
        except AssertionError as broken:
            raise AssertionError(
                f"{broken}; replay with Schedule({seed}, {kind!r}, {f}, wild={wild}).run()"
            ) from broken
        found += schedule.found
    return found


@pytest.mark.parametrize("wild", [False, True], ids=["steady", "evictions-and-restarts"])
@pytest.mark.parametrize("kind", ["map", "counter", "siblings"])
def test_fields_are_not_lost(kind: str, wild: bool) -> None:
    """Protocol 5 and 6, over a few schedules."""
    assert run_many(range(4), kind, 1, wild) > 10, "a schedule in which nothing succeeds shows nothing"


def test_schedules_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test that cannot fail: without keys' barriers some schedule shows a node that contradicts itself."""
    monkeypatch.setattr(Key, "raise_barrier", lambda self, time_us: None)
    with pytest.raises(AssertionError, match="under one stamp"):
        run_many(range(103, 104), "siblings", 1, True)
