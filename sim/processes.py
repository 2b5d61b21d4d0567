"""The nodes of the world, each a machine of the core with a clock, a disk and a place in the network.

What a node does with a message is the core's business; this module brings messages and time to it and takes away
what it sends. Byzantine nodes are in adversary/, those that go from epoch to epoch in moving.py. It must not know
checkers or fault schedules.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from quorumcache.core import messages as m
from quorumcache.core.ballots import BallotSigner
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.cutting import Cut, cut
from quorumcache.core.exactrecovery import ExactRecovery
from quorumcache.core.journal import Journal
from quorumcache.core.model import SALT_BYTES
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.repair import Recovery
from sim.crypto import Key
from sim.direct import Forwards
from sim.disk import LOST_MAX, Disk
from sim.frames import Frames
from sim.network import Network
from sim.pieces import Pieces
from sim.places import FOREIGN
from sim.record import Op, Record
from sim.upkeep import ColdValues, Repair
from sim.world import Clock, World

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
        #: Which of the run's nodes it is; and its place in its configuration, by which messages and signatures name it.
        self.number = self.index = index
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
        self.ballots = BallotSigner(key.sign)
        self._frames = Frames(self, world.random(f"frames {index}")) if "exact" in features else None
        self._pieces = Pieces(self, world.random(f"pieces {index}")) if "pieces" in features else None
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
        #: Rises whenever it begins anew: with each start, with each epoch.
        self.life = 0
        self.begin_repair()
        self.begin_forwards()
        network.attach(index, self.receive)
        world.at(world.now_us + self._random.randrange(TICK_US), self._tick)

    def _make(self, started_us: int | None) -> Node:
        verifier = Verifier(self.verify, self.chain, remembered_max=2048)
        node = Node(
            self.configuration,
            self.index,
            self.key.sign,
            verifier,
            started_us=started_us,
            limits=self.limits,
            ballots=self.ballots,
        )
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

    def begin_votes(self, started_us: int, count: int) -> None:
        """Recover what it knew of exact namespaces, where it is not sure of all; for the `count`-th time."""
        slots = self.node.slots
        instances, self.voting = slots.instances, None
        if instances is not None and any(instances.is_unsure(shard.number) for shard in slots.shards):
            draw = self.world.random(f"votes {self.index} {count}")
            self.voting = ExactRecovery(self.node, started_us, first_id=draw.getrandbits(62))

    def _ask(self, peer: int, request: m.Request) -> None:
        self.network.send(self.index, peer, request)

    # --- messages and time ---

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """A message arrived."""
        if not self.hears():
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
        self.serve(source, message)

    def hears(self) -> bool:
        """Whether the node answers requests now."""
        return not self.down and not self.sealed

    def serve(self, source: int, request: m.Request) -> None:
        """Answer a request, by itself or with others."""
        is_client = len(self.configuration.nodes) <= source < FOREIGN
        if is_client and self._pieces is not None and self._pieces.takes(source, request):
            return
        if self._frames is None or not is_client or not self._frames.takes(source, request):
            self.answer_frame([(source, request)])

    def answer_frame(self, asked: list[tuple[int, m.Request]]) -> None:
        """Answer requests that came together, in their order: handle them, sign, store, and say it."""
        if len(asked) > 1:
            self.ballots.gather()
        replies = []
        for source, request in asked:
            replies.append(self.answer(source, request, self.clock.read_us()))
            self.handled(request, replies[-1])
        self.ballots.sign()
        self.store()
        for (source, request), reply in zip(asked, replies, strict=True):
            self.tell(request, reply)
            self.network.send(self.index, source, reply, self.delay_us())

    def tell(self, request: m.Request, reply: m.Reply) -> None:
        """Tell the observer of an answer."""
        if type(reply) is m.CommitReply:
            self.observer.committed(self, request, reply)  # type: ignore[arg-type]
        elif type(reply) is m.PrepareReply:
            self.observer.promised(self, request, reply)  # type: ignore[arg-type]
        elif type(reply) is m.BallotReply:
            self.observer.balloted(self, request, reply)  # type: ignore[arg-type]
        elif type(reply) is m.PutReply:
            self.observer.took(self, request, reply)  # type: ignore[arg-type]
            if self.forwards is not None:
                self.forwards.soon()

    def answer(self, source: int, request: m.Request, now_us: int) -> m.Reply:
        """The honest answer to a request."""
        if self._cold is None:
            return self.node.handle(request, now_us)
        return self._cold.answer(self.node, self.disk, request, now_us)

    def cut(self, request: m.Request) -> Cut | None:
        """The request, to be worked on in the smallest of pieces, where there are several."""
        return cut(self.node, request, 1)

    def go_on(self, piecewise: Cut) -> m.Reply | None:
        """The next piece of it; the honest answer with the last one."""
        return piecewise.step(self.clock.read_us())

    def handled(self, request: m.Request, reply: m.Reply) -> None:
        """A request was handled; its answer may lack a signature yet."""

    def serves(self, slot: bytes) -> bool:
        """Whether the node answers for this slot in its configuration; one that is to will join with a floor."""
        return True

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
            self.record.states.append((self.world.now_us, self.number, "active"))

    def _pump_votes(self) -> None:
        voting = self.voting
        assert voting is not None
        outbox, voting.outbox = voting.outbox, []
        for nodes, request in outbox:
            for node in nodes:
                self.network.send(self.index, node, request)
        if voting.finished:
            self.voting = None
            self.record.states.append((self.world.now_us, self.number, "voting"))

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
            self.forwards = None
            self.record.states.append((self.world.now_us, self.number, "down"))

    def trusts_what_is_left(self) -> bool:
        """Protocol 7, end: a store that may have lost its tail is no stored state."""
        return False

    def restart(self, *, wipe: bool) -> None:
        """Come back, with what was stored or with nothing. The clock went on meanwhile."""
        if not self.down:
            return
        self.down = False
        self.restart_count += 1
        self.life += 1
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
        self.begin_votes(now_us, self.restart_count)
        state = "recovering" if self.recovery is not None else "active"
        self.record.states.append((self.world.now_us, self.number, state))
