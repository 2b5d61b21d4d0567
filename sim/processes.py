"""The processes of the world: nodes and clients, each a machine of the core with a clock and a place in the network.

What a process does with a message is the core's business; this module brings messages and time to it and takes away
what it sends and what ended. Byzantine nodes are in adversary/. It must not know checkers or fault schedules.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.exactrecovery import ExactRecovery
from quorumcache.core.journal import Journal
from quorumcache.core.model import DELETE, PUT, SALT_BYTES, header_expires_at, header_stamp, header_writer
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.outcome import UNKNOWN, Decided, Failed, Found, Missed, Outcome, Unchanged, Written
from quorumcache.core.repair import Recovery
from sim import record
from sim.crypto import Key
from sim.direct import Forwards
from sim.disk import LOST_MAX, Disk
from sim.exact import EXACT, ExactClient
from sim.keyed import KeyedClient
from sim.listing import Part
from sim.network import Network
from sim.record import Op, Record
from sim.upkeep import ColdValues, Repair
from sim.world import Clock, Stopwatch, World

TICK_US = 50_000
VerifyFunction = Callable[[bytes, bytes, bytes], bool]


class Observer(Protocol):
    """Who is told what happens, at once."""

    def started(self, op: Op) -> None:
        """An operation began."""

    def ended(self, op: Op) -> None:
        """An operation ended."""

    def signed(self, header: bytes, ops: list[Op]) -> None:
        """A correct client asked for promises for a header of a key with fields, on behalf of these operations."""

    def asked(self, request: m.Prepare) -> None:
        """A correct client asked for promises: it signed this."""

    def promised(self, node: NodeProcess, request: m.Prepare, reply: m.PrepareReply) -> None:
        """A correct node answered a prepare."""

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node answered a commit."""

    def balloted(self, node: NodeProcess, request: m.Vote | m.Lock, reply: m.BallotReply) -> None:
        """A correct node answered a vote or a lock."""

    def took(self, node: NodeProcess, request: m.Put, reply: m.PutReply) -> None:
        """A node answered a put in mode primary."""


