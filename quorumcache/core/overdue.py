"""Promises whose writers had time enough: what became of them, the others of the group may know (protocol 8).

A node that promised a header and missed the commit can take it from its peers while the promise is open, and not after:
the floor that stands for the promise then keeps it out for good. Rounds of anti-entropy may come too late for that,
where many peers are visited in turn, or one round has much to bring. So those promises are asked for: digests first,
and the entry of whoever has the very header. A part of `AntiEntropy`, which sends, receives and bounds it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import TIME_US_MAX

if TYPE_CHECKING:
    from quorumcache.core.node import Node

#: How many promises are asked for at once, the oldest.
ASKED_MAX: Final = 4096
DIGEST_BYTES: Final = 32


class Overdue:
    """`requests`: id -> (peer, what it was asked), sent by `send`. The caller hands on the replies to these, and stores
    what they bring."""

    __slots__ = ("_new_id", "_node", "_send", "_wanted", "requests")

    def __init__(self, node: Node, new_id: Callable[[], int], send: Callable[[int, m.Request], None]) -> None:
        self._node = node
        self._new_id = new_id
        self._send = send
        self._wanted: dict[bytes, dict[bytes, int]] = {}  # slot -> the digests promised there, and their values' sizes
        self.requests: dict[int, tuple[int, m.Request]] = {}

    def due_us(self, not_before_us: int) -> int:
        """When there is something to ask, no sooner than `not_before_us`; the end of time where nothing is promised."""
        oldest = next(iter(self._node.slots.promises), None)
        if oldest is None:
            return TIME_US_MAX
        return max(not_before_us, oldest.recorded_us + self._node.configuration.op_time_us)

    def ask(self, now_us: int, bytes_max: float) -> int:
        """Ask every other member about the promises that are older than op_time, so that nobody counts answers to their
        writes any more: of as many as answers of about `bytes_max` have room for; returns the bytes. What was asked
        before, and not answered, is forgotten."""
        node = self._node
        before_us = now_us - node.configuration.op_time_us
        self.requests.clear()
        self._wanted.clear()
        asked: dict[int, list[bytes]] = {}
        size = 0
        old = takewhile(lambda promise: promise.recorded_us <= before_us, node.slots.promises)
        for promise in islice(old, ASKED_MAX):
            slot = promise.header.slot
            if node.slots.type_of(slot) is not None:
                continue  # What a key with fields lacks the rounds bring: more than a digest decides what counts there.
            if slot not in self._wanted:
                if size > bytes_max:
                    break
                self._wanted[slot] = {}
                for peer in node.configuration.group_of(slot).members:
                    if peer != node.index:
                        asked.setdefault(peer, []).append(slot)
                        size += len(slot) + DIGEST_BYTES
            self._wanted[slot][promise.header.digest] = promise.header.size
        for peer, slots in asked.items():
            for at in range(0, len(slots), m.READ_SLOTS_MAX):
                self._ask(peer, m.Read(self._new_id(), self._digest, slots[at : at + m.READ_SLOTS_MAX]))
        return size

    @property
    def _digest(self) -> bytes:
        return self._node.configuration.digest

    def _ask(self, peer: int, request: m.Request) -> None:
        self.requests[request.id] = (peer, request)
        self._send(peer, request)

    def answered(self, peer: int, request: m.Read, reply: m.ReadReply, bytes_max: float) -> None:
        """Ask for what was promised whoever has it, in full, as long as values of about `bytes_max` come of it."""
        slots = self._node.slots
        wanted: list[bytes] = []
        size = 0
        for i, slot in enumerate(request.slots):
            digest = reply.digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]
            if slot not in slots.open or size > bytes_max:
                continue
            if digest in self._wanted.get(slot, ()):
                wanted.append(slot)
                size += self._wanted[slot][digest]
        for at in range(0, len(wanted), m.READ_FULL_SLOTS_MAX):
            part = wanted[at : at + m.READ_FULL_SLOTS_MAX]
            self._ask(peer, m.ReadFull(self._new_id(), self._digest, part))
