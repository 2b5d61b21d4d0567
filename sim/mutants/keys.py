"""Mutants of keys with fields (protocol 6): generations, bases, fields, and what types ask of them."""

from __future__ import annotations

from typing import Any

import msgspec

from quorumcache.core import compare, evidence, fields, promises, repair, settlekey
from quorumcache.core import messages as m
from quorumcache.core.commits import Commits
from quorumcache.core.generations import Generations
from quorumcache.core.keys import Key
from quorumcache.core.model import Entry, Header, digest_of
from quorumcache.core.node import Node
from quorumcache.core.promises import Promises
from quorumcache.core.refusal import FieldWrite
from quorumcache.core.repair import Recovery
from quorumcache.core.settlekey import SettleKey
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.core.types import FieldType, siblings
from quorumcache.core.types.base import base_slot_of, generation_of
from quorumcache.core.types.counter import Counter
from quorumcache.core.types.siblings import Siblings
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add

_TYPED = ("types",)


# --- nodes ---


def _storing(patches: Patches, make: Any) -> None:
    def wrapped(store: Any) -> Any:
        def mutant(node: Node, kind: FieldType, header: Header, held: Held, now_us: int) -> int:
            code = make(node, header, held, now_us)
            return int(store(node, kind, header, held, now_us)) if code is None else int(code)

        return mutant

    patches.wrap(fields, "store", wrapped)


def _store(node: Node, header: Header, held: Held, now_us: int) -> int:
    if not node.slots.store(header.slot, held, now_us):
        return m.COMMIT_FULL
    node.slots.settle_promises(header.slot, header.stamp)
    return m.OK


@add("6, commit: a field is stored where its generation is current, and only there", fast=True, features_add=_TYPED)
def _no_generation_check(patches: Patches) -> None:
    def make(node: Node, header: Header, held: Held, now_us: int) -> int | None:
        base = base_slot_of(header.slot)
        key = node.slots.keys.get(base)
        if key is None or header.slot == base or key.generation == generation_of(header.raw):
            return None
        before = key.fields.get(header.slot)
        return m.OK if before is not None and header.stamp <= before.stamp else _store(node, header, held, now_us)

    _storing(patches, make)


@add(
    "6, commit: a node that let go of a generation never takes it back",
    features_add=(*_TYPED, "evict", "wipe"),
)
def _generation_continued_after_drop(patches: Patches) -> None:
    def make(node: Node, header: Header, held: Held, now_us: int) -> int | None:
        base = base_slot_of(header.slot)
        if header.slot != base or base in node.slots.keys or node.configuration.is_revoked(header.writer):
            return None
        return _store(node, header, held, now_us)

    _storing(patches, make)


@add("6, rank: bases are ordered by generation first", features_add=(*_TYPED, "delete"))
def _base_ordered_by_stamp_only(patches: Patches) -> None:
    def make(node: Node, header: Header, held: Held, now_us: int) -> int | None:
        key = node.slots.keys.get(header.slot)
        if key is None or node.configuration.is_revoked(header.writer):
            return None
        return m.OK if header.stamp <= key.base.stamp else _store(node, header, held, now_us)

    _storing(patches, make)


@add("6: a node lets go of a key only as a whole", features_add=(*_TYPED, "evict"))
def _field_evicted_alone(patches: Patches) -> None:
    def make(drop: Any) -> Any:
        def mutant(self: Slots, slot: bytes, *, evicted: bool = False) -> None:
            key = self.keys.get(slot)
            if not evicted or key is None or not key.fields:
                drop(self, slot, evicted=evicted)
                return
            field = min(key.fields, key=lambda s: key.fields[s].time_us)
            gone = key.remove(field)
            self._forget_field(gone, slot)
            self.raise_floor(self.shard(slot), gone.time_us)

        return mutant

    patches.wrap(Slots, "drop", make)


