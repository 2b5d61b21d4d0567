"""Dramas around recovery (protocol 7): what a node that lost everything takes back, from whom, and when.

In each, something newer is complete while a node recovers, and what is old could come back if a rule were missing.
"""

from __future__ import annotations

from collections.abc import Iterator

from quorumcache.core import messages as m
from sim.dramas.stage import Stage
from sim.record import PENDING
from sim.revoking import revoke


def late_for_recovery(stage: Stage) -> Iterator[int]:
    """A commit meets a node that recovers: it heard some reports already, from before that commit.

    The node may not count for the write until it is active: the reports that it waits for may bring back what is older.
    """
    liars, behind, forgetful = stage.liars, stage.behind, stage.forgetful
    # A write that a correct client began before the crash is over by then. Its stamp is below the floor all the same
    # where the skew is large, or where the villain kept its promises.
    lurking = stage.skew_us < stage.op_time_us * 5 // 4 or stage.chance(0.5)
    yield from stage.established()
    if lurking:
        yield from stage.promised([forgetful, *stage.keepers, *behind])
    stage.hold(m.ReportReply, [*liars, *behind], [forgetful])
    yield from stage.forgets()
    yield from stage.recovery_asks()
    client = stage.reader if lurking else stage.writer
    stage.hold(m.Commit, [client], behind)
    if lurking:
        stage.spread(stage.proposal, stage.keepers)
        yield stage.between(2_000, 10_000)
        if len(stage.proposal.grants) >= stage.engine.configuration.q:
            stage.role.shown = stage.proposal.entry()
    op = stage.start(client, "read" if lurking else "write")
    yield stage.between(5_000, stage.op_time_us // 4)
    stage.role.shown = stage.role.reported
    stage.release([*liars, *behind], [forgetful])
    yield from stage.ended(op)
    yield from stage.asked_by_others()


def answered_then_forgot(stage: Stage) -> Iterator[int]:
    """A node answers a commit, loses everything and comes back while the write still counts that answer.

    Were it to recover at once, it would take back what is older than the write, which then completes elsewhere.
    """
    yield from stage.established()
    stage.hold(m.Commit, [stage.writer], [*stage.keepers, *stage.behind])
    op = stage.start(stage.writer, "write")
    yield stage.between(5_000, 20_000)
    yield from stage.forgets()
    yield stage.between(stage.op_time_us // 8, stage.op_time_us * 3 // 4)
    stage.release([stage.writer], stage.keepers)
    yield from stage.ended(op)
    yield from stage.asked_by_others()
    if stage.chance(0.5):
        yield 4 * stage.op_time_us
        yield from stage.asked_by_others()


def taken_and_lost(stage: Stage) -> Iterator[int]:
    """A node takes an entry from a peer, says that it holds it when the commit comes, and crashes.

    It comes back with what is stored. Were the entry not among that, too few would hold what is complete.
    """
    slot, node = stage.slot, stage.forgetful
    yield from stage.established()
    before = node.node.slots.current.get(slot)
    stage.cut(stage.behind, [*stage.keepers, node])
    stage.hold(m.Commit, [stage.writer], [node, *stage.behind])
    op = stage.start(stage.writer, "write")
    while op.outcome == PENDING and node.node.slots.current.get(slot) is before:
        yield stage.between(1_000, 3_000)
    stage.release([stage.writer], [node])
    yield from stage.ended(op)
    node.crash()
    node.restart(wipe=False)
    yield from stage.asked_by_others()


def two_reports(stage: Stage) -> Iterator[int]:
    """A node recovers while those that hold what is complete cannot be reached: the others' reports are too few."""
    yield from stage.established()
    stage.hold(m.Commit, [stage.writer], stage.behind)
    op = stage.start(stage.writer, "write")
    yield from stage.ended(op)
    stage.cut(stage.keepers, [stage.forgetful])
    yield from stage.forgets()
    yield 4 * stage.op_time_us + stage.between(100_000, 300_000)
    stage.mend()
    yield from stage.asked_by_others()


def revoked_meanwhile(stage: Stage) -> Iterator[int]:
    """While a node recovers, a new epoch revokes the writer of the highest entry that it was told of.

    It may take neither that entry, nor the next-highest: a quorum had completed the higher one.
    """
    liars, forgetful = stage.liars, stage.forgetful
    yield from stage.established()
    yield from stage.promised([forgetful, *stage.keepers, *stage.behind])
    stage.spread(stage.proposal, [forgetful, *stage.keepers])
    yield stage.between(2_000, 10_000)
    if len(stage.proposal.grants) < stage.engine.configuration.q:
        return
    old, stage.role.shown = stage.role.shown, stage.proposal.entry()
    op = stage.start(stage.reader, "read")
    yield from stage.ended(op)
    stage.hold(m.ReportReply, liars, [forgetful])
    yield from stage.forgets()
    stage.role.reported = stage.draw.choice((old, old, None, stage.proposal.entry()))
    yield from stage.recovery_asks()
    stage.tell("revoke", 0, "")
    revoke(stage.engine, 0)
    # By then all nodes have sealed and activated it, and clients know.
    yield 310_000
    stage.role.shown = old
    stage.release(liars, [forgetful])
    yield stage.between(5_000, stage.op_time_us // 4)
    yield from stage.asked_by_others()
