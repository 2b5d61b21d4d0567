"""Reads in full: certified entries from the whole group, good sets, write-back (protocol 4, read 2 and 3).

Also what an overtaken writer does with the entry that overtook it (protocol 4, write 3). It must not know sockets, or
what values mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quorumcache.core import messages as m
from quorumcache.core.config import Group
from quorumcache.core.machine import RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.model import Entry, Malformed
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed
from quorumcache.core.read import is_rejected, outcome_of, rejection
from quorumcache.core.types.base import generation_of, is_base_slot

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator


class WriteBack:
    """One entry on its way to q nodes: who holds it, or something newer, or a floor at least as high."""

    __slots__ = ("entry", "holders", "request")

    def __init__(self, entry: Entry, request: m.Commit) -> None:
        self.entry = entry
        self.request = request
        self.holders: set[int] = set()


class Answer:
    """One node's valid answer for one slot: a certified entry, or absent with its floor."""

    __slots__ = ("entry", "floor_us", "stamp")

    def __init__(self, entry: Entry | None, floor_us: int) -> None:
        self.entry = entry
        self.stamp = entry.stamp if entry is not None else b""
        self.floor_us = floor_us


def good_entries(answers: dict[int, Answer], q: int) -> list[tuple[Entry, set[int]]]:
    """The entries that are highest in some good set, newest first, each with the nodes that reported it.

    A set of q answers is good if its highest entry E is above the floor of every absent answer in it. So E heads a good
    set where q answers are entries up to E or absent with a floor below E's time.
    """
    entries: dict[bytes, tuple[Entry, set[int]]] = {}
    for node, answer in answers.items():
        if answer.entry is not None:
            entries.setdefault(answer.entry.header, (answer.entry, set()))[1].add(node)
    good = []
    for entry, reporters in entries.values():
        stamp, time_us = entry.stamp, entry.time_us
        members = sum(
            answer.stamp <= stamp if answer.entry is not None else answer.floor_us < time_us
            for answer in answers.values()
        )
        if members >= q:
            good.append((entry, reporters))
    good.sort(key=lambda found: found[0].stamp, reverse=True)
    return good


