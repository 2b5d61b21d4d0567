"""Lies about keys with fields: what a Byzantine node says of bases, generations and fields.

Drawn where keys have fields. As the lies in nodes.py: each is a function with its power declared in its docstring. Its
powers end where certificates begin: it shows valid entries, in any combination that honest nodes never hold. It must
not know checkers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.keys import bucket_digest, bucketed, digest_of_field, digest_of_key, pack
from quorumcache.core.model import ABSENT, Entry, digest_of, header_slot, header_time
from quorumcache.core.quorum import bitmap_of
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode

Lie = Callable[["ByzantineNode", int, m.Request, m.Reply], "m.Reply | None"]
_FAR_US: Final = 1 << 61


def _is_keyed(node: ByzantineNode, slot: bytes) -> bool:
    return node.node.slots.type_of(slot) is not None


def _known(node: ByzantineNode, base: bytes) -> tuple[list[Entry], list[Entry]]:
    """All valid bases of a key that the conspiracy knows, and all fields."""
    bases: list[Entry] = []
    fields: list[Entry] = []
    for slot, entries in node.conspiracy.entries.items():
        if _is_keyed(node, slot) and base_slot_of(slot) == base:
            (bases if slot == base else fields).extend(entries)
    return bases, fields


def _picture(node: ByzantineNode, base: bytes) -> tuple[Entry | None, list[Entry]]:
    """A false state of a key: one of its bases, mostly old, and some of the fields of that generation, some old."""
    draw = node.draw
    bases, fields = _known(node, base)
    if not bases or draw.random() < 0.1:
        return None, []
    shown = draw.choice(bases) if draw.random() < 0.6 else bases[-1]
    generation = generation_of(shown.header)
    chosen: dict[bytes, Entry] = {}
    for entry in fields:
        if generation_of(entry.header) == generation and draw.random() < 0.6:
            chosen[header_slot(entry.header)] = entry
    return shown, [chosen[slot] for slot in sorted(chosen)]


def _say(node: ByzantineNode, request: m.Request, honest: m.Reply, *, mixed: bool = False) -> m.Reply | None:
    """Answer a read of any kind from a false picture; `mixed`: with fields of other generations among them."""
    if isinstance(request, m.Outline):
        base, fields = _picture(node, request.slot)
        if mixed:
            fields = _known(node, request.slot)[1][-8:]
        if fields and node.draw.random() < 0.3:
            digests = {header_slot(e.header): digest_of(e.header) for e in fields}
            parts = {number: bucket_digest(part) for number, part in bucketed(digests).items()}
            buckets = b"".join(bytes((number,)) + parts[number] for number in sorted(parts))
            return m.OutlineReply(request.id, honest.clock_us, base, _floor(node), [], buckets)
        return m.OutlineReply(request.id, honest.clock_us, base, _floor(node), fields, b"")
    if isinstance(request, m.Fields):
        base, fields = _picture(node, request.slot)
        digests_said = b"".join(digest_of(entry.header) for entry in fields)
        named = generation_of(base.header) if base is not None else b""
        return m.FieldsReply(request.id, honest.clock_us, named, digests_said, fields, False)
    if isinstance(request, m.ReadFull) and any(_is_keyed(node, slot) for slot in request.slots):
        base, fields = _picture(node, base_slot_of(request.slots[0]))
        if mixed:
            fields = _known(node, base_slot_of(request.slots[0]))[1]
        there = {header_slot(entry.header): entry for entry in fields}
        floor_us = _floor(node)
        answers = [
            m.FullAnswer(base if _is_keyed(node, slot) and is_base_slot(slot) else there.get(slot), floor_us)
            for slot in request.slots
        ]
        return m.ReadFullReply(request.id, honest.clock_us, answers)
    if isinstance(request, m.Read) and isinstance(honest, m.ReadReply):
        return _say_digests(node, request, honest)
    if isinstance(request, m.Report) and isinstance(honest, m.ReportReply):
        return _say_report(node, request, honest, mixed=mixed)
    return honest


def _say_digests(node: ByzantineNode, request: m.Read, honest: m.ReadReply) -> m.Reply:
    digests, values = [], list(honest.values)
    for i, slot in enumerate(request.slots):
        if not _is_keyed(node, slot):
            digests.append(honest.digests[32 * i : 32 * i + 32])
            continue
        base, fields = _picture(node, base_slot_of(slot))
        pairs = [(entry.header, entry.salted) for entry in fields]
        if not is_base_slot(slot):
            pairs = [pair for pair in pairs if header_slot(pair[0]) == slot][:1]
        if base is None:
            digest, said = ABSENT, [b"", b""]
        else:
            there = {header_slot(raw): digest_of(raw) for raw, _ in pairs}
            digest = (
                digest_of_key(digest_of(base.header), there)
                if is_base_slot(slot)
                else digest_of_field(digest_of(base.header), there.get(slot, ABSENT))
            )
            said = [base.header, pack(pairs)]
        digests.append(digest if node.draw.random() < 0.8 else honest.digests[32 * i : 32 * i + 32])
        at = 2 * (i - request.values_from)
        if request.values_from <= i < request.values_to and at + 2 <= len(values):
            values[at : at + 2] = said
    return m.ReadReply(request.id, honest.clock_us, b"".join(digests), values)


def _say_report(node: ByzantineNode, request: m.Report, honest: m.ReportReply, *, mixed: bool) -> m.Reply:
    """A report in one page, of false pictures."""
    found: list[Entry] = []
    bases = sorted({base_slot_of(s) for s in node.conspiracy.entries if _is_keyed(node, s)})
    for slot in bases:
        if slot > request.after and node.configuration.shard_of(slot) == request.shard:
            base, fields = _picture(node, slot)
            if base is not None:
                found += [base, *(_known(node, slot)[1][-4:] if mixed else fields)]
    found.sort(key=lambda entry: header_slot(entry.header))
    return m.ReportReply(request.id, honest.clock_us, _floor(node), found[:64], False)


def _floor(node: ByzantineNode) -> int:
    now_us = node.world.now_us
    skew_us = node.configuration.max_skew_us
    return node.draw.choice((0, 0, 0, now_us - 4 * skew_us, now_us, _FAR_US))


def _old_keys(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows keys as they never were: an old base or generation, some fields left out, others old."""
    return _say(node, request, honest)


