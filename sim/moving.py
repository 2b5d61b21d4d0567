"""Nodes that go from epoch to epoch by themselves: the core's `Membership` with a record, a disk and recoveries.

Does what the running node does about epochs, on virtual time: begins to follow where it is to join, goes over, recovers
what it joined from the members before, finds its epoch again after a crash. It must not know who orders epochs, nor
checkers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from quorumcache.core import messages as m
from quorumcache.core.carrying import Carried, Joining, joined_over, still_joining, to_ask
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.cutting import Cut
from quorumcache.core.following import Following
from quorumcache.core.journal import Journal
from quorumcache.core.membership import Membership
from quorumcache.core.node import Node
from quorumcache.core.repair import Recovery
from quorumcache.core.seals import Step
from quorumcache.core.succession import counting
from quorumcache.errors import ConfigurationError
from sim.disk import Disk
from sim.places import Port
from sim.processes import NodeProcess

#: Without anti-entropy, by which it would hear of it, how often a node asks whether an epoch has passed it by.
LOOK_US: Final = 1_000_000


class EpochObserver(Protocol):
    """Who is told of epochs, at once."""

    def sealed(self, node: MovingNode, before: Configuration, successor: SignedConfiguration) -> None:
        """A node noted that an epoch ends for this successor, and is about to sign."""

    def begun(self, node: MovingNode, before: Configuration, step: Step) -> None:
        """A node noted that the next epoch has begun."""

    def served(self, node: MovingNode, request: m.Request, reply: m.Reply) -> None:
        """A node answered a request with something else than a rejection."""

    def stuck(self, node: MovingNode, problem: ConfigurationError) -> None:
        """A node cannot follow the others."""


class SealMemory:
    """The record of a node's key: it survives whatever happens to the node (protocol 9)."""

    def __init__(self, process: MovingNode) -> None:
        self._process = process
        self.sealed: dict[bytes, SignedConfiguration] = {}
        self.steps: list[Step] = []
        #: Digests of the epochs after which the node has recovered what it joined.
        self.joined: set[bytes] = set()
        #: Where the record begins: the configuration, those before it, and the steps that led there.
        self.first: tuple[Configuration, list[Configuration], list[Step]] | None = None

    def remember(self, before: Configuration, successor: SignedConfiguration) -> None:
        """Note that `before` ends for this successor."""
        known = self.sealed.setdefault(before.digest, successor)
        if known.configuration.digest != successor.configuration.digest:
            raise ConfigurationError("this key sealed the epoch for another successor")
        self._process.epochs.sealed(self._process, before, successor)

    def began(self, before: Configuration, step: Step) -> None:
        """Note that the next epoch has begun."""
        if all(known.successor.configuration.digest != step.successor.configuration.digest for known in self.steps):
            self.steps.append(step)
        self._process.epochs.begun(self._process, before, step)

    def has_joined(self, before: Configuration) -> bool:
        """Whether the node noted that it has recovered what it joined with the epoch after this one."""
        return before.digest in self.joined


