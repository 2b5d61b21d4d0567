"""Reads in mode primary (protocol 10): one round trip to the first node of a shard's order, or the next.

What comes back is believed because its writer signed it; that it is the latest, nobody vouches for. It must not know
sockets, or how writes get there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.inorder import InOrder
from quorumcache.core.machine import is_worth_asking_again
from quorumcache.core.model import Entry, Malformed
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed
from quorumcache.core.primary import entries_in
from quorumcache.core.read import outcome_of

if TYPE_CHECKING:
    from quorumcache.core.config import Group
    from quorumcache.core.coordinator import Coordinator


class GetBatch(InOrder):
    """Reads of some slots of one order: the first node's answer, where it is signed by who may write."""

    __slots__ = ("_best", "_full", "_ids", "_left", "_parts", "_slots", "_tokens")

    def __init__(
        self,
        context: Coordinator,
        order: tuple[int, ...],
        slots: list[bytes],
        tokens: list[list[Any]],
        full: bool,
        now_us: int,
    ) -> None:
        super().__init__(context, order, now_us + context.configuration.op_time_us, now_us)
        self._slots = slots
        self._tokens = dict(zip(slots, tokens, strict=True))
        self._full = full
        self._left = dict.fromkeys(slots)
        #: What a node that has not recovered yet says is there: good if nobody knows better.
        self._best: dict[bytes, tuple[bytes, Entry]] = {}
        self._ids: dict[int, int] = {}  # request id -> node
        self._parts: dict[int, list[bytes]] = {}  # request id -> slots
        self._ask_more(1)

    def waiting(self) -> list[tuple[bytes, list[Any], bool]]:
        """See `Machine.waiting`."""
        return [(slot, self._tokens[slot], self._full) for slot in self._left]

    def _group(self) -> Group:
        return self._context.configuration.group_of(self._slots[0])

    def _ask(self, node: int) -> None:
        self._ask_for(node, list(self._left))

    def _ask_for(self, node: int, slots: list[bytes]) -> None:
        request_id = self._context.new_id(self)
        self._ids[request_id] = node
        self._parts[request_id] = slots
        self._context.send((node,), m.Get(request_id, self._context.configuration.digest, slots))

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's answer."""
        if self.finished or self._ids.get(request_id) != node:
            return
        if isinstance(reply, m.Reject):
            self._rejects[node] = reply
            self._useless.add(node)
            failed = self._all_rejected()
            if failed is not None:
                self._end_all(failed)
                return
        elif isinstance(reply, m.GetReply):
            part = self._parts[request_id]
            del self._ids[request_id], self._parts[request_id]
            self._context.forget(request_id)
            try:
                self._take(node, part, reply, now_us)
            except Malformed:
                self._context.suspect(node, 4.0, lie=True)
                self._useless.add(node)
        else:
            return
        if not self._left:
            self._finish()
            return
        if len(self._useless) == len(self._order):
            # Everybody has said what there is: nobody has recovered all of it.
            self._end_rest(now_us)
            return
        self._ask_more(1)

    def _take(self, node: int, part: list[bytes], reply: m.GetReply, now_us: int) -> None:
        context = self._context
        verifier, configuration = context.verifier, context.configuration
        if reply.answered > len(part) or (part and not reply.answered):
            raise Malformed("an answer to more than was asked, or to nothing")
        asked = set(part[: reply.answered])
        found: dict[bytes, tuple[bytes, Entry]] = {}
        for bundle in reply.bundles:
            for header, item in entries_in(bundle, verifier):
                path = merkle.path_of(bundle.leaves, item.position) if bundle.leaves and self._full else item.path
                entry = Entry(item.header, item.salted, bundle.certificate, item.position, path)
                if header.slot not in asked or configuration.is_revoked(header.writer):
                    raise Malformed("an entry that was not asked for, or of a revoked writer")
                found[header.slot] = (header.stamp + header.digest, entry)
        for slot in part[: reply.answered]:
            if slot not in self._left:
                continue
            best = max(filter(None, (found.get(slot), self._best.get(slot))), default=None, key=lambda pair: pair[0])
            if best is not None:
                self._best[slot] = best
            if best is None and reply.behind:
                continue  # It may have been there before the node started: the next in order may know.
            self._end(slot, now_us)
        if reply.behind and any(slot in self._left for slot in part[: reply.answered]):
            self._useless.add(node)
        elif reply.answered < len(part):
            self._ask_for(node, part[reply.answered :])

    def _end(self, slot: bytes, now_us: int) -> None:
        context = self._context
        del self._left[slot]
        best = self._best.pop(slot, None)
        tokens = self._tokens[slot]
        if best is None:
            context.counts["reads_missed"] += 1
            context.finish(tokens, Missed(1))
            return
        entry = best[1]
        context.counts["reads_fast"] += 1
        outcome = outcome_of(entry.header, entry.salted, context.clock.time_us(now_us), 1)
        if self._full and isinstance(outcome, Found):
            outcome = Found(entry.header, entry.salted, entry)
        context.finish(tokens, outcome)

    def _end_rest(self, now_us: int) -> None:
        for slot in list(self._left):
            self._end(slot, now_us)
        self._finish()

    def _end_all(self, outcome: Failed) -> None:
        for slot in self._left:
            self._context.finish(self._tokens[slot], outcome)
        self._left.clear()
        self._finish()

    def _finish(self) -> None:
        self.finished = True
        for request_id in self._ids:
            self._context.forget(request_id)

    def wake(self, now_us: int) -> None:
        """Ask the next in order for whoever is silent; give up at op_time."""
        if self.finished:
            return
        if now_us >= self.end_us:
            self._end_all(Failed(UNAVAILABLE, f"none of the {len(self._asked)} nodes asked answered in time"))
            return
        if len(self._asked) < len(self._order):
            self._silent.update(self._asked)
            self._ask_more(1)
        else:
            for node in self._asked:
                if node not in self._useless and is_worth_asking_again(node, self._rejects):
                    self._ask(node)
        self._wait(now_us)
