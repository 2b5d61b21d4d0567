"""A running node: core.node.Node driven by a clock and a server.

It must not know the protocol's rules (core has them) or aiohttp (net has it).
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Awaitable, Collection, Iterator
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.ballots import BallotSigner
from quorumcache.core.carrying import Joining, joined_over, still_joining
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.cutting import Cut
from quorumcache.core.evidence import INCARNATION_BYTES
from quorumcache.core.journal import Journal
from quorumcache.core.membership import Membership, Moved
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.seals import Step
from quorumcache.core.succession import counting
from quorumcache.core.values import Values
from quorumcache.errors import ConfigurationError, DiskFailed, Misuse
from quorumcache.net.peers import Peers
from quorumcache.net.server import NodeServer
from quorumcache.node.moving import Resumed, carry_with, resume
from quorumcache.node.term import Term, talk
from quorumcache.storage import MemoryStorage, NotStored, Storage
from quorumcache.version import VERSION
from quorumcache.wire.keys import SigningKey, verify
from quorumcache.wire.sealrecord import SealRecord

TICK_S: Final = 0.05
#: How many entries of shards that the node left go at a time.
FORGET_AT_ONCE: Final = 256
#: How often storage that failed is asked whether it takes writes again.
PROBE_S: Final = 1.0

_log = logging.getLogger("quorumcache.node")


class RunningNode:
    """One node of a cluster, on a socket.

    `key` must be the key of one of the configuration's nodes: that decides which node this is. `host` and `port`
    default to the address that the configuration names for it. With `storage` it starts with what is stored there.
    Where there is nothing, as with the default, each start is one without stored state: the node's floors begin at its
    clock + 2 max_skew, and it recovers what its group still holds (protocol 7).

    `record` is that of its key: with it, the node goes over to later epochs while it runs, and finds the epoch that it
    was in, whatever configuration of before it is started with. Without one it seals nothing.
    """

    def __init__(
        self,
        configuration: Configuration,
        key: SigningKey,
        *,
        host: str | None = None,
        port: int | None = None,
        limits: NodeLimits | None = None,
        storage: Storage | None = None,
        record: SealRecord | None = None,
    ) -> None:
        self._record: SealRecord | _NoRecord = record or _NoRecord()
        self._known: list[Configuration] = []
        self._steps: list[Step] = []
        self._remembered: SignedConfiguration | None = None
        if record is not None:
            record.check()
            for step in record.steps_from(configuration):
                record.know(configuration)
                configuration = step.successor.configuration
            record.know(configuration)
            self._known, self._steps = record.past(configuration)
            self._remembered = record.remembered(configuration)
        info = configuration.node_by_key(key.public)
        if info is None:
            raise Misuse(
                f"the key {key.public.hex()} is none of the nodes' keys in cluster {configuration.cluster_id}, "
                f"epoch {configuration.epoch}: use the key file that was made for this cluster"
            )
        #: Of what the node joined, the epochs before, until it has recovered it all, which is noted then.
        self._joins_after: list[Configuration] = []
        own_host, _, own_port = info.address.rpartition(":")
        self.info = info
        self.configuration = configuration
        self.storage = storage or MemoryStorage()
        #: Whether it started with stored state.
        self.resumed = False
        #: Set when the node cannot go on; why, says `failure`.
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None
        self._key = key
        self._ballots = BallotSigner(key.sign)
        self._limits = limits
        self._journal: Journal | None = None
        #: What storage had at the start.
        self._found: Resumed | None = None
        self._is_stuck = False
        self._probe_at_s = 0.0
        self._last_us = 0
        self.started_us = self.clock_us()
        self.membership = self._membership_of(self._new_node(self.started_us))
        self.server = NodeServer(
            configuration,
            key,
            self,
            host=host if host is not None else own_host.strip("[]"),
            port=port if port is not None else int(own_port),
        )
        self.server.epochs = self.membership
        self._term: Term | None = None
        self._old_terms: list[Term] = []
        self._talking: asyncio.Task[None] | None = None
        self._background: asyncio.Task[None] | None = None

    @property
    def node(self) -> Node:
        """The node of the present epoch."""
        return self.membership.node

    def _membership_of(self, node: Node) -> Membership:
        return Membership(
            node,
            self._key.sign,
            verify,
            self._record,
            self._later_node,
            first_id=int.from_bytes(os.urandom(7), "big"),
            known=self._known,
            steps=self._steps,
            remembered=self._remembered,
            carry=carry_with(self.storage),
        )

    def _later_node(self, configuration: Configuration, verifier: Verifier) -> Node:
        return self._new_node(None, configuration, verifier)

    def _new_node(
        self, started_us: int | None, configuration: Configuration | None = None, verifier: Verifier | None = None
    ) -> Node:
        configuration = configuration or self.configuration
        info = configuration.node_by_key(self._key.public)
        assert info is not None
        node = Node(
            configuration,
            info.index,
            self._key.sign,
            verifier or Verifier(verify, counting(configuration, self._known)),
            started_us=started_us,
            limits=self._limits,
            incarnation=os.urandom(INCARNATION_BYTES),
            ballots=self._ballots,
        )
        if self.storage.keeps:
            node.leave_values_to_storage()
        return node

    # --- what the server calls ---

    def clock_us(self) -> int:
        """The wall clock in microseconds since the epoch; it never runs backwards."""
        self._last_us = max(self._last_us, time.time_ns() // 1000)
        return self._last_us

    def cut(self, request: m.Request) -> Cut | None:
        """The request, to be worked on in pieces; None where it is to be handled at once."""
        return self.membership.cut(request)

    def go_on(self, piecewise: Cut, client: bytes) -> m.Reply | None:
        """The next piece of such a request, now: its reply, once it is `finished`."""
        if self._is_stuck:
            piecewise.finished = True
            return None
        return self.membership.go_on(piecewise, self.clock_us(), client)

    def handle(self, request: m.Request, client: bytes) -> m.Reply | None:
        """Answer one request, now. `client`: the key that whoever asks has proven; empty for a stranger."""
        now_us = time.time_ns() // 1000
        if now_us < self._last_us:
            now_us = self._last_us
        self._last_us = now_us
        membership = self.membership
        if self._is_stuck:
            return None
        try:
            reply = membership.handle(request, now_us, client)
        except DiskFailed as fault:
            self._get_stuck(fault)
            return None
        if membership.moved:
            self._go_on()
        return reply

    def heard(self, reply: m.Reply) -> None:
        """Another node answered: it may say that the epoch has ended."""
        self.membership.hear(reply, self.clock_us())

    def gather(self) -> list[m.BallotReply]:
        """From now on the signatures of votes and grants wait for `sign`; the replies that lack them are in this list,
        the latest last."""
        return self._ballots.gather()

    def sign(self) -> None:
        """Sign what waits, all of it together; from now on each is signed at once."""
        self._ballots.sign()

    def lacking(self, request: m.Request) -> int:
        """How many bytes of values the answer just given to the request lacks, because only storage has them: then
        `fetch`, and ask again. 0: it is whole."""
        node = self.node
        values = node.slots.values
        if values is None:
            return 0
        if not values.lacking_bytes:
            ended = self.membership.ended
            values = None if ended is None else ended.node.slots.values
            if ended is None or values is None or not values.lacking_bytes:
                return 0
            node = ended.node
        size, values.lacking_bytes = values.lacking_bytes, 0
        node.request_counts[type(request).__name__] -= 1  # It is asked once, whatever it takes.
        return size

    def fetch(self) -> bool:
        """Fetch what answers lacked, all at once. False where that cannot be had: those answers cannot be given, and
        the node is about to end."""
        for values in self._values():
            missing = list(values.missing)
            try:
                found = self.storage.fetch(missing) if missing else []
            except DiskFailed as fault:
                values.missing.clear()
                self._fail(fault)
                return False
            for held, salted in zip(missing, found, strict=True):
                values.warm(held, salted)
        return True

    def _values(self) -> Iterator[Values]:
        """Of the present epoch, and of what the node left with the last one."""
        nodes = [self.node]
        if self.membership.ended is not None and self.membership.ended.node is not self.node:
            nodes.append(self.membership.ended.node)
        for node in nodes:
            if node.slots.values is not None:
                yield node.slots.values

    def _fail(self, fault: DiskFailed) -> None:
        self.failure = self.failure or fault
        self.failed.set()
        _log.error("%s cannot go on: %s", self.info.name, fault)

    def status(self) -> dict[str, Any]:
        """What operators ask first, as JSON."""
        slots = self.node.slots
        served = [s for s in slots.shards if self.info.index in self._members(s.number)]
        lag = self.node.forwarding.lag(self.clock_us())
        term, nodes = self._term, self.configuration.nodes
        return {
            "name": self.info.name,
            "index": self.info.index,
            "key": self.info.key.hex(),
            "version": VERSION,
            "cluster_id": self.configuration.cluster_id,
            "epoch": self.configuration.epoch,
            "tls": self.configuration.tls,
            "configuration": self.configuration.digest.hex(),
            "sealed_for": self.membership.successor_digest.hex(),
            "has_left": self.membership.has_left,
            "f": self.configuration.f,
            **self.storage.status(),
            "resumed": self.resumed,
            "clock_us": self.clock_us(),
            "uptime_s": round((self.clock_us() - self.started_us) / 1e6, 3),
            "entries": len(slots.current),
            "bytes_used": slots.memory.bytes_used,
            "bytes_max": slots.memory.bytes_max,
            "values_in_memory": len(slots.current) if slots.values is None else slots.values.hot_count,
            "stored_bytes": 0 if slots.values is None else slots.values.stored_bytes,
            "stored_bytes_max": 0 if slots.values is None else slots.values.stored_bytes_max,
            "pools": {
                pool.namespace: {"bytes_used": pool.bytes_used, "bytes_max": pool.bytes_max}
                for pool in slots.memory.pools[1:]
            },
            "resident_bytes_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "promises_open": len(slots.promises),
            "promises_bytes": slots.memory.promises_bytes,
            "promises_dropped": slots.dropped_promises_count,
            "evicted": slots.evicted_count,
            "reaped": slots.reaped_count,
            "shards": len(served),
            "shards_recovering": sum(s.recovering for s in served),
            "shards_silent": sum(slots.instances is not None and slots.instances.is_unsure(s.number) for s in served),
            "recovered": 0 if term is None else term.recovered_count,
            "repaired": 0 if term is None else term.entropy.repaired_count,
            "repair_rounds": 0 if term is None else term.entropy.rounds_count,
            "differing": {} if term is None else {nodes[p].name: n for p, n in sorted(term.entropy.differing.items())},
            "forwarded": self.node.forwarding.forwarded_count,
            "forward_lag": {
                nodes[peer].name: {"entries": count, "oldest_s": round(age_us / 1e6, 3)}
                for peer, (count, age_us) in sorted(lag.items())
            },
            "floor_max_us": slots.floor_max_us,
            "evidence": len(self.node.evidence),
            "requests": dict(self.node.request_counts),
            "denied": dict(sorted(self.node.denied_counts.items(), key=lambda item: -item[1])[:20]),
            "refused": {m.REFUSALS[code]: n for code, n in self.node.refused_counts.items()},
        }

    def _members(self, shard: int) -> tuple[int, ...]:
        return self.configuration.shard_groups[shard].members

    # --- life ---

    async def start(self) -> None:
        """Load what is stored, listen, and begin what runs in the background. Raises OSError where the address cannot
        be had, and what storage raises where its place cannot."""
        self._load()
        try:
            await self.server.start()
        except BaseException:
            self.storage.close()
            raise
        node = self.node
        if self._found is not None:
            joining = self._found.joining
        else:
            joining = joined_over(self._chain, node.slots.recovering, node.key, self._record.has_joined)
        self._begin_term(self.started_us, joining)
        self.membership.look(self.clock_us())
        self._background = asyncio.get_running_loop().create_task(self._run(), name=f"node {self.info.name}")

    @property
    def _chain(self) -> list[Configuration]:
        return [*self._known, self.configuration]

    def _load(self) -> None:
        storage = self.storage
        found = self._found = resume(
            storage,
            self._chain,
            self.info.key,
            self._later_node,
            verify,
            self.clock_us(),
            self._record.has_joined,
        )
        self.resumed = found is not None
        self.started_us = self.clock_us()
        self.membership = self._membership_of(self._new_node(self.started_us) if found is None else found.node)
        self.server.epochs = self.membership
        if not storage.keeps:
            return
        slots = self.node.slots
        journal = self._journal = slots.journal = Journal()
        if self.resumed:
            # Keys' own barriers are not stored: this one stands in for all of them.
            slots.key_barrier_us = self.started_us + 2 * self.configuration.max_skew_us
            # The bound may have been lowered since.
            for slot in list(slots.current)[:1]:
                slots.make_room(slot, 0, self.started_us)
        else:
            # The floors are promised to nobody yet; they must be known again when something is.
            journal.shards.update({shard.number: shard for shard in slots.shards})
        try:
            storage.write(journal, slots)
        except NotStored as fault:
            storage.close()
            raise DiskFailed(f"{fault}: make room, or let the node keep its entries elsewhere") from None
        journal.clear()

    # --- storage ---

    def stored(self) -> Awaitable[None] | bool:
        """Write what changed since the last call. True where all that was answered so far is as durable as it has to
        be; else what to wait for until it is. False where storage takes no more: then nothing has changed after all,
        and what was answered since the last call has to be asked again."""
        journal, values, ended = self._journal, self.node.slots.values, self.membership.ended
        if self._is_stuck:
            return False
        if journal is None:
            return True
        if values is not None:
            values.settle()
        if ended is not None and ended.node.slots.values is not None:
            ended.node.slots.values.settle()
        if journal and not self.node.slots.frozen:
            try:
                self.storage.write(journal, self.node.slots)
            except NotStored as fault:
                self._freeze(journal, fault)
                return False
            journal.clear()
        synced = self.storage.synced()
        return True if synced is None else synced

    def _freeze(self, journal: Journal, fault: NotStored) -> None:
        slots = self.node.slots
        journal.undo(slots)
        slots.frozen = True
        self._probe_at_s = time.monotonic() + PROBE_S
        _log.error("%s refuses writes, for they cannot be stored: %s. Reads go on", self.info.name, fault)

    def _thaw(self) -> None:
        if time.monotonic() < self._probe_at_s:
            return
        self._probe_at_s = time.monotonic() + PROBE_S
        try:
            self.storage.probe()
        except NotStored:
            return  # As before: that it does not, has been said.
        self.node.slots.frozen = False
        _log.warning("%s takes writes again", self.info.name)

    # --- from epoch to epoch ---

    def _begin_term(self, started_us: int, joining: Joining) -> None:
        self._joins_after += [before for before, _ in joining]
        self._term = Term(
            self,
            self.node,
            self._key,
            started_us,
            joining=joining,
            before=self.membership.known[-1] if self.membership.known else None,
        )
        self._term.start()

    def _go_on(self) -> None:
        """The node went over to its next epoch, or left the cluster: so does all that it does in the background."""
        moved, self.membership.moved = self.membership.moved, []
        for move in moved:
            _log.info("%s", _words_of(self.info.name, move))
        joining: list[tuple[Configuration, Collection[int]]] = []
        if self._term is not None:
            joining += self._term.joining
            self._term.cancel()
            self._old_terms.append(self._term)
            self._term = None
        if not self.membership.has_left:
            self.configuration = self.node.configuration
            self.info = self.configuration.nodes[self.node.index]
            self.server.moved(self.configuration)
        if self._background is not None and moved[-1].carried is not None:
            joining += [(move.before, move.carried.joined) for move in moved if move.carried is not None]
            self._begin_term(self.clock_us(), still_joining(joining, self.node.slots))

    def _forget_left(self) -> None:
        """Forget what the node left with its last epoch, bit by bit, when nobody asks for it any more."""
        ended = self.membership.ended
        keeps = ended is not None and ended.keeps_left(self.clock_us())
        if self._journal is not None and not (self._is_stuck or self.node.slots.frozen):
            try:
                self.storage.forget_left(FORGET_AT_ONCE, latest=not keeps)
            except NotStored as fault:
                self._freeze(self._journal, fault)

    def _get_stuck(self, fault: DiskFailed) -> None:
        """Storage could not go along: the node is in no epoch. It says nothing any more, and writes nothing; its next
        start begins with the epoch before (node/moving.py)."""
        self._is_stuck = True
        self._fail(fault)

    async def _talk(self) -> None:
        """Tell the others that the epoch ends, or ask them whether it has."""
        membership = self.membership
        configuration = membership.configuration

        def exchange(peers: Peers) -> bool:
            if membership.configuration is not configuration or not membership.is_talking:
                return False
            membership.wake(self.clock_us())
            peers.send(membership.outbox)
            membership.outbox.clear()
            return True

        def receive(peer: int, reply: m.Reply) -> None:
            if membership.configuration is not configuration:
                return
            known = {each.digest for each in membership.known}
            try:
                if not self._is_stuck:
                    membership.receive(peer, reply, self.clock_us())
                for earlier in membership.known:
                    if earlier.digest not in known:
                        self._record.know(earlier)
            except ConfigurationError as problem:
                _log.error("%s cannot follow the others to their epoch: %s", self.info.name, problem)
            except DiskFailed as fault:
                self._get_stuck(fault)
            if membership.moved:
                self._go_on()

        await talk(configuration, self._key, self.node.index, exchange, receive)

    async def stop(self) -> None:
        """Stop listening and end the background work."""
        background, self._background = self._background, None
        if background is not None:
            background.cancel()
            # What it failed with, if it did, is in `failure`.
            await asyncio.gather(background, return_exceptions=True)
        await self.server.stop()
        self.stored()
        self.storage.close()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self.node.slots.frozen:
                    self._thaw()
                self.node.tick(self.clock_us())
                self._forget_left()
                waiting = self.stored()
                if not isinstance(waiting, bool):
                    await waiting
                while self._old_terms:
                    await self._old_terms.pop().ended()
                if self._term is not None:
                    self._term.check()
                    if self._joins_after and self._term.has_joined:
                        for before in self._joins_after:
                            self._record.joined(before)
                        self._joins_after.clear()
                if self._talking is not None and self._talking.done():
                    self._talking.result()
                    self._talking = None
                if self._talking is None and self.membership.is_talking:
                    self._talking = loop.create_task(self._talk(), name="talk about epochs")
                await asyncio.sleep(TICK_S)
        except Exception as fault:
            # What it is can be anything; what follows is the same: whoever runs the node has to know, and to end it.
            self.failure = fault
            self.failed.set()
            raise
        finally:
            if self._term is not None:
                self._term.cancel()
                await self._term.ended()
            if self._talking is not None:
                self._talking.cancel()
                await asyncio.gather(self._talking, return_exceptions=True)


class _NoRecord:
    """In place of a record: without one, the node cannot seal."""

    def remember(self, before: Configuration, successor: SignedConfiguration) -> None:
        """Refuse."""
        raise ConfigurationError(
            "this node runs without a record of seals, so it cannot end an epoch: stop all nodes, and start them under "
            "the new configuration"
        )

    def began(self, before: Configuration, step: Step) -> None:
        """As above."""
        self.remember(before, step.successor)

    def joined(self, before: Configuration) -> None:
        """Nothing to note."""

    def has_joined(self, before: Configuration) -> bool:
        """Nothing was noted."""
        return False

    def know(self, configuration: Configuration) -> None:
        """Nothing to keep."""


def _words_of(name: str, move: Moved) -> str:
    after = move.step.successor.configuration
    if move.carried is None:
        return (
            f"{name} has left the cluster with epoch {after.epoch}: it answers only nodes that take its place, and may "
            "be stopped once these have recovered"
        )
    carried = move.carried
    joined = f", and recovers {len(carried.joined)} shards that it joined" if carried.joined else ""
    gone = f"; {carried.gone} went" if carried.gone else ""
    return f"{name} is in epoch {after.epoch} now: {carried.kept} entries came along{gone}{joined}"
