"""How a node that began without stored state comes to vote again (protocol 17, "Start without stored state").

It stays silent until no ballot of before its start can be voted for or granted by anybody, then asks its group for
entries and locks, shard by shard, and takes them once 2f+1 others have answered. Without so many it stays silent. A
machine like `Recovery`'s. It must not know sockets or clocks.
"""

from __future__ import annotations

from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.exact import verify_lock
from quorumcache.core.instances import Instance, Instances
from quorumcache.core.model import Entry, Header, Malformed
from quorumcache.core.node import Node
from quorumcache.core.slots import Held, Shard

SHARDS_AT_ONCE_MAX: Final = 4
RESEND_US: Final = 500_000
#: A lying peer may report for ever: beyond this many slots of a shard its report does not count.
SHARD_SLOTS_MAX: Final = 1 << 18


class _Found:
    """What one peer holds in a slot."""

    __slots__ = ("entry", "locked")

    def __init__(self, entry: tuple[Header, Entry] | None, locked: tuple[Header, m.Locked] | None) -> None:
        self.entry = entry
        self.locked = locked


class _PeerReport:
    __slots__ = ("after", "complete", "floor_us", "found")

    def __init__(self) -> None:
        self.after = b""
        self.floor_us = 0
        self.complete = False
        self.found: dict[bytes, _Found] = {}


class _Round:
    """One shard that is asked for. `again`: it is active, and only its doubtful slots are looked at."""

    __slots__ = ("again", "end_us", "peers", "requests", "shard")

    def __init__(self, shard: Shard, peers: tuple[int, ...], end_us: int, again: bool) -> None:
        self.shard = shard
        self.end_us = end_us
        self.again = again
        self.peers = {peer: _PeerReport() for peer in peers}
        self.requests: dict[int, int] = {}


