"""Compare-and-set, for clients (protocol 17): read, vote, lock, commit; and finish what others left locked.

Belongs here: one read-modify-write of a slot, from its read to its end. Must not know sockets, or what values mean: the
caller's `change` says what is to stand where something else stood.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import exact_grant_string, intent_string, vote_string
from quorumcache.core.exact import verify_lock
from quorumcache.core.exactjudge import LOST, WON, SettleEntry, verdict_of
from quorumcache.core.lineage import is_ballot, successor_of
from quorumcache.core.machine import RESEND_US, Machine
from quorumcache.core.model import (
    DELETE,
    SALT_BYTES,
    TIME_US_MAX,
    VALUE_BYTES_MAX,
    Certificate,
    Entry,
    Grant,
    Malformed,
    digest_of,
    encode_header,
    header_expires_at,
    header_is_delete,
    header_stamp,
    header_time,
    parse_header,
    stamp_of,
    stamp_time,
    value_hash_of,
)
from quorumcache.core.outcome import DENIED, UNAVAILABLE, UNKNOWN, Decided, Failed, Outcome, Unchanged
from quorumcache.core.settle import commit_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: How long a proposer that was in another's way waits at first, at random up to this, and at most.
PAUSE_US: Final = 4_000
PAUSE_US_MAX: Final = 256_000
#: For so many rounds whoever finds another at it lets that one go on, before it looks what came of it: a proposal that
#: has its votes needs one for its locks, and one until its entry can be read.
_ROUNDS_LEFT_ALONE: Final = 2
#: A first ballot is older than the time it is made at by at most this part of op_time, for which it lives; and above
#: that of what it replaces by what is left of this part, and by all of it for each loss, divided by so much.
_EARLY_PART: Final = 8
_EARLY_STEP: Final = 256
#: How often that doubles at most for whoever has lost, and how much of it outlasts a loss: with something under way a
#: long pause may miss more than lines name.
_LOSSES_MAX: Final = 4
_PAUSES_KEPT: Final = 3
#: Who loses in the last eighth of op_time does not try again.
_LAST_PART: Final = 8
_BITMAP: Final = b"\x01"

READ, VOTE, LOCK, COMMIT, PAUSE = range(5)


class Change(msgspec.Struct, frozen=True):
    """What is to stand in a slot: PUT or DELETE, the value, and when it expires (microseconds, 0: never)."""

    kind: int
    value: bytes = b""
    expires_at_us: int = 0


#: (header, salted value, cluster time in microseconds) of what is settled in the slot -> what is to replace it, or None
#: where nothing is. The two are empty where nothing is there, or it was deleted, or has expired.
Changer = Callable[[bytes, bytes, int], Change | None]
#: Changers that were asked for, and the tokens of who did.
Asked = list[tuple[Changer, Any]]


class _Proposal(msgspec.Struct, frozen=True):
    """A header that is proposed, by its writer or by whoever found it locked."""

    header: bytes
    salted: bytes
    signature: bytes
    root: bytes
    writer: bytes


class ExactWrite(Machine):
    """One read-modify-write, `change`, which does what was asked for. `ended(slot, change, asked, outcome, now_us)`
    is called once."""

    __slots__ = (
        "_above",
        "_asked",
        "_attempts",
        "_ballot",
        "_before",
        "_change",
        "_clear_of",
        "_commit",
        "_context",
        "_ended",
        "_entry",
        "_floor_us",
        "_floors",
        "_given",
        "_group",
        "_holders",
        "_is_sent",
        "_locked",
        "_looks",
        "_losses",
        "_mine",
        "_pauses",
        "_phase",
        "_proposal",
        "_quorum_us",
        "_refused",
        "_rejects",
        "_request",
        "_resend_at_us",
        "_round_began_us",
        "_signed",
        "_slot",
        "_trouble",
        "_waits_for_clock",
        "_way",
    )

    def __init__(
        self,
        context: Coordinator,
        slot: bytes,
        change: Changer,
        asked: Asked,
        end_us: int,
        now_us: int,
        ended: Callable[[bytes, Changer, Asked, Outcome, int], None],
    ) -> None:
        super().__init__(end_us, end_us)
        self._context = context
        self._group = context.configuration.group_of(slot)
        self._slot = slot
        self._change = change
        self._asked = asked
        self._ended = ended
        self._before: Entry | None = None  # What is replaced.
        self._mine: _Proposal | None = None
        self._is_sent = False  # Whether any node may have heard of `_mine`.
        self._proposal: _Proposal | None = None  # What is proposed now: that, or another's.
        self._ballot = b""
        self._above = b""  # No ballot that was seen is above this.
        self._floor_us = 0
        self._locked: m.Locked | None = None  # The lock of the highest ballot that was shown.
        self._way: Entry | None = None  # The highest entry above `_before` that was shown.
        self._clear_of: set[bytes] = set()  # Entries that q nodes no longer have.
        self._request: m.Vote | m.Lock | m.Commit | None = None
        self._commit: Entry | None = None
        self._signed: dict[int, bytes] = {}
        self._refused: dict[int, int] = {}
        self._floors: dict[int, int] = {}
        self._rejects: dict[int, m.Reject] = {}
        self._holders: set[int] = set()
        self._given: dict[int, int] = {}  # node -> how often it was given what it lacked
        self._quorum_us = 0
        self._resend_at_us = 0
        self._pauses = 0
        self._losses = 0
        self._attempts = 0
        self._waits_for_clock = False
        self._looks = False  # Whether another is at it, and what is settled is looked at before the next ballot.
        self._round_began_us = now_us
        self._trouble = "no quorum answered"
        self._phase = READ
        self._read(now_us)

    def begun_nothing(self) -> list[tuple[bytes, Changer, Any]]:
        """Slot, changer and token of each that was asked for, where no node has heard of what it wants; else none."""
        return [] if self._is_sent else [(self._slot, change, token) for change, token in self._asked]

    def stranded(self, why: str) -> list[tuple[list[Any], Outcome]]:
        """See `Machine.stranded`. What was proposed is not judged by what stands in another epoch: there, what a
        revoked writer wrote is forgotten early."""
        if not self._is_sent:
            return []
        tokens = [token for _, token in self._asked]
        return [(tokens, Failed(UNKNOWN, f"{why}, and it was sent: it may have taken effect, or may yet"))]

    # --- the read, and what follows from what is settled ---

    def _read(self, now_us: int) -> None:
        self._phase = READ
        self._round_began_us = now_us
        self.deadline_us = self.end_us
        self._forget_request()
        context = self._context
        context.schedule(SettleEntry(context, self._group, self._slot, self.end_us, now_us, self._settled))

    def _settled(self, entry: Entry | None, floor_us: int, failed: Failed | None, now_us: int) -> None:
        if self.finished:
            return
        if now_us >= self.end_us or failed is not None:
            self._give_up(now_us, failed)
            return
        self._context.note_round(now_us - self._round_began_us)
        self._floor_us = max(self._floor_us, floor_us)
        if self._mine is None:
            self._begin(entry, now_us)
        else:
            self._judge(entry, now_us)
        self._context.schedule(self)

    def _begin(self, entry: Entry | None, now_us: int) -> None:
        """Propose what `change` makes of this entry."""
        context = self._context
        configuration = context.configuration
        self._before, self._mine, self._is_sent = entry, None, False
        self._locked = self._way = None
        self._above, self._pauses = b"", min(self._pauses, _PAUSES_KEPT)
        self._given.clear()
        header = b"" if entry is None else entry.header
        change = self._changed(entry, now_us)
        if change is None:
            return
        if len(change.value) > VALUE_BYTES_MAX:
            detail = f"nothing was sent: a value has at most {VALUE_BYTES_MAX} bytes, not {len(change.value)}"
            self._end(Failed(UNAVAILABLE, detail), now_us)
            return
        assert context.writer is not None
        assert context.sign is not None
        time_us = self._first_us(entry, now_us)
        least_us = max(self._floor_us, header_time(header) if header else 0, context.ahead_of(self._slot)) + 1
        if least_us > time_us:
            time_us = min(least_us, TIME_US_MAX)
            context.note_ahead(self._slot, time_us, now_us)
        # A nonce of its own: others of this key, in other processes, may propose at the same time.
        stamp = stamp_of(time_us, context.writer, context.random_u64())
        value = change.value if change.kind != DELETE else b""
        expires_at_us = change.expires_at_us if change.kind != DELETE else 0
        new_salted = context.random_bytes(SALT_BYTES) + value
        raw = encode_header(
            self._slot,
            stamp,
            change.kind,
            value_hash_of(new_salted),
            len(value),
            expires_at_us,
            successor_of(header),
        )
        root = merkle.root_of(digest_of(raw))
        signature = context.sign(intent_string(configuration.digest, self._group.id, root))
        self._mine = self._proposal = _Proposal(raw, new_salted, signature, root, context.writer)
        self._attempts += 1
        self._vote(stamp, now_us)

    def _first_us(self, entry: Entry | None, now_us: int) -> int:
        """The time of a header that is to replace this entry, and of its first ballot: just above that entry's, the
        sooner after it the higher, and the higher the more often its proposer lost. So who comes later finds whoever is
        at it by their refusals, and stays below. Where that would be too old already: the time it is."""
        clock, configuration = self._context.clock, self._context.configuration
        time_us = clock.next_us(now_us)
        if entry is None:
            return time_us
        ballot_us, most_us = stamp_time(entry.certificate.ballot), configuration.op_time_us // _EARLY_PART
        left_us = ballot_us + most_us - time_us
        if left_us < 0:
            return time_us
        # A few at random: who are equally soon are not always in the order of their keys.
        above_us = (left_us + self._losses * most_us) // _EARLY_STEP + self._context.random_u64() % 4
        return min(time_us, ballot_us + 1 + above_us)

    def _changed(self, entry: Entry | None, now_us: int) -> Change | None:
        """What is to replace this entry; None where nothing is, and then this has ended."""
        cluster_us = self._context.clock.time_us(now_us)
        header, salted = (b"", b"") if entry is None else (entry.header, entry.salted)
        if header and (header_is_delete(header) or 0 < header_expires_at(header) <= cluster_us):
            header = salted = b""
        change = self._change(header, salted, cluster_us)
        if change is None:
            self._end(Unchanged(header, salted), now_us)
        return change

    def _judge(self, entry: Entry | None, now_us: int) -> None:
        """What is settled now, in the way of what was proposed: was that won, or lost, or neither?"""
        assert self._mine is not None
        way, self._way = self._way, None
        before = self._before
        if entry is None or (before is not None and entry.stamp <= before.stamp):
            if way is not None:
                self._clear_of.add(way.header)  # q nodes forgot it: it is in nobody's way.
            if self._looks:
                self._looks = False
                self._again(now_us)
            else:
                self._pause(now_us)
            return
        configuration = self._context.configuration
        gap_us = 2 * configuration.op_time_us + 4 * configuration.max_skew_us
        replaced = b"" if before is None else before.header
        ballot_us = stamp_time(entry.certificate.ballot)
        verdict = verdict_of(self._mine.header, replaced, entry.header, ballot_us, gap_us)
        if verdict == WON:
            self._end(Decided(self._mine.header, self._mine.salted), now_us)
        elif verdict == LOST or not self._is_sent:
            # This entry is as good a predecessor as any.
            if entry is self._commit:
                self._begin(entry, now_us)  # Its own client left it locked: nobody else is at it.
            elif self._changed(entry, now_us) is not None:
                self._stand_back(now_us)
        else:
            self._end(Failed(UNKNOWN, f"it was sent, and may have taken effect: {verdict}"), now_us)

    # --- rounds ---

    def _new_round(self, phase: int, now_us: int) -> None:
        self._forget_request()
        self._phase = phase
        self._looks = False
        self._round_began_us = now_us
        self._signed, self._refused, self._floors, self._rejects = {}, {}, {}, {}
        self._holders = set()
        self._quorum_us = 0
        self._waits_for_clock = False
        self._resend_at_us = now_us + RESEND_US
        self.deadline_us = min(self._resend_at_us, self.end_us)

    def _forget_request(self) -> None:
        if self._request is not None:
            self._context.forget(self._request.id)
            self._request = None

    def _vote(self, ballot: bytes, now_us: int) -> None:
        proposal, context = self._proposal, self._context
        assert proposal is not None
        self._new_round(VOTE, now_us)
        self._ballot = ballot
        self._above = max(self._above, ballot)
        if proposal is self._mine:
            self._is_sent = True
        lock_ballot: bytes = b""
        votes: tuple[Grant, ...] = ()
        if self._locked is not None and self._locked.header == proposal.header:
            lock_ballot, votes = self._locked.ballot, self._locked.votes
        self._request = m.Vote(
            context.new_id(self),
            context.configuration.digest,
            self._group.id,
            proposal.header,
            proposal.salted,
            proposal.signature,
            ballot,
            lock_ballot,
            votes,
        )
        context.send(self._group.members, self._request)

    def _lock(self, now_us: int) -> None:
        proposal, context, ballot = self._proposal, self._context, self._ballot
        assert proposal is not None
        votes = tuple(Grant(node, _BITMAP, self._signed[node]) for node in sorted(self._signed))
        votes = votes[: context.configuration.q]
        locked = m.Locked(proposal.header, proposal.salted, proposal.signature, ballot, votes)
        if self._locked is None or self._locked.ballot < ballot:
            self._locked = locked
        self._new_round(LOCK, now_us)
        self._request = m.Lock(
            context.new_id(self),
            context.configuration.digest,
            self._group.id,
            locked.header,
            locked.salted,
            locked.signature,
            ballot,
            votes,
        )
        context.send(self._group.members, self._request)

    def _certify(self, now_us: int) -> None:
        proposal, context = self._proposal, self._context
        assert proposal is not None
        grants = tuple(Grant(node, _BITMAP, self._signed[node]) for node in sorted(self._signed))
        certificate = Certificate(
            context.configuration.digest,
            self._group.id,
            proposal.root,
            1,
            proposal.writer,
            proposal.signature,
            grants[: context.configuration.q],
            self._ballot,
        )
        entry = Entry(proposal.header, proposal.salted, certificate, 0, b"")
        self._new_round(COMMIT, now_us)
        self._commit = entry
        self._request = commit_of(context.new_id(self), context.configuration.digest, entry)
        context.send(self._group.members, self._request)

    def _pause(self, now_us: int) -> None:
        """Try again after a while: another is at it, or something has to pass."""
        self._forget_request()
        self._phase = PAUSE
        round_us = min(self._context.round_us, PAUSE_US_MAX)
        least_us = 1 + (_ROUNDS_LEFT_ALONE * round_us if self._looks else 0)
        most_us = min((PAUSE_US + round_us) << self._pauses, PAUSE_US_MAX + round_us)
        self._pauses = min(self._pauses + 1, 10)
        self.deadline_us = min(now_us + least_us + self._context.random_u64() % most_us, self.end_us)

    def _stand_back(self, now_us: int) -> None:
        """Others were first, and nothing of this is under way: wait for a while, the longer the more often that was so,
        and read again. Who begins anew at once comes in the way of whoever is at it, who does the same."""
        self._mine, self._is_sent = None, False
        self._losses = min(self._losses + 1, _LOSSES_MAX)
        self._trouble = "others changed the key before, again and again"
        self._forget_request()
        if self.end_us - now_us < self._context.configuration.op_time_us // _LAST_PART:
            self._give_up(now_us, None)  # Better nothing than what ends unknown.
            return
        self._phase = PAUSE
        pause_us = (PAUSE_US + min(self._context.round_us, PAUSE_US_MAX)) << self._losses
        self.deadline_us = min(now_us + 1 + self._context.random_u64() % pause_us, self.end_us)

    def _again(self, now_us: int) -> None:
        """A new ballot, above all that was seen, for whatever has the highest lock."""
        context, locked, mine = self._context, self._locked, self._mine
        assert mine is not None
        assert context.writer is not None
        is_locked = locked is not None and locked.ballot >= self._ballot
        if self._waits_for_clock and self._above <= self._ballot and not is_locked:
            self._vote(self._ballot, now_us)
            return
        self._proposal = mine
        if locked is not None and locked.header != mine.header:
            header = parse_header(locked.header)
            root = merkle.root_of(header.digest)
            self._proposal = _Proposal(locked.header, locked.salted, locked.signature, root, header.writer)
        above_us = stamp_time(self._above) if self._above else 0
        time_us = max(context.clock.next_us(now_us), above_us + 1, header_time(self._proposal.header))
        self._vote(stamp_of(min(time_us, TIME_US_MAX), context.writer, context.random_u64()), now_us)

    # --- replies ---

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take votes, grants, refusals, and answers to a commit."""
        request = self._request
        if self.finished or node not in self._group.members or request is None or request_id != request.id:
            return
        if isinstance(reply, m.Reject):
            self._rejects[node] = reply
            self._trouble = reply.detail or m.REJECTIONS.get(reply.code, "")
            if reply.code == m.OVERLOADED:
                del self._rejects[node]
                return
            self._assess(now_us)
        elif self._phase == COMMIT:
            if isinstance(reply, m.CommitReply) and len(reply.codes) == 1:
                self._take_committed(node, reply.codes[0], now_us)
        elif isinstance(reply, m.BallotReply) and node not in self._signed:
            if reply.code == 0:
                self._take_signature(node, reply.signature)
            else:
                self._take_refusal(node, reply, now_us)
            self._assess(now_us)

    def _take_signature(self, node: int, signature: bytes) -> None:
        context, proposal = self._context, self._proposal
        assert proposal is not None
        string = vote_string if self._phase == VOTE else exact_grant_string
        message = string(context.configuration.digest, self._group.id, proposal.root, self._ballot)
        if context.verifier.is_ballot_signed(context.configuration.nodes[node].key, message, signature):
            self._signed[node] = signature
            self._refused.pop(node, None)
        else:
            self._refused[node] = m.DENIED
            context.suspect(node, 4.0, lie=True)

    def _take_refusal(self, node: int, reply: m.BallotReply, now_us: int) -> None:
        context = self._context
        configuration = context.configuration
        # What is later than this, no correct node said.
        credible_us = context.clock.time_us(now_us) + 3 * configuration.max_skew_us
        self._refused[node] = reply.code
        self._trouble = reply.detail or m.BALLOT_CODES.get(reply.code, "a refusal of no known kind")
        if reply.code == m.STALE:
            self._take_stale(node, reply.entry, now_us)
        elif reply.code == m.LOCKED and reply.locked is not None:
            try:
                if verify_lock(context.verifier, configuration, reply.locked).slot != self._slot:
                    raise Malformed("a lock of another slot")
            except Malformed:
                context.suspect(node, 4.0, lie=True)
                return
            self._above = max(self._above, reply.locked.ballot)
            if self._locked is None or self._locked.ballot < reply.locked.ballot:
                self._locked = reply.locked
        elif reply.code == m.BUSY and is_ballot(reply.ballot):
            if stamp_time(reply.ballot) <= credible_us:
                self._above = max(self._above, reply.ballot)
        elif reply.code == m.BELOW_FLOOR and reply.time_us <= credible_us:
            if not reply.ballot:
                self._floors[node] = reply.time_us
            elif is_ballot(reply.ballot):
                self._above = max(self._above, stamp_of(reply.time_us, b"", 0))

    def _take_stale(self, node: int, entry: Entry | None, now_us: int) -> None:
        """Something else is current there: what this is about to replace is not, or no longer."""
        context, before = self._context, self._before
        if entry is not None:
            try:
                if context.verifier.check_entry(entry).slot != self._slot:
                    raise Malformed("an entry of another slot")
            except Malformed:
                context.suspect(node, 4.0, lie=True)
                return
            if before is None or entry.stamp > before.stamp:
                if entry.header not in self._clear_of and (self._way is None or entry.stamp > self._way.stamp):
                    self._way = entry
                return
        # It lacks what is replaced: give it that, and ask again; a liar would say so for ever.
        if before is not None and self._given.get(node, 0) < 3:
            self._given[node] = self._given.get(node, 0) + 1
            context.send((node,), commit_of(context.unrouted_id(), context.configuration.digest, before))
            assert self._request is not None
            del self._refused[node]
            context.send((node,), self._request)

    def _take_committed(self, node: int, code: int, now_us: int) -> None:
        assert self._commit is not None
        if code in (m.OK, m.EVICTED):
            self._holders.add(node)
            if len(self._holders) >= self._context.configuration.q:
                self._above = max(self._above, self._ballot)
                self._judge(self._commit, now_us)
        else:
            self._trouble = m.COMMIT_CODES[code] if code < len(m.COMMIT_CODES) else "an answer of no known kind"

    def _assess(self, now_us: int) -> None:
        """Is there a quorum, or none to be had in this ballot?"""
        configuration = self._context.configuration
        q, members = configuration.q, len(self._group.members)
        if len(self._signed) >= q:
            self._context.note_round(now_us - self._round_began_us)
            (self._lock if self._phase == VOTE else self._certify)(now_us)
            return
        if self._phase == COMMIT:
            return
        if self._for_good() >= q and self._is_nothing_signed():
            # f+1 correct nodes among them never vote for it.
            self._end(Failed(DENIED if not self._rejects else UNAVAILABLE, self._trouble), now_us)
            return
        answered = len(self._signed) + len(self._refused) + len(self._rejects)
        if answered >= q and not self._quorum_us:
            self._quorum_us = now_us
            self._context.note_round(now_us - self._round_began_us)
            # Who has answered late may yet make it a quorum, or know of a lock.
            self.deadline_us = min(self.deadline_us, now_us + max(1, configuration.grace_us))
        if answered >= q > len(self._signed) + members - answered:
            self._next(now_us)

    def _for_good(self) -> int:
        """How many nodes refused what asking again will not change."""
        return len(self._rejects) + sum(code == m.DENIED for code in self._refused.values())

    def _is_nothing_signed(self) -> bool:
        """Whether what q nodes refuse now has no votes of an earlier round. What some nodes refuse for good others may
        have locked, for quotas are each node's own, and whoever comes next finishes that."""
        if not self._is_sent:
            return True
        assert self._mine is not None
        return self._attempts == 1 and self._phase == VOTE and self._ballot == header_stamp(self._mine.header)

    def _next(self, now_us: int) -> None:
        """This ballot comes to nothing: what is the next step?"""
        q = self._context.configuration.q
        assert self._mine is not None
        if self._way is not None:
            self._read(now_us)
            return
        if self._for_good() > len(self._group.members) - q:
            self._give_up(now_us, None)
            return
        my_time_us = header_time(self._mine.header)
        too_low = sum(floor_us >= my_time_us for floor_us in self._floors.values())
        if self._proposal is self._mine and self._before is None and self._locked is None and too_low >= q:
            # f+1 correct nodes among them are absent with a floor above the header: nobody ever decides it.
            self._floor_us = max(self._floor_us, sorted(self._floors.values())[-1 - self._context.configuration.f])
            self._is_sent = False
            self._begin(None, now_us)
            return
        if sum(code == m.AHEAD for code in self._refused.values()) > self._context.configuration.f:
            self._waits_for_clock = True
        self._looks = any(code in (m.BUSY, m.LOCKED) for code in self._refused.values())
        self._pause(now_us)

    # --- time, and ends ---

    def wake(self, now_us: int) -> None:
        """Go on after a pause or a grace time; resend; give up at the end of op_time."""
        if now_us >= self.end_us:
            self._give_up(now_us, None)
            return
        if self._phase == PAUSE:
            if self._mine is None or self._looks:
                self._read(now_us)
            else:
                self._again(now_us)
            return
        if self._phase == READ or self._request is None:
            self.deadline_us = self.end_us
            return
        configuration = self._context.configuration
        if self._phase != COMMIT and self._quorum_us and now_us >= self._quorum_us + configuration.grace_us:
            self._next(now_us)
            return
        if now_us >= self._resend_at_us:
            self._resend_at_us = now_us + RESEND_US
            answered = self._holders if self._phase == COMMIT else {*self._signed, *self._refused}
            silent = tuple(n for n in self._group.members if n not in answered and n not in self._rejects)
            self._context.send(silent, self._request)
        self.deadline_us = min(self._resend_at_us, self.end_us)
        if self._quorum_us and self._phase != COMMIT:
            self.deadline_us = min(self.deadline_us, self._quorum_us + configuration.grace_us)

    def _give_up(self, now_us: int, failed: Failed | None) -> None:
        detail = self._trouble if failed is None else failed.detail
        if self._is_sent:
            detail = f"it was sent, but not confirmed, and may have taken effect: {detail}"
            self._end(Failed(UNKNOWN, detail), now_us)
        else:
            what = "nothing stands of it" if self._attempts else "nothing was sent"
            self._end(failed or Failed(UNAVAILABLE, f"{what}: {detail}"), now_us)

    def _end(self, outcome: Outcome, now_us: int) -> None:
        self.finished = True
        self._forget_request()
        self._ended(self._slot, self._change, self._asked, outcome, now_us)


def token_of(decided: Decided) -> int:
    """The fencing token of what was decided: the time of its stamp, in microseconds."""
    return stamp_time(header_stamp(decided.header))
