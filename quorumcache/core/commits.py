"""The second half of a batch of writes: its certificate, the commits, and who holds what (protocol 4, write 4 and 5).

How grants are come by is in write.py. It must not know what refusals mean, or what values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.config import Group
from quorumcache.core.draft import Draft
from quorumcache.core.machine import HEDGE_US, RESEND_US, Machine
from quorumcache.core.model import STAMP_BYTES, Certificate, Entry, Grant
from quorumcache.core.outcome import UNKNOWN, Failed, Written
from quorumcache.core.quorum import full_bitmap
from quorumcache.core.refusal import FieldWrite, PendingWrite
from quorumcache.core.settle import commit_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: How often a node that says it lacks a base is given it at once; a liar would say so for ever.
_BASES_GIVEN_MAX: Final = 3

# How far a header of the batch is.
ASKED, CERTIFIED, LEFT = 0, 1, 2


def generation_of_write(write: PendingWrite) -> bytes:
    """The generation that a write of a field was last proposed under; empty for others."""
    return write.metadata[:STAMP_BYTES] if isinstance(write, FieldWrite) else b""


class CommitPart:
    """One commit message of a batch: its positions, and who answered for which."""

    __slots__ = ("full", "gone", "gone_us", "partial", "positions", "request", "revoked", "sent_us", "without_base")

    def __init__(self, positions: list[int], request: m.Commit, sent_us: int) -> None:
        self.positions = positions
        self.sent_us = sent_us
        self.request = request
        self.gone: dict[int, set[int]] = {}  # place of a field -> nodes where its generation is not, and will not be
        self.gone_us = 0  # when the first said so
        self.without_base: dict[int, int] = {}  # node -> how often it lacked a base
        self.full: set[int] = set()  # nodes that hold all of it
        self.partial: dict[int, set[int]] = {}  # node -> places in `positions` that it answered for
        self.revoked: set[int] = set()


class Commits(Machine):
    """What a batch does with its grants: `_states` says how far each header is, `_left` how many are on their way."""

    __slots__ = (
        "_certified_bases",
        "_commits",
        "_context",
        "_draft",
        "_grants",
        "_group",
        "_id",
        "_left",
        "_resend_at_us",
        "_resend_us",
        "_states",
        "_writes",
    )

    def __init__(
        self, context: Coordinator, group: Group, writes: list[PendingWrite], draft: Draft, now_us: int, end_us: int
    ) -> None:
        super().__init__(now_us + RESEND_US, end_us)
        self._context = context
        self._group = group
        self._writes = writes
        self._draft = draft
        self._resend_us = RESEND_US
        self._resend_at_us = now_us + RESEND_US
        self._states = bytearray(len(writes))
        self._left = len(writes)
        self._grants: dict[int, Grant] = {}
        self._certified_bases: set[bytes] = set()
        self._commits: dict[int, CommitPart] = {}
        self._id = context.new_id(self)

    def committing(self) -> list[tuple[PendingWrite, Entry]]:
        """The writes that were certified and sent out for good, and are not confirmed yet, each as an entry that proves
        itself; not those of fields, which may be written again under another generation."""
        found = []
        for part in self._commits.values():
            certificate = part.request.bundles[0].certificate
            for i in part.positions:
                write = self._writes[i]
                if self._states[i] == CERTIFIED and not isinstance(write, FieldWrite):
                    path = merkle.path_of(self._draft.leaves, i)
                    entry = Entry(self._draft.headers[i], self._draft.salted[i], certificate, i, path)
                    found.append((write, entry))
        return found

    def _schedule(self, now_us: int) -> None:
        """Set the deadline to what comes first."""
        raise NotImplementedError

    def _certify(self, positions: list[int], now_us: int) -> None:
        """q grants promise these headers: commit them at the whole group."""
        context, draft = self._context, self._draft
        configuration = context.configuration
        grants = sorted(self._grants.values(), key=lambda grant: grant.node)
        full = full_bitmap(len(self._writes))
        whole = [grant for grant in grants if grant.bitmap == full]
        if len(whole) >= configuration.q:
            grants = whole[: configuration.q]
        certificate = Certificate(
            configuration.digest,
            self._group.id,
            draft.root,
            len(self._writes),
            draft.writer,
            draft.signature,
            tuple(grants),
        )
        part: list[int] = []
        size = 0
        self._certified_bases.update(self._writes[i].slot for i in positions if self._writes[i].begins)
        for i in positions:
            self._states[i] = CERTIFIED
            write = self._writes[i]
            if isinstance(write, FieldWrite):
                write.committed = write.metadata[:STAMP_BYTES]
            cost = len(draft.salted[i]) + len(draft.headers[i])
            if part and size + cost > m.BATCH_BYTES_MAX:
                self._commit(certificate, part, now_us)
                part, size = [], 0
            part.append(i)
            size += cost
        self._commit(certificate, part, now_us)
        for i in positions:
            if self._writes[i].begins:
                path = merkle.path_of(draft.leaves, i)
                context.generations.known(Entry(draft.headers[i], draft.salted[i], certificate, i, path))
        if ASKED not in self._states:
            context.forget(self._id)
        self._resend_us = RESEND_US
        self._resend_at_us = now_us + RESEND_US
        self._schedule(now_us)

    def _commit(self, certificate: Certificate, positions: list[int], now_us: int) -> None:
        context, draft = self._context, self._draft
        items = [m.Item(i, draft.headers[i], draft.salted[i]) for i in positions]
        bundle = m.Bundle(certificate, draft.leaves, items)
        request = m.Commit(context.new_id(self), context.configuration.digest, [bundle])
        self._commits[request.id] = CommitPart(positions, request, now_us)
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
            # Only OK and EVICTED count, of fields only OK; RECOVERING and FULL may turn into OK when asked again.
            part.partial[node] = {
                at
                for at, code in enumerate(codes)
                if code == m.OK or (code == m.EVICTED and not isinstance(self._writes[part.positions[at]], FieldWrite))
            }
            if m.OTHER in codes or m.EVICTED in codes:
                part.gone_us = part.gone_us or now_us
                self._note_gone(part, node, codes)
            if m.NO_BASE in codes:
                self._give_bases(part, node, codes)
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
            if part.gone:
                self._leave_gone(request_id, part, now_us)
                self._schedule(now_us)
            if len(part.revoked) > configuration.n - q:
                failed = Failed(UNKNOWN, "the writer was revoked while its write was on the way")
                self._end_part(request_id, part, failed)
        self._close_if_done()

    def _note_gone(self, part: CommitPart, node: int, codes: bytes) -> None:
        for at, code in enumerate(codes):
            if code in (m.OTHER, m.EVICTED) and isinstance(self._writes[part.positions[at]], FieldWrite):
                part.gone.setdefault(at, set()).add(node)

    def _leave_gone(self, request_id: int, part: CommitPart, now_us: int) -> None:
        """Fields that no quorum can hold any more under their generation are written again under another one."""
        configuration = self._context.configuration
        for at, nodes in list(part.gone.items()):
            i = part.positions[at]
            write = self._writes[i]
            assert isinstance(write, FieldWrite)
            if self._states[i] == CERTIFIED and self._leaves_us(part, write, len(nodes)) <= now_us:
                self._leave(i)
                if len(nodes) >= configuration.q and self._context.generations.ends_with_its_generation(write, now_us):
                    continue
                self._context.generations.relearn(write, now_us, is_news=len(nodes) > configuration.n - configuration.q)
        if all(self._states[i] == LEFT for i in part.positions):
            self._drop_part(request_id)

    def _leaves_us(self, part: CommitPart, write: FieldWrite, gone: int) -> int:
        """When it is time to look for another generation, where so many nodes let go of this one."""
        configuration = self._context.configuration
        if gone <= configuration.n - configuration.q:
            return self._given_up_us(part, write)
        # Should q nodes say so, that may be its end: not worth a wait for who has time to write it again.
        is_late = gone < configuration.q and part.gone_us >= self._context.generations.patient_until_us(write)
        return part.gone_us + (HEDGE_US if is_late else 0)

    def _given_up_us(self, part: CommitPart, write: FieldWrite) -> int:
        """When it is time to look for another generation, though only some node let go of this one: the others neither
        do nor take the write. Once in a write's life."""
        if write.given_up:
            return write.deadline_us
        patient_us = self._context.generations.patient_until_us(write)
        return max(patient_us, part.sent_us + self._context.configuration.grace_us)

    def _give_bases(self, part: CommitPart, node: int, codes: bytes) -> None:
        """The node has not heard of these fields' generation: send it the bases, and the fields once more."""
        tries = part.without_base.get(node, 0)
        part.without_base[node] = tries + 1
        if tries < _BASES_GIVEN_MAX:
            self._send_bases(part, node)
            self._context.send((node,), part.request)

    def _send_bases(self, part: CommitPart, node: int) -> None:
        context = self._context
        given: set[bytes] = set()
        for i in part.positions:
            write = self._writes[i]
            if self._states[i] == CERTIFIED and isinstance(write, FieldWrite):
                entry = context.generations.base_of(write.slot, write.metadata[:STAMP_BYTES])
                if entry is not None and entry.header not in given:
                    given.add(entry.header)
                    context.send((node,), commit_of(context.unrouted_id(), context.configuration.digest, entry))

    def _complete(self, request_id: int, part: CommitPart, places: Any) -> None:
        finish_write = self._context.finish_write
        for at in places:
            i = part.positions[at]
            if self._states[i] == CERTIFIED:
                self._leave(i)
                write = self._writes[i]
                finish_write(write, Written(self._draft.stamps[i], generation=generation_of_write(write)))
        if all(self._states[i] == LEFT for i in part.positions):
            self._drop_part(request_id)

    def _end_part(self, request_id: int, part: CommitPart, failed: Failed) -> None:
        for i in part.positions:
            if self._states[i] == CERTIFIED:
                self._leave(i)
                self._context.finish_write(self._writes[i], failed)
        self._drop_part(request_id)

    def _drop_part(self, request_id: int) -> None:
        if self._commits.pop(request_id, None) is not None:
            self._context.forget(request_id)

    def _leave(self, i: int) -> None:
        self._states[i] = LEFT
        self._left -= 1

    def _close_if_done(self) -> None:
        if not self._left and not self.finished:
            self.finished = True
            self._context.forget(self._id)
            for request_id in self._commits:
                self._context.forget(request_id)
