"""What a client knows of keys' generations, and the writes of fields that wait until it does (protocol 6).

A field is written under a generation: a known one, or one that a read of the base shows, or a new one whose base goes
in the same batch. A new one is made only where a miss is vouched for, or where no quorum names the old one for a good
while: what was written under that is gone. It must not know signatures or what fields mean.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from quorumcache.core.machine import Machine
from quorumcache.core.model import (
    DELETE,
    PUT,
    STAMP_BYTES,
    TIME_US_MAX,
    Entry,
    header_expires_at,
    header_is_delete,
    header_slot,
    header_stamp,
    stamp_time,
)
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Outcome, Written
from quorumcache.core.quorum import nth_lowest
from quorumcache.core.refusal import FieldWrite, Judgement, PendingWrite, Strays, backoff_us
from quorumcache.core.settlekey import SettleKey
from quorumcache.core.types.base import base_slot_of, generation_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

KNOWN_MAX: Final = 65_536
#: Of op_time: how long a writer looks for a quorum that names the old generation, before it makes a new one.
_PATIENCE: Final = (3, 5)
#: What was tried in vain so long ago is tried once more before it is given up.
_RECENT: Final = (2, 5)
_PATIENCE_LEAST: Final = (2, 5)
#: To look at the key once more, delete it, and begin it anew, and half a round to spare.
_ROUNDS_LEFT: Final = 6
#: How often a write is proposed under one generation before its patience is over: nodes make a writer four promises.
_ATTEMPTS_MAX: Final = 3
#: How often a write goes on at once with what it learned, before it waits: whoever contends with it is faster.
_LESSONS_AT_ONCE_MAX: Final = 12
_VACANT_MAX: Final = 1024
#: Fields that go with the base of their new generation; more wait until it is there.
_WITH_BASE_MAX: Final = 256
_WITH_BASE_BYTES_MAX: Final = 1 << 20


class _Waiting(Machine):
    """Writes that wait for a key's generation, or for the write of its `base`: each for no longer than it has time."""

    __slots__ = ("_base", "_context", "writes")

    def __init__(self, context: Coordinator, writes: list[FieldWrite], base: PendingWrite | None = None) -> None:
        super().__init__(TIME_US_MAX, TIME_US_MAX)
        self._context = context
        self._base = base
        self.writes: list[FieldWrite] = []
        self.finished = True  # Nobody is to be woken.
        for write in writes:
            self.add(write)

    def add(self, write: FieldWrite) -> None:
        """One more."""
        self.writes.append(write)
        if self.finished or write.deadline_us < self.deadline_us:
            self.finished = False
            self.deadline_us = write.deadline_us
            self._context.schedule(self)

    def take(self) -> list[FieldWrite]:
        """All of them: nobody waits here any more."""
        self.finished = True
        return self.writes

    def wake(self, now_us: int) -> None:
        """End those whose time is over."""
        late = [write for write in self.writes if write.deadline_us <= now_us]
        self.writes = [write for write in self.writes if write.deadline_us > now_us]
        self.deadline_us = min((write.deadline_us for write in self.writes), default=TIME_US_MAX)
        self.finished = not self.writes
        for write in late:
            if self._base is not None:
                write.trouble = self._base.trouble or write.trouble
            _give_up(self._context, write)