class NodeProcess:
    """A correct node: the core's `Node`, a clock, and what a crash leaves of it."""

    def __init__(
        self,
        index: int,
        world: World,
        network: Network,
        record_: Record,
        configuration: Configuration,
        key: Key,
        verify: VerifyFunction,
        clock: Clock,
        limits: NodeLimits,
        observer: Observer,
        features: tuple[str, ...] = (),
    ) -> None:
        self.index = index
        self.world = world
        self.network = network
        self.record = record_
        self.configuration = configuration
        self.key = key
        self.verify = verify
        self.clock = clock
        self.limits = limits
        self.observer = observer
        self.is_byzantine = False
        self.down = False
        self.sealed = False
        self.wiped = False
        self.slow_us = 0
        self.chain = [configuration]
        self._random = world.random(f"node {index}")
        self._cold = ColdValues(world.random(f"cold {index}")) if "cold" in features else None
        self._repairs = world.random(f"repair {index}") if "repair" in features else None
        self._direct = world.random(f"forwards {index}") if "primary" in features else None
        self.repair: Repair | None = None
        self.forwards: Forwards | None = None
        self.torn = 0
        #: How often it lost what it had stored.
        self.lost_count = 0
        self.node = self._make(None)
        self.disk = Disk(self.node.slots)
        self.recovery: Recovery | None = None
        #: Until it may vote again in exact namespaces.
        self.voting: ExactRecovery | None = None
        self.restart_count = 0
        self.begin_repair()
        self.begin_forwards()
        network.attach(index, self.receive)
        world.at(world.now_us + self._random.randrange(TICK_US), self._tick)

    def _make(self, started_us: int | None) -> Node:
        verifier = Verifier(self.verify, self.chain, remembered_max=2048)
        node = Node(self.configuration, self.index, self.key.sign, verifier, started_us=started_us, limits=self.limits)
        node.slots.journal = Journal()
        if self._cold is not None:
            node.leave_values_to_storage(kept_bytes_max=SALT_BYTES)
        return node

    def begin_repair(self) -> None:
        """Compare with peers from now on, where that is asked for."""
        if self._repairs is not None:
            self.repair = Repair(self.node, self._repairs, self.clock.read_us(), self._ask)

    def begin_forwards(self) -> None:
        """Pass on what clients write here in mode primary, where there is any."""
        if self._direct is not None:
            self.forwards = Forwards(self, self._direct, self._ask)

    def _ask(self, peer: int, request: m.Request) -> None:
        self.network.send(self.index, peer, request)

    # --- messages and time ---

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """A message arrived."""
        if self.down or self.sealed:
            return
        if isinstance(message, m.Reply):
            if self.recovery is not None:
                self.recovery.receive(source, message, self.clock.read_us())
                self.store()
                self._pump()
            if self.voting is not None:
                self.voting.receive(source, message, self.clock.read_us())
                self.store()
                self._pump_votes()
            if self.repair is not None:
                self.repair.receive(source, message, self.clock.read_us())
                self.store()
            if self.forwards is not None:
                self.forwards.receive(source, message)
            return
        if self._cold is None:
            reply = self.node.handle(message, self.clock.read_us())
        else:
            reply = self._cold.answer(self.node, self.disk, message, self.clock.read_us())
        self.store()
        if type(reply) is m.CommitReply:
            self.observer.committed(self, message, reply)  # type: ignore[arg-type]
        elif type(reply) is m.PrepareReply:
            self.observer.promised(self, message, reply)  # type: ignore[arg-type]
        elif type(reply) is m.BallotReply:
            self.observer.balloted(self, message, reply)  # type: ignore[arg-type]
        elif type(reply) is m.PutReply:
            self.observer.took(self, message, reply)  # type: ignore[arg-type]
            if self.forwards is not None:
                self.forwards.soon()
        self.network.send(self.index, source, reply, self.delay_us())

    def delay_us(self) -> int:
        """How long the node takes to answer."""
        return self._random.randrange(self.slow_us) if self.slow_us else 10

    def _tick(self, _first: object, _second: object) -> None:
        self.world.at(self.world.now_us + TICK_US, self._tick)
        if self.down:
            return
        now_us = self.clock.read_us()
        self.node.tick(now_us)
        if self.recovery is not None and now_us >= self.recovery.deadline_us:
            self.recovery.wake(now_us)
            self._pump()
        if self.voting is not None and now_us >= self.voting.deadline_us:
            self.voting.wake(now_us)
            self._pump_votes()
        if self.repair is not None and not self.sealed:
            self.repair.wake(now_us)
        if self.forwards is not None and not self.sealed:
            self.forwards.wake()
        self.store()

    def store(self) -> None:
        """Write down what changed, before anybody hears of it."""
        journal = self.node.slots.journal
        assert journal is not None
        if journal:
            self.disk.write(journal, self.node.slots)
            if self._cold is not None:
                self._cold.stored(self.node)

    def _pump(self) -> None:
        recovery = self.recovery
        assert recovery is not None
        outbox, recovery.outbox = recovery.outbox, []
        for nodes, request in outbox:
            for node in nodes:
                self.network.send(self.index, node, request)
        if recovery.finished:
            self.recovery = None
            self.record.states.append((self.world.now_us, self.index, "active"))

    def _pump_votes(self) -> None:
        voting = self.voting
        assert voting is not None
        outbox, voting.outbox = voting.outbox, []
        for nodes, request in outbox:
            for node in nodes:
                self.network.send(self.index, node, request)
        if voting.finished:
            self.voting = None
            self.record.states.append((self.world.now_us, self.index, "voting"))

    # --- crashes ---

    def wipe(self, choice: int) -> None:
        """Crash, and lose what is stored: all of it, or its last moments, as the choice has it."""
        self.crash()
        self.wiped = True
        self.lost_count += 1
        draw = random.Random(f"{choice} torn")
        self.torn = draw.choice((0, 1, draw.randint(1, LOST_MAX)))

    def forget(self) -> None:
        """Stop, and lose all of it, as a node without storage does."""
        self.crash()
        self.wiped = True
        self.lost_count += 1

    def crash(self) -> None:
        """Stop: what is in memory is lost, what is stored is not."""
        if not self.down:
            self.store()  # Nothing is left to do, but for a liar, which does not do it each time.
            self.down = True
            self.recovery = self.repair = self.voting = None
            self.recovery = self.repair = None
            self.forwards = None
            self.record.states.append((self.world.now_us, self.index, "down"))

    def trusts_what_is_left(self) -> bool:
        """Protocol 7, end: a store that may have lost its tail is no stored state."""
        return False

    def restart(self, *, wipe: bool) -> None:
        """Come back, with what was stored or with nothing. The clock went on meanwhile."""
        if not self.down:
            return
        self.down = False
        self.restart_count += 1
        now_us = self.clock.read_us()
        if wipe and self.torn:
            # The power went while it ran, and took the last writes: what is left may lack what was promised.
            self.disk.lose(self.torn)
            wipe = not self.trusts_what_is_left()
        self.node = self._make(now_us if wipe else None)
        slots = self.node.slots
        if wipe:
            self.disk = Disk(slots)
        else:
            self.disk.load(slots)
            slots.key_barrier_us = now_us + 2 * self.configuration.max_skew_us
        self.wiped, self.torn = False, 0
        self.begin_repair()
        self.begin_forwards()
        if any(shard.recovering for shard in self.node.slots.shards):
            self.recovery = Recovery(self.node, now_us, first_id=self._random.getrandbits(62))
        instances = slots.instances
        if instances is not None and any(instances.is_unsure(shard.number) for shard in slots.shards):
            draw = self.world.random(f"votes {self.index} {self.restart_count}")
            self.voting = ExactRecovery(self.node, now_us, first_id=draw.getrandbits(62))
        state = "recovering" if self.recovery is not None else "active"
        self.record.states.append((self.world.now_us, self.index, state))


