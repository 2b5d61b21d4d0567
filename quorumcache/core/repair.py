"""Recovery of a node that started without stored state (protocol 7), or that joins a shard's group with a new epoch
(protocol 9): reports from the group, shard by shard.

A machine like a client's: `outbox` has what to send, `receive` takes reports, `wake` time. After a restart best effort:
a shard for which too few reports come in time becomes active as it is. It must not know sockets or clocks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.arriving import Certificates, check_entry, held_of
from quorumcache.core.carrying import sources_of
from quorumcache.core.config import Configuration
from quorumcache.core.model import Entry, Header, Malformed, stamp_time
from quorumcache.core.node import Node
from quorumcache.core.slots import Held, Shard
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot, rank_of

#: Few, so that clients' requests are not stuck behind a pile of reports.
SHARDS_AT_ONCE_MAX: Final = 8
#: And fewer of large ones: what is reported waits in memory until q peers have told all of a shard, and what it leaves
#: between entries that stay is lost to them. One shard at least, whatever it holds.
ENTRIES_AT_ONCE: Final = 4096
RESEND_US: Final = 500_000
#: A lying peer may report for ever: beyond this many entries of a shard its report does not count.
SHARD_ENTRIES_MAX: Final = 1 << 20
#: Of fields that replace each other each is compared with all others: so many times as many as a key may have are
#: compared, and a key of which more are reported is left to those who read it.
REPLACING_MAX: Final = 4


class _PeerReport:
    __slots__ = ("after", "broken", "complete", "entries", "floor_us", "partial")

    def __init__(self) -> None:
        self.after = b""
        self.floor_us = 0
        self.complete = False
        self.partial = False
        #: Keys that changed between two pages: what was reported of them may lack fields.
        self.broken: set[bytes] = set()
        self.entries: dict[bytes, tuple[Header, Entry]] = {}


class _ShardRecovery:
    __slots__ = ("end_us", "peers", "requests", "shard", "told")

    def __init__(self, shard: Shard, peers: tuple[int, ...], end_us: int) -> None:
        self.shard = shard
        self.end_us = end_us
        self.peers = {peer: _PeerReport() for peer in peers}
        self.requests: dict[int, int] = {}  # peer -> the id of its open request
        #: A header's bytes -> what was told with it first, and verified.
        self.told: dict[bytes, tuple[Header, Entry]] = {}


class Recovery:
    """Recovers all shards of `node` that are recovering, starting 2 op_time after `started_us`: by then, every write
    that counts an answer given before the restart has ended.

    `joined`: numbers of shards that it joined with its epoch; these it leaves alone. With `before`, the configuration
    of the epoch before, it is these that it recovers, and it differs: it starts at once, for answers of two epochs are
    never counted together; it asks the shard's group of the epoch before, so `outbox` and `receive` have nodes by their
    places in `before`; and it goes on asking until q of them have reported, for a shard that becomes active with less
    could vouch for what a complete write replaced.
    """

    def __init__(
        self,
        node: Node,
        started_us: int,
        *,
        first_id: int,
        joined: Collection[int] = (),
        before: Configuration | None = None,
    ) -> None:
        self.node = node
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        configuration = node.configuration
        self._before = before
        self._asked = configuration if before is None else before
        self._q = self._asked.q
        self._op_time_us = configuration.op_time_us
        self._waiting: list[Shard] = []
        for shard in reversed(node.slots.shards):
            if not shard.recovering or (shard.number in joined) == (before is None):
                continue
            if node.index in configuration.shard_groups[shard.number].members:
                self._waiting.append(shard)
            else:
                node.slots.activate(shard)
        self._active: dict[int, _ShardRecovery] = {}
        self._certificates = Certificates(node)
        self._entries_in_one = 0  # how many the last shard had
        self._routes: dict[int, tuple[int, int]] = {}  # request id -> (shard, peer)
        self._next_id = first_id
        self._begin_us = started_us + (2 * configuration.op_time_us if before is None else 0)
        self._resend_us = 0
        self.deadline_us = self._begin_us
        self.recovered_count = 0
        self.abandoned_count = 0

    @property
    def finished(self) -> bool:
        """Whether every shard is active; another recovery may ask others for the same ones."""
        shards = (*self._waiting, *(active.shard for active in self._active.values()))
        return not any(shard.recovering for shard in shards)

    def wake(self, now_us: int) -> None:
        """Begin, ask again, give up on shards whose time is over."""
        if now_us < self._begin_us:
            return
        for active in list(self._active.values()):
            if now_us >= active.end_us:
                self._conclude(active, now_us)
        if now_us >= self._resend_us:
            self._resend_us = now_us + RESEND_US
            for active in self._active.values():
                for peer, request_id in active.requests.items():
                    self._send(peer, request_id, active)
        self._advance(now_us)
        self.deadline_us = min([self._resend_us, *(active.end_us for active in self._active.values())])

    def _advance(self, now_us: int) -> None:
        at_once = max(1, min(SHARDS_AT_ONCE_MAX, ENTRIES_AT_ONCE // max(1, self._entries_in_one)))
        while self._waiting and len(self._active) < at_once:
            shard = self._waiting.pop()
            if not shard.recovering:
                continue
            peers = self._peers_of(shard)
            active = _ShardRecovery(shard, peers, now_us + 2 * self._op_time_us)
            self._active[shard.number] = active
            for peer in peers:
                self._ask(peer, active)

    def _peers_of(self, shard: Shard) -> tuple[int, ...]:
        if self._before is None:
            members = self.node.configuration.shard_groups[shard.number].members
            return tuple(peer for peer in members if peer != self.node.index)
        found = [self._before.node_by_key(key) for key in sources_of(self._before, shard.number, self.node.key)]
        return tuple(info.index for info in found if info is not None)

    def _ask(self, peer: int, active: _ShardRecovery) -> None:
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        active.requests[peer] = self._next_id
        self._routes[self._next_id] = (active.shard.number, peer)
        self._send(peer, self._next_id, active)

    def _send(self, peer: int, request_id: int, active: _ShardRecovery) -> None:
        request = m.Report(
            request_id,
            self._asked.digest,
            active.shard.number,
            active.peers[peer].after,
        )
        self.outbox.append(((peer,), request))

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """Take a page of a peer's report."""
        route = self._routes.get(reply.id)
        if route is None or route[1] != peer or not isinstance(reply, m.ReportReply):
            return
        active = self._active[route[0]]
        del self._routes[reply.id]
        del active.requests[peer]
        report = active.peers[peer]
        try:
            self._take(active, report, reply)
        except Malformed:
            # A lying peer's report does not count: forget all of it.
            report.entries.clear()
            del active.peers[peer]
        else:
            if reply.more:
                self._ask(peer, active)
            else:
                report.complete = True
        complete = sum(r.complete for r in active.peers.values())
        has_enough = complete >= self._q
        if (complete == len(active.peers) and (has_enough or self._before is None)) or (
            has_enough and not any(active.requests.values())
        ):
            self._conclude(active, now_us)
            self._advance(now_us)
        elif has_enough:
            # Enough; the rest have a little longer.
            active.end_us = min(active.end_us, now_us + self.node.configuration.grace_us)
            self.deadline_us = min(self.deadline_us, active.end_us)

    def _take(self, active: _ShardRecovery, report: _PeerReport, reply: m.ReportReply) -> None:
        if reply.more and not reply.entries:
            raise Malformed("a page that is empty, yet not the last")
        # The highest floor of all pages: no lower than the one at the time of each page.
        report.floor_us = max(report.floor_us, reply.floor_us)
        slots = self.node.slots
        headers = [self._check(active, entry) for entry in reply.entries]
        base = self._goes_on(report, headers, reply)
        if reply.more and not headers:
            raise Malformed("a page that does not go on")
        report.partial = reply.partial
        for header, entry in zip(headers, reply.entries, strict=True):
            if header.slot <= report.after:
                raise Malformed("a page out of order")
            if slots.type_of(header.slot) is not None:
                if is_base_slot(header.slot):
                    base = header
                elif (
                    base is None
                    or base_slot_of(header.slot) != base.slot
                    or generation_of(header.raw) != generation_of(base.raw)
                ):
                    raise Malformed("a field without the base of its generation")
            if self.node.configuration.shard_of(header.slot) != active.shard.number:
                raise Malformed("an entry of another shard")
            report.after = header.slot
            report.entries[header.slot] = self._kept(active, header, entry)
        if len(report.entries) > SHARD_ENTRIES_MAX:
            raise Malformed("a report without end")

    def _goes_on(self, report: _PeerReport, headers: list[Header], reply: m.ReportReply) -> Header | None:
        """The base of the key that the page before ended with, where this page goes on with it: its base is taken off
        the page. That may be another by now: one that goes on with the same generation (what is known of the key
        stands, but for fields that replace each other), or of another one (it may lack fields). Or the key got fields
        only since."""
        kind = self.node.slots.type_of(report.after) if report.after else None
        if kind is None:
            return None
        base_slot = base_slot_of(report.after)
        if not headers or headers[0].slot != base_slot:
            if report.partial:
                report.broken.add(base_slot)
            return None
        base, entry = headers.pop(0), reply.entries.pop(0)
        is_another = generation_of(base.raw) != generation_of(report.entries[base_slot][0].raw)
        if is_another or (kind.replaces and report.partial):
            report.broken.add(base_slot)
        report.entries[base_slot] = (base, entry)
        return base

    def _check(self, active: _ShardRecovery, entry: Entry) -> Header:
        """What another peer has told to the last bit was verified then."""
        same = active.told.get(entry.header)
        return same[0] if same is not None and same[1] == entry else check_entry(self.node, entry)

    def _kept(self, active: _ShardRecovery, header: Header, entry: Entry) -> tuple[Header, Entry]:
        """What a report keeps of an entry: where another has the same header, the same objects, so that what q peers
        tell takes the memory of one."""
        same = active.told.get(header.raw)
        if same is None:
            same = active.told[header.raw] = header, self._certificates.shared(entry)
        return same

    def _conclude(self, active: _ShardRecovery, now_us: int) -> None:
        for request_id in active.requests.values():
            del self._routes[request_id]
        del self._active[active.shard.number]
        self._certificates.clear()
        if not active.shard.recovering:
            return
        reports = [report for report in active.peers.values() if report.complete]
        if len(reports) >= self._q:
            slots = dict.fromkeys(slot for report in reports for slot in report.entries)
            self._entries_in_one = len(slots)
            keys: dict[bytes, dict[bytes, None]] = {}
            type_of = self.node.slots.type_of
            is_exact = self.node.configuration.is_exact
            for slot in slots:
                if is_exact(slot):
                    continue  # What it reports of these counts for more: exactrecovery.py takes them, with the locks.
                if type_of(slot) is None:
                    self._recover(slot, reports, now_us)
                else:
                    keys.setdefault(base_slot_of(slot), {})[slot] = None
            for base_slot, found in keys.items():
                self._recover_key(base_slot, [slot for slot in found if slot != base_slot], reports, now_us)
        else:
            self.abandoned_count += 1
            if self._before is not None:
                # After the others: nodes that are down or slow now hold up none but the shards that need them.
                self._waiting.insert(0, active.shard)
                return
        self.node.slots.activate(active.shard)

    def _recover(self, slot: bytes, reports: list[_PeerReport], now_us: int) -> None:
        node = self.node
        is_primary = node.configuration.is_primary(slot)
        if slot in node.slots.current and not is_primary:
            return
        found = [report.entries[slot] for report in reports if slot in report.entries]
        if is_primary:
            # Nobody agreed on it: there is nothing that it could contradict. And what came meanwhile may be older, for
            # no floor keeps that out; the highest may be one that no rule allows.
            for header, entry in sorted(found, key=lambda pair: pair[0].stamp + pair[0].digest, reverse=True):
                if node.store(header, self._held(header, entry), now_us) == m.OK:
                    self.recovered_count += 1
                    return
            return
        header, entry = max(found, key=lambda pair: pair[0].stamp + pair[0].digest)
        if node.configuration.is_revoked(header.writer):
            return  # Nothing, not the next-highest: that may be older than what a quorum completed.
        if any(slot not in report.entries and report.floor_us >= header.time_us for report in reports):
            return
        if node.slots.store(slot, self._held(header, entry), now_us):
            node.slots.settle_promises(slot, header.stamp)
            self.recovered_count += 1

    def _held(self, header: Header, entry: Entry) -> Held:
        return held_of(self.node, header, entry)

    def _recover_key(self, base_slot: bytes, fields: list[bytes], reports: list[_PeerReport], now_us: int) -> None:
        """A key with fields, as a whole: the highest base, and of its generation the highest of each field. All of it
        or nothing: who names a generation has all that it ever took under it."""
        node, slots = self.node, self.node.slots
        is_revoked = node.configuration.is_revoked
        if base_slot in slots.current or any(base_slot in report.broken for report in reports):
            return
        bases = [report.entries.get(base_slot) for report in reports]
        header, entry = max((found for found in bases if found is not None), key=lambda pair: rank_of(pair[0].raw))
        generation = generation_of(header.raw)
        if is_revoked(header.writer) or any(
            found is None and report.floor_us >= stamp_time(generation)
            for found, report in zip(bases, reports, strict=True)
        ):
            return
        chosen: list[tuple[Header, Entry]] = [(header, entry)]
        for slot in fields:
            here = [report.entries[slot] for report in reports if slot in report.entries]
            here = [pair for pair in here if generation_of(pair[0].raw) == generation]
            if here:
                chosen.append(max(here, key=lambda pair: pair[0].stamp))
        if any(is_revoked(header.writer) for header, _ in chosen):
            return
        kind = slots.type_of(base_slot)
        assert kind is not None
        gone: list[Header] = []
        if kind.replaces:
            if len(chosen) > REPLACING_MAX * kind.fields_max:
                return
            # One peer may still have what another's entry has replaced: as at a commit, the latter stands for it, and
            # the barrier for its stamp. With both, this node would differ from all others for good.
            left = {*kind.standing(header.raw for header, _ in chosen[1:]), chosen[0][0].raw}
            gone = [header for header, _ in chosen if header.raw not in left]
            chosen = [pair for pair in chosen if pair[0].raw in left]
        for header, entry in chosen:
            if not slots.store(header.slot, self._held(header, entry), now_us):
                if base_slot in slots.current:
                    slots.drop(base_slot)
                return
            slots.settle_promises(header.slot, header.stamp, rank_of(header.raw))
        for header in gone:
            slots.keys[base_slot].raise_barrier(header.time_us)
            slots.settle_promises(header.slot, header.stamp, rank_of(header.raw))
        self.recovered_count += 1