def _mixed_keys(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows, under a base, fields of other generations; to a node that recovers, too."""
    return _say(node, request, honest, mixed=True)


def _omit_fields(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Leaves out some fields of what it holds, and names the rest truly."""
    draw = node.draw
    if isinstance(honest, m.OutlineReply):
        entries = [entry for entry in honest.entries if draw.random() < 0.5]
        return msgspec.structs.replace(honest, entries=entries)
    if isinstance(honest, m.ReadFullReply) and isinstance(request, m.ReadFull):
        answers = [
            m.FullAnswer(None, answer.floor_us) if _is_keyed(node, slot) and not is_base_slot(slot) else answer
            for slot, answer in zip(request.slots, honest.answers, strict=True)
        ]
        return m.ReadFullReply(request.id, honest.clock_us, answers)
    if isinstance(honest, m.ReportReply):
        entries = [
            entry
            for entry in honest.entries
            if not _is_keyed(node, header_slot(entry.header))
            or is_base_slot(header_slot(entry.header))
            or draw.random() < 0.5
        ]
        return msgspec.structs.replace(honest, entries=entries)
    return honest


def _wrong_buckets(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Answers outlines with buckets of its own making, and lists of them without end, or that go in circles."""
    draw = node.draw
    if isinstance(honest, m.OutlineReply) and honest.base is not None:
        numbers = sorted(draw.sample(range(256), draw.choice((1, 3, 256))))
        buckets = b"".join(bytes((number,)) + draw.randbytes(32) for number in numbers)
        if draw.random() < 0.2:
            buckets = buckets[:-1]
        return msgspec.structs.replace(honest, entries=[], buckets=buckets)
    if isinstance(honest, m.FieldsReply):
        more = draw.random() < 0.7
        digests = honest.digests or draw.randbytes(32 * draw.choice((0, 1, 5)))
        return msgspec.structs.replace(honest, digests=digests, more=more)
    return honest


def _no_base(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says for ever that it has not heard of a field's generation, or holds another one."""
    if isinstance(request, m.Commit) and isinstance(honest, m.CommitReply):
        codes = bytes(node.draw.choice((m.NO_BASE, m.OTHER)) for _ in honest.codes)
        return m.CommitReply(request.id, honest.clock_us, codes, [])
    return honest


def _generation_refused(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Refuses with GENERATION: without a proof, with an old base, with another key's, with a floor of its choice."""
    if not isinstance(request, m.Prepare):
        return honest
    draw = node.draw
    refusals = []
    for position, header in enumerate(request.headers):
        slot = header_slot(header)
        bases = _known(node, base_slot_of(slot))[0] if _is_keyed(node, slot) else []
        proof = draw.choice(bases) if bases and draw.random() < 0.7 else None
        if draw.random() < 0.1:
            others = [entries[-1] for entries in node.conspiracy.entries.values() if entries]
            proof = draw.choice(others) if others else None
        time_us = _floor(node) if draw.random() < 0.5 else header_time(header) + 1
        refusals.append(m.Refusal(position, m.GENERATION, time_us, proof, "so it says"))
    return m.PrepareReply(request.id, honest.clock_us, bitmap_of([], len(request.headers)), b"", refusals)


def _holds_and_takes_nothing(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Names the key's latest generation to readers, and never takes what is written under it."""
    if isinstance(request, m.Commit):
        return None
    if isinstance(request, (m.Outline, m.ReadFull)):
        slot = request.slot if isinstance(request, m.Outline) else request.slots[0]
        if _is_keyed(node, slot):
            bases = _known(node, base_slot_of(slot))[0]
            if bases:
                latest = max(bases, key=lambda entry: generation_of(entry.header))
                if isinstance(request, m.Outline):
                    return m.OutlineReply(request.id, honest.clock_us, latest, 0, [], b"")
                answers = [m.FullAnswer(latest if is_base_slot(s) else None, 0) for s in request.slots]
                return m.ReadFullReply(request.id, honest.clock_us, answers)
    return honest


KEY_LIES: Final[dict[str, Lie]] = {
    "old_keys": _old_keys,
    "mixed_keys": _mixed_keys,
    "omit_fields": _omit_fields,
    "wrong_buckets": _wrong_buckets,
    "no_base": _no_base,
    "generation_refused": _generation_refused,
    "holds_and_takes_nothing": _holds_and_takes_nothing,
}
