"""What a write carries from attempt to attempt, and what a refused attempt teaches (protocol 4, write 2).

It must not know batches or commits: write.py has those.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Malformed, stamp_time
from quorumcache.core.quorum import nth_highest

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

BACKOFF_US: Final = 20_000
BACKOFF_US_MAX: Final = 500_000


class PendingWrite:
    """One write of one slot, over all its attempts. Times are in microseconds."""

    __slots__ = (
        "attempt",
        "deadline_us",
        "expires_at_us",
        "first_bound_us",
        "kind",
        "metadata",
        "slot",
        "time_min_us",
        "tokens",
        "trouble",
        "value",
    )

    def __init__(
        self,
        slot: bytes,
        kind: int,
        value: bytes,
        expires_at_us: int,
        metadata: bytes,
        tokens: list[Any],
    ) -> None:
        self.slot = slot
        self.kind = kind
        self.value = value
        self.expires_at_us = expires_at_us
        self.metadata = metadata
        self.tokens = tokens
        self.attempt = 0
        #: op_time after the first send.
        self.deadline_us = 0
        #: The next stamp's time is at least this.
        self.time_min_us = 0
        #: What q informative answers to the first attempt lay at or below; None where they were fewer.
        self.first_bound_us: int | None = None
        #: Why the last attempt was refused, for the error.
        self.trouble = ""


def proved_stamp(context: Coordinator, node: int, slot: bytes, stamp: bytes, refusal: m.Refusal) -> bytes | None:
    """The stamp that a STALE refusal proves, where its certificate is valid and really stands above `stamp`."""
    if refusal.proof is None:
        return None
    try:
        header = context.verifier.check_entry(refusal.proof, with_value=False)
        if header.slot != slot or header.stamp < stamp:
            raise Malformed("the proof is not of a higher stamp of this slot")
    except Malformed:
        context.suspect(node, 4.0, lie=True)
        return None
    return header.stamp


def raise_time(
    context: Coordinator, write: PendingWrite, stamp: bytes, proved: list[bytes], floors: list[int], now_us: int
) -> None:
    """Propose the write again, above every proved stamp and every floor that an honest node may have."""
    configuration = context.configuration
    cluster_us = context.clock.time_us(now_us)
    least_us = stamp_time(stamp) + 1
    for shown in proved:
        least_us = max(least_us, stamp_time(shown) + 1)
    claimed = nth_highest(floors, configuration.f + 1)
    if claimed is not None:
        least_us = max(least_us, claimed + 1)
    if write.attempt > 1:
        # It was not enough: above any claimed floor that could be honest.
        honest_us = cluster_us + 3 * configuration.max_skew_us
        for floor_us in floors:
            if floor_us <= honest_us:
                least_us = max(least_us, floor_us + 1)
    write.time_min_us = least_us
    not_before_us = now_us
    if not proved and not floors:
        # Nothing to go above: busy or full nodes, or silence. Try again a little later.
        not_before_us += min(BACKOFF_US << min(write.attempt, 8), BACKOFF_US_MAX)
    wait_us = least_us - configuration.max_skew_us - cluster_us
    context.retry(write, max(not_before_us, now_us + wait_us), now_us)


def summary_of(refusals: dict[int, m.Refusal], answered: int, members: int) -> str:
    """Who refused and why, for people."""
    reasons = ", ".join(
        f"node {node}: {m.REFUSALS.get(refusal.code, 'an unknown code')}"
        + (f" ({refusal.detail})" if refusal.detail else "")
        for node, refusal in sorted(refusals.items())
    )
    return f"{answered} of {members} nodes answered; refused by {reasons or 'none'}"
