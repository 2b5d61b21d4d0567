"""A running node: core.node.Node driven by a clock and a server.

It must not know the protocol's rules (core has them) or aiohttp (net has it).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from typing import Any

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.repair import Recovery
from quorumcache.errors import Misuse
from quorumcache.net.peers import Peers
from quorumcache.net.server import NodeServer
from quorumcache.version import VERSION
from quorumcache.wire.keys import SigningKey, verify

TICK_S = 0.05


class RunningNode:
    """One node of a cluster, on a socket.

    `key` must be the key of one of the configuration's nodes: that decides which node this is. `host` and `port`
    default to the address that the configuration names for it. Storage is memory: each start is one without stored
    state, so the node's floors begin at its clock + 2 max_skew, and it recovers what its group still holds (protocol
    7).
    """

    def __init__(
        self,
        configuration: Configuration,
        key: SigningKey,
        *,
        host: str | None = None,
        port: int | None = None,
        limits: NodeLimits | None = None,
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
        self._key = key
        self._last_us = 0
        self.started_us = self.clock_us()
        self.verifier = Verifier(verify, [configuration])
        self.node = Node(configuration, info.index, key.sign, self.verifier, started_us=self.started_us, limits=limits)
        self.server = NodeServer(
            configuration,
            key,
            self,
            host=host if host is not None else own_host.strip("[]"),
            port=port if port is not None else int(own_port),
        )
        self._recovery = Recovery(self.node, self.started_us, first_id=int.from_bytes(os.urandom(7), "big"))
        self._background: asyncio.Task[None] | None = None

    # --- what the server calls ---

    def clock_us(self) -> int:
        """The wall clock in microseconds since the epoch; it never runs backwards."""
        self._last_us = max(self._last_us, time.time_ns() // 1000)
        return self._last_us

    def handle(self, request: m.Request) -> m.Reply | None:
        """Answer one request, now."""
        now_us = time.time_ns() // 1000
        if now_us < self._last_us:
            now_us = self._last_us
        self._last_us = now_us
        return self.node.handle(request, now_us)

    def status(self) -> dict[str, Any]:
        """What operators ask first, as JSON."""
        slots = self.node.slots
        served = [s for s in slots.shards if self.info.index in self._members(s.number)]
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
            "storage": "memory",
            "clock_us": self.clock_us(),
            "uptime_s": round((self.clock_us() - self.started_us) / 1e6, 3),
            "entries": len(slots.current),
            "bytes_used": slots.memory.bytes_used,
            "bytes_max": slots.memory.bytes_max,
            "resident_bytes_max": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "promises_open": len(slots.promises),
            "promises_dropped": slots.dropped_promises_count,
            "evicted": slots.evicted_count,
            "reaped": slots.reaped_count,
            "shards": len(served),
            "shards_recovering": sum(s.recovering for s in served),
            "recovered": self._recovery.recovered_count,
            "floor_max_us": slots.floor_max_us,
            "evidence": len(self.node.evidence),
            "requests": dict(self.node.request_counts),
            "refused": {m.REFUSALS[code]: n for code, n in self.node.refused_counts.items()},
        }

    def _members(self, shard: int) -> tuple[int, ...]:
        return self.configuration.shard_groups[shard].members

    # --- life ---

    async def start(self) -> None:
        """Listen, and begin what runs in the background."""
        await self.server.start()
        self._background = asyncio.get_running_loop().create_task(self._run(), name=f"node {self.info.name}")

    async def stop(self) -> None:
        """Stop listening and end the background work."""
        background, self._background = self._background, None
        if background is not None:
            background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await background
        await self.server.stop()

    async def _run(self) -> None:
        recovering = asyncio.get_running_loop().create_task(self._recover(), name="recovery")
        try:
            while True:
                self.node.tick(self.clock_us())
                if recovering.done():
                    recovering.result()
                await asyncio.sleep(TICK_S)
        finally:
            recovering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await recovering

    async def _recover(self) -> None:
        recovery = self._recovery
        if recovery.finished:
            return
        await asyncio.sleep(max(0.0, (recovery.deadline_us - self.clock_us()) / 1e6))
        members = {
            peer
            for shard in self.node.slots.shards
            if shard.recovering
            for peer in self._members(shard.number)
            if peer != self.info.index
        }
        async with Peers(self.configuration, sorted(members), self._key) as peers:
            peers.on_reply = lambda peer, reply: recovery.receive(peer, reply, self.clock_us())
            await peers.up(len(members), wait_s_max=5.0)
            while not recovery.finished:
                recovery.wake(self.clock_us())
                peers.send(recovery.outbox)
                recovery.outbox.clear()
                wait_us = min(recovery.deadline_us - self.clock_us(), 50_000)
                await peers.heard(max(0.001, wait_us / 1e6))
