"""Dramas around clocks (protocol 7, start without stored state): stamps at the edge of what the skew allows."""

from __future__ import annotations

from collections.abc import Iterator

from sim.dramas.stage import Stage


def edge_of_the_clock(stage: Stage) -> Iterator[int]:
    """A node whose clock is behind stores what others with clocks ahead promised, and at once forgets all.

    Its floor has to be two skews above its own clock: the stamps of what it answered for, and of what is older than
    that, are that far ahead of it.
    """
    half_us = stage.skew_us // 2
    forgetful = stage.forgetful
    yield from stage.established()
    forgetful.clock.step(-half_us)
    for node in (*stage.keepers, *stage.behind):
        node.clock.step(stage.between(half_us * 3 // 4, half_us))
    stage.tell("clock_step", forgetful.index, f"to {-half_us / 1000:+.1f} ms, and others ahead")
    # A clock that was ahead stands still until it is behind.
    yield 2 * stage.skew_us
    now_us = stage.engine.now_us
    others = [*stage.keepers, *stage.behind]
    ahead_us = stage.between(stage.skew_us * 3 // 5, stage.skew_us * 7 // 5)
    yield from stage.promised(others, now_us + ahead_us)
    older = stage.proposal
    yield from stage.promised(others, now_us + ahead_us + stage.between(1, stage.skew_us // 4))
    newer = stage.proposal
    if min(len(older.grants), len(newer.grants)) < stage.engine.configuration.q:
        return
    stage.spread(older, stage.behind)
    stage.spread(newer, [forgetful, *stage.keepers])
    stage.role.shown = newer.entry()
    yield stage.between(2_000, 4_000)
    op = stage.start(stage.reader, "read")
    yield from stage.ended(op)
    stage.role.shown = stage.role.reported = older.entry()
    yield from stage.forgets()
    stage.spread(older, [forgetful])
    yield stage.between(1_000, 5_000)
    yield from stage.asked_by_others()
