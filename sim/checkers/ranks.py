"""No stale reads of keys with fields (protocol 6): what is complete by rank, and what later operations owe to it.

Rank is (generation, stamp). Once an operation returned a base, a field or a generation, later operations on the key
return that rank or higher, or a miss: the generation never goes back, nor does the base, nor any field within it; and a
key found in a generation has every field that was complete under it when the read began. In calm runs, where nothing
was deleted, expired or lost and no adversary's writer began anything, a key has one generation only.

Excused, and all that is: a sibling that another one shown has seen; a write that says itself that it was overtaken,
whose stamp may be below what was complete; what was complete under a generation that another, higher one has ended.
"""

from __future__ import annotations

from typing import Final

from quorumcache.core.model import header_slot
from quorumcache.core.types.base import generation_of, is_base_slot, rank_of
from quorumcache.core.types.siblings import covers, seen_of
from sim.checkers.base import Checker, View, told
from sim.keyed import named
from sim.record import MISS, OK, Op

_TIME: Final = slice(3, 11)


class KeyState:
    """What is complete of one key: the highest rank of a base and whether that is a tombstone, the highest generation,
    and of the latter each field's header with the operation that completed it."""

    __slots__ = ("by", "fields", "generation", "is_deleted", "rank")

    def __init__(self) -> None:
        self.rank = b""
        self.generation = b""
        self.is_deleted = False
        self.by: Op | None = None
        self.fields: dict[bytes, tuple[bytes, Op]] = {}

    def name_generation(self, generation: bytes, op: Op) -> None:
        """An operation saw this generation at a quorum."""
        if generation > self.generation:
            self.generation, self.by, self.is_deleted = generation, op, False
            self.fields = {}

    def note_base(self, rank: bytes, is_deleted: bool, op: Op) -> None:
        """A base of this rank is complete."""
        self.name_generation(rank[:48], op)
        if rank > self.rank:
            self.rank = rank
        if is_deleted and rank[:48] == self.generation:
            self.is_deleted = True

    def note_field(self, raw: bytes, op: Op) -> None:
        """A field's entry is complete under its generation."""
        generation = generation_of(raw)
        self.name_generation(generation, op)
        if generation == self.generation:
            slot = header_slot(raw)
            before = self.fields.get(slot)
            if before is None or before[0][3:51] < raw[3:51]:
                self.fields[slot] = (raw, op)


def note(state: KeyState, op: Op) -> None:
    """Take what an operation completed."""
    if op.outcome != OK:
        return
    if op.kind == "read":
        state.note_base(rank_of(op.base_header), False, op)
        for raw, _ in op.fields:
            state.note_field(raw, op)
    elif op.fields and op.fields[0][0]:
        raw = op.fields[0][0]
        if is_base_slot(op.slot):
            state.note_base(rank_of(raw), raw[2] == 1, op)
        else:
            state.note_field(raw, op)


def is_covered(raw: bytes, others: list[bytes]) -> bool:
    """Whether one of these siblings has seen this one, and all that it had seen."""
    return any(covers(seen_of(other), raw) for other in others)


class FreshKeys(Checker):
    """Holds what is complete of each key against what later operations return."""

    name = "freshness of keys"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.keys: dict[bytes, KeyState] = {}

    def started(self, op: Op) -> None:
        """Note what is complete by now."""
        state = self.keys.setdefault(op.base, KeyState())
        wanted = state.fields if is_base_slot(op.slot) else {}
        if op.slot in state.fields:
            wanted = {op.slot: state.fields[op.slot]}
        op.known[self.name] = (state.generation, state.rank, state.is_deleted, state.by, dict(wanted))

    def ended(self, op: Op) -> None:
        """Compare, and take what it completed."""
        state = self.keys[op.base]
        if op.outcome == OK and op.kind == "read":
            self._check_read(op)
        elif op.outcome == OK:
            self._check_write(op)
        elif op.outcome == MISS and op.proven:
            generation, _, _, by, _ = op.known[self.name]
            if generation and by is not None:
                self.fail(f"{told(op)} missed a key that nothing had ended: {told(by)}")
        elsewhere = op.outcome == OK and bool(op.generation) and op.generation != state.generation
        if elsewhere and state.by is not None and self.view.must_be_whole(op):
            self.fail(f"{told(op)} is of another generation of a key that nothing had ended: {told(state.by)}")
        note(state, op)

    def _check_read(self, op: Op) -> None:
        generation, rank, is_deleted, by, fields = op.known[self.name]
        who = "" if by is None else f": {told(by)}"
        if op.generation < generation or (op.generation == generation and is_deleted):
            self.fail(f"{told(op)} found a generation that was over before it began{who}")
        elif rank_of(op.base_header) < rank:
            self.fail(f"{told(op)} found an older base than was complete before it began{who}")
        elif op.generation == generation:
            shown = {header_slot(raw): raw for raw, _ in op.fields}
            for slot, (raw, other) in fields.items():
                here = shown.get(slot)
                if here is not None and here[3:51] >= raw[3:51]:
                    continue
                if op.type == "siblings" and is_covered(raw, list(shown.values())):
                    continue
                what = "lacks" if here is None else "has an older entry of"
                self.fail(f"{told(op)} {what} field {named(slot)}, complete before it began: {told(other)}")
                return

    def _check_write(self, op: Op) -> None:
        generation, rank, is_deleted, by, fields = op.known[self.name]
        who = "" if by is None else f": {told(by)}"
        if not op.generation:
            self.fail(f"{told(op)} ended with a stamp that its client never asked for")
        elif is_base_slot(op.slot):
            raw = op.fields[0][0]
            if rank_of(raw) <= rank and not op.overtaken:
                self.fail(f"{told(op)} took a rank no higher than what was complete before it began{who}")
        elif op.generation < generation or (op.generation == generation and is_deleted):
            self.fail(f"{told(op)} was written under a generation that was over before it began{who}")
        elif op.generation == generation and op.slot in fields and not op.overtaken:
            before = fields[op.slot][0]
            if op.stamp <= before[3:51]:
                self.fail(f"{told(op)} took a stamp no higher than what was complete: {told(fields[op.slot][1])}")