@add("6, prepare: promises are dropped by rank, not by stamp", scenario="totals_to_come")
def _promises_dropped_by_stamp_not_rank(patches: Patches) -> None:
    def make(settle: Any) -> Any:
        def mutant(self: Slots, slot: bytes, stamp: bytes, rank: bytes = b"") -> None:
            settle(self, slot, stamp)

        return mutant

    patches.wrap(Promises, "settle_promises", make)


@add(
    "6, prepare: the barrier stands for what a change of generation took away",
    features_add=(*_TYPED, "delete"),
    schemes=("reuse_fields", "drop_keys"),
    byzantine_writers=2,
    byzantine_nodes=1,
    lies=("grant_all",),
)
def _no_barrier(patches: Patches) -> None:
    patches.set(Key, "raise_barrier", lambda self, time_us: None)


def _beginning(patches: Patches, *, beside_live: bool) -> None:
    def mutant(node: Node, wanted: Promise, key: Key | None, now_us: int) -> m.Refusal | None:
        if beside_live:
            return original(node, wanted, None, now_us)  # type: ignore[no-any-return]
        if key is not None and fields._is_live(key, now_us):
            return m.Refusal(wanted.position, m.GENERATION, 0, key.base.entry(with_value=False))
        return None

    original = vars(fields)["_refusal_to_begin"]
    patches.set(fields, "_refusal_to_begin", mutant)


@add("6, prepare: no generation begins beside a live one", features_add=_TYPED)
def _creates_beside_live_key(patches: Patches) -> None:
    _beginning(patches, beside_live=True)


@add("6, prepare: of two that begin a key at once, one finds the other's base", features_add=_TYPED)
def _rival_begins_at_once(patches: Patches) -> None:
    _beginning(patches, beside_live=False)


@add(
    "6, counter: totals are not below those of before",
    fast=True,
    features=("types",),
    schemes=("totals_back", "key_fields"),
    byzantine_writers=2,
)
def _counter_totals_unchecked(patches: Patches) -> None:
    patches.set(Counter, "fault_beside", lambda self, header, current, promised: "")


@add(
    "6, siblings: what is said to have been seen is not ahead of all clocks",
    features_add=_TYPED,
    schemes=("key_fields", "fill_fields"),
    byzantine_writers=1,
)
def _seen_unbounded(patches: Patches) -> None:
    patches.set(Siblings, "seen_us", lambda self, header: 0)


@add("6, rank: a tombstone is above what goes on with its generation", scenario="deletion_undone")
def _tombstone_ranked_by_stamp(patches: Patches) -> None:
    for module in (fields, promises, repair, compare, settlekey, evidence):
        patches.set(module, "rank_of", lambda raw: generation_of(raw) + raw[3:51])


# --- clients ---


@add("6, overtaken: the generation had not ended when the write began", features_add=(*_TYPED, "delete", "contention"))
def _ends_with_what_was_over(patches: Patches) -> None:
    def make(end: Any) -> Any:
        def mutant(self: Generations, write: FieldWrite, generation: bytes) -> bool:
            write.bound_us = 0
            return bool(end(self, write, generation))

        return mutant

    def before(ends: Any) -> Any:
        def mutant(self: Generations, write: FieldWrite, end: bytes) -> bool:
            write.bound_us = 0
            return bool(ends(self, write, end))

        return mutant

    patches.wrap(Generations, "_end_with", make)
    patches.wrap(Generations, "_ends_before", before)


@add("6, read: what more than f nodes refuse as REVOKED is no answer", features_add=(*_TYPED, "revoke", "delete"))
def _revoked_base_hides(patches: Patches) -> None:
    patches.set(SettleKey, "_ban", lambda self, digest, node: None)


