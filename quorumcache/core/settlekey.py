"""Full reads of keys with fields: settle the base, then take q answers that hold its generation (protocol 6).

Of those, the highest entry of each field counts; what is missing is written back, the base included. A small key, or a
few of its fields, come whole in one answer; a large one as an outline first, of which only what differs is compared
field by field. It must not know what fields mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.config import Group
from quorumcache.core.keys import bucket_digest, bucket_of
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.model import DELETE, Entry, Malformed, digest_of, header_expires_at, header_slot, stamp_time
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Outcome
from quorumcache.core.read import rejection
from quorumcache.core.settle import commit_of
from quorumcache.core.types.base import base_slot_of, generation_of, rank_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: How many fields of a key one full read can ask for.
WANTED_MAX: Final = m.READ_FULL_SLOTS_MAX - 1
_NO_RANK: Final = b""


class View:
    """What one node said of the key. `fields`: slot -> entry, of buckets in `listed`, or of everything wanted where
    `buckets` is None; else `buckets` has the digests of its buckets by number."""

    __slots__ = ("base", "buckets", "fields", "floor_us", "generation", "listed", "rank")

    def __init__(self, base: Entry | None, floor_us: int) -> None:
        self.base = base
        self.floor_us = floor_us
        self.rank = _NO_RANK if base is None else rank_of(base.header)
        self.generation = b"" if base is None else generation_of(base.header)
        self.fields: dict[bytes, Entry] = {}
        self.buckets: dict[int, bytes] | None = None
        self.listed: set[int] = set()


class _Listing:
    """One node's answer to `Fields`, page by page."""

    __slots__ = ("after", "buckets", "digests", "id", "known", "node")

    def __init__(self, node: int, buckets: bytes, known: bytes) -> None:
        self.id = 0
        self.node = node
        self.buckets = buckets
        self.known = known
        self.after = b""
        self.digests: list[bytes] = []


