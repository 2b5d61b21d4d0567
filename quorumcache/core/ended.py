"""A node in an epoch that it has sealed: silent but for the seal, and for shard reports to members that join (protocol
9 and 11).

Belongs here: what it still answers, and to whom. How it came to seal is in seals.py, how a joiner uses reports in
repair.py. Must not know sockets or files.
"""

from __future__ import annotations

from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.node import Node
from quorumcache.core.seals import Ending

#: For how long after the last report a node keeps what is in the shards that it left.
LEFT_KEPT_US: Final = 3_600_000_000
_FOR_JOINERS: Final = "reports of an epoch that has ended are for the nodes of the next"


class Ended:
    """What is left of `node` once `ending` has sealed its epoch: also beside the node of the next epoch, until those
    that join have recovered, and where there is none, as it leaves. Nothing changes in its slots any more.

    Raises ValueError where the epoch is not sealed.
    """

    def __init__(self, node: Node, ending: Ending) -> None:
        if ending.successor is None:
            raise ValueError("the epoch goes on: nothing has sealed it")
        self.node = node
        self.ending = ending
        self._successor = ending.successor.configuration
        #: Until when it keeps what it left; None while it has not gone on, and keeps all.
        self._kept_to_us: int | None = None
        self._is_forgotten = False

    def went_on(self, now_us: int) -> None:
        """The node of the next epoch took over what stays."""
        self._kept_to_us = now_us + LEFT_KEPT_US

    def keeps_left(self, now_us: int) -> bool:
        """Whether it went on, and keeps what is in the shards that it left. When nobody asked for long it forgets."""
        if self._kept_to_us is None:
            return False
        if now_us >= self._kept_to_us and not self._is_forgotten:
            self._is_forgotten = True
            slots = self.node.slots
            slots.current, slots.keys = {}, {}
            for shard in slots.shards:
                shard.slots = {}
        return not self._is_forgotten

    def handle(self, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        """Answer a request of the epoch, as `Node.handle`: with a report of a shard that this node does not recover
        itself, to a node of the next epoch; with `SEALED` otherwise. A node answers from its first start in an epoch
        to its seal, and a reader that counted it later could miss what was written in the next epoch."""
        node = self.node
        if request.configuration != node.configuration.digest:
            return node.handle(request, now_us, client)  # It says under which it works, and no more.
        if not isinstance(request, m.Report):
            digest = self._successor.digest.hex()[:16]
            return m.Reject(
                request.id,
                now_us,
                m.SEALED,
                f"epoch {node.configuration.epoch} has ended at this node, for epoch {self._successor.epoch}, "
                f"configuration {digest}: fetch that one",
            )
        if client is not None and self._successor.node_by_key(client) is None:
            node.denied(client, "report")
            return m.Reject(request.id, now_us, m.NOT_ALLOWED, _FOR_JOINERS)
        shards = node.slots.shards
        if request.shard >= len(shards):
            return node.handle(request, now_us)
        if shards[request.shard].recovering:
            # Counted among q that know nothing, this report would hide what the others know.
            return self._silent(request, now_us, "this node was recovering the shard itself when it sealed")
        if self._kept_to_us is not None:
            if not self.keeps_left(now_us):
                return self._silent(request, now_us, "this node left the shard long ago, and has forgotten it")
            self._kept_to_us = now_us + LEFT_KEPT_US
        return node.handle(request, now_us)

    def _silent(self, request: m.Request, now_us: int, why: str) -> m.Reject:
        return m.Reject(request.id, now_us, m.SEALED, why)
