"""What a client that watches makes of the nodes' feeds (protocol 4, watch).

A change that f+1 nodes name with the very same header is one: a correct node among them stored it, and had verified
it. What fewer name is read after a few rounds, and counts where the read finds it: it may be a write that is complete
though others of its nodes are gone, or a lie. So what is complete is told, or something newer of the same slot, or a
gap; and nothing is told that no writer wrote.

A node whose feed broke off (it started anew, or changed more than it keeps) leaves a time that it does not cover. What
was complete in a time that more than f nodes of a group do not cover may be missed: that is a gap, and said.

It must not know sockets, values, or what is told to applications.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from typing import Final

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.changes import FROM_NOW, Place
from quorumcache.core.config import Configuration
from quorumcache.core.config_model import EXACT
from quorumcache.core.model import DELETE, Malformed, header_is_delete, parse_header, slot_of, slot_parts
from quorumcache.core.types.base import rank_of

#: After so many rounds a change that too few nodes name is read.
PATIENCE: Final = 3
#: Of one node's changes so many may wait for others to name them; with more it does not cover the time.
WAITING_MAX: Final = 4096
#: Reads in one round of what one node (or a few) names alone: fewer where they find nothing.
CREDIT_START: Final = 32
CREDIT_MAX: Final = 256
#: Of so many slots is remembered what was told of them: of others it may be told again.
TOLD_MAX: Final = 1 << 16
#: Slots under doubt at a time, where reads keep failing; and reads of one that find a miss that too few vouch for.
READING_MAX: Final = 4096
TRIES_MAX: Final = 3
_INTERVALS_MAX: Final = 8


class Subject(msgspec.Struct, frozen=True):
    """What is watched: the keys of a namespace that begin with `prefix`, or, with `whole`, that key."""

    namespace: bytes
    prefix: bytes
    whole: bool


class Told(msgspec.Struct, frozen=True, gc=False):
    """A change: its slot, and its header, None where all that is known is that the slot has been deleted."""

    slot: bytes
    header: bytes | None

    @property
    def is_delete(self) -> bool:
        """Whether the slot was deleted by it."""
        return self.header is None or header_is_delete(self.header)


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """Where a watch stands with one node, to go on from later: its feed and the number in it; and whether the node's
    answers cover the time up to then."""

    feed: int
    after: int
    covers: bool


class _Hint(msgspec.Struct, eq=False):
    slot: bytes
    rank: bytes
    is_delete: bool
    nodes: set[int]
    round: int


class Watching:
    """The state of one watch. The driver asks `places`, gives what it hears to `take`, takes `told` and `gap`, reads
    `doubtful` and says what came of it with `settled`.

    `standings`: where an earlier watch stood (`standings_now`), by node; None to begin now.
    """

    def __init__(
        self, configuration: Configuration, subject: Subject, now_us: int, standings: dict[int, Standing] | None = None
    ) -> None:
        self.configuration = configuration
        self.subject = subject
        if subject.whole:
            self.groups = [configuration.group_of(slot_of(subject.namespace, subject.prefix))]
        else:
            self.groups = list(configuration.groups.values())
        members = sorted({node for group in self.groups for node in group.members})
        info = configuration.namespace(subject.namespace)
        self._has_fields = info is not None and info.type not in ("register", EXACT)
        self.places: dict[int, Place] = dict.fromkeys(members, FROM_NOW)
        #: Those that answered the last round.
        self.waited: frozenset[int] = frozenset(members)
        #: What to tell, in the order found out. The driver takes them and empties it.
        self.told: list[Told] = []
        #: Whether something may have been missed since the driver last looked. The driver sets it back.
        self.gap = False
        #: Whether a node has more to say at once.
        self.more = False
        self._heard_us = dict.fromkeys(members, now_us)
        self._uncovered: dict[int, deque[tuple[int, int]]] = {node: deque() for node in members}
        self._round = 0
        self._hints: OrderedDict[bytes, _Hint] = OrderedDict()
        self._waiting = dict.fromkeys(members, 0)
        self._credit = dict.fromkeys(members, CREDIT_START)
        self._ranks: OrderedDict[bytes, bytes] = OrderedDict()
        self._reading: dict[bytes, list[_Hint]] = {}
        self._tries: dict[bytes, int] = {}
        #: (round, places at its start), of the rounds whose hints may still wait: a token goes back to the oldest.
        self._safe: deque[tuple[int, dict[int, Place]]] = deque()
        if standings is not None:
            for node in members:
                standing = standings.get(node)
                if standing is not None and standing.feed:
                    self.places[node] = (standing.feed, standing.after)
                if standing is None or not standing.covers:
                    self._note_uncovered(node, 0, now_us + configuration.op_time_us)
                else:
                    self._heard_us[node] = 0

    # --- answers ---

    def take(self, replies: dict[int, m.ChangesReply], began_us: int, now_us: int) -> None:
        """What the nodes said in a round that began and ended then."""
        self._round += 1
        self._safe.append((self._round, dict(self.places)))
        # Every eighth round waits for all: who is always a little late is heard then.
        self.waited = frozenset(replies) & self.places.keys() if self._round % 8 else frozenset(self.places)
        for node, reply in replies.items():
            if node not in self.places:
                continue
            is_new = self.places[node] == FROM_NOW
            breaks_off = reply.lost or (is_new and self._round > 1)
            if breaks_off or not (is_new or self._take_headers(node, reply)):
                # A write counts answers of up to op_time: others tell of it so much later, and only they do.
                self._note_uncovered(node, self._heard_us[node], now_us + self.configuration.op_time_us)
            self.places[node] = (reply.feed, reply.following)
            self._heard_us[node] = began_us
        self.more = sum(reply.more and not reply.lost for reply in replies.values()) > self.configuration.f
        self._sweep()

    def _take_headers(self, node: int, reply: m.ChangesReply) -> bool:
        """Whether all that the node said could be kept."""
        for raw in reply.headers:
            hint = self._hints.get(raw)
            if hint is None:
                hint = self._hint_of(node, raw)
                if hint is None:
                    continue
                self._hints[raw] = hint
            elif node in hint.nodes:
                continue
            if self._waiting[node] >= WAITING_MAX:
                if not hint.nodes:
                    del self._hints[raw]
                return False
            hint.nodes.add(node)
            self._waiting[node] += 1
            if len(hint.nodes) > self.configuration.f:
                self._forget(raw, hint)
                self._tell(hint, raw)
        return True

    def _hint_of(self, node: int, raw: bytes) -> _Hint | None:
        """The header as a hint; None where it is old news, or none that a correct node names here."""
        try:
            header = parse_header(raw)
            namespace, key, _ = slot_parts(header.slot)
        except Malformed:
            return None
        subject = self.subject
        is_ours = key == subject.prefix if subject.whole else key.startswith(subject.prefix)
        if namespace != subject.namespace or not is_ours:
            return None
        if node not in self.configuration.group_of(header.slot).members:
            return None
        rank = rank_of(raw) if self._has_fields else header.stamp
        if self._ranks.get(header.slot, b"") >= rank:
            return None
        return _Hint(header.slot, rank, header.kind == DELETE, set(), self._round)

    def _forget(self, raw: bytes, hint: _Hint) -> None:
        del self._hints[raw]
        for node in hint.nodes:
            self._waiting[node] -= 1

    def _tell(self, hint: _Hint, header: bytes) -> None:
        if self._ranks.get(hint.slot, b"") < hint.rank:
            self._remember(hint.slot, hint.rank)
            self.told.append(Told(hint.slot, header))

    def _remember(self, slot: bytes, rank: bytes) -> None:
        self._ranks[slot] = rank
        self._ranks.move_to_end(slot)
        if len(self._ranks) > TOLD_MAX:
            self._ranks.popitem(last=False)

    def _sweep(self) -> None:
        """Drop hints that something newer was told of, and choose what is to be read."""
        budget = dict(self._credit)
        for raw, hint in list(self._hints.items()):
            if self._ranks.get(hint.slot, b"") >= hint.rank:
                self._forget(raw, hint)
            elif hint.round + PATIENCE <= self._round:
                # Whoever of them is most often right vouches for the read.
                node = max(hint.nodes, key=lambda n: (budget[n], -n))
                if budget[node] > 0 or hint.slot in self._reading:
                    budget[node] -= hint.slot not in self._reading
                    self._forget(raw, hint)
                    self._reading.setdefault(hint.slot, []).append(hint)
        if len(self._reading) > READING_MAX:
            self._reading.clear()
            self._tries.clear()
            self.gap = True

    # --- doubts ---

    def doubtful(self) -> list[bytes]:
        """The slots to read now, so that it shows whether what too few nodes name is so."""
        return list(self._reading)

    def settled(self, slot: bytes, header: bytes | None, is_vouched: bool) -> None:
        """What a read of a doubtful slot found: the header there, or None; and then whether f+1 nodes vouch for that.
        A read that failed is not told: the slot stays doubtful."""
        if header is None and not is_vouched:
            self._tries[slot] = self._tries.get(slot, 0) + 1
            if self._tries[slot] < TRIES_MAX:
                return
            self.gap = True
        self._tries.pop(slot, None)
        hints = self._reading.pop(slot, [])
        rank = b"" if header is None else rank_of(header) if self._has_fields else header[3:51]
        for hint in hints:
            for node in hint.nodes:
                credit = self._credit[node]
                if rank >= hint.rank:
                    self._credit[node] = min(credit + 1, CREDIT_MAX)
                elif header is not None or not hint.is_delete:
                    self._credit[node] = max(credit // 2, 1)
        if header is not None:
            if any(rank >= hint.rank for hint in hints):
                self._tell(_Hint(slot, rank, False, set(), 0), header)
        elif is_vouched and any(hint.is_delete for hint in hints):
            # Which write that was nobody can say for certain: its stamp is not to be trusted, nor remembered.
            self.told.append(Told(slot, None))

    # --- gaps ---

    def _note_uncovered(self, node: int, from_us: int, until_us: int) -> None:
        """The node does not tell what it stored between these times; is that one node too many of a group?"""
        intervals = self._uncovered[node]
        intervals.append((from_us, until_us))
        if len(intervals) > _INTERVALS_MAX:
            first, second = intervals.popleft(), intervals.popleft()
            intervals.appendleft((min(first[0], second[0]), max(first[1], second[1])))
        for group in self.groups:
            if node in group.members:
                missing = sum(
                    any(a <= until_us and from_us <= b for a, b in self._uncovered[member]) for member in group.members
                )
                self.gap = self.gap or missing > self.configuration.f

    # --- where it stands ---

    def standings_now(self, now_us: int) -> dict[int, Standing]:
        """From where a later watch goes on: all before that was told, and of what comes after some may be told again.
        Only what `told` held was told when the driver asks: it asks when that is empty."""
        waiting = itertools.chain(self._hints.values(), *self._reading.values())
        waits_since = min((hint.round for hint in waiting), default=self._round + 1)
        while self._safe and self._safe[0][0] < waits_since:
            self._safe.popleft()
        places = self._safe[0][1] if self._safe else self.places
        return {
            node: Standing(*place, all(until_us < now_us for _, until_us in self._uncovered[node]))
            for node, place in places.items()
        }