class Generations:
    """The generations that one client knows, and the field writes that wait for theirs."""

    def __init__(self, context: Coordinator) -> None:
        self._context = context
        self._known: OrderedDict[bytes, Entry] = OrderedDict()  # base slot -> base
        self._learning: dict[bytes, _Waiting] = {}  # base slot -> what waits for a read of it
        self._vacant: dict[bytes, int] = {}  # base slots of keys that are gone, as was shown just now -> until when
        self._creating: dict[bytes, _Waiting] = {}  # base slot -> what waits for its new base

    def base_of(self, slot: bytes, generation: bytes) -> Entry | None:
        """The base of this generation, where it is known, for nodes that lack it."""
        entry = self._known.get(base_slot_of(slot))
        return entry if entry is not None and generation_of(entry.header) == generation else None

    def known(self, entry: Entry) -> None:
        """Remember a base that is settled, or one that begins a generation and has its certificate: nodes that lack it
        can be given it."""
        slot = header_slot(entry.header)
        self._known[slot] = entry
        self._known.move_to_end(slot)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def forget(self, slot: bytes) -> None:
        """The key was deleted, or its generation is another."""
        self._known.pop(base_slot_of(slot), None)

    def route(self, writes: list[PendingWrite], now_us: int) -> list[list[PendingWrite]]:
        """What of these writes can be proposed now, in units that must stay together; the rest waits here."""
        ready: list[list[PendingWrite]] = []
        fresh: dict[bytes, list[FieldWrite]] = {}
        doomed: dict[bytes, list[FieldWrite]] = {}
        for write in writes:
            if not isinstance(write, FieldWrite):
                ready.append([write])
                if write.kind == DELETE:
                    self.forget(write.slot)
                continue
            if not write.began_us:
                write.began_us = now_us
                write.deadline_us = now_us + self._context.configuration.op_time_us
            slot = base_slot_of(write.slot)
            if slot in self._creating and write.slot != slot:
                self._creating[slot].add(write)
                continue
            if write.blocked and write.slot != slot and self._may_wipe(write, slot, now_us):
                doomed.setdefault(slot, []).append(write)
                continue
            entry = self._known.get(slot)
            if entry is not None and not self._has_expired(entry, now_us) and not self._was_tried(write, entry):
                self._know(write, entry)
                ready.append([write])
                continue
            if self._vacant.get(slot, 0) > now_us and write.slot != slot:
                fresh.setdefault(slot, []).append(write)
                continue
            waiting = self._learning.get(slot)
            if waiting is not None:
                waiting.add(write)
                continue
            self._learning[slot] = _Waiting(self._context, [write])
            self._learn(slot, now_us)
        for slot, lost in doomed.items():
            self._wipe(slot, lost + fresh.pop(slot, []), now_us)
        for slot, created in fresh.items():
            self._vacant.pop(slot, None)
            self._create(slot, created, now_us)
        return ready

    def _was_tried(self, write: FieldWrite, entry: Entry) -> bool:
        """Whether it was committed under this very generation already, so that it may have been seen there: proposed
        again, it would show its value twice."""
        return write.committed == generation_of(entry.header)

    def _know(self, write: FieldWrite, entry: Entry) -> None:
        generation = generation_of(entry.header)
        write.creates = None
        if write.blocked != generation:
            write.blocked = b""  # What stood in the way is not there any more.
        write.metadata = generation

    def _has_expired(self, entry: Entry, now_us: int) -> bool:
        expires_at_us = header_expires_at(entry.header)
        return bool(expires_at_us) and expires_at_us <= self._context.clock.time_us(now_us)

    def _learn(self, slot: bytes, now_us: int) -> None:
        context = self._context

        def finish(outcome: Outcome, at_us: int) -> None:
            self._learned(slot, read, outcome, at_us)

        group = context.configuration.group_of(slot)
        read = SettleKey(context, group, slot, (), finish, now_us, now_us)
        context.schedule(read)

    def _learned(self, slot: bytes, read: SettleKey, outcome: Outcome, now_us: int) -> None:
        context = self._context
        writes = self._without_ended(read, outcome, self._learning.pop(slot).take(), now_us)
        if not writes:
            self._known.pop(slot, None)
            return
        if isinstance(outcome, Found):
            assert outcome.entry is not None
            self.known(outcome.entry)
            recent_us = context.configuration.op_time_us * _RECENT[0] // _RECENT[1]
            for write in writes:
                if write.tried == generation_of(outcome.header) and now_us - write.tried_us <= recent_us:
                    self._give_generation_up(write, write.tried, now_us)
            if any(self._is_lost(write, outcome.entry, now_us) for write in writes):
                # Reads name it, and yet no quorum takes what is written under it.
                self._wipe(slot, writes, now_us)
                return
            fresh = [write for write in writes if not self._was_tried(write, outcome.entry)]
            for write in fresh:
                self._know(write, outcome.entry)
            for write in writes:
                if self._was_tried(write, outcome.entry):
                    write.trouble = "too few nodes confirm it, yet they name its generation"
                    self._give_generation_up(write, write.committed, now_us)
                    self._later(write, now_us)
            context.propose([[write] for write in fresh], now_us)
            return
        self._known.pop(slot, None)
        if not isinstance(outcome, Missed):
            for write in writes:
                if isinstance(outcome, Failed) and outcome.kind == UNAVAILABLE:
                    write.trouble = outcome.detail
                    self._later(write, now_us)  # It may have begun after that read did, and then has time left.
                else:
                    context.finish_write(write, outcome)
            return
        for write in writes:
            write.missed_us = context.clock.time_us(read.started_us)
        touches = [write for write in writes if write.slot == slot]
        writes = [write for write in writes if write.slot != slot]
        for write in touches:
            context.finish_write(write, outcome)
        if not writes:
            return
        patient_until_us = min(map(self.patient_until_us, writes))
        if outcome.vouchers <= context.configuration.f and now_us < patient_until_us:
            # Nobody vouches for the miss: what is there may only be slow, and a new generation would be its end.
            for write in writes:
                write.trouble = "the key is neither there nor gone: too few nodes name its generation"
                self._later(write, now_us)
            return
        self._create(slot, writes, now_us)

    def _without_ended(
        self, read: SettleKey, outcome: Outcome, writes: list[FieldWrite], now_us: int
    ) -> list[FieldWrite]:
        """End those writes that count as ordered just before the end of the generation they were proposed under: before
        the deletion that q nodes have, or, for who has looked long enough, before the later generation that they have.
        Neither was complete when the write began. So whose key is deleted again and again, faster than it can write,
        ends all the same. The rest, with what they learned of when the key's generations were complete."""
        left = []
        for write in writes:
            end = read.tombstone
            if isinstance(outcome, Found) and not write.is_first and now_us >= self.patient_until_us(write):
                end = generation_of(outcome.header)
            if self._ends_before(write, end) or self._is_found(write, outcome):
                continue
            if write.bound_us is None and write.began_us <= read.started_us:
                write.bound_us = read.bound_us
            left.append(write)
        return left

    def _is_found(self, write: FieldWrite, outcome: Outcome) -> bool:
        """Whether this is a base that was sent out, and q nodes turn out to have it, or a later one that goes on with
        the same generation, though f+1 had not confirmed that."""
        if not isinstance(outcome, Found) or write.slot != header_slot(outcome.header):
            return False
        if write.committed != generation_of(outcome.header) or header_stamp(outcome.header) < write.stamp:
            return False
        self._context.finish_write(write, Written(write.stamp, generation=write.committed))
        return True

    def _ends_before(self, write: FieldWrite, end: bytes) -> bool:
        """Whether the write, by now, counts as ordered just before `end`, the later generation that q nodes have."""
        generation = write.metadata[:STAMP_BYTES]
        if write.bound_us is None or generation >= end or stamp_time(end) <= write.bound_us:
            return False
        return self._end_with(write, generation)

    def ends_with_its_generation(self, write: FieldWrite, now_us: int) -> bool:
        """Whether the write, of whose generation q nodes have let go since, counts as ordered just before that: its
        patience is over, and the generation had not ended when it began."""
        return now_us >= self.patient_until_us(write) and self._end_with(write, write.metadata[:STAMP_BYTES])

    def _end_with(self, write: FieldWrite, generation: bytes) -> bool:
        if not write.stamp or write.bound_us is None or stamp_time(generation) < write.bound_us:
            return False
        self._context.counts["writes_overtaken"] += 1
        self._context.finish_write(write, Written(write.stamp, overtaken=True, generation=generation))
        return True

    def bounded_by(self, write: FieldWrite, strays: Strays, judgement: Judgement, granted: int) -> None:
        """Note what q answers to its first proposal show its key's generation to lie at or below."""
        if write.bound_us is None:
            bounds = [stamp_time(write.stamp)] * granted + strays.bounds
            bounds += [max(time_us, stamp_time(write.stamp)) for time_us in judgement.floors]
            bounds += map(stamp_time, judgement.generations)
            write.bound_us = nth_lowest(bounds, self._context.configuration.q)

    def patient_until_us(self, write: FieldWrite) -> int:
        """How long this write keeps looking for a quorum that has the old generation, before it begins a new one: three
        fifths of op_time, less where the nodes are so far that this would not leave it the rounds it takes."""
        op_time_us = self._context.configuration.op_time_us
        least_us, most_us = (
            op_time_us * _PATIENCE_LEAST[0] // _PATIENCE_LEAST[1],
            op_time_us * _PATIENCE[0] // _PATIENCE[1],
        )
        return write.began_us + max(least_us, min(most_us, op_time_us - _ROUNDS_LEFT * self._context.round_us))

    def _give_generation_up(self, write: FieldWrite, generation: bytes, now_us: int) -> None:
        """No quorum took the write under this generation: once its patience is over, it may be ended. Once in a write's
        life, and not what may only be on its way to a quorum."""
        young_us = self._context.clock.time_us(now_us) - 3 * self._context.configuration.grace_us
        if not write.given_up and now_us >= self.patient_until_us(write) and stamp_time(generation) < young_us:
            write.given_up = generation

    def _is_lost(self, write: FieldWrite, entry: Entry, now_us: int) -> bool:
        """Whether the generation that reads name is one that this write has given up, and can end now."""
        slot = header_slot(entry.header)
        is_given_up = write.given_up == generation_of(entry.header) and write.slot != slot
        return is_given_up and not self._context.is_in_flight(slot)

    def _create(self, slot: bytes, writes: list[FieldWrite], now_us: int) -> None:
        """Begin a new generation, with these fields."""
        context = self._context
        if context.is_in_flight(slot):
            for write in writes:  # A delete of this client is on its way, or a new time to live: that first.
                self._later(write, now_us)
            return
        if any(write.blocked for write in writes):
            self._wipe(slot, writes, now_us)  # It is gone, said a quorum, and yet it stands in the way.
            return
        expires_at_us = writes[0].base_expires_at_us
        base = PendingWrite(slot, PUT, b"", expires_at_us, b"", [])
        base.begins = True
        base.time_min_us = max(write.time_min_us for write in writes)
        base.deadline_us = min(write.deadline_us for write in writes)
        base.on_end = self._base_ended
        context.take_off(base)
        unit: list[PendingWrite] = [base]
        size = 0
        rest: list[FieldWrite] = []
        for write in writes:
            size += len(write.value) + len(write.slot) + 256
            if len(unit) > _WITH_BASE_MAX or (size > _WITH_BASE_BYTES_MAX and len(unit) > 1):
                rest.append(write)
            else:
                write.creates = base
                unit.append(write)
        self._creating[slot] = _Waiting(context, rest, base)
        context.propose([unit], now_us)

    def _wipe(self, slot: bytes, writes: list[FieldWrite], now_us: int) -> None:
        """Nodes keep a generation alive that no quorum names any more: end it with a tombstone, then begin anew."""
        tombstone = PendingWrite(slot, DELETE, b"", 0, b"", [])
        tombstone.deadline_us = min(write.deadline_us for write in writes)
        tombstone.on_end = self._base_ended
        tombstone.wipes = True
        self._context.take_off(tombstone)
        for write in writes:
            write.blocked = b""
        self._creating[slot] = _Waiting(self._context, writes, tombstone)
        self.forget(slot)
        self._context.propose([[tombstone]], now_us)

    def _base_ended(self, base: PendingWrite, outcome: Outcome) -> None:
        """The base of a new generation is there, or is not to be: those that waited for it go on, or look again."""
        waiting = self._creating.pop(base.slot)
        known = self._known.get(base.slot)
        if base.kind == DELETE or (known is not None and not isinstance(outcome, Written) and self._is_own(known)):
            self.forget(base.slot)
        if isinstance(outcome, Written) and base.kind == DELETE and not outcome.overtaken:
            self._vacate(base.slot, base.deadline_us)  # No need to look: the next flush begins it anew.
        for write in waiting.take():
            write.time_min_us = max(write.time_min_us, base.time_min_us)
            write.trouble = base.trouble or write.trouble
            if isinstance(outcome, Written):
                write.blocked = b""
            self._context.make_ready(write)

    def _is_own(self, entry: Entry) -> bool:
        return entry.stamp[8:] == (self._context.writer or b"") + self._context.nonce.to_bytes(8, "big")

    def _vacate(self, slot: bytes, until_us: int) -> None:
        if len(self._vacant) >= _VACANT_MAX:
            self._vacant.clear()
        self._vacant[slot] = until_us

    def relearn(self, write: FieldWrite, now_us: int, strays: Strays | None = None, *, is_news: bool = False) -> None:
        """Another generation than this write's is current, or none: look which, and write it again under that. Where
        more than f nodes show a later base (`strays`), that is what there is, without a look. `is_news`: more than f
        nodes let go of its generation just now."""
        shown = None if strays is None else strays.shown
        if shown is not None and strays is not None and strays.newest > generation_of(shown.header):
            # A single node shows a later one: a look will settle that. What is written under this one would not last.
            shown = None
        slot = base_slot_of(write.slot)
        self.forget(slot)
        generation = write.metadata[:STAMP_BYTES]
        creates, write.creates = write.creates, None
        if creates is None:
            write.tried, write.tried_us = generation, now_us
        if shown is not None and (creates is not None or generation_of(shown.header) > generation):
            if header_is_delete(shown.header) or self._has_expired(shown, now_us):
                assert strays is not None
                is_whole = strays.holders >= self._context.configuration.q
                if is_whole and header_is_delete(shown.header) and self._ends_before(write, shown.stamp):
                    return
                is_news = write.slot != slot
                if is_news:
                    self._vacate(slot, now_us + self._context.configuration.grace_us)
            elif generation_of(shown.header) not in (write.blocked, write.given_up):
                is_news = True
                self.known(shown)
            write.time_min_us = max(write.time_min_us, stamp_time(shown.stamp) + 1)
        elif creates is None and not is_news:
            self._give_generation_up(write, generation, now_us)
        self._later(write, now_us, is_news=is_news)

    def _may_wipe(self, write: FieldWrite, slot: bytes, now_us: int) -> bool:
        """Whether the generation that blocks its own is one that it tried in vain, or that was old already when it was
        not found, its patience is over, and nothing of this client's is in its way."""
        missed_us = write.missed_us - 3 * self._context.configuration.grace_us
        is_in_vain = write.blocked == write.tried or stamp_time(write.blocked) < missed_us
        is_over = is_in_vain and now_us >= self.patient_until_us(write)
        return is_over and not self._context.is_in_flight(slot)

    def _later(self, write: FieldWrite, now_us: int, *, is_news: bool = False) -> None:
        write.lessons += 1
        if now_us >= write.deadline_us:
            _give_up(self._context, write)
            return
        if is_news and write.lessons <= _LESSONS_AT_ONCE_MAX:
            self._context.retry(write, now_us, now_us)
            return
        wait_us = 0 if write.lessons == 1 else backoff_us(write.lessons, self._context.configuration)
        patient_us = self.patient_until_us(write) - now_us
        if patient_us > 0:
            # There must be time for what is to be done then. And no point in using up promises until then, where
            # several attempts came to nothing.
            wait_us = min(wait_us, patient_us) if write.attempt < _ATTEMPTS_MAX else patient_us
        else:
            wait_us = min(wait_us, self._context.configuration.op_time_us // 32)  # It is being done, and time is short.
        self._context.retry(write, now_us + wait_us, now_us)


def _give_up(context: Coordinator, write: FieldWrite) -> None:
    detail = f"nothing was written after {write.lessons} looks at its key: {write.trouble or 'it kept changing'}"
    context.finish_write(write, Failed(UNAVAILABLE, detail))
