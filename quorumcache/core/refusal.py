"""What a writer makes of refusals: what they prove, what they merely claim, and what time to propose next.

Pure judgement of answers to one header (protocol 4, write 2 and 3), and `PendingWrite`, what a write carries from
attempt to attempt. Sending, waiting and counting grants are in write.py. It must not know sockets, timers or batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, Entry, Malformed, header_is_delete, stamp_time
from quorumcache.core.outcome import Outcome
from quorumcache.core.quorum import nth_highest, nth_lowest
from quorumcache.core.types.base import base_slot_of, generation_of, rank_of

BACKOFF_US: Final = 20_000
BACKOFF_US_MAX: Final = 500_000
#: How often a batch that is ahead of the nodes' clocks is sent again.
AHEAD_POLL_US: Final = 10_000


class PendingWrite:
    """One write of one slot, over all its attempts. Times are in microseconds."""

    __slots__ = (
        "attempt",
        "begins",
        "deadline_us",
        "expires_at_us",
        "first_bound_us",
        "kind",
        "metadata",
        "newer",
        "on_end",
        "seal",
        "slot",
        "time_min_us",
        "tokens",
        "trouble",
        "value",
        "wipes",
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
        #: Seals the value for a slot and stamp, anew for each attempt; None where values go as they are.
        self.seal: Callable[[bytes, bytes, bytes], bytes] | None = None
        self.attempt = 0
        #: op_time after the first send.
        self.deadline_us = 0
        #: The next stamp's time is at least this.
        self.time_min_us = 0
        #: What q informative answers to one attempt, the first that got as many, lay at or below; None until then.
        self.first_bound_us: int | None = None
        #: Whether it is a base that begins a generation, with fields in the same batch.
        self.begins = False
        #: Whether it is a tombstone of the client's own making, that a key may begin anew: another's will do.
        self.wipes = False
        #: In mode primary: which nodes said that something newer is there, and how often; None: none yet.
        self.newer: dict[int, int] | None = None
        #: Called when it ended, beside what is done with its tokens.
        self.on_end: Callable[[PendingWrite, Outcome], None] | None = None
        #: Why the last attempt was refused, for the error.
        self.trouble = ""


class FieldWrite(PendingWrite):
    """A write of one field of a key, or of a base that goes on with a generation: it belongs to a generation, which has
    to be known first, and may have to be learned again.

    `details` is what follows the generation in the metadata, or a function of the generation that gives it. `creates`
    is the base that begins the generation in the same batch. `base_expires_at_us`: where no base is known, the one made
    for this write expires then. `began_us` is when it was first sent, `lessons` how often its generation was learned;
    `blocked`, the live generation for whose sake a new one was refused; `tried`, the one under which it was refused
    last, at `tried_us`. `committed` is the last generation under which a commit was sent, empty before: since then it
    may have been seen. `missed_us` is the cluster time of the last look that found nothing. `given_up` is one that
    reads name, though no quorum took the write under it for a good while. `stamp` is the one it was last proposed
    under, `is_first` whether that began a generation. `bound_us`: a generation begun after that was not complete when
    the write began; None where nobody knows.
    """

    __slots__ = (
        "base_expires_at_us",
        "began_us",
        "blocked",
        "bound_us",
        "committed",
        "creates",
        "details",
        "given_up",
        "is_first",
        "lessons",
        "missed_us",
        "stamp",
        "tried",
        "tried_us",
    )

    def __init__(
        self,
        slot: bytes,
        kind: int,
        value: bytes,
        expires_at_us: int,
        details: bytes | Callable[[bytes], bytes],
        tokens: list[Any],
        base_expires_at_us: int,
    ) -> None:
        super().__init__(slot, kind, value, expires_at_us, b"", tokens)
        self.details = details
        self.creates: PendingWrite | None = None
        self.base_expires_at_us = base_expires_at_us
        self.began_us = 0
        self.lessons = 0
        self.blocked = b""
        self.tried = b""
        self.tried_us = 0
        self.missed_us = 0
        self.committed = b""
        self.given_up = b""
        self.stamp = b""
        self.is_first = False
        self.bound_us: int | None = None


class Judgement(msgspec.Struct, frozen=True):
    """What the answers to one header amount to.

    `denials`: the details of all DENIED. `proved`: stamps that valid certificates show to stand in the way. `floors`:
    times of BELOW_FLOOR, which are claims. `bounds`: what each informative answer (grant, proven STALE, BELOW_FLOOR)
    shows the slot to lie at or below. `liars`: nodes whose proof was none. `generations`: those of what `proved` has.
    """

    denials: list[str]
    proved: list[bytes]
    floors: list[int]
    bounds: list[int]
    liars: list[int]
    generations: list[bytes]

    def bound_us(self, q: int) -> int | None:
        """The least time that q informative answers lie at or below, or None where they are fewer than q."""
        return nth_lowest(self.bounds, q)


def judge(verifier: Verifier, slot: bytes, stamp: bytes, refusals: dict[int, m.Refusal], granted: int) -> Judgement:
    """Judge the refusals (by node) of one header of `slot` at `stamp`, which `granted` other nodes promised."""
    denials: list[str] = []
    proved: list[bytes] = []
    floors: list[int] = []
    bounds = [0] * granted
    liars: list[int] = []
    generations: list[bytes] = []
    for node, refusal in refusals.items():
        if refusal.code == m.DENIED:
            denials.append(refusal.detail)
        elif refusal.code == m.STALE:
            # Without a proof it is a mere claim, and ignored.
            if refusal.proof is not None:
                try:
                    header = verifier.check_entry(refusal.proof, with_value=False)
                    if header.slot != slot or header.stamp < stamp:
                        raise Malformed("the proof is not of a higher stamp of this slot")
                except Malformed:
                    liars.append(node)
                else:
                    proved.append(header.stamp)
                    bounds.append(header.time_us)
                    generations.append(generation_of(header.raw))
        elif refusal.code == m.BELOW_FLOOR:
            floors.append(refusal.time_us)
            bounds.append(refusal.time_us)
    return Judgement(denials, proved, floors, bounds, liars, generations)


class Strays(msgspec.Struct):
    """Nodes that refuse something for its generation: `count` of them, which have, or claim to have, another or none;
    of a base that begins one, those that show that a live one is there. `newest_us` is the latest stamp time of the
    bases shown, `newest` the highest generation. `liars`: nodes that showed what is no reason. `shown`: the base that
    more than f nodes show, if any, and `holders`: how many do. `bounds`: what each of them shows the key's generation
    to lie at or below, in time."""

    count: int = 0
    newest_us: int = 0
    newest: bytes = b""
    liars: list[int] = []
    shown: Entry | None = None
    holders: int = 0
    bounds: list[int] = []


def strays_in(
    verifier: Verifier, slot: bytes, stamp: bytes, generation: bytes, refusals: dict[int, m.Refusal], f: int
) -> Strays:
    """Judge those refusals (by node) of one header of `slot` at `stamp` that are for its `generation`."""
    strays = Strays()
    base_slot = base_slot_of(slot)
    begins = generation == stamp and slot == base_slot
    shown: dict[bytes, int] = {}
    for node, refusal in refusals.items():
        if refusal.code != m.GENERATION:
            if refusal.code == m.STALE and slot == base_slot and refusal.proof is not None:
                _show(verifier, refusal.proof, slot, shown, strays, f)
            continue
        if refusal.proof is None:
            # A claim; but no correct node refuses a base that begins a generation without showing the live one.
            strays.count += not begins
            strays.bounds.append(refusal.time_us)
            continue
        try:
            base = verifier.check_entry(refusal.proof, with_value=False)
            here = generation_of(base.raw)
            ends = base.kind == DELETE or base.expires_at_us > 0
            # A later one; or this one, gone; or, in the way of a new one, any that may be alive.
            if base.slot != base_slot or not (
                here > generation or (here == generation and ends) or (begins and base.kind != DELETE)
            ):
                raise Malformed("the proof is not of a base that stands against this")
        except Malformed:
            strays.liars.append(node)
        else:
            strays.count += 1
            strays.newest_us = max(strays.newest_us, base.time_us)
            strays.newest = max(strays.newest, here)
            strays.bounds.append(stamp_time(here))
            _show(verifier, refusal.proof, base_slot, shown, strays, f)
    return strays


def _show(verifier: Verifier, proof: Entry, base_slot: bytes, shown: dict[bytes, int], strays: Strays, f: int) -> None:
    """Count who shows which base, with its salt: what more than f nodes show is there, or was a moment ago."""
    if not proof.salted:
        return  # It says what stands in the way, but cannot be passed on.
    try:
        if verifier.check_entry(proof).slot != base_slot:
            return
    except Malformed:
        return
    shown[proof.header] = shown.get(proof.header, 0) + 1
    best = strays.shown
    if shown[proof.header] > f and (best is None or rank_of(best.header) <= rank_of(proof.header)):
        strays.shown, strays.holders = proof, shown[proof.header]


def tombstone_in(verifier: Verifier, slot: bytes, stamp: bytes, refusals: dict[int, m.Refusal]) -> Entry | None:
    """A tombstone of the key, above this one, that a refusal of it shows with its certificate and salt."""
    for refusal in refusals.values():
        proof = refusal.proof
        if refusal.code == m.STALE and proof is not None and proof.salted and header_is_delete(proof.header):
            try:
                header = verifier.check_entry(proof)
            except Malformed:
                continue
            if header.slot == slot and header.stamp > stamp:
                return proof
    return None


def asks_for_patience(refusals: dict[int, m.Refusal], hoped: int, q: int, ahead_us: int) -> bool:
    """Whether the same bytes should be sent again later, rather than a new stamp: it would gain nothing, and leave one
    more promise open at each node that granted this one.

    So it is where nothing was said but "not now" (AHEAD, BUSY, FULL, or silence). Also where those that said AHEAD
    would make up a quorum with `hoped` others, which granted it or are silent yet, whatever f liars say beside them: a
    correct node may say so only of a stamp that lay `ahead_us` beyond cluster time when it was asked; below 0 it lies.
    """
    codes = [refusal.code for refusal in refusals.values()]
    if all(code in (m.AHEAD, m.BUSY, m.FULL) for code in codes):
        return True
    return ahead_us >= 0 and m.AHEAD in codes and hoped + codes.count(m.AHEAD) >= q


def waits_for_another(
    refusals: dict[int, m.Refusal], hoped: int, configuration: Configuration, strays: Strays, stamp: bytes
) -> bool:
    """Whether a base that begins a generation should be sent again as it is: those that said "not now" (another's is
    open there, and may end soon) would make up a quorum with `hoped` others, whatever f liars say beside them. A live
    base that few show is a reason to look, unless it is an old one and a correct node says that another is beginning.
    """
    codes = [refusal.code for refusal in refusals.values()]
    waiting = sum(code in (m.AHEAD, m.BUSY, m.FULL) for code in codes)
    if strays.count:
        young_us = stamp_time(stamp) - 3 * configuration.grace_us
        if strays.newest_us >= young_us or not codes.count(m.BUSY) > configuration.f >= strays.count:
            return False
    return waiting > 0 and hoped + waiting >= configuration.q


def backoff_us(tries: int, configuration: Configuration) -> int:
    """How long to wait before the next try, after so many: at most a tenth of op_time, so that ten are left."""
    return min(BACKOFF_US << min(tries, 8), BACKOFF_US_MAX, configuration.op_time_us // 10)


def patience_us(refusals: dict[int, m.Refusal], ahead_us: int, waits: int, configuration: Configuration) -> int:
    """How long to wait before the same bytes are sent again, for the `waits`-th time: until the stamp, `ahead_us`
    beyond what nodes accept, is no longer ahead, and longer each time where nodes are busy."""
    busy = not any(refusal.code == m.AHEAD for refusal in refusals.values())
    poll_us = backoff_us(waits, configuration) if busy else AHEAD_POLL_US
    return max(poll_us, ahead_us)


def raise_time(
    write: PendingWrite,
    stamp: bytes,
    proved: list[bytes],
    floors: list[int],
    configuration: Configuration,
    cluster_us: int,
) -> int:
    """Set the write's `time_min_us` above what refused it at `stamp`; returns how long to wait before proposing
    again, in microseconds: until nodes accept that time, or a backoff where nothing said what to go above."""
    least_us = stamp_time(stamp) + 1
    for shown in proved:
        least_us = max(least_us, stamp_time(shown) + 1)
    # Of the f+1 nodes that claim most, one is correct.
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
    wait_us = max(least_us - configuration.max_skew_us - cluster_us, 0)
    if not proved and not floors:
        # Claims without proof, or a few denials: nothing to go above.
        wait_us = max(wait_us, backoff_us(write.attempt, configuration))
    elif write.attempt > 2:
        # Two attempts beyond the first do, unless somebody lies: then do not race through op_time.
        wait_us = max(wait_us, backoff_us(write.attempt - 3, configuration))
    return wait_us


def summary_of(refusals: dict[int, m.Refusal], answered: int, members: int) -> str:
    """What the nodes said, for people."""
    reasons = ", ".join(
        f"node {node}: {m.REFUSALS.get(refusal.code, 'an unknown code')}"
        + (f" ({refusal.detail})" if refusal.detail else "")
        for node, refusal in sorted(refusals.items())
    )
    return f"{answered} of {members} nodes answered; refused by {reasons or 'none'}"
