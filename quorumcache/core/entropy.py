"""Anti-entropy: a node compares its shards with those of its peers, and takes what it lacks (protocol 8).

One peer after the other: digests of whole shards first, then names and digests of those that differ, then the entries
themselves, which are stored by the rules of commit. So a lying peer can plant nothing; what it costs is bounded by
`bytes_per_s` and by the pauses that useless rounds earn it. A machine like a client's: `outbox` has what to send,
`receive` takes replies, `wake` time. It must not know sockets or clocks.
"""

from __future__ import annotations

import heapq
from collections import deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.arriving import check_entry, held_of
from quorumcache.core.model import Entry, Malformed, slot_parts
from quorumcache.core.overdue import Overdue
from quorumcache.core.slots import Shard, Slots
from quorumcache.core.types.base import is_base_slot

if TYPE_CHECKING:
    from quorumcache.core.node import Node

SUM_BYTES: Final = 16
#: Entries that one request may have a node hash; shards beyond that wait for the next request.
SUM_WORK_MAX: Final = 20_000
LIST_ITEMS_MAX: Final = 1024
IN_FLIGHT_MAX: Final = 8
#: A peer that does not answer for so long is passed over.
PATIENCE_US: Final = 10_000_000
#: Rounds with a peer that brought nothing but lies make for ever longer pauses, up to so many rounds.
PAUSE_ROUNDS_MAX: Final = 64
#: A peer may go on naming keys, in vain, for so many bytes, and three times as many keys as are here; no round lasts
#: for ever.
VAIN_BYTES_MAX: Final = 16 << 20
_VAIN_BYTES_EACH: Final = 3 * 128
_ENTRY_COST: Final = 1024


def sum_of(slots: Slots, shard: Shard) -> bytes:
    """The digest (16 bytes) of a shard: over what reads of its keys would report, in the order of their slots."""
    if not shard.sum:
        digest_at = slots.digest_at
        digests = b"".join([slot + digest_at(slot) for slot in sorted(shard.slots)])
        shard.sum = blake2b(digests, digest_size=SUM_BYTES).digest()
    return shard.sum


def sums(node: Node, request: m.ShardSums, now_us: int) -> m.Reply:
    """The digests of some shards, in order: as many as one request may have this node hash, at least one."""
    slots = node.slots
    found: list[bytes] = []
    work = 0
    for shard in slots.shards[request.first : request.first + request.count]:
        if not shard.sum:
            work += len(shard.slots)
            if found and work > SUM_WORK_MAX:
                break
        found.append(sum_of(slots, shard))
    return m.ShardSumsReply(request.id, now_us, b"".join(found))


def names(node: Node, request: m.ShardList, now_us: int) -> m.Reply:
    """A page of what a shard holds: each key's slot, digest and time."""
    slots = node.slots
    if request.shard >= len(slots.shards):
        raise Malformed("the configuration has no such shard")
    shard = slots.shards[request.shard]
    page = heapq.nsmallest(LIST_ITEMS_MAX + 1, (slot for slot in shard.slots if slot > request.after))
    more = len(page) > LIST_ITEMS_MAX
    items = [m.Named(slot, slots.digest_at(slot), _time_at(slots, slot)) for slot in page[:LIST_ITEMS_MAX]]
    return m.ShardListReply(request.id, now_us, items, more)


def _time_at(slots: Slots, slot: bytes) -> int:
    """What a floor is held against: the entry's time, or that of the key's generation."""
    key = slots.keys.get(slot)
    return slots.current[slot].time_us if key is None else int.from_bytes(key.generation[:8], "big")


