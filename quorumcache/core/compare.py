"""What nodes say of one key's fields, compared: whole where keys are small, bucket by bucket where they are large.

Finds of each field the highest entry among q nodes that hold the key's generation, and who has it; asks for listings of
those buckets that differ, and for the contents of those that do not. It must not know bases, write-backs or times to
live.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Group
from quorumcache.core.keys import bucket_digest, bucket_of
from quorumcache.core.model import Entry, Malformed, digest_of, header_slot
from quorumcache.core.types.base import KEY_FIELDS_MAX, base_slot_of, generation_of, rank_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator
    from quorumcache.core.machine import Machine

#: How long one node may take to list a bucket before another is asked too.
LISTING_HEDGE_US: Final = 50_000
NO_RANK: Final = b""

#: Of each slot, the highest entry, and the nodes that showed it.
Tops = dict[bytes, tuple[Entry, set[int]]]


def pooled(pool: dict[bytes, Entry], verifier: Verifier, entry: Entry, base_slot: bytes) -> Entry:
    """The entry, of the key of this base, from `pool`; verified before it comes there, once, whoever shows it. Raises
    Malformed."""
    digest = digest_of(entry.header)
    found = pool.get(digest)
    if found is None:
        if base_slot_of(verifier.check_entry(entry).slot) != base_slot:
            raise Malformed("an entry of another key")
        found = pool[digest] = entry
    return found


class View:
    """What one node said of the key. `fields`: slot -> entry, of all its fields or of those wanted where `buckets` is
    None; else `buckets` has the digests of its buckets by number, and `listed` says which of them it listed."""

    __slots__ = ("_by_bucket", "base", "buckets", "fields", "floor_us", "generation", "listed", "rank", "sums")

    def __init__(self, base: Entry | None, floor_us: int) -> None:
        self.base = base
        self.floor_us = floor_us
        self.rank = NO_RANK if base is None else rank_of(base.header)
        self.generation = b"" if base is None else generation_of(base.header)
        self.fields: dict[bytes, Entry] = {}
        self.buckets: dict[int, bytes] | None = None
        self.listed: set[int] = set()
        #: The digests of its buckets by number: as its outline had them, or as they are in its listing.
        self.sums: dict[int, bytes] = {}
        self._by_bucket: dict[int, dict[bytes, Entry]] | None = None

    def entries(self) -> Iterator[Entry]:
        """All that it showed: its base, and the fields that came with it or were listed."""
        if self.base is not None:
            yield self.base
        yield from self.fields.values()
        for bucket in (self._by_bucket or {}).values():
            yield from bucket.values()

    def sum_up(self) -> None:
        """Have `sums` and buckets, also of a view that came whole."""
        if self._by_bucket is not None:
            return
        self._by_bucket = {}
        if self.buckets is not None:
            self.sums = dict(self.buckets)
        else:
            self.listed = set(range(256))
            self._put(self.listed, self.fields)

    def in_bucket(self, number: int) -> dict[bytes, Entry]:
        """The fields of one bucket that it listed."""
        return (self._by_bucket or {}).get(number, {})

    def all_fields(self) -> dict[bytes, Entry]:
        """All that it listed."""
        return {slot: entry for part in (self._by_bucket or {}).values() for slot, entry in part.items()}

    def take_buckets(self, numbers: set[int], fields: dict[bytes, Entry]) -> None:
        """Its buckets as they are now, which may be newer than its outline."""
        self.sum_up()
        self._put(numbers, fields)
        self.listed |= numbers

    def _put(self, numbers: set[int], fields: dict[bytes, Entry]) -> None:
        assert self._by_bucket is not None
        parts: dict[int, dict[bytes, Entry]] = {number: {} for number in numbers}
        for slot, entry in fields.items():
            parts[bucket_of(slot)][slot] = entry
        for number, part in parts.items():
            if part:
                self._by_bucket[number] = part
                self.sums[number] = bucket_digest({slot: digest_of(entry.header) for slot, entry in part.items()})
            else:
                self._by_bucket.pop(number, None)
                self.sums.pop(number, None)


class _Listing:
    """One node's answer to `Fields`, page by page."""

    __slots__ = ("after", "buckets", "digests", "id", "known", "node")

    def __init__(self, request_id: int, node: int, buckets: bytes, known: bytes) -> None:
        self.id = request_id
        self.node = node
        self.buckets = buckets
        self.known = known
        self.after = b""
        self.digests: list[bytes] = []


