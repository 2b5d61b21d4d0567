"""Clients of the world: the core's machine with a stopwatch, a place in the network, and operations to carry out.

What a client does with a message is the core's business; this module brings messages and time to it and takes away
what it sends and what ended. It must not know checkers or fault schedules.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.model import DELETE, PUT, header_expires_at, header_stamp, header_writer
from quorumcache.core.onward import go_over
from quorumcache.core.outcome import UNKNOWN, Decided, Failed, Found, Missed, Outcome, Unchanged, Written
from sim import record
from sim.crypto import Key
from sim.exact import EXACT, ExactClient
from sim.keyed import KeyedClient
from sim.listing import Part
from sim.network import Network
from sim.places import Port
from sim.processes import Observer, VerifyFunction
from sim.record import Op, Record
from sim.world import Stopwatch, World


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
        #: Where epochs change: those before, and when it went over to another one.
        self.known: list[Configuration] = []
        self.moved_us: list[int] = []
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
            known=self.known,
        )
        if isinstance(self.network, Port) and self.core.onward.lacks_history:
            self.core.onward.look(self.stopwatch.read_us())
            self._flush_soon()
        self.keyed = None
        self.exact = ExactClient(self.core) if self.configuration.exact_prefixes else None
        if self.core.types:
            writer = self.key.public if self.key is not None else b""
            self.keyed = KeyedClient(self.core, self.world.random(f"keyed {self.number} {self._life}"), writer)

    def crash(self) -> None:
        """Forget everything in the middle of whatever is going on. Operations in flight stay pending for ever."""
        lost, self.open = self.open, {}
        if self.known:
            self._start_anew()
        self._begin()
        for op in lost.values():
            op.detail = "its client crashed"
            if self.on_end is not None:
                self.on_end(op)

    def _go_over(self) -> None:
        """The cluster turned out to be in a later epoch: go on there with all that is under way."""
        old = self.core
        self.core = go_over(old, old.onward.chain, self.stopwatch.read_us())
        self.configuration = self.core.configuration
        self.chain = list(self.core.verifier.chain.values())
        self.known = list(self.core.onward.known)
        self.moved_us.append(self.world.now_us)
        assert isinstance(self.network, Port)
        self.network.configuration = self.configuration
        # What wakes the old one is nobody's.
        self._life += 1
        self._wake_at_us = 0
        if self.keyed is not None:
            self.keyed.go_on(self.core)
        if self.exact is not None:
            self.exact.go_on(self.core)
        self.core.flush(self.stopwatch.read_us())

    def adopt(self, configuration: Configuration) -> None:
        """Work under another configuration from now on; what is in flight is lost, as in a crash."""
        self.configuration = configuration
        self.chain = [*self.chain, configuration]
        self.crash()

    def _start_anew(self) -> None:
        """Its operator starts it with the file that there is: of now, or of long ago; it knows none before that."""
        configurations = [*self.known, self.configuration]
        self.configuration = self._random.choice((configurations[-1], *configurations))
        self.chain, self.known = [self.configuration], []
        assert isinstance(self.network, Port)
        self.network.configuration = self.configuration

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
        while True:
            if self.core.onward.chain:
                self._go_over()
            core = self.core
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
