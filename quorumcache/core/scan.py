"""A part of a listing, put together from what the nodes of one group list (protocol 4, scan).

q equal replies end it at once. Otherwise the lists are merged as far as q of them reach: a key that q nodes list with
one digest is there; any other is doubtful, and only a read of it tells. So a node that lies can neither hide a key nor
plant one: q lists include that of a correct node that has what was complete. It must not know sockets or cursors.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import messages as m
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.model import ABSENT, KEY_BYTES_MAX, Malformed, slot_of
from quorumcache.core.outcome import UNAVAILABLE, Failed, Listed, Outcome
from quorumcache.core.read import is_rejected, rejection

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: Where a key stands in the order of a group: its shard, the key's length, the key. So do their slots' bytes compare.
Place = tuple[int, int, bytes]
_END: Final[Place] = (1 << 16, 0, b"")
#: With doubts about no more than one key in so many that were asked for, nobody is waited for.
_DOUBTS_PART: Final = 8


class ScanPart(Machine):
    """Asks a group which keys it has from `start` on, and ends with the part of the listing that q nodes speak of."""

    __slots__ = (
        "_answers",
        "_context",
        "_group",
        "_id",
        "_liars",
        "_lists",
        "_quorum_us",
        "_rejects",
        "_request",
        "_resend_us",
        "_shards",
        "_token",
    )

    def __init__(
        self,
        context: Coordinator,
        namespace: bytes,
        prefix: bytes,
        start: m.Position,
        count: int,
        token: Any,
        now_us: int,
    ) -> None:
        configuration = context.configuration
        super().__init__(now_us + RESEND_US, now_us + configuration.op_time_us)
        self._context = context
        self._group = group = configuration.shard_groups[start.shard]
        self._shards = frozenset(configuration.shards_of_groups[group.id])
        self._token = token
        self._resend_us = RESEND_US
        self._quorum_us = 0
        self._answers: dict[int, m.ScanReply] = {}
        self._lists: dict[int, dict[Place, bytes]] = {}  # node -> what it lists, checked: place -> digest
        self._liars: set[int] = set()
        self._rejects: dict[int, m.Reject] = {}
        self._id = context.new_id(self)
        self._request = m.Scan(self._id, configuration.digest, group.id, namespace, prefix, start, count)
        context.send(group.members, self._request)

    def stranded(self, why: str) -> list[tuple[list[Any], Outcome]]:
        """See `Machine.stranded`."""
        return [([self._token], Failed(UNAVAILABLE, f"{why}: list again, from the start"))]

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's list."""
        if node not in self._group.members or self.finished or node in self._answers or node in self._liars:
            return
        if isinstance(reply, m.Reject):
            self._rejects[node] = reply
            self._check_hope()
            return
        if type(reply) is not m.ScanReply:
            return
        q = self._context.configuration.q
        self._rejects.pop(node, None)
        self._answers[node] = reply
        if len(self._answers) < q:
            return
        if not self._quorum_us:
            self._quorum_us = now_us
            self.deadline_us = min(now_us + self._context.configuration.grace_us, self.end_us)
        equal = [a for a in self._answers.values() if a.digests == reply.digests and a.keys == reply.keys]
        if sum(a.stop == reply.stop for a in equal) >= q:
            # Among them are f+1 correct nodes: nothing is left to check.
            self._finish(Listed(list(reply.keys), [], reply.stop))
        else:
            self._merge(is_over=False)

    def _check_hope(self) -> None:
        configuration = self._context.configuration
        tolerated = configuration.n - configuration.q - len(self._liars)
        if not (tolerated < 0 or is_rejected(self._rejects, tolerated)):
            return
        if self._rejects:
            self._finish(rejection(self._group, self._rejects))
        else:
            detail = f"{len(self._liars)} of {len(self._group.members)} nodes sent listings that no correct node sends"
            self._finish(Failed(UNAVAILABLE, detail))

    # --- lists that differ ---

    def _check(self, reply: m.ScanReply) -> dict[Place, bytes]:
        """What a node lists, by place. Raises Malformed for what no correct node sends."""
        request, keys, digests = self._request, reply.keys, reply.digests
        configuration = self._context.configuration
        if len(keys) > request.count or len(digests) != 32 * len(keys):
            raise Malformed("too many keys, or another number of digests")
        places: list[Place] = []
        for key in keys:
            if not 0 < len(key) <= KEY_BYTES_MAX or not key.startswith(request.prefix):
                raise Malformed("a key that was not asked for")
            places.append((configuration.shard_of(slot_of(request.namespace, key)), len(key), key))
        first = _place_of(request.start)
        if any(a >= b for a, b in pairwise([first, *places])) or not all(p[0] in self._shards for p in places):
            raise Malformed("keys out of order, twice, or of another group")
        stop = reply.stop
        if stop is not None and stop.after:
            is_full = len(keys) == request.count or sum(map(len, keys)) >= m.SCAN_BYTES_MAX
            if not is_full or stop.after != keys[-1] or stop.shard != places[-1][0]:
                raise Malformed("a list that stops within a shard though there was room for more")
        elif stop is not None:
            last = places[-1][0] if places else request.start.shard
            if stop.shard <= max(last, request.start.shard) or stop.shard not in self._shards:
                raise Malformed("a list that stops before its end")
        listed = {place: digests[at << 5 : (at + 1) << 5] for at, place in enumerate(places)}
        if ABSENT in listed.values():
            raise Malformed("a key that is listed as absent")
        return listed

    def _merge(self, *, is_over: bool) -> None:
        context = self._context
        q, n = context.configuration.q, len(self._group.members)
        for node in self._answers.keys() - self._lists.keys():
            try:
                self._lists[node] = self._check(self._answers[node])
            except Malformed:
                context.suspect(node, 4.0, lie=True)
                del self._answers[node]
                self._liars.add(node)
        self._check_hope()
        if self.finished:
            return
        if len(self._answers) < q:
            self._quorum_us = 0
            return
        # As far as q lists reach: who stops early, honestly or not, holds up nobody while enough others answer.
        ends = {node: _END if a.stop is None else _place_of(a.stop) for node, a in self._answers.items()}
        end = sorted(ends.values(), reverse=True)[q - 1]
        votes: dict[Place, list[bytes]] = {}
        for node, listed in self._lists.items():
            if ends[node] >= end:
                for place, digest in listed.items():
                    if place <= end:
                        votes.setdefault(place, []).append(digest)
        places = sorted(votes)
        doubtful = [
            at
            for at, place in enumerate(places)
            if max(map(votes[place].count, votes[place])) < q  # few digests each
        ]
        waits = len(self._answers) + len(self._liars) + len(self._rejects) < n and not is_over
        count = self._request.count
        if waits and (len(doubtful) * _DOUBTS_PART > count or (end != _END and 2 * len(places) < count)):
            return
        context.counts["keys_doubted"] += len(doubtful)
        stop = None if end == _END else m.Position(end[0], end[2])
        self._finish(Listed([place[2] for place in places], doubtful, stop))

    # --- time ---

    def _finish(self, outcome: Listed | Failed) -> None:
        self.finished = True
        self._context.forget(self._id)
        self._context.finish([self._token], outcome)

    def wake(self, now_us: int) -> None:
        """Merge what is there once the grace time is over; ask the silent again; give up at op_time."""
        configuration = self._context.configuration
        if self._quorum_us and now_us >= self._quorum_us + configuration.grace_us:
            self._merge(is_over=True)
        if self.finished:
            return
        if now_us >= self.end_us:
            detail = (
                f"{len(self._answers)} of {len(self._group.members)} nodes listed their keys in time, "
                f"{configuration.q} are needed"
            )
            self._finish(Failed(UNAVAILABLE, detail))
            return
        silent = tuple(
            node
            for node in self._group.members
            if node not in self._answers and node not in self._liars and is_worth_asking_again(node, self._rejects)
        )
        if silent:
            self._context.send(silent, self._request)
        self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
        self.deadline_us = min(now_us + self._resend_us, self.end_us)
        if self._quorum_us + configuration.grace_us > now_us:
            self.deadline_us = min(self.deadline_us, self._quorum_us + configuration.grace_us)


def _place_of(position: m.Position) -> Place:
    """Up to here, inclusive, for a position after a key; before all keys of the shard for one at its start."""
    return position.shard, len(position.after), position.after
