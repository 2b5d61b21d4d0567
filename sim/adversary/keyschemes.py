"""Schemes of Byzantine writers about keys with fields. Drawn where keys have fields.

As the schemes in writers.py: each is a function with its power declared in its docstring; all of them use the grants of
the adversary's nodes. It must not know checkers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from quorumcache.core.model import DELETE, PUT, Entry, encode_header, header_slot, stamp_of, value_hash_of
from quorumcache.core.types.base import base_slot_of, field_slot, generation_of, name_field
from quorumcache.core.types.counter import encode_totals
from quorumcache.core.types.siblings import encode_seen, time_of
from sim.adversary.conspiracy import Proposal

if TYPE_CHECKING:
    from sim.adversary.writers import ByzantineWriter

Scheme = Callable[["ByzantineWriter"], None]


class Part(NamedTuple):
    """One header to sign: its slot, kind, metadata, and when its key expires (0: never)."""

    slot: bytes
    kind: int = PUT
    metadata: bytes = b""
    expires_at_us: int = 0


def sign(writer: ByzantineWriter, parts: Sequence[Part], time_us: int, nonce: int) -> Proposal:
    """A batch of these headers, all under one stamp, signed by the writer."""
    headers, salted = [], []
    for part in parts:
        value = writer.value() if part.kind == PUT and _has_value(part.slot) else b""
        salted.append(writer.draw.randbytes(16) + value)
        headers.append(
            encode_header(
                part.slot,
                stamp_of(time_us, writer.key.public, nonce),
                part.kind,
                value_hash_of(salted[-1]),
                len(value),
                part.expires_at_us,
                part.metadata,
            )
        )
    writer.conspiracy.signed.update(headers)
    return Proposal(writer.configuration, writer.key, headers, salted)


def _has_value(slot: bytes) -> bool:
    return base_slot_of(slot) != slot and slot[1 : 1 + slot[0]] in (b"map", b"siblings")


def _time(writer: ByzantineWriter) -> int:
    skew_us = writer.configuration.max_skew_us
    return writer.world.now_us + writer.draw.randint(-skew_us // 2, skew_us)


def _bases(writer: ByzantineWriter, base: bytes) -> list[Entry]:
    return writer.conspiracy.entries.get(base, [])


def _generation(writer: ByzantineWriter, base: bytes, *, old: bool = False) -> bytes:
    """A generation of the key: the latest that is known, or any; empty where none is."""
    known = sorted({generation_of(entry.header) for entry in _bases(writer, base)})
    if not known:
        return b""
    return writer.draw.choice(known) if old else known[-1]


def _field(writer: ByzantineWriter, kind: str, base: bytes, generation: bytes) -> Part:
    """A field as its type wants it."""
    draw = writer.draw
    if kind == "counter":
        field = writer.key.public + bytes((draw.randrange(2),)) * 8
        return Part(field_slot(base, field), PUT, generation + encode_totals(draw.randrange(50), draw.randrange(50)))
    if kind == "siblings":
        return Part(
            field_slot(base, writer.key.public + draw.randbytes(8)), PUT, generation + encode_seen(_seen(writer, base))
        )
    slot = field_slot(base, name_field(b"%d" % draw.randrange(4)))
    return Part(slot, draw.choice((PUT, PUT, DELETE)), generation)


def _seen(writer: ByzantineWriter, base: bytes) -> dict[bytes, int]:
    """What a sibling says it has seen: nothing, what is there, or everybody's writes up to the edge of what is allowed,
    and beyond."""
    draw = writer.draw
    choice = draw.randrange(4)
    if choice == 0:
        return {}
    seen: dict[bytes, int] = {}
    skew_us = writer.configuration.max_skew_us
    for slot, entries in writer.conspiracy.entries.items():
        if slot != base and slot[: len(base) - 2] == base[:-2]:
            for entry in entries:
                author = entry.header[11:51]
                ahead_us = writer.world.now_us + draw.choice((skew_us // 2, skew_us, 100 * skew_us))
                time_us = time_of(entry.header) if choice == 1 else ahead_us
                seen[author] = max(seen.get(author, 0), time_us)
    return seen


def _run(writer: ByzantineWriter, proposal: Proposal, *, to_all: bool = True, delay_us: int = 0) -> None:
    nodes = writer.members(proposal)
    writer.prepare(proposal, nodes if to_all else writer.some(nodes, 2))
    writer.later(
        writer.pause_us() + delay_us, lambda p: writer.commit(p, nodes if to_all else writer.some(nodes)), proposal
    )


def _key_fields(writer: ByzantineWriter) -> None:
    """Writes fields of a key under its latest generation, as anybody would, at all nodes or some."""
    kind, base = writer.draw.choice(writer.keys)
    generation = _generation(writer, base)
    parts = [_field(writer, kind, base, generation)]
    time_us = _time(writer)
    if not generation:
        generation = stamp_of(time_us, writer.key.public, 7)
        parts = [Part(base), _field(writer, kind, base, generation)]
    proposal = sign(writer, parts, time_us, 7 if len(parts) > 1 else writer.draw.getrandbits(64))
    _run(writer, proposal, to_all=writer.draw.random() < 0.5)


def _race_generations(writer: ByzantineWriter) -> None:
    """Begins a generation with a field while others write, and commits the base at a part of the nodes, late."""
    kind, base = writer.draw.choice(writer.keys)
    time_us, nonce = _time(writer), writer.draw.getrandbits(64)
    generation = stamp_of(time_us, writer.key.public, nonce)
    proposal = sign(writer, [Part(base), _field(writer, kind, base, generation)], time_us, nonce)
    delay_us = writer.draw.choice((0, 0, writer.configuration.op_time_us // 2, 2 * writer.configuration.op_time_us))
    _run(writer, proposal, to_all=writer.draw.random() < 0.3, delay_us=delay_us)


def _equivocate_bases(writer: ByzantineWriter) -> None:
    """Two bases under one stamp, a put and a tombstone or two that expire at other times, each at a part of the nodes;
    fields under that generation."""
    draw = writer.draw
    kind, base = draw.choice(writer.keys)
    time_us, nonce = _time(writer), draw.getrandbits(64)
    generation = stamp_of(time_us, writer.key.public, nonce)
    first = sign(writer, [Part(base)], time_us, nonce)
    other = draw.choice((Part(base, DELETE), Part(base, PUT, b"", time_us + 10_000_000)))
    second = sign(writer, [other], time_us, nonce)
    nodes = writer.members(first)
    here = writer.some(nodes)
    pause_us = writer.pause_us()
    for proposal, part in ((first, here), (second, [n for n in nodes if n not in here] or nodes)):
        writer.prepare(proposal, part)
        writer.later(pause_us, lambda p: writer.prepare(p, nodes), proposal)
        writer.later(2 * pause_us, lambda p: writer.commit(p, writer.some(nodes)), proposal)
    field = sign(writer, [_field(writer, kind, base, generation)], time_us + 1, nonce)
    writer.later(3 * pause_us, lambda p: _run(writer, p), field)


def _old_generations(writer: ByzantineWriter) -> None:
    """Goes on with generations that are over: fields and bases under them, and old bases committed again."""
    draw = writer.draw
    kind, base = draw.choice(writer.keys)
    generation = _generation(writer, base, old=True)
    if not generation:
        _race_generations(writer)
        return
    part = _field(writer, kind, base, generation) if draw.random() < 0.6 else Part(base, PUT, generation)
    proposal = sign(writer, [part], _time(writer), draw.getrandbits(64))
    delay_us = draw.choice((0, writer.configuration.op_time_us, 3 * writer.configuration.op_time_us))
    _run(writer, proposal, to_all=draw.random() < 0.5, delay_us=delay_us)


def _drop_keys(writer: ByzantineWriter) -> None:
    """Deletes keys, at all nodes, at some, or late."""
    base = writer.draw.choice(writer.keys)[1]
    proposal = sign(writer, [Part(base, DELETE)], _time(writer), writer.draw.getrandbits(64))
    delay_us = writer.draw.choice((0, 0, 2 * writer.configuration.op_time_us))
    _run(writer, proposal, to_all=writer.draw.random() < 0.5, delay_us=delay_us)


def _touch_keys(writer: ByzantineWriter) -> None:
    """Gives keys new times to live: soon, far, over; stamps of one, two expiries."""
    draw = writer.draw
    base = draw.choice(writer.keys)[1]
    generation = _generation(writer, base)
    if not generation:
        return
    time_us, nonce = max(_time(writer), int.from_bytes(generation[:8], "big") + 1), draw.getrandbits(64)
    for expires_us in (0, time_us + draw.choice((-1_000_000, 50_000, 10_000_000))):
        proposal = sign(writer, [Part(base, PUT, generation, expires_us)], time_us, nonce)
        _run(writer, proposal, to_all=draw.random() < 0.5)


def _fill_fields(writer: ByzantineWriter) -> None:
    """Fills a key with fields of its own, by the dozen, in one batch."""
    draw = writer.draw
    kind, base = draw.choice(writer.keys)
    generation = _generation(writer, base)
    if not generation or kind == "counter":
        return
    parts: dict[bytes, Part] = {}
    for number in range(40):
        part = _field(writer, kind, base, generation)
        if kind != "siblings":
            part = part._replace(slot=field_slot(base, name_field(b"filler %d" % number)))
        parts[part.slot] = part
    _run(writer, sign(writer, list(parts.values()), _time(writer), draw.getrandbits(64)))


def _totals_back(writer: ByzantineWriter) -> None:
    """Has its counter's totals go up, and down again under later stamps; two totals under one stamp; high ones late."""
    draw = writer.draw
    keys = [base for kind, base in writer.keys if kind == "counter"]
    if not keys:
        _key_fields(writer)
        return
    base = draw.choice(keys)
    generation = _generation(writer, base)
    if not generation:
        _key_fields(writer)
        return
    slot = field_slot(base, writer.key.public + b"backward")
    time_us, nonce = _time(writer), draw.getrandbits(64)
    pause_us = writer.pause_us()
    for step, total in enumerate((draw.randrange(50, 99), draw.randrange(50))):
        metadata = generation + encode_totals(total, 99 - total)
        proposal = sign(writer, [Part(slot, PUT, metadata)], time_us + step * draw.choice((0, 1, 20_000)), nonce)
        writer.later(step * pause_us + 1, lambda p: writer.prepare(p, writer.members(p)), proposal)
        writer.later((step + 2) * pause_us, lambda p: writer.commit(p, writer.some(writer.members(p))), proposal)