class AntiEntropy:
    """Brings one node in step with its peers, a round with one of them every `interval_us`.

    `bytes_per_s` bounds what it asks for, about. `differing`: peer -> in how many shards the last round with it found
    something to take.
    """

    def __init__(
        self,
        node: Node,
        *,
        first_id: int,
        now_us: int,
        interval_us: int = 2_000_000,
        bytes_per_s: int = 4 << 20,
        patience_us: int = PATIENCE_US,
    ) -> None:
        self.node = node
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        self.deadline_us = now_us + interval_us
        self.differing: dict[int, int] = {}
        self.repaired_count = 0
        self.useless_count = 0
        self.rounds_count = 0
        self._interval_us = interval_us
        self._bytes_per_s = bytes_per_s
        self._patience_us = patience_us
        self._budget = float(bytes_per_s)
        self._refilled_us = now_us
        self._next_round_us = now_us + interval_us
        self._next_id = first_id
        self._pauses: dict[int, int] = {}  # peer -> rounds to pass it over
        self._penalties: dict[int, int] = {}
        configuration, index = node.configuration, node.index
        self._shards: dict[int, list[int]] = {}  # peer -> shards that both serve
        for number, group in enumerate(configuration.shard_groups):
            if index in group.members:
                for peer in group.members:
                    if peer != index:
                        self._shards.setdefault(peer, []).append(number)
        self._peers = deque(sorted(self._shards))
        self._peer = -1
        self._heard_us = 0
        self._requests: dict[int, m.Request] = {}
        self._overdue = Overdue(node, self._new_id, self._send)
        # At least once in the 2 max_skew that promises last beyond op_time.
        self._overdue_interval_us = min(interval_us, max(50_000, 3 * node.configuration.max_skew_us // 2))
        self._overdue_us = now_us + self._overdue_interval_us
        self._to_sum: deque[int] = deque()
        self._to_list: deque[tuple[int, bytes]] = deque()
        self._to_read: deque[bytes] = deque()
        self._taken = 0
        self._useless = 0
        self._vain_bytes = 0
        self._wanted_in: set[int] = set()

    @property
    def peers(self) -> list[int]:
        """The nodes that share a shard with this one."""
        return sorted(self._shards)

    def wake(self, now_us: int) -> None:
        """Begin the next round, send what the budget allows, give up on a peer that is silent."""
        self._budget = min(
            float(self._bytes_per_s), self._budget + self._bytes_per_s * (now_us - self._refilled_us) / 1e6
        )
        self._refilled_us = now_us
        if now_us >= self._overdue.due_us(self._overdue_us) and self._budget > 0:
            self._overdue_us = now_us + self._overdue_interval_us
            self._budget -= self._overdue.ask(now_us, self._budget)
        if self._peer >= 0 and now_us >= self._heard_us + self._patience_us:
            self._end_round(now_us)
        if self._peer < 0 and now_us >= self._next_round_us:
            self._begin_round(now_us)
        self._advance(now_us)
        self.deadline_us = now_us + 50_000
        if self._peer < 0:
            self.deadline_us = min(self._next_round_us, max(now_us + 1, self._overdue.due_us(self._overdue_us)))

    def _begin_round(self, now_us: int) -> None:
        self._next_round_us = now_us + self._interval_us
        for _ in range(len(self._peers)):
            self._peers.rotate(-1)
            peer = self._peers[-1]
            if self._pauses.get(peer, 0):
                self._pauses[peer] -= 1
                continue
            # Shards that recover are left to that: all that they lack would be named, in vain, round after round.
            shards = self.node.slots.shards
            self._peer, self._heard_us = peer, now_us
            self._to_sum = deque([number for number in self._shards[peer] if not shards[number].recovering])
            self._taken = self._useless = self._vain_bytes = 0
            self._wanted_in.clear()
            return

    def _end_round(self, now_us: int) -> None:
        peer = self._peer
        self.rounds_count += 1
        self.differing[peer] = len(self._wanted_in)
        if self._useless and not self._taken:
            self._penalties[peer] = min(2 * self._penalties.get(peer, 1), PAUSE_ROUNDS_MAX)
            self._pauses[peer] = self._penalties[peer]
        else:
            self._penalties.pop(peer, None)
        self._peer = -1
        self._requests.clear()
        self._to_sum.clear()
        self._to_list.clear()
        self._to_read.clear()
        # Something was missing: go on at once, others may have more of it.
        self._next_round_us = now_us if self._taken else max(self._next_round_us, now_us)

    def _advance(self, now_us: int) -> None:
        digest = self.node.configuration.digest
        while self._peer >= 0 and self._budget > 0 and len(self._requests) < IN_FLIGHT_MAX:
            request: m.Request
            if self._to_read:
                if self.node.slots.type_of(self._to_read[0]) is not None:
                    request = m.Outline(self._new_id(), digest, self._to_read.popleft())
                else:
                    part: list[bytes] = []
                    while self._to_read and len(part) < m.READ_FULL_SLOTS_MAX:
                        if self.node.slots.type_of(self._to_read[0]) is not None:
                            break
                        part.append(self._to_read.popleft())
                    request = m.ReadFull(self._new_id(), digest, part)
            elif self._to_list:
                shard, after = self._to_list.popleft()
                request = m.ShardList(self._new_id(), digest, shard, after)
            elif self._to_sum and not self._requests:
                first = self._to_sum[0]
                count = min(self._to_sum[-1] - first + 1, m.SHARD_SUMS_MAX)
                request = m.ShardSums(self._new_id(), digest, first, count)
            else:
                if not self._requests:
                    self._end_round(now_us)
                return
            self._requests[request.id] = request
            self._send(self._peer, request)

    def _send(self, peer: int, request: m.Request) -> None:
        self.outbox.append(((peer,), request))

    def _new_id(self) -> int:
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        return self._next_id

    # --- replies ---

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """Take an answer of the peer of this round, or one about a promise."""
        if reply.id in self._overdue.requests:
            self._receive_overdue(peer, reply, now_us)
            return
        request = self._requests.get(reply.id)
        if request is None or peer != self._peer:
            return
        del self._requests[reply.id]
        self._heard_us = now_us
        try:
            self._take(request, reply, now_us)
        except Malformed:
            self._useless += 1
            self.useless_count += 1
        self._advance(now_us)

    def _receive_overdue(self, peer: int, reply: m.Reply, now_us: int) -> None:
        asked, request = self._overdue.requests[reply.id]
        if asked != peer:
            return
        del self._overdue.requests[reply.id]
        if isinstance(request, m.Read):
            if isinstance(reply, m.ReadReply):
                self._overdue.answered(peer, request, reply, self._budget)
            return
        try:
            self._take(request, reply, now_us)
        except Malformed:
            self.useless_count += 1

    def _take(self, request: m.Request, reply: m.Reply, now_us: int) -> None:
        if isinstance(request, m.ShardSums) and isinstance(reply, m.ShardSumsReply):
            self._take_sums(request, reply)
        elif isinstance(request, m.ShardList) and isinstance(reply, m.ShardListReply):
            self._take_names(request, reply)
        elif isinstance(request, m.ReadFull) and isinstance(reply, m.ReadFullReply):
            for slot, answer in zip(request.slots, reply.answers, strict=False):
                if answer.entry is not None:
                    self._store(answer.entry, slot, now_us)
        elif isinstance(request, m.Outline) and isinstance(reply, m.OutlineReply):
            if reply.base is not None:
                self._store(reply.base, request.slot, now_us)
                for entry in reply.entries:
                    self._store(entry, None, now_us)
                self._want_buckets(request.slot, reply.buckets)
        elif isinstance(request, m.Fields) and isinstance(reply, m.FieldsReply):
            for entry in reply.entries:
                self._store(entry, None, now_us)
        else:
            # A rejection, or an answer to another question: nothing to be had.
            if isinstance(request, m.ShardSums):
                self._to_sum.clear()
            raise Malformed("no answer to what was asked")

    def _take_sums(self, request: m.ShardSums, reply: m.ShardSumsReply) -> None:
        found = [reply.sums[at : at + SUM_BYTES] for at in range(0, len(reply.sums), SUM_BYTES)]
        if not found or len(reply.sums) % SUM_BYTES or len(found) > request.count:
            self._to_sum.clear()
            raise Malformed("no digests of shards")
        self._budget -= len(reply.sums)
        end = request.first + len(found)
        slots = self.node.slots
        while self._to_sum and self._to_sum[0] < end:
            number = self._to_sum.popleft()
            if found[number - request.first] != sum_of(slots, slots.shards[number]):
                self._to_list.append((number, b""))

    def _take_names(self, request: m.ShardList, reply: m.ShardListReply) -> None:
        slots, configuration = self.node.slots, self.node.configuration
        shard = slots.shards[request.shard]
        after = request.after
        before = self._budget
        for item in reply.items:
            slot_parts(item.slot)
            if item.slot <= after or configuration.shard_of(item.slot) != request.shard:
                raise Malformed("names out of order, or of another shard")
            after = item.slot
            self._budget -= len(item.slot) + 48
            if slots.type_of(item.slot) is not None and not is_base_slot(item.slot):
                raise Malformed("a field in the place of a key")
            if slots.digest_at(item.slot) == item.digest:
                continue
            if (
                item.slot not in shard.slots
                and item.time_us <= shard.floor_us
                and not configuration.is_primary(item.slot)
            ):
                continue  # What is below the floor is not taken: this may be why it is not here.
            if slots.type_of(item.slot) is None and item.slot in slots.current:
                here = slots.current[item.slot]
                if here.time_us > item.time_us:
                    continue  # The peer is behind, and will ask.
            self._to_read.append(item.slot)
        if reply.more and reply.items:
            self._to_list.append((request.shard, after))
        self._vain_bytes += int(before - self._budget)
        if self._vain_bytes > VAIN_BYTES_MAX + _VAIN_BYTES_EACH * len(slots.current):
            self._to_sum.clear()
            self._to_list.clear()
            raise Malformed("names without end, and nothing behind them")

    def _want_buckets(self, slot: bytes, buckets: bytes) -> None:
        """Of a large key, ask for the buckets that are not the same here."""
        key = self.node.slots.keys.get(slot)
        if key is None or not buckets or len(buckets) % 33:
            return
        here = key.buckets()
        digest = self.node.configuration.digest
        for at in range(0, len(buckets), 33):
            number = buckets[at]
            if here.get(number) != buckets[at + 1 : at + 33]:
                known = b"".join([field[:8] for field in key.in_bucket(number).values()])
                request = m.Fields(self._new_id(), digest, slot, bytes((number,)), b"", known)
                self._requests[request.id] = request
                self._send(self._peer, request)

    def _store(self, entry: Entry, slot: bytes | None, now_us: int) -> None:
        """Store an entry by the rules of commit, if it is what it claims."""
        node = self.node
        self._budget -= len(entry.header) + len(entry.salted) + _ENTRY_COST
        header = check_entry(node, entry)
        if (slot is not None and header.slot != slot) or (
            node.index not in node.configuration.group_of(header.slot).members
        ):
            raise Malformed("an entry of another slot")
        before = node.slots.current.get(header.slot)
        if before is not None and before.digest == header.digest:
            return
        code = node.store(header, held_of(node, header, entry), now_us)
        after = node.slots.current.get(header.slot)
        if code == m.OK and after is not None and after.digest == header.digest:
            self._taken += 1
            self._vain_bytes = 0
            self.repaired_count += 1
            self._wanted_in.add(node.configuration.shard_of(header.slot))