@add("6, write: EVICTED never counts for a field", features_add=(*_TYPED, "evict", "wipe"), byzantine_nodes=0)
def _evicted_counts_for_fields(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Commits, request_id: int, node: int, reply: m.CommitReply, now_us: int) -> None:
            part = self._commits.get(request_id)
            if part is not None and all(isinstance(self._writes[i], FieldWrite) for i in part.positions):
                codes = reply.codes.replace(bytes((m.EVICTED,)), bytes((m.OK,)))
                reply = msgspec.structs.replace(reply, codes=codes)
            take(self, request_id, node, reply, now_us)

        return mutant

    patches.wrap(Commits, "_take_committed", make)


@add("6, read: q answers that hold one generation, and who took the base is asked again", scenario="begun_again")
def _read_takes_any_generation(patches: Patches) -> None:
    # Both rules at once: where who took the base is asked again, what it said before is no answer any more, and so few
    # answers of another generation are left that the worst they do is to make the read a miss.
    def make(evaluate: Any) -> Any:
        def mutant(self: SettleKey, now_us: int) -> None:
            target = self._highest_good(self._context.configuration.q)
            for view in self._views.values() if target is not None else ():
                if view.base is not None:
                    view.generation = generation_of(target.header)  # type: ignore[union-attr]
            evaluate(self, now_us)

        return mutant

    patches.wrap(SettleKey, "_evaluate", make)
    patches.set(SettleKey, "_ask_again", lambda self, node: None)


@add("6, read: what q nodes do not have is written back", fast=True, features_add=(*_TYPED, "loss"))
def _no_field_write_back(patches: Patches) -> None:
    def mutant(self: SettleKey, holders: Any, now_us: int) -> list[tuple[bytes, bytes]] | None:
        found = self._comparison.compare(holders, now_us)
        if found is None:
            self._extend(now_us)
            return None
        settled: dict[bytes, Entry] = {**found[0], **{slot: top for slot, (top, _) in found[1].items()}}
        return [(settled[slot].header, settled[slot].salted) for slot in sorted(settled)]

    patches.set(SettleKey, "_fields_of", mutant)


@add("6, siblings: a read returns those that are not replaced", features_add=(*_TYPED, "loss"))
def _replaced_siblings_return(patches: Patches) -> None:
    patches.set(siblings, "standing", lambda headers: sorted(set(headers), key=lambda raw: raw[3:51]))


# --- recovery ---


@add("7, recovery: a key comes back as a whole, or not at all", scenario="part_of_a_key")
def _recovery_of_part_of_a_key(patches: Patches) -> None:
    def make(recover: Any) -> Any:
        def mutant(self: Recovery, base: bytes, found: list[bytes], reports: list[Any], now_us: int) -> None:
            recover(self, base, found[: len(found) // 2], reports, now_us)

        return mutant

    patches.wrap(Recovery, "_recover_key", make)


@add(
    "7, recovery: what others among the reports replace stays away",
    features_add=(*_TYPED, "repair", "lateness", "rolling", "contention"),
    features_drop=("evict", "revoke", "delete", "expire"),
)
def _recovery_keeps_what_is_replaced(patches: Patches) -> None:
    patches.set(Siblings, "standing", lambda self, headers: list(headers))


@add("7, recovery: all of a key is of one generation", features_add=(*_TYPED, "wipe", "lull", "delete"))
def _recovery_mixes_generations(patches: Patches) -> None:
    def mutant(self: Recovery, base: bytes, found: list[bytes], reports: list[Any], now_us: int) -> None:
        slots = self.node.slots
        bases = [report.entries[base] for report in reports if base in report.entries]
        if base in slots.current or not bases:
            return
        for slot in (base, *found):
            here = [report.entries[slot] for report in reports if slot in report.entries]
            header, entry = max(here, key=lambda pair: pair[0].stamp)
            batch = self.node.verifier.batch_of(entry)
            held = Held(digest_of(entry.header), header.raw, entry.salted, batch, entry.position, entry.path)
            if not slots.store(slot, held, now_us):
                return

    patches.set(Recovery, "_recover_key", mutant)
