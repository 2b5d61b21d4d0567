"""The client's side of the protocol, for many operations at once (protocol 4).

Operations are queued by `read`, `write` and `scan`, and leave together at `flush`: one batch per group. `receive` takes
replies, `wake` time. What is to be sent collects in `outbox`, what ended in `done`; `deadline_us` is when to wake it
next. Each operation is a machine of its own (read.py, settle.py, write.py, scan.py); this module queues, numbers,
routes and times them.
It must not know sockets, futures or keys.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.certificate import Sign, Verifier
from quorumcache.core.changes import ChangesRound
from quorumcache.core.clock import ClusterClock
from quorumcache.core.config import Configuration, Group
from quorumcache.core.evidence import DoubleGrant, Equivocation, proofs_of
from quorumcache.core.exactqueue import ExactQueue
from quorumcache.core.exactwrite import Changer
from quorumcache.core.generations import Generations
from quorumcache.core.machine import Machine
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    Entry,
    slot_parts,
)
from quorumcache.core.onward import Onward
from quorumcache.core.outcome import DENIED, UNAVAILABLE, Failed, Outcome
from quorumcache.core.queue import Token, WriteQueue
from quorumcache.core.read import ReadBatch
from quorumcache.core.refusal import PendingWrite
from quorumcache.core.rights import READ
from quorumcache.core.scan import ScanPart
from quorumcache.core.settle import Settle
from quorumcache.core.settlekey import SettleKey
from quorumcache.core.succession import counting
from quorumcache.core.types.base import base_slot_of, is_base_slot
from quorumcache.core.watch import Watching
from quorumcache.core.write import WriteBatch
from quorumcache.core.writeback import Direct

_AHEAD_MAX: Final = 4096
_SUSPICION_MAX: Final = 64.0
_EVIDENCE_MAX: Final = 1000


class Coordinator(WriteQueue):
    """Runs a client's operations against the nodes of `configuration`.

    `writer` (32 bytes) and `sign` are the writer's key; None for a client that only reads. `nonce` is a random u64,
    `random_bytes` gives salts, `first_id` is a random start for request ids. `guess_us` is the first guess of cluster
    time minus the own clock. `now_us` everywhere is the client's own monotonic clock. `known`: configurations before,
    the oldest first. Once `onward.chain` is set, the cluster has moved on: `go_over` (onward.py) gives the next one.
    """

    def __init__(
        self,
        configuration: Configuration,
        verifier: Verifier,
        *,
        writer: bytes | None,
        sign: Sign | None,
        nonce: int,
        random_bytes: Callable[[int], bytes],
        first_id: int,
        guess_us: int,
        known: Sequence[Configuration] = (),
        moved_us: int = -(1 << 62),
    ) -> None:
        super().__init__(configuration, sign)
        self.verifier = verifier
        self.writer = writer
        self.nonce = nonce
        self.random_bytes = random_bytes
        self.clock = ClusterClock(configuration.q, guess_us)
        #: (nodes, request): what to send. The driver takes the list and empties it.
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        #: The batches of reads and of writes that were sent last, and the compare-and-set that was.
        self.latest_reads: Machine | None = None
        self.latest_writes: Machine | None = None
        self.latest_exact: Machine | None = None
        self._next_id = first_id
        self._routes: dict[int, Machine] = {}
        self._timers: list[tuple[int, int, Machine]] = []
        self._reads: dict[bytes, list[Token]] = {}
        self._full_reads: dict[bytes, list[Token]] = {}
        self._scans: list[tuple[bytes, bytes, m.Position, int, Token]] = []
        self._ahead: dict[bytes, int] = {}
        self.generations = Generations(self)
        self._direct = Direct(self)
        self._exact = ExactQueue(self)
        self.onward = Onward(self, known, verifier.verify, moved_us)
        #: The shortest round trip to a quorum of late, in microseconds: how far the nodes are.
        self.round_us = 0
        #: Proofs of misbehaviour that this client came upon, by the key that each convicts.
        self.evidence: dict[bytes, Equivocation | DoubleGrant] = {}
        self._suspicion = [0.0] * len(configuration.nodes)
        self._unreachable: set[int] = set()
        self._preferred: dict[bytes, tuple[int, ...]] = {}
        self._turn = 0
        self.counts: dict[str, int] = {
            "reads_fast": 0,
            "reads_settled": 0,
            "reads_missed": 0,
            "write_attempts": 0,
            "writes_overtaken": 0,
            "lies_rejected": 0,
            "keys_doubted": 0,
        }

    # --- what the driver calls ---

    def read(self, slot: bytes, token: Token, *, full: bool = False) -> None:
        """Queue a read. With `full`, the outcome carries the whole entry with its certificate."""
        rights = self.configuration.rights_table
        if not rights.reading_is_open and not rights.may_read(self.writer or b"", slot):
            # Nodes would refuse the whole request for it, and others travel with it.
            namespace, name, _ = slot_parts(slot)
            self.done.append((token, Failed(DENIED, rights.missing(self.writer or b"", READ, namespace, name))))
            return
        queue = self._full_reads if full else self._reads
        waiting = queue.get(slot)
        if waiting is None:
            queue[slot] = [token]
        else:
            # A read joins another only while that one has not been sent (protocol 4).
            waiting.append(token)

    def exact(self, slot: bytes, change: Changer, token: Token) -> None:
        """Queue a compare-and-set in an exact namespace: `change` says what is to replace what is settled there, and is
        asked again whenever another was first (protocol 17). It ends as `Decided`, as `Unchanged` where `change` wanted
        nothing, or as `Failed`. `change` must be quick and must not raise."""
        rights, writer = self.configuration.rights_table, self.writer
        namespace, name, _ = slot_parts(slot)
        if writer is None or self.sign is None:
            self.done.append((token, Failed(DENIED, "this client has no writer's key")))
        elif not self.configuration.is_exact(slot):
            detail = f"namespace {namespace.decode('ascii', 'replace')} is not exact: it has no compare-and-set"
            self.done.append((token, Failed(DENIED, detail)))
        elif not rights.may(writer, READ, namespace, name):
            self.done.append((token, Failed(DENIED, rights.missing(writer, READ, namespace, name))))
        else:
            self._exact.add(slot, change, token)

    def has_ready(self, *, writes: bool = True, exact: bool = True) -> bool:
        """Whether something became ready that should be sent; without `writes` or `exact`, something else than that."""
        return (writes and super().has_ready()) or (exact and self._exact.has_ready())

    def scan(self, namespace: bytes, prefix: bytes, start: m.Position, count: int, token: Token) -> None:
        """Queue the listing of the keys of a namespace that begin with `prefix`, in the group of the shard of `start`
        and from there on. It ends as `Listed`, usually with `count` keys, or up to the group's end."""
        rights = self.configuration.rights_table
        if rights.may(self.writer or b"", READ, namespace, prefix):
            self._scans.append((namespace, prefix, start, count, token))
        else:
            self.done.append((token, Failed(DENIED, rights.missing(self.writer or b"", READ, namespace, prefix))))

    def changes(self, watching: Watching, token: Token, now_us: int) -> None:
        """Ask the nodes what changed of what is watched, at once. It ends as `Heard`."""
        rights, subject = self.configuration.rights_table, watching.subject
        if rights.may(self.writer or b"", READ, subject.namespace, subject.prefix):
            self.schedule(ChangesRound(self, subject, watching.groups, watching.places, watching.waited, token, now_us))
        else:
            missing = rights.missing(self.writer or b"", READ, subject.namespace, subject.prefix)
            self.done.append((token, Failed(DENIED, missing)))

    def flush(self, now_us: int) -> None:
        """Send what is queued: per group, one batch of reads and one of writes (more where bounds ask for it)."""
        self.flush_reads(now_us)
        self.flush_scans(now_us)
        self.flush_exact(now_us)
        self.flush_writes(now_us)

    def flush_reads(self, now_us: int) -> None:
        """Send the reads that are queued."""
        if self._reads:
            reads, self._reads = self._reads, {}
            if self._direct:
                reads = self._direct.reads(reads, False, now_us)
            for group, slots in self._by_group(reads):
                for at in range(0, len(slots), m.READ_SLOTS_MAX):
                    part = slots[at : at + m.READ_SLOTS_MAX]
                    batch = ReadBatch(self, group, part, [reads[slot] for slot in part], now_us)
                    self.schedule(batch)
                    self.latest_reads = batch
        if self._full_reads:
            full_reads, self._full_reads = self._full_reads, {}
            if self._direct:
                full_reads = self._direct.reads(full_reads, True, now_us)
            for group, slots in self._by_group(full_reads):
                self.settle(group, slots, [full_reads[slot] for slot in slots], now_us, now_us)

    def flush_scans(self, now_us: int) -> None:
        """Send the listings that are queued."""
        if self._scans:
            scans, self._scans = self._scans, []
            for namespace, prefix, start, count, token in scans:
                self.schedule(ScanPart(self, namespace, prefix, start, count, token, now_us))

    def flush_exact(self, now_us: int) -> None:
        """Begin the compare-and-sets that are queued, of slots that are free."""
        if self._exact.has_ready():
            self._exact.flush(now_us)

    def flush_writes(self, now_us: int) -> None:
        """Send the writes that are queued."""
        if self._ready:
            ready, self._ready = self._ready, {}
            self._in_flight.update(ready)
            self._route(ready, now_us)

    def ready_counts(self) -> tuple[int, int, int]:
        """How many slots' reads, and writes, are queued, and how many compare-and-sets."""
        return len(self._reads) + len(self._full_reads), len(self._ready), self._exact.ready_count

    def receive(self, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's reply. One that answers nothing in flight is only good for its clock."""
        clock = self.clock
        if clock.is_known:
            clock.report(node, reply.clock_us, now_us)
        else:
            clock.report(node, reply.clock_us, now_us)
            if clock.restart(now_us, 3 * self.configuration.max_skew_us):
                self._renew_nonce()
        machine = self._routes.get(reply.id)
        if machine is None:
            if self.onward.is_question(reply.id):
                self.onward.receive(node, reply)
            return
        if type(reply) is m.Reject and self.onward.is_dropped(node, reply, now_us):
            return  # As if the node had not answered: it is asked again, there or in the next epoch.
        if now_us >= machine.end_us:
            # Only answers received within op_time count (protocol 1), however late the driver wakes us.
            machine.wake(now_us)
            if machine.finished:
                return
        machine.receive(reply.id, node, reply, now_us)
        if machine.deadline_us < machine.scheduled_us:
            self.schedule(machine)

    def wake(self, now_us: int) -> None:
        """Do what is due: resends, hedges, ends of grace times, deadlines, and writes that waited for the clock."""
        timers = self._timers
        while timers and timers[0][0] <= now_us:
            due_us, _, machine = heapq.heappop(timers)
            if machine.finished or due_us != machine.scheduled_us:
                continue  # Stale: the machine ended, or was scheduled anew.
            if machine.deadline_us <= now_us:
                machine.wake(now_us)
                machine.deadline_us = max(machine.deadline_us, now_us + 1)
            self.schedule(machine)
            timers = self._timers
        self.onward.wake(now_us)
        due: dict[bytes, PendingWrite] = {}
        while self._delayed and self._delayed[0][0] <= now_us:
            write = heapq.heappop(self._delayed)[2]
            if now_us >= write.deadline_us:
                detail = f"nothing was written after {write.attempt} attempts: {write.trouble}"
                self.finish_write(write, Failed(UNAVAILABLE, detail))
            else:
                due[write.slot] = write
        if due:
            self._route(due, now_us)

    def abandon(self, now_us: int) -> None:
        """End everything, as if no answer came any more: nothing waits for an outcome after this."""
        closed = Failed(UNAVAILABLE, "the client was closed before anything was sent")
        late_us = now_us + 2 * self.configuration.op_time_us
        while not self.is_idle:
            for queue in (self._reads, self._full_reads):
                for tokens in queue.values():
                    self.finish(tokens, closed)
                queue.clear()
            self.finish([scan[-1] for scan in self._scans], closed)
            self._scans.clear()
            self._exact.abandon()
            for writes in (self._behind, self._ready):
                for write in writes.values():
                    self.finish(write.tokens, closed)
                    if writes is self._ready:
                        self._in_flight.pop(write.slot, None)
                writes.clear()
            for machine in list(self._routes.values()):
                if not machine.finished:
                    machine.wake(late_us)
            self.wake(late_us)
        self.outbox.clear()

    @property
    def deadline_us(self) -> int | None:
        """When to call `wake` next, or None."""
        timers = self._timers
        while timers and (timers[0][2].finished or timers[0][0] != timers[0][2].scheduled_us):
            heapq.heappop(timers)
        first = timers[0][0] if timers else None
        if self._delayed and (first is None or self._delayed[0][0] < first):
            first = self._delayed[0][0]
        looking_us = self.onward.deadline_us
        return first if looking_us is None or (first is not None and first < looking_us) else looking_us

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued or in flight."""
        queued = self._reads or self._full_reads or self._scans or self._ready or self._exact
        return not (self._routes or queued or self._in_flight)

    def reachable(self, node: int, reachable: bool) -> None:
        """The driver's news of a node: those that cannot be reached are not asked for values first."""
        (self._unreachable.discard if reachable else self._unreachable.add)(node)
        self._preferred.clear()

    def is_reachable(self, node: int) -> bool:
        """Whether the driver has a way to this node, as far as it said."""
        return node not in self._unreachable

    # --- another epoch ---

    def successor(self, configuration: Configuration, known: Sequence[Configuration], now_us: int) -> Coordinator:
        """One like this for a later epoch, with nothing under way; for `go_over`."""
        new = Coordinator(
            configuration,
            self.verifier.under(counting(configuration, known)),
            writer=self.writer,
            sign=self.sign,
            nonce=self.random_u64(),  # Its clock knows nothing of the times that were proposed.
            random_bytes=self.random_bytes,
            first_id=self._next_id,
            guess_us=self.clock.time_us(now_us) - now_us,
            known=known,
            moved_us=now_us,
        )
        new.done, new.counts, new.evidence = self.done, self.counts, self.evidence
        return new

    def machines(self) -> list[Machine]:
        """All that is under way, each once; also what waits for nothing but time."""
        found = dict.fromkeys([*self._routes.values(), *(machine for _, _, machine in self._timers)])
        return [machine for machine in found if not machine.finished]

    def unread(self) -> list[tuple[bytes, list[Token], bool]]:
        """Reads that were not sent: slot, who waits, whether for the whole entry. Listings that were not sent end."""
        self.finish([scan[-1] for scan in self._scans], Failed(UNAVAILABLE, "the cluster moved on: list again"))
        queues = ((self._reads, False), (self._full_reads, True))
        return [(slot, tokens, full) for queue, full in queues for slot, tokens in queue.items()]

    def unsent_exact(self) -> list[tuple[bytes, Changer, Token]]:
        """Compare-and-set operations that have not begun: slot, change, token."""
        return self._exact.unsent()

    # --- what the machines call ---

    def send(self, nodes: tuple[int, ...], request: m.Request) -> None:
        """Send a request to some nodes."""
        self.outbox.append((nodes, request))

    def new_id(self, machine: Machine) -> int:
        """A fresh request id, whose replies go to `machine` until `forget`."""
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        self._routes[self._next_id] = machine
        return self._next_id

    def forget(self, request_id: int) -> None:
        """No further reply to this request matters."""
        self._routes.pop(request_id, None)

    def schedule(self, machine: Machine) -> None:
        """Wake `machine` at its deadline."""
        if not machine.finished:
            machine.scheduled_us = machine.deadline_us
            self._timer_count += 1
            heapq.heappush(self._timers, (machine.deadline_us, self._timer_count, machine))
            if len(self._timers) > 64 + 8 * len(self._routes):
                # Ended machines leave their timers behind: sweep them before they pile up.
                self._timers = [t for t in self._timers if not t[2].finished and t[0] == t[2].scheduled_us]
                heapq.heapify(self._timers)

    def settle(
        self,
        group: Group,
        slots: list[bytes],
        tokens: list[list[Token]],
        started_us: int,
        now_us: int,
    ) -> None:
        """Read these slots in full, for operations that began at `started_us`."""
        if self.types and any(map(self.is_keyed, slots)):
            slots, tokens = self._settle_keys(group, slots, tokens, started_us, now_us)
        for at in range(0, len(slots), m.READ_FULL_SLOTS_MAX):
            end = at + m.READ_FULL_SLOTS_MAX
            self.schedule(Settle(self, group, slots[at:end], tokens[at:end], started_us, now_us))

    def _settle_keys(
        self, group: Group, slots: list[bytes], tokens: list[list[Token]], started_us: int, now_us: int
    ) -> tuple[list[bytes], list[list[Token]]]:
        """Settle those slots that are of keys with fields; returns the others."""
        others: list[bytes] = []
        others_tokens: list[list[Token]] = []
        for slot, waiting in zip(slots, tokens, strict=True):
            if not self.is_keyed(slot):
                others.append(slot)
                others_tokens.append(waiting)
                continue
            wanted = None if is_base_slot(slot) else (slot,)

            def finish(outcome: Outcome, _at_us: int, waiting: list[Token] = waiting) -> None:
                self.finish(waiting, outcome)

            machine = SettleKey(self, group, base_slot_of(slot), wanted, finish, started_us, now_us)
            machine.tokens = waiting
            self.schedule(machine)
        return others, others_tokens

    def unrouted_id(self) -> int:
        """A fresh request id for what needs no answer."""
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        return self._next_id

    def propose(self, units: list[list[PendingWrite]], now_us: int) -> None:
        """Propose writes, in batches that keep each unit together."""
        groups: dict[bytes, tuple[Group, list[list[PendingWrite]]]] = {}
        for unit in units:
            group = self.configuration.group_of(unit[0].slot)
            groups.setdefault(group.id, (group, []))[1].append(unit)
        for group, of_group in groups.values():
            self._propose(group, of_group, now_us)

    def is_wanted(self, request_id: int) -> bool:
        """Whether replies to this request still matter."""
        return request_id in self._routes or self.onward.is_question(request_id)

    def _renew_nonce(self) -> None:
        """Proposed times are no longer remembered: with another nonce, no stamp can be used twice all the same."""
        self.nonce = self.random_u64()

    def random_u64(self) -> int:
        """A fresh random number of 64 bits."""
        return int.from_bytes(self.random_bytes(8), "big")

    def note_ahead(self, slot: bytes, time_us: int, now_us: int) -> None:
        """Remember a slot's highest known stamp time, where it lies ahead of cluster time: all others are below any
        time that is proposed later, so they need no memory."""
        if time_us > self._ahead.get(slot, 0):
            if len(self._ahead) >= _AHEAD_MAX:
                present_us = self.clock.time_us(now_us)
                self._ahead = {s: t for s, t in self._ahead.items() if t > present_us}
                while len(self._ahead) >= _AHEAD_MAX:
                    del self._ahead[next(iter(self._ahead))]
                    self._renew_nonce()
            self._ahead[slot] = time_us

    def ahead_of(self, slot: bytes) -> int:
        """The slot's highest known stamp time, where that lay ahead of cluster time; else 0."""
        return self._ahead.get(slot, 0) if self._ahead else 0

    def note_round(self, took_us: int) -> None:
        """q nodes answered a prepare after so long; what is longer than others of late says more of nodes than of the
        way to them."""
        self.round_us = min(took_us, self.round_us + self.round_us // 8 + 1000) if self.round_us else took_us

    def notice(self, first: Entry, second: Entry) -> None:
        """Keep what two verified entries under one stamp prove, one proof for each key convicted."""
        for proof in proofs_of(first, second, self.configuration.nodes):
            key = proof.node if isinstance(proof, DoubleGrant) else first.certificate.writer
            if len(self.evidence) < _EVIDENCE_MAX:
                self.evidence.setdefault(key, proof)

    def suspect(self, node: int, weight: float, lie: bool = False) -> None:
        """Advisory (protocol 8): a node was late, or lied. Changes whom to ask first, never an outcome."""
        if lie:
            self.counts["lies_rejected"] += 1
        self._suspicion[node] = min(self._suspicion[node] + weight, _SUSPICION_MAX)
        self._preferred.clear()

    def forgive(self) -> None:
        """Let suspicion fade; the driver calls it about once a second."""
        self._suspicion = [s * 0.9 if s > 0.1 else 0.0 for s in self._suspicion]
        self._preferred.clear()

    def preferred(self, group: Group) -> tuple[int, ...]:
        """The q members to ask for values, most trusted first, taking turns."""
        nodes = self._preferred.get(group.id)
        if nodes is None:
            ranked = sorted(group.members, key=lambda n: (n in self._unreachable, self._suspicion[n]))
            worst = self._suspicion[ranked[0]] + 1.0
            good = [n for n in ranked if n not in self._unreachable and self._suspicion[n] <= worst] or ranked[:1]
            nodes = self._preferred[group.id] = tuple(good)
        self._turn += 1
        turn = self._turn % len(nodes)
        return nodes[turn:] + nodes[:turn]

    # --- inside ---

    def _by_group(self, slots: dict[bytes, Any]) -> list[tuple[Group, list[bytes]]]:
        if not slots:
            return []
        group_of = self.configuration.group_of
        if len(self.configuration.groups) == 1:
            everything = list(slots)
            return [(group_of(everything[0]), everything)]
        groups: dict[bytes, tuple[Group, list[bytes]]] = {}
        for slot in slots:
            group = group_of(slot)
            found = groups.get(group.id)
            if found is None:
                groups[group.id] = (group, [slot])
            else:
                found[1].append(slot)
        return list(groups.values())

    def _route(self, writes: dict[bytes, PendingWrite], now_us: int) -> None:
        if self._direct:
            writes = self._direct.writes(writes, now_us)
        if self.types:
            self.propose(self.generations.route(list(writes.values()), now_us), now_us)
            return
        for group, slots in self._by_group(writes):
            self._propose(group, [[writes[slot]] for slot in slots], now_us)

    def _propose(self, group: Group, units: list[list[PendingWrite]], now_us: int) -> None:
        batch: list[PendingWrite] = []
        size = 0
        for unit in units:
            cost = sum(len(write.value) + len(write.slot) + 256 for write in unit)
            if batch and (len(batch) + len(unit) > BATCH_COUNT_MAX or size + cost > m.BATCH_BYTES_MAX):
                self._schedule_write(group, batch, now_us)
                batch, size = [], 0
            batch += unit
            size += cost
        if batch:
            self._schedule_write(group, batch, now_us)

    def _schedule_write(self, group: Group, batch: list[PendingWrite], now_us: int) -> None:
        self.latest_writes = machine = WriteBatch(self, group, batch, now_us)
        self.schedule(machine)