class ExactRecovery:
    """Recovers the exact namespaces of `node`'s silent shards. `finished` once none is silent or in doubt."""

    def __init__(self, node: Node, started_us: int, *, first_id: int) -> None:
        self.node = node
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        self._instances: Instances | None = node.slots.instances
        configuration = node.configuration
        self._q = configuration.q
        self._rounds: dict[int, _Round] = {}
        self._routes: dict[int, tuple[int, int]] = {}
        self._next_id = first_id
        self._resend_us = 0
        self._again_us: dict[int, int] = {}  # shard -> when to ask for it next
        self.deadline_us = started_us
        self.recovered_count = 0
        if self._instances is None:
            return
        begin_us = started_us + self._instances.gap_us + self._instances.life_us + 2 * configuration.max_skew_us
        for number in sorted(self._instances.silent):
            if node.index in configuration.shard_groups[number].members:
                self._again_us[number] = begin_us
            else:
                self._instances.silent.discard(number)
        self.deadline_us = begin_us

    @property
    def finished(self) -> bool:
        """Whether no shard is silent, and no slot in doubt."""
        return not self._again_us and not self._rounds

    def wake(self, now_us: int) -> None:
        """Begin, ask again, conclude what is over."""
        if self._instances is None:
            return
        for active in list(self._rounds.values()):
            if now_us >= active.end_us:
                self._conclude(active, now_us)
        if now_us >= self._resend_us:
            self._resend_us = now_us + RESEND_US
            for active in self._rounds.values():
                for peer, request_id in active.requests.items():
                    self._send(peer, request_id, active)
        self._advance(now_us)
        times = [*self._again_us.values(), *(active.end_us for active in self._rounds.values())]
        if self._rounds:
            times.append(self._resend_us)
        self.deadline_us = max(now_us + 1, min(times, default=now_us + RESEND_US))

    def _advance(self, now_us: int) -> None:
        assert self._instances is not None
        configuration = self.node.configuration
        for number, at_us in sorted(self._again_us.items(), key=lambda item: (item[1], item[0])):
            if at_us > now_us or len(self._rounds) >= SHARDS_AT_ONCE_MAX:
                break
            del self._again_us[number]
            peers = tuple(peer for peer in configuration.shard_groups[number].members if peer != self.node.index)
            end_us = now_us + 2 * configuration.op_time_us
            active = _Round(self.node.slots.shards[number], peers, end_us, number not in self._instances.silent)
            self._rounds[number] = active
            for peer in peers:
                self._ask(peer, active)

    def _ask(self, peer: int, active: _Round) -> None:
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        active.requests[peer] = self._next_id
        self._routes[self._next_id] = (active.shard.number, peer)
        self._send(peer, self._next_id, active)

    def _send(self, peer: int, request_id: int, active: _Round) -> None:
        digest, after = self.node.configuration.digest, active.peers[peer].after
        self.outbox.append(((peer,), m.ExactReport(request_id, digest, active.shard.number, after)))

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """Take a page of a peer's report."""
        route = self._routes.get(reply.id)
        if route is None or route[1] != peer or not isinstance(reply, m.ExactReportReply):
            return
        active = self._rounds[route[0]]
        del self._routes[reply.id]
        del active.requests[peer]
        report = active.peers[peer]
        try:
            self._take(active, report, reply)
        except Malformed:
            del active.peers[peer]  # A lying peer's report does not count: none of it.
        else:
            if reply.more:
                self._ask(peer, active)
            else:
                report.complete = True
        complete = sum(r.complete for r in active.peers.values())
        if complete == len(active.peers) or (complete >= self._q and not active.requests):
            self._conclude(active, now_us)
            self._advance(now_us)
        elif complete >= self._q:
            active.end_us = min(active.end_us, now_us + self.node.configuration.grace_us)
            self.deadline_us = min(self.deadline_us, active.end_us)

    def _take(self, active: _Round, report: _PeerReport, reply: m.ExactReportReply) -> None:
        if reply.more and not reply.items:
            raise Malformed("a page that is empty, yet not the last")
        assert self._instances is not None
        configuration = self.node.configuration
        report.floor_us = max(report.floor_us, reply.floor_us)
        for item in reply.items:
            entry = None if item.entry is None else (self.node.verifier.check_entry(item.entry), item.entry)
            locked = (
                None
                if item.locked is None
                else (verify_lock(self.node.verifier, configuration, item.locked), item.locked)
            )
            slots = {found[0].slot for found in (entry, locked) if found is not None}
            if len(slots) != 1:
                raise Malformed("an item of no slot, or of two")
            slot = slots.pop()
            if slot <= report.after or not self._instances.of(slot):
                raise Malformed("a page out of order, or of another namespace")
            if configuration.shard_of(slot) != active.shard.number:
                raise Malformed("an item of another shard")
            report.after = slot
            report.found[slot] = _Found(entry, locked)
        if len(report.found) > SHARD_SLOTS_MAX:
            raise Malformed("a report without end")

    def _conclude(self, active: _Round, now_us: int) -> None:
        assert self._instances is not None
        node, instances, shard = self.node, self._instances, active.shard
        for request_id in active.requests.values():
            del self._routes[request_id]
        del self._rounds[shard.number]
        reports = [report for report in active.peers.values() if report.complete]
        shard_of = node.configuration.shard_of
        doubtful = [slot for slot in instances.doubtful if shard_of(slot) == shard.number]
        if len(reports) >= self._q:
            if active.again:
                wanted = doubtful
            else:
                wanted = sorted({slot for report in reports for slot in report.found})
            doubtful = [slot for slot in wanted if not self._recover(slot, reports, now_us)]
            if not active.again:
                # No ballot of before the start is above this, nor any that others let in meanwhile and forgot again.
                floor_us = now_us - instances.life_us + node.configuration.max_skew_us
                node.slots.raise_floor(shard, floor_us)
            instances.recovered(shard, doubtful)
        if doubtful or shard.number in instances.silent:
            self._again_us[shard.number] = now_us + 2 * node.configuration.op_time_us

    def _recover(self, slot: bytes, reports: list[_PeerReport], now_us: int) -> bool:
        """Take what the reports say of a slot; false where that is in doubt."""
        node, instances = self.node, self._instances
        assert instances is not None
        slots = node.slots
        found = [report.found.get(slot) for report in reports]
        absent_us = max(
            (r.floor_us for r, f in zip(reports, found, strict=True) if f is None or f.entry is None), default=-1
        )
        own = slots.current.get(slot)
        best = max(
            (f.entry for f in found if f is not None and f.entry is not None),
            key=lambda pair: (pair[0].stamp, pair[1].certificate.ballot),
            default=None,
        )
        if own is not None and (best is None or best[0].stamp <= own.stamp):
            best = None
        if best is not None and absent_us >= best[0].time_us:
            return False
        ballot = best[1].certificate.ballot if best is not None else b""
        if best is None and own is not None:
            ballot = own.batch.certificate.ballot
        lock = max(
            (f.locked for f in found if f is not None and f.locked is not None),
            key=lambda pair: pair[1].ballot,
            default=None,
        )
        if lock is not None and lock[1].ballot <= ballot:
            lock = None
        if lock is not None and absent_us >= lock[0].time_us:
            return False
        if best is not None:
            header, entry = best
            if node.configuration.is_revoked(header.writer):
                return False
            batch = node.verifier.batch_of(entry)
            held = Held(header.digest, header.raw, entry.salted, batch, entry.position, entry.path)
            if not slots.store(slot, held, now_us):
                return False
            self.recovered_count += 1
        if lock is not None:
            if not instances.has_room(slot, lock[1]):
                return False
            instances.put(slot, Instance(lock[1].ballot, b"", lock[1]))
        return True