class MovingNode(NodeProcess):
    """A correct node that goes along with its cluster. `membership` is None while no epoch that it knows names it."""

    epochs: EpochObserver
    port: Port
    membership: Membership | None
    following: Following | None

    def __init__(self, *arguments: Any) -> None:
        self.membership = self.following = None
        #: The configuration that it is to find its first epoch from, once somebody has started it.
        self.invited: Configuration | None = None
        #: Recoveries of this life: of what the node lost, and of what it joined; these with the epoch to be asked.
        self.recoveries: list[tuple[Recovery, Configuration]] = []
        #: Shards that it joined and is recovering, each with the epoch before it did.
        self.joining: Joining = ()
        super().__init__(*arguments)

    def go_along(self, epochs: EpochObserver) -> None:
        """Take part from the first epoch on; or, where it does not name the node, as soon as one does."""
        self.epochs = epochs
        assert isinstance(self.network, Port)
        self.port = self.network
        self.draw = self.world.random(f"epochs of node {self.number}")
        self.seal_record = SealMemory(self)
        self._next_id = self.draw.getrandbits(62)
        self._look_at_us = self.world.now_us + self.draw.randrange(LOOK_US)
        if self.configuration.node_by_key(self.key.public) is not None:
            self.seal_record.first = (self.configuration, [], [])
            self.membership = self._membership_of(self.node, [], [])
        else:
            self.repair = self.forwards = None
            self.down = True  # Nobody has started it.

    def _make(self, started_us: int | None) -> Node:
        if self.configuration.node_by_key(self.key.public) is None:
            # In no epoch yet: something to look at, that nobody asks.
            verifier = Verifier(self.verify, [self.configuration])
            node = Node(self.configuration, 0, self.key.sign, verifier, started_us=None, limits=self.limits)
            node.slots.journal = Journal()
            return node
        return super()._make(started_us)

    # --- beginning ---

    @property
    def is_waiting(self) -> bool:
        """Whether no epoch that it knows of names it."""
        return self.seal_record.first is None

    def invite(self, configuration: Configuration) -> None:
        """Its operator starts it: it is to join the cluster that this configuration, or an earlier one, is of."""
        self.invited = configuration
        if self.is_waiting:
            self.down = False
            now_us = self.clock.read_us()
            self.following = Following(configuration, self.verify, self._new_id, now_us, history=True)

    def _new_id(self) -> int:
        self._next_id = (self._next_id + 1) & ((1 << 62) - 1)
        return self._next_id

    def _membership_of(self, node: Node, known: Sequence[Configuration], steps: Sequence[Step]) -> Membership:
        self.index = node.index
        self.port.configuration = node.configuration
        return Membership(
            node,
            self.key.sign,
            self.verify,
            self.seal_record,
            self._next_node,
            first_id=self.draw.getrandbits(62),
            known=known,
            steps=steps,
            remembered=self.seal_record.sealed.get(node.configuration.digest),
        )

    def _next_node(self, configuration: Configuration, verifier: Verifier) -> Node:
        info = configuration.node_by_key(self.key.public)
        assert info is not None
        node = Node(
            configuration,
            info.index,
            self.key.sign,
            verifier,
            started_us=None,
            limits=self.limits,
            ballots=self.ballots,
        )
        node.slots.journal = Journal()
        return node

    def _join(self, following: Following) -> None:
        """The first configuration that names the node has begun, and with it all that lead on from there."""
        # The last that there is: of those between nobody tells anything any more.
        if not following.chain or following.chain[-1].node_by_key(self.key.public) is None:
            return
        known = [*following.before[::-1], following.configuration, *following.chain[:-1]]
        steps = list(following.steps)
        configuration = following.chain[-1]
        self.following = None
        self.seal_record.first = (configuration, known, steps)
        node = self._next_node(configuration, Verifier(self.verify, counting(configuration, known)))
        now_us = self.clock.read_us()
        groups, floor_us = configuration.shard_groups, self.floor_to_join_us(now_us)
        joined = [shard.number for shard in node.slots.shards if node.index in groups[shard.number].members]
        for number in joined:
            node.slots.put_back_shard(number, floor_us, int(configuration.n > 1))
        node.slots.key_barrier_us = floor_us if node.slots.types else 0
        self.membership = self._membership_of(node, known, steps)
        self.life += 1
        self.take_over(node, known[-1], Carried(0, 0, 0, tuple(joined)), now_us)
        self.record.states.append((self.world.now_us, self.number, "recovering" if self.recoveries else "active"))

    def floor_to_join_us(self, now_us: int) -> int:
        """The floor of the shards that it joins: above all that was granted before the seals, which it holds now."""
        return now_us + 2 * self.configuration.max_skew_us

    # --- going over ---

    def after_epochs(self) -> None:
        """What `membership` did may have taken the node to its next epoch, or out of the cluster."""
        membership = self.membership
        assert membership is not None
        self.sealed = membership.is_sealed or membership.has_left
        moved, membership.moved = membership.moved, []
        for move in moved:
            self.life += 1
            if move.carried is None:
                self.lost_count += 1
                self.recoveries.clear()
                self.recovery = self.repair = self.voting = None
                self.forwards = None
                self.record.states.append((self.world.now_us, self.number, "left"))
                continue
            self.take_over(membership.node, move.before, move.carried, self.clock.read_us())

    def take_over(self, node: Node, before: Configuration, carried: Carried, now_us: int) -> None:
        """Work as this node from now on, and have it written."""
        self.node, self.configuration, self.index = node, node.configuration, node.index
        self.chain = list(node.verifier.chain.values())
        self.port.configuration = node.configuration
        journal = node.slots.journal
        assert journal is not None
        journal.clear()
        if carried.joined or carried.gone:
            self.lost_count += 1  # Of some shards it has no longer what it had.
        self.disk = Disk(node.slots)
        self.disk.fill(node.slots)
        self.joining = still_joining([*self.joining, (before, carried.joined)], node.slots)
        self.begin_recoveries(now_us)
        self.begin_votes(now_us, self.life)
        self.begin_repair()
        self.begin_forwards()

    def begin_recoveries(self, started_us: int) -> None:
        """Recover what is recovering: of what the node joined with its epoch, from the members before."""
        node, membership = self.node, self.membership
        assert membership is not None
        joined = {number for _, numbers in self.joining for number in numbers}
        self.recoveries = [
            (Recovery(node, started_us, first_id=self.draw.getrandbits(61), joined=joined), node.configuration)
        ]
        for before, numbers in to_ask(self.joining, membership.known[-1] if membership.known else None):
            joins = Recovery(node, started_us, first_id=self.draw.getrandbits(61), joined=numbers, before=before)
            self.recoveries.append((joins, before))
        self._drop_finished()

    def _drop_finished(self) -> None:
        self.recoveries = [pair for pair in self.recoveries if not pair[0].finished]
        joining, self.joining = self.joining, still_joining(self.joining, self.node.slots)
        if not self.joining:
            self.seal_record.joined.update(before.digest for before, _ in joining)
        was, self.recovery = self.recovery, self.recoveries[0][0] if self.recoveries else None
        if was is not None and self.recovery is None:
            self.record.states.append((self.world.now_us, self.number, "active"))

    def serves(self, slot: bytes) -> bool:
        """Whether the node answers for this slot in its configuration; one that is to will join with a floor."""
        if self.is_waiting or self.configuration.node_by_key(self.key.public) is None:
            return False
        return self.index in self.configuration.group_of(slot).members

    # --- messages and time ---

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """A message arrived."""
        if self.down:
            return
        if self.membership is None:
            if self.following is not None and isinstance(message, m.Reply):
                place = self.port.directory.place_in(self.following.configuration, self.port.source)
                if self.following.receive(place, message):
                    self._join(self.following)
            return
        if isinstance(message, m.Reply):
            self._hear(message)
        else:
            self.serve(source, message)

    def _hear(self, reply: m.Reply) -> None:
        now_us, address = self.clock.read_us(), self.port.source
        place_in = self.port.directory.place_in
        self.hear_of_epochs(reply, now_us)
        for recovery, configuration in list(self.recoveries):
            recovery.receive(place_in(configuration, address), reply, now_us)
        self.store()
        self._pump_epochs()
        if self.voting is not None:
            self.voting.receive(place_in(self.configuration, address), reply, now_us)
            self.store()
            self._pump_votes()
        if self.repair is not None:
            self.repair.receive(place_in(self.configuration, address), reply, now_us)
            self.store()
        if self.forwards is not None:
            self.forwards.receive(place_in(self.configuration, address), reply)

    def hear_of_epochs(self, reply: m.Reply, now_us: int) -> None:
        """A reply, perhaps to what `membership` asked or told the others."""
        membership = self.membership
        assert membership is not None
        place = self.port.directory.place_in(membership.configuration, self.port.source)
        try:
            membership.receive(place, reply, now_us)
        except ConfigurationError as problem:
            self.epochs.stuck(self, problem)
        membership.hear(reply, now_us)
        self.after_epochs()

    def handled(self, request: m.Request, reply: m.Reply) -> None:
        """A request was handled, in the epoch that the node is in now."""
        if type(reply) is not m.Reject:
            self.epochs.served(self, request, reply)

    def hears(self) -> bool:
        """Whether the node answers requests now: sealed or not, it says where it is."""
        return not self.down and self.membership is not None

    def answer(self, source: int, request: m.Request, now_us: int) -> m.Reply:
        """The honest answer to a request."""
        membership = self.membership
        assert membership is not None
        # Who asks matters for reports alone, which are for nodes.
        client = (self.port.key_of(source) or b"") if isinstance(request, m.Report) else None
        reply = membership.handle(request, now_us, client)
        self.after_epochs()
        if isinstance(reply, m.Reject) and reply.code == m.WRONG_CONFIGURATION:
            # Whoever asks may be further than this node.
            membership.look(now_us)
        return reply

    def cut(self, request: m.Request) -> Cut | None:
        """As any node's."""
        return None if self.membership is None else self.membership.cut(request, 1)

    def go_on(self, piecewise: Cut) -> m.Reply | None:
        """As any node's; from its seal on it says that."""
        assert self.membership is not None
        return self.membership.go_on(piecewise, self.clock.read_us())

    def tick_epochs(self) -> None:
        """Time has passed."""
        now_us = self.clock.read_us()
        if self.following is not None:
            self.following.wake(now_us)
            outbox, self.following.outbox = self.following.outbox, []
            for places, request in outbox:
                for place in places:
                    self.port.send_in(self.following.configuration, place, request)
        membership = self.membership
        if membership is None:
            return
        if self.repair is None and self.world.now_us >= self._look_at_us:
            self._look_at_us = self.world.now_us + LOOK_US
            membership.look(now_us)
        membership.wake(now_us)
        for recovery, _ in self.recoveries:
            if now_us >= recovery.deadline_us:
                recovery.wake(now_us)
        self._pump_epochs()

    def _tick(self, first: object, second: object) -> None:
        # The recoveries are this module's to wake, and what a sealed node does in the background goes on.
        recovery, self.recovery = self.recovery, None
        super()._tick(first, second)
        self.recovery = recovery
        if not self.down:
            self.tick_epochs()
            self.store()

    def _pump_epochs(self) -> None:
        membership = self.membership
        assert membership is not None
        outbox, membership.outbox = membership.outbox, []
        for places, request in outbox:
            for place in places:
                self.port.send_in(membership.configuration, place, request)
        for recovery, configuration in self.recoveries:
            sent, recovery.outbox = recovery.outbox, []
            for places, request in sent:
                for place in places:
                    self.port.send_in(configuration, place, request)
        self._drop_finished()

    # --- crashes ---

    def crash(self) -> None:
        """Stop: what is in memory is lost, what is stored is not, and the record never is."""
        if not self.down:
            super().crash()
            self.membership = self.following = None
            self.recoveries.clear()

    def restart(self, *, wipe: bool) -> None:
        """Come back in the epoch that the record shows, with what was stored or with nothing."""
        record = self.seal_record
        if not self.down:
            return
        if record.first is None:
            self.wiped = False
            if self.invited is not None:
                self.invite(self.invited)
            return
        self.down = False
        self.restart_count += 1
        self.life += 1
        now_us = self.clock.read_us()
        if wipe and self.torn:
            self.disk.lose(self.torn)
            wipe = not self.trusts_what_is_left()
        configuration, known, steps = record.first[0], list(record.first[1]), list(record.first[2])
        for step in record.steps:
            after = step.successor.configuration
            if after.previous == configuration.digest and after.node_by_key(self.key.public) is not None:
                known.append(configuration)
                steps.append(step)
                configuration = after
        self.configuration = configuration
        info = configuration.node_by_key(self.key.public)
        assert info is not None
        self.index = info.index
        self.chain = counting(configuration, known)
        self.node = self._make(now_us if wipe else None)
        if wipe:
            self.disk = Disk(self.node.slots)
        else:
            self.disk.load(self.node.slots)
            self.node.slots.key_barrier_us = now_us + 2 * configuration.max_skew_us
        self.wiped, self.torn = False, 0
        recovering = self.node.slots.recovering
        self.joining = joined_over([*known, configuration], recovering, self.key.public, self.seal_record.has_joined)
        self.membership = self._membership_of(self.node, known, steps)
        self.membership.look(now_us)
        self.after_epochs()
        self.begin_repair()
        self.begin_forwards()
        self.begin_recoveries(now_us)
        self.begin_votes(now_us, self.life)
        state = "recovering" if self.recoveries else "active"
        self.record.states.append((self.world.now_us, self.number, state))
