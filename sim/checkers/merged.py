"""What types make of their fields (protocol 6): counters between what was acknowledged and what was attempted, siblings
shown until one that is shown has seen them, and what nodes hold writers to: totals that only grow, `seen` that is not
ahead of all clocks.

Counters: of the fields of correct writers, the totals that a read shows are at least what was acknowledged under its
generation before it began, and at most what was ever attempted under it. Reads are monotone within a generation, for
all writers as long as no correct node dropped promises or started without its state: then a Byzantine writer's
earlier totals may still be certified, and come after later ones.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import header_slot, header_writer
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import generation_of, is_base_slot
from quorumcache.core.types.counter import totals_of
from quorumcache.core.types.siblings import Siblings, covers, seen_of
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op

Sums = tuple[int, int]


def _plus(sums: Sums, amount: int) -> Sums:
    return (sums[0] + amount, sums[1]) if amount > 0 else (sums[0], sums[1] - amount)


class Counters(Checker):
    """Adds up what clients asked for, and what they were told."""

    name = "counters"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.attempted: dict[tuple[bytes, bytes], dict[int, int]] = {}  # key and generation -> operation -> amount
        self.acknowledged: dict[tuple[bytes, bytes], Sums] = {}
        self.shown: dict[tuple[bytes, bytes], dict[bytes, tuple[Sums, Op]]] = {}

    def signed(self, header: bytes, ops: list[Op]) -> None:
        """An attempt under a generation."""
        for op in ops:
            if op.type == "counter" and op.kind == "write":
                self.attempted.setdefault((op.base, generation_of(header)), {})[op.id] = op.amount

    def started(self, op: Op) -> None:
        """Note what a read owes."""
        if op.type == "counter" and op.kind == "read":
            op.known[self.name] = (
                {g: sums for (base, g), sums in self.acknowledged.items() if base == op.base},
                {g: dict(fields) for (base, g), fields in self.shown.items() if base == op.base},
            )

    def ended(self, op: Op) -> None:
        """Compare a read's sums; add up an increment that succeeded."""
        if op.type != "counter" or op.outcome != OK:
            return
        place = (op.base, op.generation)
        if op.kind == "write":
            self.acknowledged[place] = _plus(self.acknowledged.get(place, (0, 0)), op.amount)
            return
        if op.kind != "read" or not is_base_slot(op.slot):
            return
        acknowledged, shown = op.known[self.name]
        low = acknowledged.get(op.generation, (0, 0))
        high = (0, 0)
        for amount in self.attempted.get(place, {}).values():
            high = _plus(high, amount)
        totals = {header_slot(raw): totals_of(raw) for raw, _ in op.fields}
        good = [totals[header_slot(raw)] for raw, _ in op.fields if header_writer(raw) not in self.view.evil_writers]
        sums = (sum(added for added, _ in good), sum(taken for _, taken in good))
        for i, what in enumerate(("added", "taken away")):
            if not low[i] <= sums[i] <= high[i]:
                self.fail(
                    f"{told(op)} found {sums[i]} {what} by correct writers: {low[i]} were acknowledged under its "
                    f"generation before it began, {high[i]} attempted"
                )
                return
        before = shown.get(op.generation, {})
        if not self._may_go_back():
            for slot, (least, reader) in before.items():
                here = totals.get(slot, (0, 0))
                if here[0] < least[0] or here[1] < least[1]:
                    self.fail(f"{told(op)} found a writer's totals {here}, after {least} in {told(reader)}")
                    return
        kept = self.shown.setdefault(place, {})
        for slot, here in totals.items():
            kept[slot] = (here, op)

    def _may_go_back(self) -> bool:
        nodes = [process for process in self.view.nodes if not process.is_byzantine]
        return any(process.node.slots.dropped_promises_count or process.life for process in nodes)


class ShownSiblings(Checker):
    """Remembers which siblings are complete, and what they have seen."""

    name = "siblings"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.complete: dict[tuple[bytes, bytes], dict[bytes, Op]] = {}  # key and generation -> header -> operation

    def started(self, op: Op) -> None:
        """Note what is complete."""
        if op.type == "siblings" and op.kind == "read":
            op.known[self.name] = {g: dict(found) for (base, g), found in self.complete.items() if base == op.base}

    def ended(self, op: Op) -> None:
        """Compare the values that a read shows."""
        if op.type != "siblings" or op.outcome != OK or (op.kind == "read" and not is_base_slot(op.slot)):
            return
        place = (op.base, op.generation)
        if op.kind == "read":
            self._check(op, op.known[self.name].get(op.generation, {}))
        for raw, _ in op.fields:
            if raw and not is_base_slot(header_slot(raw)):
                self.complete.setdefault(place, {})[raw] = op

    def _check(self, op: Op, complete: dict[bytes, Op]) -> None:
        values = FIELD_TYPES[op.type].value_of(op.fields)
        shown = {raw: salted[16:] for raw, salted in op.fields}
        vectors = {raw: seen_of(raw) for raw in {*shown, *complete}}
        newest: dict[bytes, bytes] = {}
        for raw in (*complete, *shown):
            slot = header_slot(raw)
            newest[slot] = max(newest.get(slot, b""), raw, key=lambda header: header[3:51])
        for raw, other in complete.items():
            if newest[header_slot(raw)] != raw:
                continue
            replaced = any(covers(vector, raw) for by, vector in vectors.items() if by in complete)
            if replaced and shown.get(raw) in values:
                self.fail(f"{told(op)} shows a sibling again that was replaced before it began: {told(other)}")
                return
            if raw not in shown and not any(covers(vectors[by], raw) for by in shown):
                self.fail(f"{told(op)} lacks a sibling that nothing shown has seen: {told(other)}")
                return
            if raw in shown and shown[raw] not in values and not any(covers(vectors[by], raw) for by in shown):
                self.fail(f"{told(op)} does not show a sibling that it has, and that nothing has seen: {told(other)}")
                return


class HonestVectors(Checker):
    """No sibling is certified whose `seen` lies ahead of every correct clock by more than max_skew."""

    name = "seen"
    about = "keys"

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node found these certificates valid."""
        kind = FIELD_TYPES["siblings"]
        assert isinstance(kind, Siblings)
        latest_us = self.view.now_us + self.view.max_skew_us + self.view.max_skew_us // 2
        for bundle in request.bundles:
            for item in bundle.items:
                slot = header_slot(item.header)
                if slot[1 : 1 + slot[0]] != b"siblings" or is_base_slot(slot):
                    continue
                if max(seen_of(item.header).values(), default=0) > latest_us:
                    self.fail(
                        f"a sibling is certified that says it has seen what is ahead of all clocks: {slot[-8:]!r}"
                    )
                    return
