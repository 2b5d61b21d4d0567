"""Writes: prepare, certificate, commit (protocol 4, write).

A `WriteBatch` is one signed batch for one group: one intent, one grant per node, then commits. What is refused leaves
it and is proposed again, in another batch, by the coordinator; what refusals mean is in refusal.py. It must not know
sockets, or what values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string
from quorumcache.core.commits import ASKED, CERTIFIED, LEFT, Commits, generation_of_write
from quorumcache.core.config import Group
from quorumcache.core.draft import draft
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, is_worth_asking_again
from quorumcache.core.model import STAMP_BYTES, Entry, Grant, stamp_time
from quorumcache.core.outcome import DENIED, MISMATCH, UNAVAILABLE, UNKNOWN, Failed, Written
from quorumcache.core.quorum import full_bitmap, is_bitmap
from quorumcache.core.read import is_rejected, rejection
from quorumcache.core.refusal import (
    FieldWrite,
    Judgement,
    PendingWrite,
    Strays,
    asks_for_patience,
    judge,
    patience_us,
    raise_time,
    strays_in,
    summary_of,
    tombstone_in,
    waits_for_another,
)
from quorumcache.core.settle import Overtaken

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator


class WriteBatch(Commits):
    """One batch: headers, intent, grants, commits."""

    __slots__ = (
        "_again_us",
        "_asked_us",
        "_prepare",
        "_quorum_us",
        "_refusals",
        "_rejects",
        "_sent_us",
        "_waits",
    )

    def __init__(self, context: Coordinator, group: Group, writes: list[PendingWrite], now_us: int) -> None:
        configuration = context.configuration
        for write in writes:
            write.attempt += 1
            if not write.deadline_us:
                write.deadline_us = now_us + configuration.op_time_us
        proposed = draft(context, group, writes, now_us)
        super().__init__(context, group, writes, proposed, now_us, min(write.deadline_us for write in writes))
        self._refusals: dict[int, dict[int, m.Refusal]] = {}  # node -> position -> refusal
        self._rejects: dict[int, m.Reject] = {}
        self._quorum_us = 0
        self._sent_us = now_us
        self._asked_us = now_us
        self._again_us = 0
        self._waits = 0
        self._prepare = m.Prepare(
            self._id, configuration.digest, group.id, proposed.writer, proposed.signature, proposed.headers
        )
        context.send(group.members, self._prepare)
        context.counts["write_attempts"] += len(writes)

    # --- prepare ---

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take grants and refusals, then answers to commits."""
        if self.finished or node not in self._group.members:
            return
        if request_id == self._id:
            if isinstance(reply, m.PrepareReply):
                self._take_prepared(node, reply, now_us)
            elif isinstance(reply, m.Reject) and node not in self._refusals:
                self._rejects[node] = reply
                self._evaluate(now_us)
        elif isinstance(reply, m.CommitReply):
            self._take_committed(request_id, node, reply, now_us)

    def _take_prepared(self, node: int, reply: m.PrepareReply, now_us: int) -> None:
        if node in self._refusals or ASKED not in self._states:
            return
        context = self._context
        count = len(self._writes)
        bitmap = reply.bitmap
        refusals = {refusal.position: refusal for refusal in reply.refusals}
        lie = not is_bitmap(bitmap, count) or any(
            position >= count or bitmap[position >> 3] >> (position & 7) & 1 for position in refusals
        )
        if not lie and any(bitmap):
            message = grant_string(context.configuration.digest, self._group.id, self._draft.root, bitmap)
            key = context.configuration.nodes[node].key
            if context.verifier.is_signed(key, message, reply.signature):
                self._grants[node] = Grant(node, bitmap, reply.signature)
            else:
                lie = True
        if lie:
            context.suspect(node, 4.0, lie=True)
            refusals = {}
        self._refusals[node] = refusals
        self._rejects.pop(node, None)
        self._evaluate(now_us)

    def _evaluate(self, now_us: int) -> None:
        """Which headers are certified by now, and which are refused?"""
        context = self._context
        configuration = context.configuration
        q = configuration.q
        if is_rejected(self._rejects, configuration.n - q):
            self._fail_asked(rejection(self._group, self._rejects), now_us)
            return
        answered = len(self._refusals)
        if answered < q:
            return
        if not self._quorum_us:
            self._quorum_us = now_us
            if self._sent_us:
                context.note_round(now_us - self._sent_us)
                self._sent_us = 0
        late = now_us >= self._quorum_us + configuration.grace_us
        outstanding = len(self._group.members) - answered - len(self._rejects)
        asked = [i for i, state in enumerate(self._states) if state == ASKED]
        full = full_bitmap(len(self._writes))
        if sum(grant.bitmap == full for grant in self._grants.values()) >= q:
            self._certify(asked, now_us)
            return
        certified, refused = [], []
        grants = list(self._grants.values())
        for i in asked:
            if self._base_is_open(i):
                continue
            granted = sum(grant.bitmap[i >> 3] >> (i & 7) & 1 for grant in grants)
            if granted >= q:
                certified.append(i)
            elif late or granted + outstanding < q:
                refused.append(i)
        may_wait = outstanding > 0 and not late
        if certified:
            self._certify(certified, now_us)
        for i in refused:
            if self._states[i] == ASKED:
                self._refused(i, may_wait, now_us)
        if certified and any(self._writes[i].begins for i in certified) and ASKED in self._states:
            self._evaluate(now_us)  # The fields that waited for their base.
            return
        if ASKED in self._states:
            self._schedule(now_us)
        self._close_if_done()

    def _base_is_open(self, i: int) -> bool:
        """Whether this is a field whose base, in this batch, is not certified yet: without it the field is nothing."""
        write = self._writes[i]
        if not isinstance(write, FieldWrite) or write.creates is None:
            return False
        return write.creates.slot not in self._certified_bases

    def _refused(self, i: int, may_wait: bool, now_us: int) -> None:
        """A header that q nodes will not grant: raise its time, or find that it was overtaken, or wait, or fail.
        `may_wait`: further answers may come, and the grace time is not over."""
        context = self._context
        configuration = context.configuration
        f, q = configuration.f, configuration.q
        write, stamp = self._writes[i], self._draft.stamps[i]
        refusals = {n: found[i] for n, found in self._refusals.items() if i in found}
        granted = sum(grant.bitmap[i >> 3] >> (i & 7) & 1 for grant in self._grants.values())
        generation = write.metadata[:STAMP_BYTES] or stamp
        judgement = judge(context.verifier, write.slot, stamp, refusals, granted)
        strays = strays_in(context.verifier, write.slot, stamp, generation, refusals, f)
        for node in (*judgement.liars, *strays.liars):
            context.suspect(node, 4.0, lie=True)
        if len(judgement.denials) > f:
            failed = Failed(DENIED, judgement.denials[0] or "no right to write here")
            self._leave(i)
            self._leave_fields(write, failed, now_us)
            context.finish_write(write, failed)
            return
        write.trouble = summary_of(refusals, len(self._refusals), len(self._group.members))
        ahead_us = stamp_time(stamp) - context.clock.time_us(now_us)
        silent = len(self._group.members) - len(self._refusals) - len(self._rejects)
        # Cluster time is known to a round trip, and a stamp is as late as that, so this is when it was asked at least.
        asked_ahead_us = ahead_us + 2 * (now_us - self._asked_us)
        if asks_for_patience(refusals, granted + silent, q, asked_ahead_us) or (
            write.begins
            and not judgement.proved
            and waits_for_another(refusals, granted + silent, configuration, strays, stamp)
        ):
            if ahead_us <= 3 * configuration.max_skew_us:
                if not self._again_us:
                    self._waits += 1
                    wait_us = patience_us(refusals, ahead_us - configuration.max_skew_us, self._waits, configuration)
                    self._again_us = now_us + wait_us
                return
            # No floor or entry asks for that: it was a wrong guess of cluster time, made before nodes told theirs.
            self._leave(i)
            if write.begins:
                self._leave_fields(write, None, now_us)
                context.finish_write(write, Failed(UNAVAILABLE, write.trouble))
                return
            context.retry(write, now_us, now_us)
            return
        if write.begins:
            # Another's base, or a floor, is in the way: look again what there is.
            self._leave(i)
            cluster_us = context.clock.time_us(now_us)
            raise_time(write, stamp, judgement.proved, judgement.floors, configuration, cluster_us)
            # A live one that is young may only be on its way to a quorum.
            is_old = strays.count > 0 and strays.newest_us < cluster_us - 3 * configuration.grace_us
            self._leave_fields(write, None, now_us, strays, strays.newest if is_old else b"")
            context.finish_write(write, Failed(UNAVAILABLE, write.trouble))
            return
        if write.wipes:
            tombstone = tombstone_in(context.verifier, write.slot, stamp, refusals)
            if tombstone is not None:
                self._leave(i)
                self._overtaken(write, stamp, tombstone.stamp, now_us, tombstone)
                return
        proved = judgement.proved
        if isinstance(write, FieldWrite):
            proved = [s for s, g in zip(judgement.proved, judgement.generations, strict=False) if g == generation]
            # One that was overtaken within its generation goes on there, whatever f liars say of the generation.
            away = strays.count + len(judgement.proved) - len(proved)
            if away > f or (away and not proved):
                self._leave(i)
                cluster_us = context.clock.time_us(now_us)
                raise_time(write, stamp, judgement.proved, judgement.floors, configuration, cluster_us)
                context.generations.bounded_by(write, strays, judgement, granted)
                context.generations.relearn(write, now_us, strays)
                return
        if write.first_bound_us is None:
            # Any attempt will do: what q answers to it did not show was not complete when the write began. Without a
            # bound there is no end to being overtaken, so a liar's empty answer must not keep others' from counting.
            write.first_bound_us = judgement.bound_us(q)
            if write.first_bound_us is None and may_wait:
                return
        elif proved and stamp_time(stamp) > write.first_bound_us and self._may_precede(write, judgement):
            self._leave(i)
            self._overtaken(write, stamp, max(proved), now_us)
            return
        self._leave(i)
        self._raise_time(write, stamp, judgement.proved, judgement.floors, now_us)

    def _may_precede(self, write: PendingWrite, judgement: Judgement) -> bool:
        """Whether the write may count as ordered just before what overtook it. Not so a delete before a base that goes
        on with what was to be deleted."""
        if isinstance(write, FieldWrite) or not self._context.is_keyed(write.slot):
            return True
        above = max(judgement.proved)
        return judgement.generations[judgement.proved.index(above)] == above

    def _leave_fields(
        self,
        base: PendingWrite,
        failed: Failed | None,
        now_us: int,
        strays: Strays | None = None,
        blocked: bytes = b"",
    ) -> None:
        """The base of these fields is not to be: they fail with it, or learn what there is instead. `strays`: what
        stands in its way, `blocked`: the live generation that does, for long enough."""
        for i, write in enumerate(self._writes):
            if isinstance(write, FieldWrite) and write.creates is base and self._states[i] != LEFT:
                self._leave(i)
                if failed is not None:
                    self._context.finish_write(write, failed)
                else:
                    write.time_min_us = max(write.time_min_us, base.time_min_us)
                    write.blocked = blocked or write.blocked
                    write.trouble = base.trouble
                    self._context.generations.relearn(write, now_us, strays)

    def _raise_time(
        self, write: PendingWrite, stamp: bytes, proved: list[bytes], floors: list[int], now_us: int
    ) -> None:
        context = self._context
        cluster_us = context.clock.time_us(now_us)
        wait_us = raise_time(write, stamp, proved, floors, context.configuration, cluster_us)
        context.retry(write, now_us + wait_us, now_us)

    def _overtaken(
        self, write: PendingWrite, stamp: bytes, above: bytes, now_us: int, entry: Entry | None = None
    ) -> None:
        """Rule 3: what overtook this write was not complete when it began. Complete that; this one is before it. A
        tombstone that wipes a key has done its work with any other: `entry`."""
        context = self._context

        def finish(done: bool, at_us: int) -> None:
            if done:
                context.counts["writes_overtaken"] += 1
                written = Written(stamp, overtaken=not write.wipes, generation=generation_of_write(write))
                context.finish_write(write, written)
            else:
                self._raise_time(write, stamp, [above], [], at_us)

        generation = write.metadata[:STAMP_BYTES]
        context.schedule(
            Overtaken(context, self._group, write.slot, above, write.deadline_us, finish, now_us, generation, entry)
        )

    # --- ends and time ---

    def _fail_asked(self, failed: Failed, now_us: int) -> None:
        for i, state in enumerate(self._states):
            if state == ASKED:
                self._leave(i)
                self._context.finish_write(self._writes[i], failed)
        self._close_if_done()

    def _schedule(self, now_us: int) -> None:
        """Set the deadline to what comes first: resend, end of grace, a wait for clocks or room, an operation's end."""
        deadline_us = self._resend_at_us
        if ASKED in self._states and self._quorum_us:
            grace_end_us = self._quorum_us + self._context.configuration.grace_us
            if grace_end_us > now_us:
                deadline_us = min(deadline_us, grace_end_us)
        if self._again_us:
            deadline_us = min(deadline_us, self._again_us)
        for part in self._commits.values():
            for at, nodes in part.gone.items():
                write = self._writes[part.positions[at]]
                if self._states[part.positions[at]] == CERTIFIED and isinstance(write, FieldWrite):
                    deadline_us = min(deadline_us, max(now_us + 1, self._leaves_us(part, write, len(nodes))))
        ends = [write.deadline_us for write, state in zip(self._writes, self._states, strict=True) if state != LEFT]
        if ends:
            self.end_us = min(ends)
        self.deadline_us = min(deadline_us, self.end_us)

    def wake(self, now_us: int) -> None:
        """Resend, end grace times, end operations whose time is over."""
        context = self._context
        for i, write in enumerate(self._writes):
            if self._states[i] != LEFT and now_us >= write.deadline_us:
                self._expire(i, write, now_us)
        for request_id, part in list(self._commits.items()):
            if part.gone:
                self._leave_gone(request_id, part, now_us)
        self._close_if_done()
        if not self._left:
            return
        if self._again_us and now_us >= self._again_us:
            # Ask those again that said "not now": their answers may differ.
            self._again_us = 0
            again = [
                node
                for node, refusals in self._refusals.items()
                if any(self._states[i] == ASKED and r.code in (m.AHEAD, m.BUSY, m.FULL) for i, r in refusals.items())
            ]
            for node in again:
                del self._refusals[node]
                self._grants.pop(node, None)
            self._quorum_us = 0
            if again:
                self._asked_us = now_us
                context.send(tuple(again), self._prepare)
                self._resend_at_us = max(self._resend_at_us, now_us + RESEND_US)
        if ASKED in self._states and self._quorum_us:
            self._evaluate(now_us)
            if not self._left:
                return
        if now_us >= self._resend_at_us:
            self._resend()
            self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
            self._resend_at_us = now_us + self._resend_us
        self._schedule(now_us)

    def _resend(self) -> None:
        context = self._context
        members = self._group.members
        if ASKED in self._states:
            silent = tuple(n for n in members if n not in self._refusals and is_worth_asking_again(n, self._rejects))
            if silent:
                context.send(silent, self._prepare)
                for node in silent:
                    context.suspect(node, 0.5)
        for part in self._commits.values():
            silent = tuple(n for n in members if n not in part.full)
            for node in part.without_base:
                if node in silent:
                    self._send_bases(part, node)
            if silent:
                context.send(silent, part.request)

    def _expire(self, i: int, write: PendingWrite, now_us: int) -> None:
        certified = self._states[i] == CERTIFIED
        self._leave(i)
        members = len(self._group.members)
        q = self._context.configuration.q
        if certified:
            detail = (
                f"the commit was sent, but fewer than {q} of {members} nodes confirmed it in time: "
                "it may have taken effect, or may yet"
            )
            self._context.finish_write(write, Failed(UNKNOWN, detail))
            for request_id, part in list(self._commits.items()):
                if all(self._states[at] == LEFT for at in part.positions):
                    self._drop_part(request_id)
            return
        detail = write.trouble or (f"{len(self._refusals)} of {members} nodes answered in time, {q} are needed")
        mismatch = any(r.code == m.WRONG_CONFIGURATION for r in self._rejects.values())
        kind = MISMATCH if mismatch and len(self._rejects) > members - q else UNAVAILABLE
        if write.begins:
            self._leave_fields(write, None, now_us)  # Those that have time left.
        self._context.finish_write(write, Failed(kind, f"nothing was written: {detail}"))
