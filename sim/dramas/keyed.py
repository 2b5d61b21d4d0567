"""Dramas around keys with fields (protocol 6): what a node takes back of a key, and what it promises for a generation
that it has not heard of."""

from __future__ import annotations

from collections.abc import Iterator

from quorumcache.core import messages as m
from quorumcache.core.model import PUT, stamp_of, stamp_time
from quorumcache.core.types.base import field_slot
from quorumcache.core.types.counter import encode_totals
from sim.adversary.conspiracy import Proposal
from sim.adversary.keyschemes import Part, sign
from sim.dramas.stage import Stage
from sim.record import OK, PENDING


def part_of_a_key(stage: Stage) -> Iterator[int]:
    """A map has a field that some correct nodes miss. One that has it forgets all, and comes back with the key: with
    all of it, or that field has too few who stand for it.
    """
    for name in range(stage.draw.choice((2, 4, 6))):
        yield from stage.ended(stage.start_keyed(stage.writer, f"put {name}"))
    yield stage.between(1_000, 20_000)
    stage.hold(m.Commit, [stage.writer], stage.behind)
    yield from stage.ended(stage.start_keyed(stage.writer, "put 9"))
    yield from stage.forgets()
    yield from stage.recovery_asks()
    while stage.forgetful.recovery is not None:
        yield stage.between(5_000, 20_000)
    # A new time to live is about the base alone: it brings no field to anybody.
    yield from stage.ended(stage.start_keyed(stage.reader, "touch"))


def totals_to_come(stage: Stage) -> Iterator[int]:
    """A counter's field is promised under a generation that is to come, then written under the one that is there, with
    the later stamp. Whoever forgets the promise for that makes another, with lower totals; and both are committed.
    """
    villain, draw = stage.villain, stage.draw
    _, base = stage.key
    op = stage.start_keyed(stage.writer, "add 2", ttl_us=stage.between(100_000, 200_000))
    yield from stage.ended(op)
    if op.outcome != OK:
        return
    slot = field_slot(base, villain.key.public + bytes(8))
    time_us, nonce = stage.engine.now_us + stage.between(0, stage.skew_us // 2), draw.getrandbits(64)
    coming = stamp_of(time_us, villain.key.public, nonce)
    nodes = list(stage.engine.configuration.group_of(base).members)

    def proposed(generation: bytes, added: int, after_us: int) -> Proposal:
        proposal = sign(villain, [Part(slot, PUT, generation + encode_totals(added, 0))], time_us + after_us, nonce)
        villain.prepare(proposal, nodes)
        return proposal

    high = proposed(coming, draw.randint(20, 99), 1)
    yield stage.between(4_000, 10_000)
    here = proposed(op.generation, 1, 2)
    yield stage.between(4_000, 10_000)
    villain.commit(here, nodes)
    yield stage.between(4_000, 10_000)
    low = proposed(coming, draw.randint(2, 19), 3)
    # The key expires, and the villain begins the generation that it had in mind.
    yield max(0, op.expires_at_us - stage.engine.now_us) + stage.skew_us + stage.between(1_000, 20_000)
    begins = sign(villain, [Part(base)], time_us, nonce)
    villain.prepare(begins, nodes)
    yield stage.between(4_000, 10_000)
    for proposal in (begins, high, low):
        villain.commit(proposal, nodes)
        yield stage.between(4_000, 10_000)
        yield from stage.ended(stage.start_keyed(stage.reader, "read"))


def deletion_undone(stage: Stage) -> Iterator[int]:
    """A deletion is promised; before its commit arrives, the villain has a base promised that goes on with the very
    generation that the tombstone begins. It is committed when the deletion is complete.
    """
    villain = stage.villain
    _, base = stage.key
    yield from stage.ended(stage.start_keyed(stage.writer, "put 1"))
    stage.hold(m.Commit, [stage.writer], [stage.forgetful, *stage.keepers, *stage.behind])
    op = stage.start_keyed(stage.writer, "drop")
    yield stage.between(3_000, 10_000)
    # The liars were asked for the same promise, so the villain knows its stamp.
    promises = stage.forgetful.node.slots.open.get(base)
    if not promises:
        return
    deleted = promises[-1].header.stamp
    time_us = max(stamp_time(deleted), stage.engine.now_us) + stage.between(1, stage.skew_us // 4)
    revives = sign(villain, [Part(base, PUT, deleted)], time_us, stage.draw.getrandbits(64))
    nodes = list(stage.engine.configuration.group_of(base).members)
    villain.prepare(revives, nodes)
    yield stage.between(4_000, 10_000)
    if stage.chance(0.3):
        villain.commit(revives, nodes)
        yield stage.between(1_000, 5_000)
    stage.release([stage.writer], [stage.forgetful, *stage.keepers])
    yield from stage.ended(op)
    villain.commit(revives, nodes)
    yield stage.between(4_000, 10_000)
    yield from stage.ended(stage.start_keyed(stage.reader, "read"))


def begun_again(stage: Stage) -> Iterator[int]:
    """A key expires, and is begun again: but of the new base and what comes with it, one node alone has heard when
    somebody reads. The others still show the fields of the generation that is over, and differ about its end, so that
    no quick answer is to be had.
    """
    writer = stage.writer
    for name in range(stage.draw.choice((1, 2, 3))):
        op = stage.start_keyed(writer, f"put {name}", ttl_us=stage.between(150_000, 300_000))
        yield from stage.ended(op)
        if op.outcome != OK:
            return
    yield stage.between(5_000, 20_000)
    one, late, *rest = stage.draw.sample(
        [stage.forgetful, *stage.keepers, *stage.behind], 1 + 2 * stage.engine.config.f
    )
    stage.hold(m.Commit, [writer], [late])
    # Not much sooner or later than before: who lets go of the key has nothing to show.
    left_us = max(40_000, op.expires_at_us - stage.engine.now_us + stage.between(-15_000, 15_000))
    touched = stage.start_keyed(writer, "touch", ttl_us=left_us)
    yield from stage.ended(touched)
    ends_us = max(op.expires_at_us, touched.expires_at_us)
    nodes = [one, late, *rest, *stage.liars]
    while any(node.clock.read_us() <= ends_us for node in nodes):
        yield stage.between(100, 1_000)
    stage.hold(m.Commit, [writer], [*rest, *stage.liars])
    again = stage.start_keyed(writer, "put 7")
    base = stage.key[1]
    old = one.node.slots.keys[base].generation if base in one.node.slots.keys else b""
    while again.outcome == PENDING and (base not in one.node.slots.keys or one.node.slots.keys[base].generation == old):
        yield stage.between(100, 500)
    stage.tell("read", one.index, "beside the one node that has heard of the new base")
    yield from stage.ended(stage.start_keyed(stage.reader, "get 0"))
    stage.release([writer], [late, *rest, *stage.liars])
    yield from stage.ended(again)
    yield from stage.ended(stage.start_keyed(stage.reader, "read"))