class ClientProcess:
    """A correct client: the core's `Coordinator`, a stopwatch, and the lanes of operations that its plan gives it."""

    def __init__(
        self,
        number: int,
        address: int,
        world: World,
        network: Network,
        record_: Record,
        configuration: Configuration,
        key: Key | None,
        verify: VerifyFunction,
        observer: Observer,
    ) -> None:
        self.number = number
        self.address = address
        self.world = world
        self.network = network
        self.record = record_
        self.configuration = configuration
        self.chain = [configuration]
        self.key = key
        self.verify = verify
        self.observer = observer
        self._random: random.Random = world.random(f"client {number}")
        self._wake_at_us = 0
        self._flush_due = False
        self._life = 0
        self.open: dict[int, Op] = {}
        #: What this client object does with keys that have fields, where there are any.
        self.keyed: KeyedClient | None = None
        #: What it does with keys that are written by compare-and-set, where there are any.
        self.exact: ExactClient | None = None
        self.on_end: Callable[[Op], None] | None = None
        self._begin()
        network.attach(address, self.receive)

    def _begin(self) -> None:
        """A new client object: new nonce, new ids, nothing known."""
        draw = self._random
        self.stopwatch = Stopwatch(self.world, draw.randrange(1 << 40), draw.randint(-200, 200))
        self._life += 1
        self._wake_at_us = 0
        error_us = draw.randint(-self.configuration.max_skew_us, self.configuration.max_skew_us)
        self.core = Coordinator(
            self.configuration,
            Verifier(self.verify, self.chain, remembered_max=2048),
            writer=self.key.public if self.key is not None else None,
            sign=self.key.sign if self.key is not None else None,
            nonce=draw.getrandbits(64),
            random_bytes=draw.randbytes,
            first_id=draw.getrandbits(62),
            guess_us=self.world.now_us + error_us - self.stopwatch.read_us(),
        )
        self.keyed = None
        self.exact = ExactClient(self.core) if self.configuration.exact_prefixes else None
        if self.core.types:
            writer = self.key.public if self.key is not None else b""
            self.keyed = KeyedClient(self.core, self.world.random(f"keyed {self.number} {self._life}"), writer)

    def crash(self) -> None:
        """Forget everything in the middle of whatever is going on. Operations in flight stay pending for ever."""
        lost, self.open = self.open, {}
        self._begin()
        for op in lost.values():
            op.detail = "its client crashed"
            if self.on_end is not None:
                self.on_end(op)

    def adopt(self, configuration: Configuration) -> None:
        """Work under another configuration from now on; what is in flight is lost, as in a crash."""
        self.configuration = configuration
        self.chain = [*self.chain, configuration]
        self.crash()

    # --- operations ---

    def start(self, kind: str, slot: bytes, *, phase: str, lane: int = 0, ttl_us: int = 0, full: bool = False) -> Op:
        """Start an operation. What is started at one time leaves together."""
        number = self.record.op_count
        value = b"%d by %d" % (number, self.number) if kind == "write" else b""
        op = Op(number, self.number, lane, kind, slot, value, phase)
        op.direct = self.configuration.is_primary(slot)
        op.start_us = self.world.now_us
        self.record.add(op)
        self.open[number] = op
        self.observer.started(op)
        if kind == "read":
            self.core.read(slot, op, full=full)
        else:
            op.writer = self.key.public if self.key is not None else b""
            if ttl_us:
                op.expires_at_us = self.world.now_us + ttl_us
            self.core.write(slot, PUT if kind == "write" else DELETE, value, op.expires_at_us, op)
        self._flush_soon()
        return op

    def start_keyed(self, what: str, kind: str, base: bytes, *, phase: str, lane: int = 0, ttl_us: int = 0) -> Op:
        """Start an operation of a plan on a key with fields, of this type, whose base's slot is `base`."""
        assert self.keyed is not None
        number = self.record.op_count
        operation, slot, value, amount = self.keyed.plan(what, kind, base, number, self.number)
        op = Op(number, self.number, lane, operation, slot, value, phase)
        op.type, op.base, op.amount = kind, base, amount
        op.start_us = self.world.now_us
        if operation != "read":
            op.writer = self.key.public if self.key is not None else b""
            if ttl_us and operation != "delete":
                op.expires_at_us = self.world.now_us + ttl_us
        self.record.add(op)
        self.open[number] = op
        self.observer.started(op)
        self.keyed.start(op, what.partition(" ")[0])
        self._flush_soon()
        return op

    def start_exact(self, word: str, slot: bytes, *, phase: str, lane: int = 0, ttl_us: int = 0) -> Op:
        """Start an operation of a plan on a key of the exact namespace."""
        assert self.exact is not None
        number = self.record.op_count
        kind = {"read": "read", "drop": "delete"}.get(word, "write")
        value = b"%d by %d" % (number, self.number) if kind == "write" else b""
        op = Op(number, self.number, lane, kind, slot, value, phase)
        op.type, op.base = EXACT, slot
        op.start_us = self.world.now_us
        op.known["value"] = value
        if kind != "read":
            op.writer = self.key.public if self.key is not None else b""
        self.record.add(op)
        self.open[number] = op
        self.observer.started(op)
        self.exact.start(op, word, ttl_us)
        self._flush_soon()
        return op

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self.world.at(self.world.now_us, self._flush)

    def _flush(self, _first: object, _second: object) -> None:
        self._flush_due = False
        self.core.flush(self.stopwatch.read_us())
        self._after()

    def receive(self, source: int, message: m.Reply) -> None:
        """A reply arrived."""
        self.core.receive(source, message, self.stopwatch.read_us())
        self._after()

    def _wake(self, life: int, due_us: int) -> None:
        if life != self._life or due_us != self._wake_at_us:
            return
        self._wake_at_us = 0
        self.core.wake(self.stopwatch.read_us())
        self._after()

    def _after(self) -> None:
        core = self.core
        while True:
            if core.has_ready():
                core.flush(self.stopwatch.read_us())
            if core.outbox:
                outbox, core.outbox = core.outbox, []
                send, address = self.network.send, self.address
                for nodes, request in outbox:
                    if type(request) is m.Prepare:
                        self.observer.asked(request)
                    if self.keyed is not None and type(request) is m.Prepare:
                        for header, ops in self.keyed.signed(request.headers):
                            self.observer.signed(header, ops)
                    for node in nodes:
                        send(address, node, request)
            if not core.done:
                break
            done, core.done = core.done, []
            for op, outcome in done:
                self._end(op, outcome)
            if core is not self.core:
                return
        deadline_us = core.deadline_us
        if deadline_us is not None:
            due_us = self.stopwatch.when_us(deadline_us)
            if not self._wake_at_us or due_us < self._wake_at_us:
                self._wake_at_us = due_us
                self.world.at(due_us, self._wake, self._life, due_us)

    def list_part(self, namespace: bytes, start: m.Position, count: int, part: Part) -> None:
        """Ask for a part of a listing."""
        self.core.scan(namespace, b"", start, count, part)
        self._flush_soon()

    def _end(self, op: Op | Part, outcome: Outcome) -> None:
        if isinstance(op, Part):
            op.outcome = outcome
            return
        del self.open[op.id]
        op.end_us = self.world.now_us
        if op.type == EXACT and self.exact is not None:
            self.exact.ended(op, outcome)
        elif op.type and self.keyed is not None:
            self.keyed.ended(op, outcome)
        if isinstance(outcome, Decided | Unchanged) or (isinstance(outcome, Found) and op.type == EXACT):
            pass  # Taken already.
        elif isinstance(outcome, Found) and op.type:
            op.outcome = record.OK
        elif isinstance(outcome, Found):
            op.outcome = record.OK
            op.value = outcome.salted[16:]
            op.stamp = header_stamp(outcome.header)
            op.writer = header_writer(outcome.header)
            op.expires_at_us = header_expires_at(outcome.header)
        elif isinstance(outcome, Missed):
            op.outcome = record.MISS
            op.detail = f"{outcome.vouchers} vouchers"
        elif isinstance(outcome, Written):
            op.outcome = record.OK
            op.stamp = outcome.stamp
            op.overtaken = outcome.overtaken
        else:
            assert isinstance(outcome, Failed)
            op.outcome = record.UNKNOWN if outcome.kind == UNKNOWN else record.FAILED
            op.detail = f"{outcome.kind}: {outcome.detail}"
        self.observer.ended(op)
        if self.on_end is not None:
            self.on_end(op)
