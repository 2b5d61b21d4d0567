"""Why completed fields are not lost (protocol 6, last paragraphs), checked on the nodes' states.

A field (g, t) that is complete was answered for by f+1 correct nodes, and each of them, for ever, is in g and holds t
or newer (or a sibling that has seen it), or is in a higher generation or has the tombstone that began g (a Byzantine
writer had it go on before that came to all), or has no key and a floor at or above g's time,
and never takes g back: its base is not open there. Likewise for a base of rank (g, t). Checked where operations end,
and at the end.
"""

from __future__ import annotations

from quorumcache.core.model import DELETE, header_slot, stamp_time
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot, rank_of
from sim.checkers.base import Checker, View, told
from sim.checkers.ranks import KeyState, is_covered, note
from sim.processes import NodeProcess
from sim.record import OK, Op


def stands_for_rank(process: NodeProcess, base: bytes, rank: bytes) -> bool:
    """Whether a node has a base of this rank or higher, or rules out that generation and all below."""
    if (process.down and process.wiped) or not process.serves(base):
        return True
    slots = process.node.slots
    key = slots.keys.get(base)
    if key is not None:
        return rank_of(key.base.header) >= rank
    return _has_let_go(process, base, rank[:48])


def _has_let_go(process: NodeProcess, base: bytes, generation: bytes) -> bool:
    slots = process.node.slots
    if slots.shard(base).floor_us < stamp_time(generation):
        return False
    # The tombstone that began the generation may still come: it is above all that was under it.
    return all(
        p.header.metadata or p.header.stamp > generation or (p.header.kind == DELETE and p.header.stamp == generation)
        for p in slots.open.get(base, ())
    )


def stands_for_field(process: NodeProcess, raw: bytes) -> bool:
    """Whether a node holds this field's entry or newer in its generation, is beyond that, or has let go of it."""
    slot = header_slot(raw)
    if (process.down and process.wiped) or not process.serves(slot):
        return True
    base, generation = base_slot_of(slot), generation_of(raw)
    slots = process.node.slots
    key = slots.keys.get(base)
    if key is None:
        return _has_let_go(process, base, generation)
    if key.generation != generation or key.is_deleted:
        return key.generation >= generation
    held = key.fields.get(slot)
    if held is not None and held.stamp >= raw[3:51]:
        return True
    kind = slots.type_of(slot)
    others = [field.header for field in key.fields.values()]
    return kind is not None and kind.replaces and is_covered(raw, others)


class DurableKeys(Checker):
    """Counts the correct nodes that stand for what is complete of each key."""

    name = "durability of keys"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.keys: dict[bytes, KeyState] = {}

    def ended(self, op: Op) -> None:
        """What the operation returned is complete; is all that was before still stood for?"""
        if op.outcome != OK or op.overtaken:
            return
        state = self.keys.setdefault(op.base, KeyState())
        note(state, op)
        self._check(op.base, state, None if is_base_slot(op.slot) else op.slot)

    def finished(self) -> None:
        """All keys once more."""
        for base, state in self.keys.items():
            self._check(base, state, None)

    def _check(self, base: bytes, state: KeyState, slot: bytes | None) -> None:
        configuration = self.view.configuration
        least = configuration.n - configuration.q + 1
        members = configuration.group_of(base).members
        nodes = [node for node in map(self.view.node_at, members) if not node.is_byzantine]
        rank = max(state.rank, state.generation + state.generation)
        standing = [node.number for node in nodes if stands_for_rank(node, base, rank)]
        if len(standing) < least and state.by is not None:
            self.fail(f"only nodes {standing} still stand for the base of what {told(state.by)} completed")
            return
        for field, (raw, op) in state.fields.items():
            if slot is not None and field != slot:
                continue
            standing = [node.number for node in nodes if stands_for_field(node, raw)]
            if len(standing) < least:
                self.fail(f"only nodes {standing} still stand for what {told(op)} completed")
                return