def _hoard_generations(writer: ByzantineWriter) -> None:
    """Has a base and fields certified and withholds them, to commit them one by one, at one node each."""
    draw = writer.draw
    kind, base = draw.choice(writer.keys)
    time_us, nonce = _time(writer), draw.getrandbits(64)
    generation = stamp_of(time_us, writer.key.public, nonce)
    begins = sign(writer, [Part(base)], time_us, nonce)
    field = sign(writer, [_field(writer, kind, base, generation)], time_us, nonce)
    for proposal in (begins, field):
        nodes = writer.members(proposal)
        writer.prepare(proposal, nodes)
        for _ in range(2):
            delay_us = draw.randrange(5_000, 3 * writer.configuration.op_time_us)
            writer.later(delay_us, lambda p: writer.commit(p, [draw.choice(writer.members(p))]), proposal)


def _reuse_fields(writer: ByzantineWriter) -> None:
    """A field under a stamp that is ahead; later another value under that very stamp, in the generation of then."""
    draw = writer.draw
    kind, base = draw.choice(writer.keys)
    generation = _generation(writer, base)
    if not generation or kind == "siblings":
        _race_generations(writer)
        return
    time_us, nonce = writer.world.now_us + writer.configuration.max_skew_us // 2, draw.getrandbits(64)
    part = _field(writer, kind, base, generation)
    first = sign(writer, [part], time_us, nonce)
    _run(writer, first)

    def again(_: Proposal) -> None:
        now = _generation(writer, base)
        if now and now != generation and now < stamp_of(time_us, writer.key.public, nonce):
            second = sign(writer, [part._replace(metadata=now + part.metadata[48:])], time_us, nonce)
            _run(writer, second)

    for delay_us in (20_000, 50_000, 90_000):
        writer.later(delay_us, again, first)


def _recommit(writer: ByzantineWriter) -> None:
    """Commits again what anybody once had certified for a key: its bases and fields, in any order, anywhere."""
    from quorumcache.core.settle import commit_of

    draw = writer.draw
    base = draw.choice(writer.keys)[1]
    known = [e for s, entries in writer.conspiracy.entries.items() if s[: len(base) - 2] == base[:-2] for e in entries]
    for entry in draw.sample(known, min(len(known), 4)):
        nodes = list(writer.configuration.group_of(header_slot(entry.header)).members)
        commit = commit_of(writer.new_id(), writer.configuration.digest, entry)
        writer.send_commit(commit, writer.some(nodes))


KEY_SCHEMES: Final[dict[str, Scheme]] = {
    "key_fields": _key_fields,
    "race_generations": _race_generations,
    "equivocate_bases": _equivocate_bases,
    "old_generations": _old_generations,
    "drop_keys": _drop_keys,
    "touch_keys": _touch_keys,
    "fill_fields": _fill_fields,
    "totals_back": _totals_back,
    "hoard_generations": _hoard_generations,
    "reuse_fields": _reuse_fields,
    "recommit": _recommit,
}
