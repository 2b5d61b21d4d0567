"""A running node: core.node.Node driven by a clock and a server.

It must not know the protocol's rules (core has them) or aiohttp (net has it).
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import time
from collections.abc import Awaitable
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.entropy import AntiEntropy
from quorumcache.core.evidence import INCARNATION_BYTES
from quorumcache.core.exactrecovery import ExactRecovery
from quorumcache.core.journal import Journal
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.repair import Recovery
from quorumcache.errors import DiskFailed, Misuse
from quorumcache.net.peers import Peers
from quorumcache.net.server import NodeServer
from quorumcache.storage import Identity, MemoryStorage, NotStored, Storage
from quorumcache.version import VERSION
from quorumcache.wire.keys import SigningKey, verify

TICK_S: Final = 0.05
#: How long what is written in mode primary waits for more, before it is forwarded.
FORWARD_S: Final = 0.005
#: How often storage that failed is asked whether it takes writes again.
PROBE_S: Final = 1.0

_log = logging.getLogger("quorumcache.node")


class RunningNode:
    """One node of a cluster, on a socket.

    `key` must be the key of one of the configuration's nodes: that decides which node this is. `host` and `port`
    default to the address that the configuration names for it. With `storage` it starts with what is stored there.
    Where there is nothing, as with the default, each start is one without stored state: the node's floors begin at its
    clock + 2 max_skew, and it recovers what its group still holds (protocol 7).
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
    ) -> None:
        info = configuration.node_by_key(key.public)
        if info is None:
            raise Misuse(
                f"the key {key.public.hex()} is none of the nodes' keys in cluster {configuration.cluster_id}, "
                f"epoch {configuration.epoch}: use the key file that was made for this cluster"
            )
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
        self._limits = limits
        self._journal: Journal | None = None
        self._probe_at_s = 0.0
        self._last_us = 0
        self.started_us = self.clock_us()
        self.verifier = Verifier(verify, [configuration])
        self.node = self._new_node(self.started_us)
        self.server = NodeServer(
            configuration,
            key,
            self,
            host=host if host is not None else own_host.strip("[]"),
            port=port if port is not None else int(own_port),
        )
        self._recovery: Recovery | None = None
        self._exact: ExactRecovery | None = None
        self._entropy = self._new_entropy()
        self._background: asyncio.Task[None] | None = None

    def _new_node(self, started_us: int | None) -> Node:
        node = Node(
            self.configuration,
            self.info.index,
            self._key.sign,
            self.verifier,
            started_us=started_us,
            limits=self._limits,
            incarnation=os.urandom(INCARNATION_BYTES),
        )
        if self.storage.keeps:
            node.leave_values_to_storage()
        return node

    def _new_entropy(self) -> AntiEntropy:
        return AntiEntropy(self.node, first_id=int.from_bytes(os.urandom(7), "big"), now_us=self.clock_us())

    # --- what the server calls ---

    def clock_us(self) -> int:
        """The wall clock in microseconds since the epoch; it never runs backwards."""
        self._last_us = max(self._last_us, time.time_ns() // 1000)
        return self._last_us

    def handle(self, request: m.Request, client: bytes) -> m.Reply | None:
        """Answer one request, now. `client`: the key that whoever asks has proven; empty for a stranger."""
        now_us = time.time_ns() // 1000
        if now_us < self._last_us:
            now_us = self._last_us
        self._last_us = now_us
        return self.node.handle(request, now_us, client)

    def lacking(self, request: m.Request) -> int:
        """How many bytes of values the answer just given to the request lacks, because only storage has them: then
        `fetch`, and ask again. 0: it is whole."""
        values = self.node.slots.values
        if values is None or not values.lacking_bytes:
            return 0
        size, values.lacking_bytes = values.lacking_bytes, 0
        self.node.request_counts[type(request).__name__] -= 1  # It is asked once, whatever it takes.
        return size

    def fetch(self) -> bool:
        """Fetch what answers lacked, all at once. False where that cannot be had: those answers cannot be given, and
        the node is about to end."""
        values = self.node.slots.values
        if values is None:
            return True
        missing = list(values.missing)
        try:
            found = self.storage.fetch(missing)
        except DiskFailed as fault:
            values.missing.clear()
            self.failure = self.failure or fault
            self.failed.set()
            _log.error("%s cannot go on: %s", self.info.name, fault)
            return False
        for held, salted in zip(missing, found, strict=True):
            values.warm(held, salted)
        return True

    def status(self) -> dict[str, Any]:
        """What operators ask first, as JSON."""
        slots = self.node.slots
        served = [s for s in slots.shards if self.info.index in self._members(s.number)]
        lag = self.node.forwarding.lag(self.clock_us())
        return {
            "name": self.info.name,
            "index": self.info.index,
            "key": self.info.key.hex(),
            "version": VERSION,
            "cluster_id": self.configuration.cluster_id,
            "epoch": self.configuration.epoch,
            "tls": self.configuration.tls,
            "configuration": self.configuration.digest.hex(),
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
            "recovered": 0 if self._recovery is None else self._recovery.recovered_count,
            "repaired": self._entropy.repaired_count,
            "repair_rounds": self._entropy.rounds_count,
            "differing": {self.configuration.nodes[p].name: n for p, n in sorted(self._entropy.differing.items())},
            "forwarded": self.node.forwarding.forwarded_count,
            "forward_lag": {
                self.configuration.nodes[peer].name: {"entries": count, "oldest_s": round(age_us / 1e6, 3)}
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
        self._entropy = self._new_entropy()
        self._recovery = Recovery(self.node, self.started_us, first_id=int.from_bytes(os.urandom(7), "big"))
        self._exact = ExactRecovery(self.node, self.started_us, first_id=int.from_bytes(os.urandom(7), "big"))
        self._background = asyncio.get_running_loop().create_task(self._run(), name=f"node {self.info.name}")

    def _load(self) -> None:
        storage = self.storage
        identity = Identity(self.configuration.cluster_id, self.configuration.digest, self.info.key)
        stored = self._new_node(None)
        self.resumed = storage.open(identity, stored.slots)
        self.started_us = self.clock_us()
        self.node = stored if self.resumed else self._new_node(self.started_us)
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
        journal, values = self._journal, self.node.slots.values
        if journal is None:
            return True
        if values is not None:
            values.settle()
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
        assert self._recovery is not None
        assert self._exact is not None
        recovering = loop.create_task(self._recover(self._recovery), name="recovery")
        voting = loop.create_task(self._recover(self._exact), name="recovery of votes")
        repairing = loop.create_task(self._repair(), name="anti-entropy")
        forwarding = loop.create_task(self._forward(), name="forwarding")
        tasks = (recovering, voting, repairing, forwarding)
        try:
            while True:
                if self.node.slots.frozen:
                    self._thaw()
                self.node.tick(self.clock_us())
                waiting = self.stored()
                if not isinstance(waiting, bool):
                    await waiting
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(TICK_S)
        except Exception as fault:
            # What it is can be anything; what follows is the same: whoever runs the node has to know, and to end it.
            self.failure = fault
            self.failed.set()
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _recover(self, recovery: Recovery | ExactRecovery) -> None:
        if recovery.finished:
            return
        await asyncio.sleep(max(0.0, (recovery.deadline_us - self.clock_us()) / 1e6))
        members = {
            peer
            for shard in self.node.slots.shards
            if self.node.slots.state_of(shard)
            for peer in self._members(shard.number)
            if peer != self.info.index
        }
        async with Peers(self.configuration, sorted(members), self._key) as peers:

            def receive(peer: int, reply: m.Reply) -> None:
                recovery.receive(peer, reply, self.clock_us())
                self.stored()

            peers.on_reply = receive
            await peers.up(len(members), wait_s_max=5.0)
            while not recovery.finished:
                recovery.wake(self.clock_us())
                self.stored()
                peers.send(recovery.outbox)
                recovery.outbox.clear()
                wait_us = min(recovery.deadline_us - self.clock_us(), 50_000)
                await peers.heard(max(0.001, wait_us / 1e6))

    async def _repair(self) -> None:
        """Anti-entropy, for as long as the node runs."""
        repair = self._entropy
        if not repair.peers:
            return
        await asyncio.sleep(max(0.0, (repair.deadline_us - self.clock_us()) / 1e6))
        async with Peers(self.configuration, repair.peers, self._key) as peers:

            def receive(peer: int, reply: m.Reply) -> None:
                repair.receive(peer, reply, self.clock_us())
                self.stored()
                peers.send(repair.outbox)
                repair.outbox.clear()

            peers.on_reply = receive
            while True:
                repair.wake(self.clock_us())
                peers.send(repair.outbox)
                repair.outbox.clear()
                await asyncio.sleep(max(0.001, (repair.deadline_us - self.clock_us()) / 1e6))

    async def _forward(self) -> None:
        """Mode primary: pass on what clients wrote here, for as long as the node runs."""
        if not any(info.mode == "primary" for info in self.configuration.namespaces) or not self._entropy.peers:
            return
        forwarding = self.node.forwarding
        async with Peers(self.configuration, self._entropy.peers, self._key) as peers:

            def send() -> None:
                peers.send(forwarding.outbox)
                forwarding.outbox.clear()

            def receive(peer: int, reply: m.Reply) -> None:
                forwarding.receive(peer, reply, self.clock_us())
                send()

            peers.on_reply = receive
            while True:
                forwarding.wake(self.clock_us())
                send()
                await asyncio.sleep(FORWARD_S)
