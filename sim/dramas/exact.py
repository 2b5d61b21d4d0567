"""Dramas around compare-and-set (protocol 17): what a node that began anew does not know, and what it must not do."""

from __future__ import annotations

from collections.abc import Iterator

from quorumcache.core import messages as m
from quorumcache.core.lineage import successor_of
from quorumcache.core.model import header_time, header_writer, stamp_of
from sim.adversary.exact import ExactProposal
from sim.dramas.stage import Stage
from sim.record import OK


def _proposed(stage: Stage, header: bytes) -> tuple[ExactProposal, bytes]:
    """The villain's header in place of this one, and a ballot; all nodes vote for it."""
    villain = stage.villain
    time_us = max(stage.engine.now_us + stage.between(0, stage.skew_us // 4), header_time(header) + 1)
    proposal = ExactProposal(villain, stage.exact_slot, successor_of(header), time_us)
    ballot = stamp_of(time_us + stage.between(0, 1_000), villain.key.public, stage.draw.getrandbits(64))
    proposal.vote(ballot, list(proposal.group.members))
    return proposal, ballot


def _established(stage: Stage) -> Iterator[int]:
    """Something is there, everywhere."""
    stage.scene = b""
    for liar in stage.liars:
        liar.role, liar.lies, liar.percent = None, ("votes_for_all", "hides_locks"), 100
    op = stage.start_exact(stage.writer, "set")
    yield from stage.ended(op)
    if op.outcome == OK:
        stage.scene = op.fields[0][0]
    yield stage.between(20_000, 60_000)


def _votes_again(stage: Stage) -> Iterator[int]:
    """Wait until the forgetful node has asked for what it may have voted for."""
    yield 3 * stage.op_time_us
    while stage.forgetful.voting is not None and not stage.forgetful.down:
        yield stage.between(5_000, 20_000)
    yield stage.between(5_000, 50_000)


def lock_forgotten(stage: Stage) -> Iterator[int]:
    """A header is locked at just as many nodes as may decide it, and not committed. One of them forgets; once it votes
    again, somebody wants something else in the same place.
    """
    yield from _established(stage)
    if not stage.scene:
        return
    proposal, ballot = _proposed(stage, stage.scene)
    yield stage.between(4_000, 10_000)
    proposal.lock(ballot, [node.index for node in (stage.forgetful, *stage.keepers)])
    yield stage.between(4_000, 10_000)
    yield from stage.forgets()
    yield from _votes_again(stage)
    yield from stage.ended(stage.start_exact(stage.reader, "set"))


def old_ballot(stage: Stage) -> Iterator[int]:
    """A header is granted by a node that forgets it, alone. When others have decided something else in its place, the
    votes of long ago are shown to those that lag.
    """
    yield from _established(stage)
    if not stage.scene:
        return
    proposal, ballot = _proposed(stage, stage.scene)
    yield stage.between(4_000, 10_000)
    proposal.lock(ballot, [stage.forgetful.index])
    yield stage.between(4_000, 10_000)
    yield from stage.forgets()
    yield from _votes_again(stage)
    stage.hold(m.Vote, [stage.reader], stage.keepers, m.Lock, m.Commit)
    yield from stage.ended(stage.start_exact(stage.reader, "set"))
    proposal.lock(ballot, [node.index for node in stage.keepers])
    yield stage.between(4_000, 10_000)


def lost_and_back(stage: Stage) -> Iterator[int]:
    """Two want a place where nothing is. One gets it, for a while, with the lower header; the other is told that there
    is something. When what stood there is over and forgotten, somebody proposes the other's header again.
    """
    for liar in stage.liars:
        liar.role, liar.lies, liar.percent = None, ("votes_for_all",), 100
    correct = [stage.forgetful, *stage.keepers, *stage.behind]
    stage.hold(m.Commit, [stage.writer], correct)
    first = stage.start_exact(stage.writer, "add", ttl_us=stage.between(stage.op_time_us, 2 * stage.op_time_us))
    yield 2 * stage.skew_us + stage.between(1_000, 20_000)
    stage.hold(m.Vote, [stage.reader], correct)
    second = stage.start_exact(stage.reader, "add")
    yield stage.between(5_000, 20_000)
    stage.release([stage.writer], correct)
    yield from stage.ended(first)
    stage.release([stage.reader], correct)
    yield from stage.ended(second)
    asked = stage.engine.conspiracy.asked.get(stage.exact_slot, [])
    loser = stage.reader.key
    lost = next((one for one in asked if loser is not None and header_writer(one.header) == loser.public), None)
    if lost is None or second.outcome != OK or not second.detail:
        return
    yield 5 * stage.op_time_us + 10 * stage.skew_us + stage.between(100_000, 400_000)
    proposal = ExactProposal.found(stage.villain, lost)
    ballot = stamp_of(stage.engine.now_us, stage.villain.key.public, stage.draw.getrandbits(64))
    proposal.vote(ballot, list(proposal.group.members))
    yield stage.between(4_000, 10_000)
    proposal.lock(ballot, list(proposal.group.members))
    yield stage.between(4_000, 10_000)
    proposal.commit([node.index for node in correct])
