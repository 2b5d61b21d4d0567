"""Writes: prepare, certificate, commit (protocol 4, write).

A `WriteBatch` is one signed batch for one group: one intent, one grant per node, then commits. What is refused leaves
it and is proposed again, in another batch, by the coordinator; `PendingWrite` is what an operation carries from attempt
to attempt. It must not know sockets, or what values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string, intent_string
from quorumcache.core.config import Group
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine
from quorumcache.core.model import (
    SALT_BYTES,
    TIME_US_MAX,
    Certificate,
    Grant,
    Malformed,
    digest_of,
    encode_header,
    stamp_of,
    stamp_time,
    value_hash_of,
)
from quorumcache.core.outcome import DENIED, MISMATCH, UNAVAILABLE, UNKNOWN, Failed, Written
from quorumcache.core.quorum import full_bitmap, is_bitmap, nth_highest, nth_lowest
from quorumcache.core.read import rejection
from quorumcache.core.settle import Overtaken

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

BACKOFF_US: Final = 20_000
BACKOFF_US_MAX: Final = 500_000
#: How often a batch that is ahead of the nodes' clocks is sent again.
AHEAD_POLL_US: Final = 10_000

# How far a header of the batch is.
_ASKED, _CERTIFIED, _LEFT = 0, 1, 2


class PendingWrite:
    """One write of one slot, over all its attempts. Times are in microseconds."""

    __slots__ = (
        "attempt",
        "deadline_us",
        "expires_at_us",
        "first_bound_us",
        "kind",
        "metadata",
        "slot",
        "time_min_us",
        "tokens",
        "trouble",
        "value",
    )

    def __init__(
        self,
        slot: bytes,
        kind: int,
        value: bytes,
        expires_at_us: int,
        metadata: bytes,
        tokens: list[Any],
    ) -> None:
        self.slot = slot
        self.kind = kind
        self.value = value
        self.expires_at_us = expires_at_us
        self.metadata = metadata
        self.tokens = tokens
        self.attempt = 0
        #: op_time after the first send.
        self.deadline_us = 0
        #: The next stamp's time is at least this.
        self.time_min_us = 0
        #: What q informative answers to the first attempt lay at or below; None where they were fewer.
        self.first_bound_us: int | None = None
        #: Why the last attempt was refused, for the error.
        self.trouble = ""


class _CommitPart:
    """One commit message of a batch: its positions, and who answered for which."""

    __slots__ = ("acks", "full", "nodes", "partial", "positions", "request", "revoked")

    def __init__(self, positions: list[int], request: m.Commit) -> None:
        self.positions = positions
        self.request = request
        self.full: set[int] = set()  # nodes that hold all of it
        self.partial: dict[int, set[int]] = {}  # node -> places in `positions` that it answered for
        self.revoked: set[int] = set()


class WriteBatch(Machine):
    """One batch: headers, intent, grants, commits."""

    __slots__ = (
        "_ahead_us",
        "_answered_us",
        "_commits",
        "_context",
        "_grants",
        "_group",
        "_headers",
        "_id",
        "_leaves",
        "_left",
        "_overtakers",
        "_prepare",
        "_prepare_sent_us",
        "_quorum_us",
        "_refusals",
        "_rejects",
        "_resend_at_us",
        "_resend_us",
        "_root",
        "_salted",
        "_signature",
        "_stamps",
        "_states",
        "_writes",
    )

    def __init__(self, context: Coordinator, group: Group, writes: list[PendingWrite], now_us: int) -> None:
        self._context = context
        self._group = group
        self._writes = writes
        configuration = context.configuration
        super().__init__(now_us + RESEND_US)
        self._resend_us = RESEND_US
        self._resend_at_us = now_us + RESEND_US
        time_us = context.clock.next_us(now_us)
        salts = context.random_bytes(SALT_BYTES * len(writes))
        writer = context.writer
        assert writer is not None
        assert context.sign is not None
        self._headers: list[bytes] = []
        self._salted: list[bytes] = []
        self._stamps: list[bytes] = []
        digests: list[bytes] = []
        common = stamp_of(time_us, writer, context.nonce)
        for i, write in enumerate(writes):
            write.attempt += 1
            if not write.deadline_us:
                write.deadline_us = now_us + configuration.op_time_us
            stamp = common
            least_us = max(write.time_min_us, context.ahead_of(write.slot) + 1)
            if least_us > time_us:
                least_us = min(least_us, TIME_US_MAX)
                stamp = stamp_of(least_us, writer, context.nonce)
                context.note_ahead(write.slot, least_us, now_us)
            salted = salts[i * SALT_BYTES : (i + 1) * SALT_BYTES] + write.value
            header = encode_header(
                write.slot,
                stamp,
                write.kind,
                value_hash_of(salted),
                len(write.value),
                write.expires_at_us,
                write.metadata,
            )
            self._stamps.append(stamp)
            self._salted.append(salted)
            self._headers.append(header)
            digests.append(digest_of(header))
        self._leaves = b"".join(digests)
        self._root = merkle.root_of(self._leaves)
        self._signature = context.sign(intent_string(configuration.digest, group.id, self._root))
        self._states = bytearray(len(writes))
        self._left = len(writes)
        self._grants: dict[int, Grant] = {}
        self._refusals: dict[int, dict[int, m.Refusal]] = {}  # node -> position -> refusal
        self._rejects: dict[int, m.Reject] = {}
        self._quorum_us = 0
        self._ahead_us = 0
        self._commits: dict[int, _CommitPart] = {}
        self._overtakers: int = 0
        self._id = context.new_id(self)
        self._prepare = m.Prepare(self._id, configuration.digest, group.id, writer, self._signature, self._headers)
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
            elif isinstance(reply, m.Reject):
                self._rejects[node] = reply
                self._evaluate(now_us)
        elif isinstance(reply, m.CommitReply):
            self._take_committed(request_id, node, reply, now_us)

    def _take_prepared(self, node: int, reply: m.PrepareReply, now_us: int) -> None:
        if node in self._refusals or _ASKED not in self._states:
            return
        context = self._context
        count = len(self._writes)
        bitmap = reply.bitmap
        refusals = {refusal.position: refusal for refusal in reply.refusals}
        lie = not is_bitmap(bitmap, count) or any(
            position >= count or bitmap[position >> 3] >> (position & 7) & 1 for position in refusals
        )
        if not lie and any(bitmap):
            message = grant_string(context.configuration.digest, self._group.id, self._root, bitmap)
            key = context.configuration.nodes[node].key
            if context.verifier.is_signed(key, message, reply.signature):
                self._grants[node] = Grant(node, bitmap, reply.signature)
            else:
                lie = True
        if lie:
            context.suspect(node, 4.0, lie=True)
            refusals = {}
        self._refusals[node] = refusals
        self._evaluate(now_us)

    def _evaluate(self, now_us: int) -> None:
        """Which headers are certified by now, and which are refused?"""
        context = self._context
        configuration = context.configuration
        q = configuration.q
        if len(self._rejects) > configuration.n - q:
            self._fail_asked(rejection(self._group, self._rejects), now_us)
            return
        answered = len(self._refusals)
        if answered < q:
            return
        if not self._quorum_us:
            self._quorum_us = now_us
        late = now_us >= self._quorum_us + configuration.grace_us
        outstanding = len(self._group.members) - answered - len(self._rejects)
        asked = [i for i, state in enumerate(self._states) if state == _ASKED]
        full = full_bitmap(len(self._writes))
        if sum(grant.bitmap == full for grant in self._grants.values()) >= q:
            self._certify(asked, now_us)
            return
        certified, refused = [], []
        grants = list(self._grants.values())
        for i in asked:
            granted = sum(grant.bitmap[i >> 3] >> (i & 7) & 1 for grant in grants)
            if granted >= q:
                certified.append(i)
            elif late or granted + outstanding < q:
                refused.append(i)
        if certified:
            self._certify(certified, now_us)
        for i in refused:
            self._refused(i, now_us)
        if _ASKED in self._states:
            self._schedule(now_us)
        self._close_if_done()

    def _refused(self, i: int, now_us: int) -> None:
        """A header that q nodes will not grant: raise its time, or find that it was overtaken, or wait, or fail."""
        context = self._context
        configuration = context.configuration
        f, q = configuration.f, configuration.q
        write, stamp = self._writes[i], self._stamps[i]
        refusals = {n: found[i] for n, found in self._refusals.items() if i in found}
        denials = [r for r in refusals.values() if r.code == m.DENIED]
        if len(denials) > f:
            self._leave(i)
            context.finish_write(write, Failed(DENIED, denials[0].detail or "no right to write here"))
            return
        proved: list[bytes] = []
        floors: list[int] = []
        # What the informative answers (grants, STALE with proof, BELOW_FLOOR) show to lie at or below what time.
        bounds = [0 for grant in self._grants.values() if grant.bitmap[i >> 3] >> (i & 7) & 1]
        ahead = 0
        for node, refusal in refusals.items():
            if refusal.code == m.STALE:
                shown = self._proved(node, i, refusal)
                if shown is not None:
                    proved.append(shown)
                    bounds.append(stamp_time(shown))
            elif refusal.code == m.BELOW_FLOOR:
                floors.append(refusal.time_us)
                bounds.append(refusal.time_us)
            elif refusal.code == m.AHEAD:
                ahead += 1
        write.trouble = _summary(refusals, len(self._refusals), len(self._group.members))
        if ahead and ahead == len(refusals):
            # AHEAD alone: wait, then send the same bytes again.
            cluster_us = context.clock.time_us(now_us)
            wait_us = stamp_time(stamp) - configuration.max_skew_us - cluster_us
            self._ahead_us = now_us + max(AHEAD_POLL_US, wait_us)
            return
        if write.attempt == 1:
            write.first_bound_us = nth_lowest(bounds, q)
        elif proved and write.first_bound_us is not None and stamp_time(stamp) > write.first_bound_us:
            self._leave(i)
            self._overtaken(write, stamp, max(proved), now_us)
            return
        self._leave(i)
        self._raise_time(write, stamp, proved, floors, now_us)

    def _proved(self, node: int, i: int, refusal: m.Refusal) -> bytes | None:
        """The stamp that a STALE refusal proves, where its certificate is valid and really stands in the way."""
        context = self._context
        if refusal.proof is None:
            return None
        try:
            header = context.verifier.check_entry(refusal.proof, with_value=False)
            if header.slot != self._writes[i].slot or header.stamp < self._stamps[i]:
                raise Malformed("the proof is not of a higher stamp of this slot")
        except Malformed:
            context.suspect(node, 4.0, lie=True)
            return None
        return header.stamp

    def _raise_time(
        self, write: PendingWrite, stamp: bytes, proved: list[bytes], floors: list[int], now_us: int
    ) -> None:
        context = self._context
        configuration = context.configuration
        cluster_us = context.clock.time_us(now_us)
        least_us = stamp_time(stamp) + 1
        for shown in proved:
            least_us = max(least_us, stamp_time(shown) + 1)
        claimed = nth_highest(floors, configuration.f + 1)
        if claimed is not None:
            least_us = max(least_us, claimed + 1)
        if write.attempt > 1:
            # It was not enough: above any claimed floor that could be honest.
            honest_us = cluster_us + 3 * configuration.max_skew_us
            for floor_us in floors:
                if floor_us <= honest_us:
                    least_us = max(least_us, floor_us + 1)
        write.time_min_us = least_us
        not_before_us = now_us
        if not proved and not floors:
            # Nothing to go above: busy or full nodes, or silence. Try again a little later.
            not_before_us += min(BACKOFF_US << min(write.attempt, 8), BACKOFF_US_MAX)
        wait_us = least_us - configuration.max_skew_us - cluster_us
        context.retry(write, max(not_before_us, now_us + wait_us), now_us)

    def _overtaken(self, write: PendingWrite, stamp: bytes, above: bytes, now_us: int) -> None:
        """Rule 3: what overtook this write was not complete when it began. Complete that; this one is before it."""
        context = self._context

        def finish(done: bool, at_us: int) -> None:
            if done:
                context.counts["writes_overtaken"] += 1
                context.finish_write(write, Written(stamp, overtaken=True))
            else:
                self._raise_time(write, stamp, [above], [], at_us)

        context.schedule(Overtaken(context, self._group, write.slot, above, write.deadline_us, finish, now_us))

    def _leave(self, i: int) -> None:
        self._states[i] = _LEFT
        self._left -= 1

    # --- commit ---

    def _certify(self, positions: list[int], now_us: int) -> None:
        """q grants promise these headers: commit them at the whole group."""
        context = self._context
        configuration = context.configuration
        grants = sorted(self._grants.values(), key=lambda grant: grant.node)
        full = full_bitmap(len(self._writes))
        whole = [grant for grant in grants if grant.bitmap == full]
        if len(whole) >= configuration.q:
            grants = whole[: configuration.q]
        certificate = Certificate(
            configuration.digest,
            self._group.id,
            self._root,
            len(self._writes),
            self._prepare.writer,
            self._signature,
            tuple(grants),
        )
        part: list[int] = []
        size = 0
        for i in positions:
            self._states[i] = _CERTIFIED
            cost = len(self._salted[i]) + len(self._headers[i])
            if part and size + cost > m.BATCH_BYTES_MAX:
                self._commit(certificate, part)
                part, size = [], 0
            part.append(i)
            size += cost
        self._commit(certificate, part)
        if _ASKED not in self._states:
            context.forget(self._id)
        self._resend_us = RESEND_US
        self._resend_at_us = now_us + RESEND_US
        self._schedule(now_us)

    def _commit(self, certificate: Certificate, positions: list[int]) -> None:
        context = self._context
        items = [m.Item(i, self._headers[i], self._salted[i]) for i in positions]
        bundle = m.Bundle(certificate, self._leaves, items)
        request = m.Commit(context.new_id(self), context.configuration.digest, [bundle])
        self._commits[request.id] = _CommitPart(positions, request)
        context.send(self._group.members, request)

    def _take_committed(self, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
        part = self._commits.get(request_id)
        if part is None or node in part.full:
            return
        codes = reply.codes
        count = len(part.positions)
        if len(codes) != count:
            self._context.suspect(node, 4.0, lie=True)
            return
        configuration = self._context.configuration
        q = configuration.q
        if codes.count(m.OK) == count:
            part.full.add(node)
            part.partial.pop(node, None)
        else:
            # Only OK and EVICTED count; RECOVERING and FULL may turn into OK when asked again.
            part.partial[node] = {at for at, code in enumerate(codes) if code in (m.OK, m.EVICTED)}
            if len(part.partial[node]) == count:
                part.full.add(node)
                del part.partial[node]
            if m.REVOKED in codes:
                part.revoked.add(node)
        if not part.partial:
            if len(part.full) >= q:
                self._complete(request_id, part, range(count))
        else:
            whole = len(part.full)
            holders = part.partial.values()
            self._complete(
                request_id,
                part,
                [at for at in range(count) if whole + sum(at in h for h in holders) >= q],
            )
            if len(part.revoked) > configuration.n - q:
                failed = Failed(UNKNOWN, "the writer was revoked while its write was on the way")
                self._end_part(request_id, part, failed)
        self._close_if_done()

    def _complete(self, request_id: int, part: _CommitPart, places: Any) -> None:
        finish_write = self._context.finish_write
        for at in places:
            i = part.positions[at]
            if self._states[i] == _CERTIFIED:
                self._leave(i)
                finish_write(self._writes[i], Written(self._stamps[i]))
        if all(self._states[i] == _LEFT for i in part.positions):
            self._drop_part(request_id)

    def _end_part(self, request_id: int, part: _CommitPart, failed: Failed) -> None:
        for i in part.positions:
            if self._states[i] == _CERTIFIED:
                self._leave(i)
                self._context.finish_write(self._writes[i], failed)
        self._drop_part(request_id)

    def _drop_part(self, request_id: int) -> None:
        if self._commits.pop(request_id, None) is not None:
            self._context.forget(request_id)

    # --- ends and time ---

    def _fail_asked(self, failed: Failed, now_us: int) -> None:
        for i, state in enumerate(self._states):
            if state == _ASKED:
                self._leave(i)
                self._context.finish_write(self._writes[i], failed)
        self._close_if_done()

    def _close_if_done(self) -> None:
        if not self._left and not self.finished:
            self.finished = True
            self._context.forget(self._id)
            for request_id in self._commits:
                self._context.forget(request_id)

    def _schedule(self, now_us: int) -> None:
        """Set the deadline to what comes first: resend, end of grace, a wait for clocks, an operation's end."""
        deadline_us = self._resend_at_us
        if _ASKED in self._states and self._quorum_us:
            grace_end_us = self._quorum_us + self._context.configuration.grace_us
            if grace_end_us > now_us:
                deadline_us = min(deadline_us, grace_end_us)
        if self._ahead_us:
            deadline_us = min(deadline_us, self._ahead_us)
        ends = [write.deadline_us for write, state in zip(self._writes, self._states, strict=True) if state != _LEFT]
        self.deadline_us = min(deadline_us, *ends) if ends else deadline_us

    def wake(self, now_us: int) -> None:
        """Resend, end grace times, end operations whose time is over."""
        context = self._context
        for i, write in enumerate(self._writes):
            if self._states[i] != _LEFT and now_us >= write.deadline_us:
                self._expire(i, write)
        self._close_if_done()
        if not self._left:
            return
        if self._ahead_us and now_us >= self._ahead_us:
            # Ask those again that said AHEAD: their answers may differ now.
            self._ahead_us = 0
            again = [
                node for node, refusals in self._refusals.items() if any(r.code == m.AHEAD for r in refusals.values())
            ]
            for node in again:
                del self._refusals[node]
                self._grants.pop(node, None)
            self._quorum_us = 0
            context.send(tuple(again), self._prepare)
        if _ASKED in self._states and self._quorum_us:
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
        if _ASKED in self._states:
            silent = tuple(n for n in members if n not in self._refusals and n not in self._rejects)
            if silent:
                context.send(silent, self._prepare)
                for node in silent:
                    context.suspect(node, 0.5)
        for part in self._commits.values():
            silent = tuple(n for n in members if n not in part.full)
            if silent:
                context.send(silent, part.request)

    def _expire(self, i: int, write: PendingWrite) -> None:
        certified = self._states[i] == _CERTIFIED
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
                if all(self._states[at] == _LEFT for at in part.positions):
                    self._drop_part(request_id)
            return
        detail = write.trouble or (f"{len(self._refusals)} of {members} nodes answered in time, {q} are needed")
        mismatch = any(r.code == m.WRONG_CONFIGURATION for r in self._rejects.values())
        kind = MISMATCH if mismatch and len(self._rejects) > members - q else UNAVAILABLE
        self._context.finish_write(write, Failed(kind, f"nothing was written: {detail}"))


def _summary(refusals: dict[int, m.Refusal], answered: int, members: int) -> str:
    reasons = ", ".join(
        f"node {node}: {m.REFUSALS.get(refusal.code, 'an unknown code')}"
        + (f" ({refusal.detail})" if refusal.detail else "")
        for node, refusal in sorted(refusals.items())
    )
    return f"{answered} of {members} nodes answered; refused by {reasons or 'none'}"
