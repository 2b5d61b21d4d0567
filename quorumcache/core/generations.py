"""What a client knows of keys' generations, and the writes of fields that wait until it does (protocol 6).

A field is written under a generation: a known one, or one that a read of the base shows, or a new one whose base goes
in the same batch. A new one is made only where a miss is vouched for, or where no quorum names the old one for a good
while: what was written under that is gone. It must not know signatures or what fields mean.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from quorumcache.core.model import DELETE, PUT, Entry, header_expires_at, header_slot
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Missed, Outcome, Written
from quorumcache.core.refusal import BACKOFF_US, BACKOFF_US_MAX, FieldWrite, PendingWrite
from quorumcache.core.settlekey import SettleKey
from quorumcache.core.types.base import base_slot_of, generation_of

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

KNOWN_MAX: Final = 65_536
#: Of op_time: how long a writer looks for a quorum that names the old generation, before it makes a new one.
_PATIENCE: Final = (3, 5)
#: Fields that go with the base of their new generation; more wait until it is there.
_WITH_BASE_MAX: Final = 256
_WITH_BASE_BYTES_MAX: Final = 1 << 20


class Generations:
    """The generations that one client knows, and the field writes that wait for theirs."""

    def __init__(self, context: Coordinator) -> None:
        self._context = context
        self._known: OrderedDict[bytes, Entry] = OrderedDict()  # base slot -> base
        self._learning: dict[bytes, list[FieldWrite]] = {}  # base slot -> what waits for a read of it
        self._creating: dict[bytes, list[FieldWrite]] = {}  # base slot -> what waits for its new base

    def base_of(self, slot: bytes, generation: bytes) -> Entry | None:
        """The base of this generation, where it is known, for nodes that lack it."""
        entry = self._known.get(base_slot_of(slot))
        return entry if entry is not None and generation_of(entry.header) == generation else None

    def known(self, entry: Entry) -> None:
        """Remember a settled base."""
        slot = header_slot(entry.header)
        self._known[slot] = entry
        self._known.move_to_end(slot)
        if len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)

    def forget(self, slot: bytes) -> None:
        """The key was deleted, or its generation is another."""
        self._known.pop(base_slot_of(slot), None)

    def certified(self, base: Entry) -> None:
        """A base that begins a generation has its certificate: nodes that lack it can be given it."""
        self.known(base)

    def route(self, writes: list[PendingWrite], now_us: int) -> list[list[PendingWrite]]:
        """What of these writes can be proposed now, in units that must stay together; the rest waits here."""
        ready: list[list[PendingWrite]] = []
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
                self._creating[slot].append(write)
                continue
            entry = self._known.get(slot)
            if entry is not None and not self._has_expired(entry, now_us) and not self._was_tried(write, entry):
                self._know(write, entry)
                ready.append([write])
                continue
            waiting = self._learning.get(slot)
            if waiting is not None:
                waiting.append(write)
                continue
            self._learning[slot] = [write]
            self._learn(slot, now_us)
        return ready

    def _was_tried(self, write: FieldWrite, entry: Entry) -> bool:
        """Whether it was committed under this very generation already, so that it may have been seen there: proposed
        again, it would show its value twice."""
        return write.committed == generation_of(entry.header)

    def _know(self, write: FieldWrite, entry: Entry) -> None:
        write.creates = None
        write.blocked = False
        write.metadata = generation_of(entry.header)

    def _has_expired(self, entry: Entry, now_us: int) -> bool:
        expires_at_us = header_expires_at(entry.header)
        return bool(expires_at_us) and expires_at_us <= self._context.clock.time_us(now_us)

    def _learn(self, slot: bytes, now_us: int) -> None:
        context = self._context

        def finish(outcome: Outcome, at_us: int) -> None:
            self._learned(slot, outcome, at_us)

        group = context.configuration.group_of(slot)
        context.schedule(SettleKey(context, group, slot, (), finish, now_us, now_us))

    def _learned(self, slot: bytes, outcome: Outcome, now_us: int) -> None:
        writes = self._learning.pop(slot)
        context = self._context
        if isinstance(outcome, Found):
            assert outcome.entry is not None
            self.known(outcome.entry)
            fresh = [write for write in writes if not self._was_tried(write, outcome.entry)]
            for write in fresh:
                self._know(write, outcome.entry)
            for write in writes:
                if self._was_tried(write, outcome.entry):
                    write.trouble = "too few nodes confirm it, yet they name its generation"
                    self._later(write, now_us)
            context.propose([[write] for write in fresh], now_us)
            return
        self._known.pop(slot, None)
        if not isinstance(outcome, Missed):
            for write in writes:
                context.finish_write(write, outcome)
            return
        touches = [write for write in writes if write.slot == slot]
        writes = [write for write in writes if write.slot != slot]
        for write in touches:
            context.finish_write(write, outcome)
        if not writes:
            return
        configuration = context.configuration
        patience_us = configuration.op_time_us * _PATIENCE[0] // _PATIENCE[1]
        began_us = min(write.began_us for write in writes)
        if outcome.vouchers <= configuration.f and now_us < began_us + patience_us:
            # Nobody vouches for the miss: what is there may only be slow, and a new generation would be its end.
            for write in writes:
                write.trouble = "the key is neither there nor gone: too few nodes name its generation"
                self._later(write, now_us)
            return
        self._create(slot, writes, now_us)

    def _create(self, slot: bytes, writes: list[FieldWrite], now_us: int) -> None:
        """Begin a new generation, with these fields."""
        context = self._context
        if context.is_in_flight(slot):
            for write in writes:  # A delete of this client is on its way, or a new time to live: that first.
                self._later(write, now_us)
            return
        if any(write.blocked for write in writes):
            self._wipe(slot, writes, now_us)
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
        self._creating[slot] = rest
        context.propose([unit], now_us)

    def _wipe(self, slot: bytes, writes: list[FieldWrite], now_us: int) -> None:
        """Nodes keep a generation alive that no quorum names any more: end it with a tombstone, then begin anew."""
        tombstone = PendingWrite(slot, DELETE, b"", 0, b"", [])
        tombstone.deadline_us = min(write.deadline_us for write in writes)
        tombstone.on_end = self._base_ended
        self._context.take_off(tombstone)
        for write in writes:
            write.blocked = False
        self._creating[slot] = writes
        self.forget(slot)
        self._context.propose([[tombstone]], now_us)

    def _base_ended(self, base: PendingWrite, outcome: Outcome) -> None:
        """The base of a new generation is there, or is not to be: those that waited for it go on, or look again."""
        waiting = self._creating.pop(base.slot, [])
        if not isinstance(outcome, Written) or base.kind == DELETE:
            self.forget(base.slot)
        for write in waiting:
            write.time_min_us = max(write.time_min_us, base.time_min_us)
            self._context.make_ready(write)

    def relearn(self, write: FieldWrite, now_us: int) -> None:
        """Another generation than this write's is current, or none: look which, and write it again under that."""
        self.forget(write.slot)
        write.creates = None
        self._later(write, now_us)

    def _later(self, write: FieldWrite, now_us: int) -> None:
        write.lessons += 1
        if now_us >= write.deadline_us:
            detail = (
                f"nothing was written after {write.lessons} looks at its key: {write.trouble or 'it kept changing'}"
            )
            self._context.finish_write(write, Failed(UNAVAILABLE, detail))
            return
        wait_us = 0 if write.lessons == 1 else min(BACKOFF_US << min(write.lessons, 8), BACKOFF_US_MAX)
        self._context.retry(write, now_us + wait_us, now_us)