class Comparison:
    """Of one key. `pool` has all entries that were verified, by digest; `owner` is who takes the replies."""

    __slots__ = ("_asked", "_context", "_group", "_listings", "_owner", "_pool", "_slot", "hedge_us")

    def __init__(
        self, owner: Machine, context: Coordinator, group: Group, slot: bytes, pool: dict[bytes, Entry]
    ) -> None:
        self._owner = owner
        self._context = context
        self._group = group
        self._slot = slot
        self._pool = pool
        self._listings: dict[int, _Listing] = {}
        self._asked: dict[int, dict[int, int]] = {}  # bucket -> node -> when it was asked for it
        #: When to look whether a listing is late; 0 for never.
        self.hedge_us = 0

    @property
    def requests(self) -> list[int]:
        """The ids of requests that are under way."""
        return list(self._listings)

    def compare(self, holders: dict[int, View], now_us: int) -> tuple[dict[bytes, Entry], Tops] | None:
        """What q holders agree on, and the rest with who has it; None while listings are under way."""
        q = self._context.configuration.q
        settled: dict[bytes, Entry] = {}
        tops: Tops = {}
        if all(view.buckets is None for view in holders.values()):
            for node, view in holders.items():
                _collect(tops, node, view.fields)
            return settled, tops
        wanted: dict[int, set[int]] = {}
        missing = False
        for view in holders.values():
            view.sum_up()
        if self._context.type_of(self._slot).replaces:
            return self._compare_whole(holders, now_us)
        for number in sorted({number for view in holders.values() for number in view.sums}):
            sums = [view.sums.get(number, b"") for view in holders.values()]
            most = max(sums, key=sums.count)
            if sums.count(most) >= q:
                nodes = [node for node, view in holders.items() if view.sums.get(number, b"") == most]
                listed = next((node for node in nodes if number in holders[node].listed), None)
                if most and listed is None:
                    missing = True
                    self._want(wanted, number, nodes, now_us, everyone=False)
                elif most and listed is not None:
                    settled.update(holders[listed].in_bucket(number))
                continue
            lists = [node for node, view in holders.items() if number in view.listed or number not in view.sums]
            if len(lists) >= q:
                for node in lists:
                    _collect(tops, node, holders[node].in_bucket(number))
                continue
            missing = True
            others = [node for node in holders if node not in lists]
            # What the first of them listed need not be sent by the others.
            anyone = any(number in view.listed for view in holders.values())
            self._want(wanted, number, others, now_us, everyone=anyone)
        for node, numbers in wanted.items():
            self._list(node, bytes(sorted(numbers)), now_us)
        return None if missing else (settled, tops)

    def _compare_whole(self, holders: dict[int, View], now_us: int) -> tuple[dict[bytes, Entry], Tops] | None:
        """As `compare`, for fields that replace each other. A node may lack one for having another that replaces it. So
        what one node said of two buckets at two times must not be put together, nor what one set of q nodes says of the
        one with what another set says of the other: only what all holders agree on is settled, else q of them list all
        that they have."""
        first = next(iter(holders.values())).sums
        listing = [node for node, view in holders.items() if view.listed.issuperset(view.sums)]
        if all(view.sums == first for view in holders.values()):
            if listing:
                return holders[listing[0]].all_fields(), {}
            everyone = False
        elif len(listing) >= self._context.configuration.q:
            tops: Tops = {}
            for node in listing:
                _collect(tops, node, holders[node].all_fields())
            return {}, tops
        else:
            everyone = True
        wanted: dict[int, set[int]] = {}
        self._want(wanted, 0, [node for node in holders if node not in listing], now_us, everyone=everyone)
        for node in wanted:
            self._list(node, bytes(range(256)), now_us)
        return None

    def _want(self, wanted: dict[int, set[int]], number: int, nodes: list[int], now_us: int, *, everyone: bool) -> None:
        """Ask one of these nodes for a bucket, and another where that one is late; or all of them."""
        asked = self._asked.setdefault(number, {})
        late = all(now_us - at_us >= LISTING_HEDGE_US for node, at_us in asked.items() if node in nodes)
        if not everyone and not late:
            return
        left = [node for node in self._context.preferred(self._group) if node in nodes and node not in asked]
        left += [node for node in nodes if node not in asked and node not in left]
        for node in left if everyone else left[:1]:
            wanted.setdefault(node, set()).add(number)
            asked[node] = now_us

    def is_late(self, now_us: int) -> bool:
        """Whether it is time to compare again, for a listing that has not come."""
        if not self.hedge_us or now_us < self.hedge_us:
            return False
        self.hedge_us = 0
        return True

    def forget(self, node: int) -> None:
        """What the node said no longer counts."""
        for asked in self._asked.values():
            asked.pop(node, None)
        for request_id, listing in list(self._listings.items()):
            if listing.node == node:
                del self._listings[request_id]
                self._context.forget(request_id)

    # --- listings ---

    def _list(self, node: int, buckets: bytes, now_us: int) -> None:
        chosen = set(buckets)
        known = [digest[:8] for digest, e in self._pool.items() if bucket_of(header_slot(e.header)) in chosen]
        request_id = self._context.new_id(self._owner)
        listing = _Listing(request_id, node, buckets, b"".join(known[: m.FIELDS_KNOWN_MAX]))
        self._listings[request_id] = listing
        self._send(listing)
        self.hedge_us = now_us + LISTING_HEDGE_US
        self._owner.deadline_us = min(self._owner.deadline_us, self.hedge_us)

    def _send(self, listing: _Listing) -> None:
        digest = self._context.configuration.digest
        request = m.Fields(listing.id, digest, self._slot, listing.buckets, listing.after, listing.known)
        self._context.send((listing.node,), request)

    def resend(self) -> None:
        """Ask the silent again."""
        for listing in self._listings.values():
            self._send(listing)

    def take(self, request_id: int, node: int, view: View | None, reply: m.FieldsReply) -> bool | None:
        """Take a page of a listing. None where nobody waits for it, False where the node's key is another by now.
        Raises Malformed for a lie."""
        listing = self._listings.get(request_id)
        if listing is None or listing.node != node:
            return None
        del self._listings[request_id]
        self._context.forget(request_id)
        if view is None:
            return None
        if reply.generation != view.generation:
            return False
        for entry in reply.entries:
            entry = pooled(self._pool, self._context.verifier, entry, self._slot)
            if header_slot(entry.header) == self._slot:
                raise Malformed("a base among the fields")
        listing.digests += [reply.digests[at : at + 32] for at in range(0, len(reply.digests), 32)]
        if len(listing.digests) > 4 * KEY_FIELDS_MAX:  # With what is promised beyond the bound, at whichever node.
            raise Malformed("a listing without end")
        if reply.more:
            last = self._pool.get(listing.digests[-1]) if listing.digests else None
            after = b"" if last is None else header_slot(last.header)
            if (bucket_of(after), after) <= (bucket_of(listing.after) if listing.after else -1, listing.after):
                raise Malformed("a listing that does not go on")
            listing.after = after
            listing.id = self._context.new_id(self._owner)
            self._listings[listing.id] = listing
            self._send(listing)
        else:
            return self._finish(listing, view)
        return True

    def _finish(self, listing: _Listing, view: View) -> bool:
        """Take a listing that is whole; False where it cannot be of one time, and has to be."""
        if listing.known and not all(digest in self._pool for digest in listing.digests):
            # Two digests may begin alike, if somebody went to that trouble. So nothing is taken for known.
            again = _Listing(self._context.new_id(self._owner), listing.node, listing.buckets, b"")
            self._listings[again.id] = again
            self._send(again)
            return True
        fields: dict[bytes, Entry] = {}
        chosen = set(listing.buckets)
        for digest in listing.digests:
            entry = self._pool.get(digest)
            if entry is None:
                raise Malformed("a listing that names what it does not give")
            slot = header_slot(entry.header)
            if bucket_of(slot) not in chosen or generation_of(entry.header) != view.generation:
                raise Malformed("a listing of other fields than were asked for")
            fields[slot] = entry
        before = view.buckets
        view.take_buckets(chosen, fields)
        # One page is of one time; so are several, where they are what the outline said before.
        return not (listing.after and view.sums != before and self._context.type_of(self._slot).replaces)


def _collect(tops: Tops, node: int, fields: dict[bytes, Entry]) -> None:
    """Take what one more node has: the highest of each field, and who has that."""
    for slot, entry in fields.items():
        top = tops.get(slot)
        if top is None or top[0].stamp < entry.stamp:
            tops[slot] = (entry, {node})
        elif top[0].header == entry.header:
            top[1].add(node)
