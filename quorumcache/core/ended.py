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
        #: Shards that it left, and cannot report of: it had no room for the values when it went on.
        self._lost: frozenset[int] = frozenset()

    def went_on(self) -> None:
        """The node of the next epoch took over what stays."""
        slots = self.node.slots
        self._lost = frozenset(slots.shard(slot).number for slot, held in slots.current.items() if not held.salted)

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
        if request.shard in self._lost:
            return self._silent(request, now_us, "this node left the shard, and had no room to keep its values in mind")
        return node.handle(request, now_us)

    def _silent(self, request: m.Request, now_us: int, why: str) -> m.Reject:
        return m.Reject(request.id, now_us, m.SEALED, why)
