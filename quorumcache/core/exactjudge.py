"""What is settled in a slot of an exact namespace, and what it says of a compare-and-set: won, lost, or neither
(protocol 17, client rule 3). It must not know ballots, or how a header is proposed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core.config import Group
from quorumcache.core.lineage import NAME_BYTES, lineage_of
from quorumcache.core.model import Entry, digest_of, header_time, parse_header
from quorumcache.core.outcome import Failed
from quorumcache.core.settle import Settle

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

WON: Final = "won"
LOST: Final = "lost"
#: The other verdicts are why nobody can tell.
TOO_MANY: Final = "more others have written since than the latest of them names"
FORGOTTEN: Final = "what stood there before has been forgotten"


def verdict_of(mine: bytes, before: bytes, settled: bytes, ballot_us: int, gap_us: int) -> str:
    """What the header `settled`, which is complete, and certified in a ballot of time `ballot_us`, says of the header
    `mine`, proposed in place of `before` (empty: nothing). `WON`: it is that, or came after it. `LOST`: another came
    right after `before`, so `mine` never stands. `gap_us` is how much younger than the last ballot of what was
    forgotten its successor is at least."""
    lineage = lineage_of(parse_header(settled).metadata)
    names = [_name(settled), *lineage.line]
    if _name(mine) in names:
        return WON
    if before and _name(before) in names:
        return LOST  # It shows which header came right after `before`.
    if not lineage.is_whole:
        return TOO_MANY
    # It goes back to one that replaced nothing. Had `mine` been decided before that, it would be earlier by more than
    # the gap; and later by more than it, had it been decided after, which only what replaces nothing too can be. Of
    # when that one was decided, its stamp is known, and where it is this very one, a ballot.
    first_us, mine_us = names[-1][1], header_time(mine)
    decided_us = first_us if lineage.line else max(first_us, ballot_us)
    return LOST if first_us - mine_us <= gap_us and (before or mine_us - decided_us <= gap_us) else FORGOTTEN


def _name(header: bytes) -> tuple[bytes, int]:
    """How lines name an entry."""
    return digest_of(header)[:NAME_BYTES], header_time(header)


class SettleEntry(Settle):
    """A full read whose end is told to an `ExactWrite`, with the certified entry, expired or deleted or not."""

    __slots__ = ("_told",)

    def __init__(
        self,
        context: Coordinator,
        group: Group,
        slot: bytes,
        end_us: int,
        now_us: int,
        told: Callable[[Entry | None, int, Failed | None, int], None],
    ) -> None:
        self._told = told
        super().__init__(context, group, [slot], [[]], now_us, now_us)
        self.end_us = end_us

    def _finish(self, position: int, entry: Entry | None, now_us: int) -> None:
        floor_us = 0
        if entry is None:
            floors = sorted(a.floor_us for a in self._answers[position].values() if a.entry is None)
            # Of f+1, one is a correct node's; and who is below the lowest of these may be refused by all the same.
            floor_us = floors[-1 - min(self._context.configuration.f, len(floors) - 1)] if floors else 0
        self._done[position] = True
        self._close()
        self._told(entry, floor_us, None, now_us)

    def _fail_all(self, failed: Failed) -> None:
        self._close()
        self._told(None, 0, failed, self.end_us)
