"""What a correct node does beside answering: it lets go of values that its disk has, and compares itself with peers.

As the running node does (quorumcache/node/running.py), on virtual time. It must not know checkers or faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.entropy import AntiEntropy
from quorumcache.core.node import Node
from sim.disk import Disk

INTERVAL_US: Final = 150_000
PATIENCE_US: Final = 400_000
BYTES_PER_S: Final = 1 << 20
Send = Callable[[int, m.Request], None]


class ColdValues:
    """A node whose values are on its disk: after any write, some or all of them leave memory."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def stored(self, node: Node) -> None:
        """What is current is written: values may go."""
        values = node.slots.values
        assert values is not None
        if self._draw.random() < 0.5:
            for pool in node.slots.memory.pools:
                while values.cool_one(pool) and self._draw.random() < 0.8:
                    pass

    def answer(self, node: Node, disk: Disk, request: m.Request, now_us: int) -> m.Reply:
        """The node's answer, made again where it lacked values at first."""
        reply = node.handle(request, now_us)
        values = node.slots.values
        assert values is not None
        if values.lacking_bytes:
            for held in list(values.missing):
                values.warm(held, disk.values[held])
            values.lacking_bytes = 0
            reply = node.handle(request, now_us)
            values.lacking_bytes = 0
        values.settle()
        return reply


class Repair:
    """A node's anti-entropy, for as long as one life of it lasts."""

    def __init__(self, node: Node, draw: random.Random, now_us: int, send: Send) -> None:
        self._send = send
        self.machine = AntiEntropy(
            node,
            first_id=draw.getrandbits(62),
            now_us=now_us,
            interval_us=INTERVAL_US,
            bytes_per_s=BYTES_PER_S,
            patience_us=PATIENCE_US,
        )

    def wake(self, now_us: int) -> None:
        """Time has passed."""
        if self.machine.peers and now_us >= self.machine.deadline_us:
            self.machine.wake(now_us)
            self._pump()

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """A peer may have answered."""
        self.machine.receive(peer, reply, now_us)
        self._pump()

    def _pump(self) -> None:
        outbox, self.machine.outbox = self.machine.outbox, []
        for nodes, request in outbox:
            for node in nodes:
                self._send(node, request)