class Settle(Machine):
    """Full reads of up to 8 slots of one group. `started_us` is when the operations began, on which op_time counts."""

    __slots__ = (
        "_answers",
        "_commits",
        "_context",
        "_done",
        "_group",
        "_id",
        "_left",
        "_quorum_us",
        "_rejects",
        "_resend_us",
        "_slots",
        "_tokens",
        "_write_backs",
    )

    def __init__(
        self,
        context: Coordinator,
        group: Group,
        slots: list[bytes],
        tokens: list[list[Any]],
        started_us: int,
        now_us: int,
    ) -> None:
        super().__init__(now_us + RESEND_US, started_us + context.configuration.op_time_us)
        self._context = context
        self._group = group
        self._slots = slots
        self._tokens = tokens
        self._resend_us = RESEND_US
        self._answers: list[dict[int, Answer]] = [{} for _ in slots]
        self._write_backs: list[dict[bytes, WriteBack]] = [{} for _ in slots]
        self._commits: dict[int, tuple[int, bytes]] = {}  # request id -> (slot's position, header)
        self._done = [False] * len(slots)
        self._left = len(slots)
        self._rejects: dict[int, m.Reject] = {}
        self._quorum_us = 0
        self._id = context.new_id(self)
        context.send(group.members, m.ReadFull(self._id, context.configuration.digest, slots))
        context.counts["reads_settled"] += len(slots)

    def waiting(self) -> list[tuple[bytes, list[Any], bool]]:
        """See `Machine.waiting`."""
        rows = zip(self._slots, self._tokens, self._done, strict=True)
        return [(slot, tokens, True) for slot, tokens, done in rows if not done]

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take full answers, and answers to write-backs."""
        if node not in self._group.members or self.finished:
            return
        if isinstance(reply, m.Reject):
            if request_id == self._id and not any(node in answers for answers in self._answers):
                self._rejects[node] = reply
                configuration = self._context.configuration
                if is_rejected(self._rejects, configuration.n - configuration.q):
                    self._fail_all(rejection(self._group, self._rejects))
            return
        if type(reply) is m.CommitReply:
            self._receive_commit(request_id, node, reply, now_us)
        elif type(reply) is m.ReadFullReply and request_id == self._id:
            if len(reply.answers) != len(self._slots):
                self._context.suspect(node, 4.0, lie=True)
                return
            self._rejects.pop(node, None)
            for position, answer in enumerate(reply.answers):
                if not self._done[position] and node not in self._answers[position]:
                    self._take(position, node, answer, now_us)

    def _take(self, position: int, node: int, answer: m.FullAnswer, now_us: int) -> None:
        entry = answer.entry
        if entry is not None:
            try:
                header = self._context.verifier.check_entry(entry)
                if header.slot != self._slots[position]:
                    raise Malformed("an entry of another slot")
            except Malformed:
                # A claim without a valid certificate is not an answer.
                self._context.suspect(node, 4.0, lie=True)
                return
            self._context.note_ahead(header.slot, header.time_us, now_us)
        answers = self._answers[position]
        if entry is not None:
            for other in answers.values():
                if other.entry is not None and other.stamp == entry.stamp and other.entry.header != entry.header:
                    self._context.notice(other.entry, entry)
        answers[node] = Answer(entry, answer.floor_us)
        if len(answers) >= self._context.configuration.q:
            if not self._quorum_us:
                self._quorum_us = now_us
                self.deadline_us = min(self.deadline_us, now_us + self._context.configuration.grace_us)
            self._evaluate(position, now_us)

    def _evaluate(self, position: int, now_us: int) -> None:
        q = self._context.configuration.q
        answers = self._answers[position]
        absent = sum(answer.entry is None for answer in answers.values())
        if absent >= q:
            self._finish(position, None, now_us)
            return
        write_backs = self._write_backs[position]
        good = good_entries(answers, q)
        for entry, reporters in good:
            write_back = write_backs.get(entry.header)
            if write_back is None:
                write_back = write_backs[entry.header] = self._write_back(position, entry, reporters, q)
            write_back.holders |= reporters
            if len(write_back.holders) >= q:
                self._finish(position, entry, now_us)
                return
        if not good and len(answers) == len(self._group.members):
            self._finish(position, None, now_us)

    def _write_back(self, position: int, entry: Entry, reporters: set[int], q: int) -> WriteBack:
        context = self._context
        request_id = context.new_id(self)
        self._commits[request_id] = (position, entry.header)
        request = commit_of(request_id, context.configuration.digest, entry)
        if len(reporters) < q:
            others = tuple(node for node in self._group.members if node not in reporters)
            context.send(others, request)
        return WriteBack(entry, request)

    def _receive_commit(self, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
        position, header = self._commits.get(request_id, (-1, b""))
        if position < 0 or self._done[position] or len(reply.codes) != 1:
            return
        if reply.codes[0] in (m.OK, m.EVICTED):
            write_back = self._write_backs[position][header]
            write_back.holders.add(node)
            if len(write_back.holders) >= self._context.configuration.q:
                self._finish(position, write_back.entry, now_us)

    def _finish(self, position: int, entry: Entry | None, now_us: int) -> None:
        context = self._context
        tokens = self._tokens[position]
        if entry is None:
            vouchers = sum(a.entry is None for a in self._answers[position].values())
            context.counts["reads_missed"] += 1
            context.finish(tokens, Missed(vouchers))
        else:
            cluster_us = context.clock.time_us(now_us)
            outcome = outcome_of(entry.header, entry.salted, cluster_us, context.configuration.q)
            if isinstance(outcome, Found):
                outcome = Found(entry.header, entry.salted, entry)
            context.finish(tokens, outcome)
        self._done[position] = True
        self._left -= 1
        if not self._left:
            self._close()

    def _close(self) -> None:
        self.finished = True
        self._context.forget(self._id)
        for request_id in self._commits:
            self._context.forget(request_id)

    def _fail_all(self, failed: Failed) -> None:
        for position, done in enumerate(self._done):
            if not done:
                self._context.finish(self._tokens[position], failed)
        self._close()

    def wake(self, now_us: int) -> None:
        """At the end of the grace time: a miss for what could not be settled. Else resend to the silent."""
        configuration = self._context.configuration
        end_us = self.end_us
        grace_end_us = self._quorum_us + configuration.grace_us if self._quorum_us else end_us
        if now_us >= min(end_us, grace_end_us):
            for position, done in enumerate(self._done):
                # Slots of one request are answered together, but a lie about one of them may leave it behind.
                if not done and len(self._answers[position]) >= configuration.q:
                    self._finish(position, None, now_us)
        if self.finished:
            return
        if now_us >= end_us:
            most = max(len(answers) for answers in self._answers)
            self._fail_all(
                Failed(
                    UNAVAILABLE,
                    f"{most} of {len(self._group.members)} nodes gave a valid answer in time, "
                    f"{configuration.q} are needed",
                )
            )
            return
        for node in self._group.members:
            if is_worth_asking_again(node, self._rejects) and any(
                node not in answers for answers, done in zip(self._answers, self._done, strict=True) if not done
            ):
                self._context.send((node,), m.ReadFull(self._id, configuration.digest, self._slots))
        for position, write_backs in enumerate(self._write_backs):
            if not self._done[position]:
                for write_back in write_backs.values():
                    others = tuple(n for n in self._group.members if n not in write_back.holders)
                    self._context.send(others, write_back.request)
        self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
        self.deadline_us = min(now_us + self._resend_us, end_us)
        if grace_end_us > now_us:
            self.deadline_us = min(self.deadline_us, grace_end_us)


def commit_of(request_id: int, configuration: bytes, entry: Entry) -> m.Commit:
    """The commit that passes one entry on, with its path."""
    item = m.Item(entry.position, entry.header, entry.salted, entry.path)
    return m.Commit(request_id, configuration, [m.Bundle(entry.certificate, b"", [item])])


class Overtaken(Machine):
    """Completes the entry that overtook a write, so that the write counts as ordered just before it.

    Reads the slot in full until an entry at or above `above` (a stamp) shows, or takes `entry`, and commits that at q
    nodes. Calls
    `finish(done, now_us)` once: done is false where the entry could not be had, or not be stored. Of a field, only an
    entry of the same `generation` will do; of a base, whose `above` began a generation, only one of no older one.
    """

    __slots__ = (
        "_above",
        "_answered",
        "_commit",
        "_context",
        "_finish",
        "_generation",
        "_grace_end_us",
        "_group",
        "_holders",
        "_id",
        "_is_field",
        "_is_keyed",
        "_refusers",
        "_slot",
    )

    def __init__(
        self,
        context: Coordinator,
        group: Group,
        slot: bytes,
        above: bytes,
        end_us: int,
        finish: Callable[[bool, int], None],
        now_us: int,
        generation: bytes = b"",
        entry: Entry | None = None,
    ) -> None:
        super().__init__(now_us + RESEND_US, end_us)
        self._context = context
        self._group = group
        self._slot = slot
        self._above = above
        self._grace_end_us = end_us
        self._is_keyed = context.is_keyed(slot)
        self._is_field = self._is_keyed and not is_base_slot(slot)
        self._generation = generation
        self._finish = finish
        self._answered: set[int] = set()
        self._holders: set[int] = set()
        self._refusers: set[int] = set()
        self._commit: m.Commit | None = None
        self._id = context.new_id(self)
        if entry is None:
            context.send(group.members, m.ReadFull(self._id, context.configuration.digest, [slot]))
        else:
            self._commit_all(entry)

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take full answers until one will do, then answers to its commit."""
        if self.finished or node not in self._group.members:
            return
        configuration = self._context.configuration
        if isinstance(reply, m.ReadFullReply) and self._commit is None and len(reply.answers) == 1:
            will_do = self._take(node, reply.answers[0])
            if not will_do and len(self._answered) >= configuration.q:
                self._grace_end_us = min(self._grace_end_us, now_us + configuration.grace_us)
                self.deadline_us = min(self.deadline_us, self._grace_end_us)
                if len(self._answered) == len(self._group.members):
                    self._end(False, now_us)
        elif (
            isinstance(reply, m.CommitReply)
            and self._commit is not None
            and request_id == self._commit.id
            and len(reply.codes) == 1
        ):
            # Of a field, EVICTED never counts: its key is gone there, and with it its other fields.
            if reply.codes[0] == m.OK or (reply.codes[0] == m.EVICTED and not self._is_field):
                self._refusers.discard(node)
                self._holders.add(node)
                if len(self._holders) >= configuration.q:
                    self._end(True, now_us)
            elif reply.codes[0] in (m.REVOKED, m.OTHER, m.EVICTED, m.NO_BASE):
                self._refusers.add(node)
                if len(self._refusers) > configuration.n - configuration.q:
                    self._end(False, now_us)

    def _take(self, node: int, answer: m.FullAnswer) -> bool:
        context = self._context
        self._answered.add(node)
        entry = answer.entry
        if entry is None or entry.stamp < self._above:
            return False
        try:
            if context.verifier.check_entry(entry).slot != self._slot:
                raise Malformed("an entry of another slot")
        except Malformed:
            context.suspect(node, 4.0, lie=True)
            return False
        if self._is_keyed and not self._is_of_its_order(generation_of(entry.header)):
            return False
        self._commit_all(entry)
        return True

    def _commit_all(self, entry: Entry) -> None:
        context = self._context
        self._commit = commit_of(context.new_id(self), context.configuration.digest, entry)
        context.send(self._group.members, self._commit)
        self._grace_end_us = self.end_us

    def _is_of_its_order(self, generation: bytes) -> bool:
        """Whether the write may stand just before an entry of this generation: ranks, not stamps, order a key."""
        return generation == self._generation if self._is_field else generation >= self._above

    def _end(self, done: bool, now_us: int) -> None:
        self.finished = True
        self._context.forget(self._id)
        if self._commit is not None:
            self._context.forget(self._commit.id)
        self._finish(done, now_us)

    def wake(self, now_us: int) -> None:
        """Resend, or give up."""
        if now_us >= min(self.end_us, self._grace_end_us):
            self._end(False, now_us)
            return
        if self._commit is None:
            others = tuple(n for n in self._group.members if n not in self._answered)
            digest = self._context.configuration.digest
            self._context.send(others, m.ReadFull(self._id, digest, [self._slot]))
        else:
            others = tuple(n for n in self._group.members if n not in self._holders)
            self._context.send(others, self._commit)
        self.deadline_us = min(now_us + RESEND_US, self.end_us, self._grace_end_us)