class SettleKey(Machine):
    """A full read of one key: of the fields in `wanted` (slots, at most 7), or of all of them where it is None.

    Calls `finish(outcome, now_us)` once: Found with the base's entry and the fields; Missed; or Failed. `started_us` is
    when the operation began, on which op_time counts.
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_base_holders",
        "_base_id",
        "_commits",
        "_context",
        "_finish",
        "_grace_end_us",
        "_group",
        "_holders",
        "_id",
        "_listings",
        "_pool",
        "_rejects",
        "_replied",
        "_resend_us",
        "_slot",
        "_target",
        "_views",
        "_wanted",
        "_written_back",
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
        self._group = group
        self._slot = slot
        self._wanted = wanted
        self._finish = finish
        self._resend_us = RESEND_US
        self._grace_end_us = 0
        self._views: dict[int, View] = {}
        self._answered: set[int] = set()
        self._rejects: dict[int, m.Reject] = {}
        self._pool: dict[bytes, Entry] = {}  # digest -> entry, verified
        self._asked: dict[int, int] = {}  # request id -> node that was asked (again) for its view
        self._listings: dict[int, _Listing] = {}  # request id -> what it will answer
        self._commits: dict[int, bytes] = {}  # request id -> digest of the entry written back
        self._written_back: set[bytes] = set()
        self._replied: set[tuple[int, int]] = set()  # (request id, node): a change of mind does not count
        self._holders: dict[bytes, set[int]] = {}  # digest -> nodes that confirmed the write-back
        self._target: Entry | None = None  # the base being settled
        self._base_id = 0
        self._base_holders: set[int] = set()
        self._id = context.new_id(self)
        self._ask(group.members, self._id)
        context.counts["reads_settled"] += 1

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
                if len(self._rejects) > configuration.n - configuration.q:
                    self._end(rejection(self._group, self._rejects), now_us)
            return
        try:
            if isinstance(reply, m.CommitReply):
                self._take_commit(request_id, node, reply, now_us)
            elif isinstance(reply, m.FieldsReply):
                listing = self._listings.get(request_id)
                if listing is not None and listing.node == node:
                    self._take_listing(request_id, listing, reply)
                    self._extend(now_us)
            elif request_id == self._id:
                if node in self._answered:
                    return
                self._answered.add(node)
                self._views[node] = self._view_of(reply)
            elif self._asked.get(request_id) == node:
                del self._asked[request_id]
                self._context.forget(request_id)
                self._views[node] = self._view_of(reply)
            else:
                return
        except Malformed:
            # A claim without valid certificates is not an answer.
            self._context.suspect(node, 4.0, lie=True)
            self._views.pop(node, None)
            return
        self._rejects.pop(node, None)
        if len(self._views) >= self._context.configuration.q:
            if not self._grace_end_us:
                self._extend(now_us)
            self._evaluate(now_us)

    def _extend(self, now_us: int) -> None:
        self._grace_end_us = now_us + self._context.configuration.grace_us
        self.deadline_us = min(self.deadline_us, self._grace_end_us)

    def _view_of(self, reply: m.Reply) -> View:
        if isinstance(reply, m.ReadFullReply) and self._wanted is not None:
            if len(reply.answers) != 1 + len(self._wanted):
                raise Malformed("answers to other slots than were asked for")
            view = View(self._checked(reply.answers[0].entry, self._slot), reply.answers[0].floor_us)
            for slot, answer in zip(self._wanted, reply.answers[1:], strict=True):
                if answer.entry is not None:
                    self._add(view, answer.entry, slot)
            return view
        if not isinstance(reply, m.OutlineReply) or self._wanted is not None:
            raise Malformed("an answer to another question")
        view = View(self._checked(reply.base, self._slot), reply.floor_us)
        if reply.buckets:
            view.buckets = {}
            for at in range(0, len(reply.buckets), 33):
                view.buckets[reply.buckets[at]] = reply.buckets[at + 1 : at + 33]
            if view.base is None or len(reply.buckets) % 33:
                raise Malformed("buckets without a base, or without digests")
        else:
            for entry in reply.entries:
                self._add(view, entry, None)
        return view

    def _checked(self, entry: Entry | None, slot: bytes) -> Entry | None:
        if entry is None:
            return None
        known = self._pool.get(digest_of(entry.header))
        if known is not None and header_slot(known.header) == slot:
            return known
        header = self._context.verifier.check_entry(entry)
        if header.slot != slot:
            raise Malformed("an entry of another slot")
        self._pool[header.digest] = entry
        return entry

    def _add(self, view: View, entry: Entry, slot: bytes | None) -> None:
        """Take a field of a view; `slot` is where it has to be, or None for any of this key."""
        digest = digest_of(entry.header)
        if digest not in self._pool:
            header = self._context.verifier.check_entry(entry)
            if base_slot_of(header.slot) != self._slot or header.slot == self._slot:
                raise Malformed("a field of another key")
            self._pool[digest] = entry
        entry = self._pool[digest]
        here = header_slot(entry.header)
        if (slot is not None and here != slot) or here == self._slot:
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
            self._end(Missed(q), now_us)
            return
        holders = {node: view for node, view in views.items() if view.generation == generation}
        if len(holders) < q:
            return
        fields = self._fields_of(holders, now_us)
        if fields is not None:
            self._end(Found(target.header, b"", target, fields), now_us)

    def _highest_good(self, q: int) -> Entry | None:
        """The base of highest rank that heads a good set: q answers of bases up to it, or absent with a floor below its
        generation's time."""
        best: Entry | None = None
        best_rank = _NO_RANK
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
        context = self._context
        self._target = target
        self._base_holders = set()
        rank = rank_of(target.header)
        others = tuple(n for n in self._group.members if n not in self._views or self._views[n].rank < rank)
        if others:
            self._base_id = context.new_id(self)
            self._commits[self._base_id] = digest_of(target.header)
            context.send(others, commit_of(self._base_id, context.configuration.digest, target))
        self._extend(now_us)

    def _fields_of(self, holders: dict[int, View], now_us: int) -> list[tuple[bytes, bytes]] | None:
        """The fields, once each is settled at q nodes; None before."""
        q = self._context.configuration.q
        settled: dict[bytes, Entry] = {}
        open_slots: dict[bytes, None] | None = None
        if any(view.buckets is not None for view in holders.values()):
            found = self._compare(holders, q)
            if found is None:
                return None
            settled, open_slots = found
        slots = open_slots
        if slots is None:
            slots = dict.fromkeys(slot for view in holders.values() for slot in view.fields)
        waiting = False
        for slot in slots:
            entries = [view.fields[slot] for view in holders.values() if slot in view.fields]
            top = max(entries, key=lambda entry: entry.stamp)
            digest = digest_of(top.header)
            confirmed = self._holders.setdefault(digest, set())
            confirmed |= {
                n for n, view in holders.items() if slot in view.fields and view.fields[slot].header == top.header
            }
            if len(confirmed) >= q:
                settled[slot] = top
                continue
            waiting = True
            if digest not in self._written_back:
                self._write_back(top, digest, confirmed, now_us)
        if waiting:
            return None
        return [(settled[slot].header, settled[slot].salted) for slot in sorted(settled)]

    def _write_back(self, entry: Entry, digest: bytes, confirmed: set[int], now_us: int) -> None:
        context = self._context
        request_id = context.new_id(self)
        self._commits[request_id] = digest
        self._written_back.add(digest)
        others = tuple(node for node in self._group.members if node not in confirmed)
        context.send(others, commit_of(request_id, context.configuration.digest, entry))
        self._extend(now_us)

    # --- large keys: bucket by bucket ---

    def _compare(self, holders: dict[int, View], q: int) -> tuple[dict[bytes, Entry], dict[bytes, None]] | None:
        """What q holders agree on, whole buckets at a time, and the slots that have to be settled one by one. None
        while listings are under way."""
        if self._listings:
            return None
        agreed: dict[int, bytes] = {}
        differing: set[int] = set()
        for view in holders.values():
            if view.buckets is None:
                parts: dict[int, dict[bytes, bytes]] = {}
                for slot, entry in view.fields.items():
                    parts.setdefault(bucket_of(slot), {})[slot] = digest_of(entry.header)
                view.buckets = {number: bucket_digest(part) for number, part in parts.items()}
                view.listed = set(range(256))
        numbers = sorted({number for view in holders.values() for number in view.buckets or ()})
        for number in numbers:
            digests = [(view.buckets or {}).get(number, b"") for view in holders.values()]
            most = max(digests, key=digests.count)
            if digests.count(most) >= q:
                if most:
                    agreed[number] = most
            else:
                differing.add(number)
        settled: dict[bytes, Entry] = {}
        wanted: dict[int, set[int]] = {}
        for number, digest in agreed.items():
            nodes = [n for n, view in holders.items() if (view.buckets or {}).get(number) == digest]
            listed = next((n for n in nodes if number in holders[n].listed), None)
            if listed is None:
                preferred = [n for n in self._context.preferred(self._group) if n in nodes] or nodes
                wanted.setdefault(preferred[0], set()).add(number)
                continue
            part = {s: e for s, e in holders[listed].fields.items() if bucket_of(s) == number}
            settled.update(part)
        for number in differing:
            for node, view in holders.items():
                if number not in view.listed and number in (view.buckets or {}):
                    wanted.setdefault(node, set()).add(number)
        if wanted:
            for node, missing in wanted.items():
                self._list(node, bytes(sorted(missing)))
            return None
        open_slots = dict.fromkeys(
            slot for view in holders.values() for slot in view.fields if bucket_of(slot) in differing
        )
        return settled, open_slots

    def _list(self, node: int, buckets: bytes) -> None:
        chosen = set(buckets)
        known = [digest[:8] for digest, e in self._pool.items() if bucket_of(header_slot(e.header)) in chosen]
        listing = _Listing(node, buckets, b"".join(known[: m.FIELDS_KNOWN_MAX]))
        self._send_listing(listing)

    def _send_listing(self, listing: _Listing) -> None:
        context = self._context
        if not listing.id:
            listing.id = context.new_id(self)
            self._listings[listing.id] = listing
        request = m.Fields(
            listing.id, context.configuration.digest, self._slot, listing.buckets, listing.after, listing.known
        )
        context.send((listing.node,), request)

    def _take_listing(self, request_id: int, listing: _Listing, reply: m.FieldsReply) -> None:
        del self._listings[request_id]
        self._context.forget(request_id)
        listing.id = 0
        node, view = listing.node, self._views.get(listing.node)
        if view is None or reply.generation != view.generation:
            self._ask_again(node)
            return
        for entry in reply.entries:
            digest = digest_of(entry.header)
            if digest not in self._pool:
                header = self._context.verifier.check_entry(entry)
                if base_slot_of(header.slot) != self._slot or header.slot == self._slot:
                    raise Malformed("a field of another key")
                self._pool[digest] = entry
        listing.digests += [reply.digests[at : at + 32] for at in range(0, len(reply.digests), 32)]
        if reply.more:
            last = self._pool.get(listing.digests[-1]) if listing.digests else None
            after = b"" if last is None else header_slot(last.header)
            if (bucket_of(after), after) <= (bucket_of(listing.after) if listing.after else -1, listing.after):
                raise Malformed("a listing that does not go on")
            listing.after = after
            self._send_listing(listing)
            return
        fields: dict[bytes, Entry] = {}
        for digest in listing.digests:
            entry_of = self._pool.get(digest)
            if entry_of is None:
                raise Malformed("a listing that names what it does not give")
            slot = header_slot(entry_of.header)
            if bucket_of(slot) not in listing.buckets or generation_of(entry_of.header) != view.generation:
                raise Malformed("a listing of other fields than were asked for")
            fields[slot] = entry_of
        parts: dict[int, dict[bytes, bytes]] = {number: {} for number in listing.buckets}
        for slot, entry in fields.items():
            parts[bucket_of(slot)][slot] = digest_of(entry.header)
        # As they are now, which may be newer than the outline was.
        assert view.buckets is not None
        for number, part in parts.items():
            view.fields = {s: e for s, e in view.fields.items() if bucket_of(s) != number}
            if part:
                view.buckets[number] = bucket_digest(part)
            else:
                view.buckets.pop(number, None)
        view.fields.update(fields)
        view.listed.update(listing.buckets)

    # --- write-backs ---

    def _ask_again(self, node: int) -> None:
        """Its state changed: what it said before no longer counts."""
        self._views.pop(node, None)
        request_id = self._context.new_id(self)
        self._asked[request_id] = node
        self._ask((node,), request_id)

    def _take_commit(self, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
        digest = self._commits.get(request_id)
        code = reply.codes[0] if len(reply.codes) == 1 else m.INVALID
        if digest is None or (request_id, node) in self._replied:
            return
        if code in (m.OK, m.EVICTED, m.OTHER):
            self._replied.add((request_id, node))
        if request_id == self._base_id:
            if code in (m.OK, m.EVICTED):
                self._base_holders.add(node)
            if code in (m.OK, m.OTHER) and node not in self._asked.values():
                self._ask_again(node)
            self._extend(now_us)
        elif code == m.OK:
            self._holders[digest].add(node)
        elif code == m.OTHER and node not in self._asked.values():
            self._ask_again(node)

    # --- ends and time ---

    def _end(self, outcome: Outcome, now_us: int) -> None:
        self.finished = True
        context = self._context
        for request_id in (self._id, *self._asked, *self._listings, *self._commits):
            context.forget(request_id)
        if isinstance(outcome, Missed):
            context.counts["reads_missed"] += 1
        self._finish(outcome, now_us)

    def wake(self, now_us: int) -> None:
        """At the end of the grace time: a miss for what could not be settled. Else resend to the silent."""
        context = self._context
        configuration = context.configuration
        if self._grace_end_us and now_us >= min(self.end_us, self._grace_end_us):
            self._end(Missed(sum(view.base is None for view in self._views.values())), now_us)
            return
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
        silent = tuple(
            node
            for node in self._group.members
            if node not in self._answered and is_worth_asking_again(node, self._rejects)
        )
        if silent:
            self._ask(silent, self._id)
        for request_id, node in self._asked.items():
            self._ask((node,), request_id)
        for listing in self._listings.values():
            self._send_listing(listing)
        for request_id, digest in self._commits.items():
            entry = self._pool[digest]
            held = self._base_holders if request_id == self._base_id else self._holders.get(digest, set())
            others = tuple(node for node in self._group.members if node not in held)
            context.send(others, commit_of(request_id, configuration.digest, entry))
        self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
        self.deadline_us = min(now_us + self._resend_us, self.end_us)
        if self._grace_end_us:
            self.deadline_us = min(self.deadline_us, self._grace_end_us)
