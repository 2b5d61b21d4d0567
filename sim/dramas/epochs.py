"""Dramas between two epochs: who has sealed while others go on, what a member that joins was told, and when.

In each of them one node is replaced. They play with f = 1, in runs with epochs of which nobody else orders any.
"""

from __future__ import annotations

from collections.abc import Iterator

from quorumcache.core import amend
from quorumcache.core import messages as m
from sim.dramas.stage import Stage
from sim.moving import MovingNode
from sim.processes import NodeProcess
from sim.record import OK

_STEP_US = 20_000


def _replaced(stage: Stage, leaving: NodeProcess, joining: MovingNode, at: NodeProcess) -> None:
    """Administrators order an epoch in which one node takes another's place, at one node."""
    epochs = stage.engine.epochs
    assert epochs is not None
    last = epochs.chain[-1]
    info = last.node_by_key(leaving.key.public)
    assert info is not None
    successor = amend.replace_node(last, info.name, joining.key.public, new_name=f"n{joining.number}")
    epochs.propose(successor, [at.number])
    stage.tell("epoch", at.number, f"replace node {leaving.number} by node {joining.number}")


def _parts(stage: Stage) -> tuple[NodeProcess, NodeProcess, NodeProcess, MovingNode]:
    """A node that hears of all, one that may not, the one that leaves, and the one that joins."""
    joining = next(node for node in stage.engine.moving if node.is_waiting and not node.is_byzantine)
    return stage.keepers[0], stage.forgetful, stage.behind[0], joining


def _until_joined(stage: Stage, joining: MovingNode, limit_us: int, *, recovered: bool = True) -> Iterator[int]:
    """Wait until it has begun, and has recovered what it can; no longer than this."""
    end_us = stage.engine.now_us + limit_us
    while (joining.membership is None or (recovered and joining.joining)) and stage.engine.now_us < end_us:
        yield _STEP_US


def two_halves(stage: Stage) -> Iterator[int]:
    """Half of the correct nodes hear of the next epoch, the others go on in this one, and a liar sides with both."""
    here, there, leaving, joining = _parts(stage)
    yield from stage.established()
    stage.cut([there, leaving], [here, joining, *stage.liars, stage.writer])
    stage.cut([stage.reader], [here, joining])
    _replaced(stage, leaving, joining, here)
    yield from _until_joined(stage, joining, 600_000, recovered=False)
    # Who joined has a floor above its clock, which a stamp has to pass.
    yield 2 * stage.skew_us + stage.between(0, 50_000)
    op = stage.start(stage.writer, "write")
    yield from stage.ended(op)
    yield from stage.ended(stage.start(stage.reader, "read"))
    stage.mend()


def stamp_of_before(stage: Stage) -> Iterator[int]:
    """A certificate of the last epoch is kept back, and under its stamp another value is prepared in the next one."""
    here, there, leaving, joining = _parts(stage)
    villain = stage.villain
    yield from stage.established()
    now_us, nonce = stage.engine.now_us, stage.draw.getrandbits(64)
    first = villain.propose(slot=stage.slot, time_us=now_us, nonce=nonce)
    villain.prepare(first, [here.index, leaving.index])
    yield stage.between(3_000, 10_000)
    _replaced(stage, leaving, joining, here)
    before = villain.configuration
    yield from _until_joined(stage, joining, 300_000)
    for _ in range(10):
        if villain.configuration is not before and there.configuration is villain.configuration:
            break
        yield _STEP_US
    if villain.configuration is before:
        return
    second = villain.propose(slot=stage.slot, time_us=now_us, nonce=nonce)
    villain.prepare(second, [here.index, there.index, joining.index])
    yield stage.between(3_000, 10_000)
    stage.spread(first, [here])
    stage.spread(second, [there, joining])
    yield stage.between(5_000, 20_000)


def acks_of_two_epochs(stage: Stage) -> Iterator[int]:
    """A write is confirmed by one node before it leaves, and by others in the next epoch."""
    here, there, leaving, joining = _parts(stage)
    yield from stage.established()
    stage.hold(m.Commit, [stage.writer], [here, there, joining])
    stage.cut([leaving], [joining])
    op = stage.start(stage.writer, "write")
    yield stage.between(10_000, 20_000)
    _replaced(stage, leaving, joining, here)
    yield from _until_joined(stage, joining, 300_000)
    other = stage.writer.start("read", stage.engine.slots[0], phase="faults", lane=1000)
    yield from stage.ended(other)
    yield stage.between(1_000, 5_000)
    stage.release([stage.writer], [here])
    yield from stage.ended(op)
    if op.outcome == OK:
        yield from stage.asked_by_others()


def joined_on_hearsay(stage: Stage) -> Iterator[int]:
    """A member joins, and hears of those alone that do not know what is complete."""
    here, there, leaving, joining = _parts(stage)
    yield from stage.established()
    stage.hold(m.Commit, [stage.writer], [there])
    op = stage.start(stage.writer, "write")
    yield from stage.ended(op)
    stage.cut([here, leaving], [joining])
    _replaced(stage, leaving, joining, here)
    yield from _until_joined(stage, joining, 800_000)
    yield from stage.ended(stage.reader.start("read", stage.engine.slots[0], phase="faults", lane=1000))
    yield from stage.asked_by_others()
