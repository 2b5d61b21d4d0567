"""Full reads of keys with fields: settle the base, then take q answers that hold its generation (protocol 6).

Of those, the highest entry of each field counts (compare.py); what is missing is written back, the base included. It
must not know what fields mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import messages as m
from quorumcache.core.compare import NO_RANK, Comparison, Tops, View, pooled
from quorumcache.core.config import Group
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.model import DELETE, Entry, Malformed, digest_of, header_expires_at, header_slot, stamp_time
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Outcome
from quorumcache.core.quorum import nth_lowest
from quorumcache.core.read import is_rejected, rejection
from quorumcache.core.types.base import generation_of, rank_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: How many fields of a key one full read can ask for by name.
WANTED_MAX: Final = m.READ_FULL_SLOTS_MAX - 1
#: A key of more entries is large: its nodes may take so many times the grace time between two pieces of news.
LARGE: Final = 256
LARGE_PATIENCE: Final = 5
#: Entries written back in one message.
WRITE_BACK_MAX: Final = 256
#: How often one node is asked again within a read. A correct one's view changes once for each base that comes by.
ASKS_MAX: Final = 8


class SettleKey(Machine):
    """A full read of one key: of the fields in `wanted` (slots, at most 7), or of all of them where it is None.

    Calls `finish(outcome, now_us)` once: Found with the base's entry and the fields; Missed; or Failed. `started_us` is
    when the operation began, on which op_time counts. The grace time counts from the last news on, and is longer for
    large keys, which take nodes a while to list.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_asks",
        "_banned",
        "_base_holders",
        "_base_id",
        "_commits",
        "_comparison",
        "_context",
        "_finish",
        "_grace_end_us",
        "_group",
        "_holders",
        "_id",
        "_open",
        "_pool",
        "_progressed",
        "_rejects",
        "_replied",
        "_resend_at_us",
        "_resend_us",
        "_revokers",
        "_settled",
        "_slot",
        "_target",
        "_views",
        "_waiting",
        "_wanted",
        "_written_back",
        "started_us",
        "tokens",
        "tombstone",
    )

    def __init__(
        self,
        context: Coordinator,
        group: Group,
        slot: bytes,
        wanted: tuple[bytes, ...] | None,
        finish: Callable[[Outcome, int], None],
        started_us: int,
        now_us: int,
    ) -> None:
        super().__init__(now_us + RESEND_US, started_us + context.configuration.op_time_us)
        self._context = context
        #: When it was sent.
        self.started_us = now_us
        #: Who waits for it, where these are readers.
        self.tokens: list[Any] = []
        #: The tombstone's stamp, where that is what q nodes have.
        self.tombstone = b""
        self._group = group
        self._slot = slot
        self._wanted = wanted
        self._finish = finish
        self._resend_us = RESEND_US
        self._resend_at_us = now_us + RESEND_US
        self._grace_end_us = 0
        self._progressed = False
        self._views: dict[int, View] = {}
        self._answered: set[int] = set()
        self._rejects: dict[int, m.Reject] = {}
        self._pool: dict[bytes, Entry] = {}  # digest -> entry, verified
        self._asked: dict[int, int] = {}  # request id -> node that was asked (again) for its view
        self._asks: dict[int, int] = {}  # node -> how often it was asked again
        self._comparison = Comparison(self, context, group, slot, self._pool)
        #: What is settled, and what waits for q nodes to hold it (with those that do); None until views are compared.
        self._settled: dict[bytes, Entry] | None = None
        self._open: Tops = {}
        self._waiting: dict[bytes, bytes] = {}  # of what is open, digest -> slot
        self._commits: dict[int, list[bytes]] = {}  # request id -> digests of the entries written back
        self._written_back: set[bytes] = set()
        self._replied: set[tuple[int, int]] = set()  # (request id, node)
        self._holders: dict[bytes, set[int]] = {}  # digest -> nodes that confirmed the write-back
        self._target: Entry | None = None  # the base being settled
        self._base_id = 0
        self._base_holders: set[int] = set()
        #: digest -> nodes that refused its write-back for its writer, and those that too many did for.
        self._revokers: dict[bytes, set[int]] = {}
        self._banned: set[bytes] = set()
        self._id = context.new_id(self)
        self._ask(group.members, self._id)
        context.counts["reads_settled"] += 1

    def waiting(self) -> list[tuple[bytes, list[Any], bool]]:
        """See `Machine.waiting`."""
        return [(self._wanted[0] if self._wanted else self._slot, self.tokens, True)] if self.tokens else []

    def _ask(self, nodes: tuple[int, ...], request_id: int) -> None:
        digest = self._context.configuration.digest
        if self._wanted is None:
            self._context.send(nodes, m.Outline(request_id, digest, self._slot))
        else:
            self._context.send(nodes, m.ReadFull(request_id, digest, [self._slot, *self._wanted]))

    # --- answers ---

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take views, listings, and answers to write-backs."""
        if self.finished or node not in self._group.members:
            return
        if isinstance(reply, m.Reject):
            if request_id == self._id and node not in self._views:
                self._rejects[node] = reply
                configuration = self._context.configuration
                if is_rejected(self._rejects, configuration.n - configuration.q):
                    self._end(rejection(self._group, self._rejects), now_us)
            return
        try:
            if not self._take(request_id, node, reply):
                return
        except Malformed:
            # A claim without valid certificates is not an answer.
            self._context.suspect(node, 4.0, lie=True)
            self._leave(node)
        else:
            self._rejects.pop(node, None)
        if len(self._views) >= self._context.configuration.q:
            if not self._grace_end_us:
                self._extend(now_us)
            self._evaluate(now_us)

    def _take(self, request_id: int, node: int, reply: m.Reply) -> bool:
        """Take one reply; whether it says anything new. Raises Malformed for a lie."""
        if isinstance(reply, m.CommitReply):
            return self._take_commit(request_id, node, reply)
        if isinstance(reply, m.FieldsReply):
            taken = self._comparison.take(request_id, node, self._views.get(node), reply)
            if taken is None:
                return False
            if not taken:
                self._ask_again(node)
        elif request_id == self._id and node not in self._answered:
            self._answered.add(node)
            self._views[node] = self._view_of(reply)
        elif self._asked.get(request_id) == node:
            del self._asked[request_id]
            self._context.forget(request_id)
            self._views[node] = self._view_of(reply)
        else:
            return False
        self._settled = None
        self._progressed = True
        if self._banned:
            self._leave_banned((node,))
        return True

    def _ban(self, digest: bytes, node: int) -> None:
        """The node says that this entry's writer is revoked. Where more than f do, what shows it is no answer, or a
        liar that kept one would have every read of the key miss. Whoever held it when it was complete, and does not
        show it, has something newer, or a floor as high: so any q other answers are as good."""
        revokers = self._revokers.setdefault(digest, set())
        revokers.add(node)
        configuration = self._context.configuration
        if len(revokers) > configuration.n - configuration.q and digest not in self._banned:
            self._banned.add(digest)
            self._leave_banned(tuple(self._views))

    def _leave_banned(self, nodes: tuple[int, ...]) -> None:
        for node in nodes:
            view = self._views.get(node)
            if view is not None and any(digest_of(entry.header) in self._banned for entry in view.entries()):
                self._leave(node)

    def _leave(self, node: int) -> None:
        """What this node said, and has yet to list, no longer counts."""
        self._views.pop(node, None)
        self._comparison.forget(node)
        self._settled = None
        if len(self._views) < self._context.configuration.q:
            self._grace_end_us = 0  # It counts from a quorum of answers on, and there is none any more.

    def _extend(self, now_us: int) -> None:
        self._progressed = False
        if len(self._views) < self._context.configuration.q:
            return
        grace_us = self._context.configuration.grace_us
        if self._comparison.requests or len(self._pool) > LARGE:
            grace_us *= LARGE_PATIENCE
        self._grace_end_us = now_us + grace_us
        self.deadline_us = min(self.deadline_us, self._grace_end_us)

    def _view_of(self, reply: m.Reply) -> View:
        if isinstance(reply, m.ReadFullReply) and self._wanted is not None:
            if len(reply.answers) != 1 + len(self._wanted):
                raise Malformed("answers to other slots than were asked for")
            view = View(self._base_of(reply.answers[0].entry), reply.answers[0].floor_us)
            for slot, answer in zip(self._wanted, reply.answers[1:], strict=True):
                if answer.entry is not None:
                    self._add(view, answer.entry, slot)
            return view
        if not isinstance(reply, m.OutlineReply) or self._wanted is not None:
            raise Malformed("an answer to another question")
        view = View(self._base_of(reply.base), reply.floor_us)
        if reply.buckets:
            if view.base is None or len(reply.buckets) % 33:
                raise Malformed("buckets without a base, or without digests")
            view.buckets = {}
            for at in range(0, len(reply.buckets), 33):
                view.buckets[reply.buckets[at]] = reply.buckets[at + 1 : at + 33]
        else:
            for entry in reply.entries:
                self._add(view, entry, None)
        return view

    def _base_of(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        entry = pooled(self._pool, self._context.verifier, entry, self._slot)
        if header_slot(entry.header) != self._slot:
            raise Malformed("an entry of another slot")
        return entry

    def _add(self, view: View, entry: Entry, slot: bytes | None) -> None:
        """Take a field of a view; `slot` is where it has to be, or None for any of this key."""
        entry = pooled(self._pool, self._context.verifier, entry, self._slot)
        here = header_slot(entry.header)
        if here == self._slot or (slot is not None and here != slot):
            raise Malformed("an entry of another slot")
        if generation_of(entry.header) != view.generation:
            raise Malformed("a field of another generation than its base")
        view.fields[here] = entry

    # --- judging ---

    def _evaluate(self, now_us: int) -> None:
        """The base first; then the fields, from those that hold its generation."""
        q = self._context.configuration.q
        views = self._views
        absent = sum(view.base is None for view in views.values())
        if absent >= q:
            self._end(Missed(absent), now_us)
            return
        target = self._highest_good(q)
        if target is None:
            if len(views) == len(self._group.members) and not self._asked:
                self._end(Missed(absent), now_us)
            return
        if self._target is None or self._target.header != target.header:
            self._settle_base(target, now_us)
        rank, generation = rank_of(target.header), generation_of(target.header)
        standing = {node for node, view in views.items() if view.rank >= rank} | self._base_holders
        if len(standing) < q:
            return
        expires_at_us = header_expires_at(target.header)
        cluster_us = self._context.clock.time_us(now_us)
        if target.header[2] == DELETE or (expires_at_us and expires_at_us <= cluster_us):
            if target.header[2] == DELETE:
                self.tombstone = generation
            self._end(Missed(q), now_us)
            return
        holders = {node: view for node, view in views.items() if view.generation == generation}
        if len(holders) < q:
            return
        fields = self._fields_of(holders, now_us)
        if fields is not None:
            self._end(Found(target.header, b"", target, fields), now_us)

    @property
    def bound_us(self) -> int | None:
        """What q answers show the key's generation to lie at or below, in time: no later one was complete when this was
        sent. None where there are fewer."""
        bounds = [v.floor_us if v.base is None else stamp_time(v.generation) for v in self._views.values()]
        return nth_lowest(bounds, self._context.configuration.q)

    def _highest_good(self, q: int) -> Entry | None:
        """The base of highest rank that heads a good set: q answers of bases up to it, or absent with a floor below its
        generation's time."""
        best: Entry | None = None
        best_rank = NO_RANK
        for view in self._views.values():
            if view.base is None or view.rank <= best_rank:
                continue
            time_us = stamp_time(view.generation)
            members = sum(
                other.rank <= view.rank if other.base is not None else other.floor_us < time_us
                for other in self._views.values()
            )
            if members >= q:
                best, best_rank = view.base, view.rank
        return best

    def _settle_base(self, target: Entry, now_us: int) -> None:
        """Write the base back to those that do not have it."""
        self._target = target
        self._base_holders = set()
        self._settled = None
        self._base_id = 0  # Who took the one before does not therefore hold this one.
        rank = rank_of(target.header)
        others = tuple(n for n in self._group.members if n not in self._views or self._views[n].rank < rank)
        if others:
            self._base_id = self._commit([target], others)
        self._extend(now_us)

    def _fields_of(self, holders: dict[int, View], now_us: int) -> list[tuple[bytes, bytes]] | None:
        """The fields, once each is settled at q nodes; None before."""
        if self._settled is None:
            found = self._comparison.compare(holders, now_us)
            if found is None:
                self._extend(now_us)
                return None
            self._settled, self._open = found
            self._waiting = {}
            q = self._context.configuration.q
            for slot, (top, confirmed) in list(self._open.items()):
                digest = digest_of(top.header)
                # A node says OK only of a field that it holds, or has a newer of, under its current generation.
                confirmed |= self._holders.get(digest, set())
                if len(confirmed) >= q:
                    self._settled[slot] = top
                    del self._open[slot]
                else:
                    self._waiting[digest] = slot
            self._write_back(now_us)
        if self._open:
            return None
        settled = self._settled
        return [(settled[slot].header, settled[slot].salted) for slot in sorted(settled)]

    def _confirm(self, digest: bytes, node: int) -> None:
        """The node holds this field, or has a newer."""
        self._holders.setdefault(digest, set()).add(node)
        slot = self._waiting.get(digest)
        if slot is not None and self._settled is not None:
            top, confirmed = self._open[slot]
            confirmed.add(node)
            if len(confirmed) >= self._context.configuration.q:
                self._settled[slot] = top
                del self._open[slot], self._waiting[digest]

    # --- write-backs ---

    def _write_back(self, now_us: int) -> None:
        """Send what is not at q nodes to those that do not have it, many entries in one message."""
        by_holders: dict[tuple[int, ...], list[Entry]] = {}
        for top, confirmed in self._open.values():
            digest = digest_of(top.header)
            if digest not in self._written_back:
                self._written_back.add(digest)
                by_holders.setdefault(tuple(sorted(confirmed)), []).append(top)
        for confirmed_by, entries in by_holders.items():
            others = tuple(node for node in self._group.members if node not in confirmed_by)
            part: list[Entry] = []
            size = 0
            for entry in entries:
                size += len(entry.header) + len(entry.salted) + 1024
                if part and (size > m.BATCH_BYTES_MAX // 2 or len(part) >= WRITE_BACK_MAX):
                    self._commit(part, others)
                    part, size = [], 0
                part.append(entry)
            self._commit(part, others)
        if by_holders:
            self._extend(now_us)

    def _commit(self, entries: list[Entry], nodes: tuple[int, ...]) -> int:
        request_id = self._context.new_id(self)
        self._commits[request_id] = [digest_of(entry.header) for entry in entries]
        self._context.send(nodes, self._commit_of(request_id))
        return request_id

    def _commit_of(self, request_id: int) -> m.Commit:
        entries = [self._pool[digest] for digest in self._commits[request_id]]
        bundles = [m.Bundle(e.certificate, b"", [m.Item(e.position, e.header, e.salted, e.path)]) for e in entries]
        return m.Commit(request_id, self._context.configuration.digest, bundles)

    def _ask_again(self, node: int) -> None:
        """Its state changed: what it said before no longer counts."""
        self._leave(node)
        self._asks[node] = asks = self._asks.get(node, 0) + 1
        if asks <= ASKS_MAX and node not in self._asked.values():
            request_id = self._context.new_id(self)
            self._asked[request_id] = node
            self._ask((node,), request_id)

    def _take_commit(self, request_id: int, node: int, reply: m.CommitReply) -> bool:
        digests = self._commits.get(request_id)
        if digests is None or len(reply.codes) != len(digests):
            return False
        first = (request_id, node) not in self._replied
        for digest, code in zip(digests, reply.codes, strict=True):
            if code == m.REVOKED:
                self._ban(digest, node)
        if all(code in (m.OK, m.EVICTED, m.OTHER, m.REVOKED) for code in reply.codes):
            # Its last word; RECOVERING, FULL and NO_BASE may turn into OK.
            self._replied.add((request_id, node))
            self._progressed |= first
        if request_id == self._base_id:
            if reply.codes[0] in (m.OK, m.EVICTED):
                self._base_holders.add(node)
            # Asked again once only: a liar would have us ask for ever.
            if reply.codes[0] in (m.OK, m.OTHER) and first:
                self._ask_again(node)
            return True
        for digest, code in zip(digests, reply.codes, strict=True):
            if code == m.OK:
                self._confirm(digest, node)
        if m.OTHER in reply.codes and first:
            self._ask_again(node)
        # Else there is nothing new to judge: a large key is not looked at again for each answer.
        return self._settled is None or not self._open

    # --- ends and time ---

    def _end(self, outcome: Outcome, now_us: int) -> None:
        self.finished = True
        context = self._context
        for request_id in (self._id, *self._asked, *self._comparison.requests, *self._commits):
            context.forget(request_id)
        if isinstance(outcome, Missed):
            context.counts["reads_missed"] += 1
        self._finish(outcome, now_us)

    def wake(self, now_us: int) -> None:
        """At the end of the grace time without news: a miss for what could not be settled. Else resend to the
        silent."""
        configuration = self._context.configuration
        if self._grace_end_us and now_us >= min(self.end_us, self._grace_end_us):
            if not self._progressed or now_us >= self.end_us:
                self._end(Missed(sum(view.base is None for view in self._views.values())), now_us)
                return
            self._extend(now_us)
        if now_us >= self.end_us:
            self._end(
                Failed(
                    UNAVAILABLE,
                    f"{len(self._views)} of {len(self._group.members)} nodes gave a valid answer in time, "
                    f"{configuration.q} are needed",
                ),
                now_us,
            )
            return
        if self._comparison.is_late(now_us) and len(self._views) >= configuration.q:
            self._evaluate(now_us)
            if self.finished:
                return
        if now_us >= self._resend_at_us:
            self._resend()
            self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
            self._resend_at_us = now_us + self._resend_us
        self.deadline_us = min(self._resend_at_us, self.end_us)
        for at_us in (self._grace_end_us, self._comparison.hedge_us):
            if at_us:
                self.deadline_us = min(self.deadline_us, at_us)

    def _resend(self) -> None:
        silent = tuple(
            node
            for node in self._group.members
            if node not in self._answered and is_worth_asking_again(node, self._rejects)
        )
        if silent:
            self._ask(silent, self._id)
        for request_id, node in self._asked.items():
            self._ask((node,), request_id)
        self._comparison.resend()
        q = self._context.configuration.q
        for request_id, digests in self._commits.items():
            if request_id != self._base_id and all(len(self._holders.get(d, ())) >= q for d in digests):
                continue
            others = tuple(node for node in self._group.members if (request_id, node) not in self._replied)
            if others:
                self._context.send(others, self._commit_of(request_id))
