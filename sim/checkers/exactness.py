"""Compare-and-set (protocol 17): what is decided in a slot is one line of entries, each made for the one before it,
with rising tokens, in the order of real time; and what operations say of it is so.

Decided counts here what correct nodes' grants and the liars' could be put together to a certificate for, whoever does
so: every header that any q grants of one ballot name. The order is that of the headers' stamps (I3). Between neighbours
the later one replaces the earlier, or begins anew; the latter only after all that was granted of the earlier is older
than it by the gap, and where no node loses its state, only where the earlier is over or no operation ever told of it:
a lock without an entry is forgotten.
"""

from __future__ import annotations

import bisect

from quorumcache.core import messages as m
from quorumcache.core.lineage import lineage_of
from quorumcache.core.model import (
    ABSENT,
    digest_of,
    header_expires_at,
    header_is_delete,
    header_slot,
    header_stamp,
    header_time,
    header_writer,
    parse_header,
    stamp_time,
)
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import FAILED, MISS, OK, Op

_LOSING = ("wipe", "ambush", "rolling")


class _Decided:
    __slots__ = ("after", "digest", "granted_us", "header", "is_told", "stamp")

    def __init__(self, header: bytes, granted_us: int) -> None:
        self.header = header
        self.digest = digest_of(header)
        self.stamp = header_stamp(header)
        self.after = lineage_of(parse_header(header).metadata).after
        #: The time of the lowest ballot that it may be decided in.
        self.granted_us = granted_us
        #: An operation found it, or made it.
        self.is_told = False


class _Slot:
    def __init__(self) -> None:
        self.line: list[_Decided] = []  # by their stamps
        self.known: dict[bytes, _Decided] = {}
        self.grants: dict[tuple[bytes, bytes], set[int]] = {}  # (ballot, digest) -> correct nodes
        self.votes: dict[bytes, dict[bytes, set[int]]] = {}  # ballot -> digest -> correct nodes
        #: When operations ended, and the highest stamp that was seen, or decided, until then.
        self.ended_us: list[int] = []
        self.highest: list[bytes] = []


class Exactness(Checker):
    """Follows votes and grants of correct nodes, and operations."""

    name = "compare-and-set"
    about = "exact"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._slots: dict[bytes, _Slot] = {}
        self._values: dict[bytes, bytes] = {}  # digest -> value
        self._liars: int | None = None

    def _needed(self) -> int:
        """How many correct nodes' signatures make a quorum with those of the liars."""
        if self._liars is None:
            self._liars = sum(node.is_byzantine for node in self.view.nodes)
        return max(1, self.view.configuration.q - self._liars)

    def balloted(self, node: NodeProcess, request: m.Vote | m.Lock, reply: m.BallotReply) -> None:
        """A correct node voted, or granted."""
        if reply.code:
            return
        slot = header_slot(request.header)
        state = self._slots.setdefault(slot, _Slot())
        digest = digest_of(request.header)
        self._values.setdefault(digest, request.salted[16:])
        if isinstance(request, m.Vote):
            votes = state.votes.setdefault(request.ballot, {})
            votes.setdefault(digest, set()).add(node.number)
            if sum(len(voters) >= self._needed() for voters in votes.values()) > 1:
                self.fail(f"two headers may be locked in one ballot of {slot[-8:]!r} (I0)")
            return
        granted = state.grants.setdefault((request.ballot, digest), set())
        granted.add(node.number)
        if len(granted) >= self._needed():
            self._decide(slot, state, request.header, stamp_time(request.ballot))

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node took a certificate for what it is."""
        for bundle in request.bundles:
            if bundle.certificate.ballot and len(reply.codes):
                header = bundle.items[0].header
                state = self._slots.setdefault(header_slot(header), _Slot())
                self._decide(header_slot(header), state, header, stamp_time(bundle.certificate.ballot))

    def _decide(self, slot: bytes, state: _Slot, header: bytes, granted_us: int) -> None:
        digest = digest_of(header)
        known = state.known.get(digest)
        if known is not None:
            known.granted_us = min(known.granted_us, granted_us)
            return
        decided = state.known[digest] = _Decided(header, granted_us)
        at = bisect.bisect([other.stamp for other in state.line], decided.stamp)
        state.line.insert(at, decided)
        self._compare(slot, state, at)

    def _compare(self, slot: bytes, state: _Slot, at: int) -> None:
        for before, after in ((at - 1, at), (at, at + 1)):
            if before >= 0 and after < len(state.line):
                fault = self._fault(state.line[before], state.line[after])
                while fault and before and self._may_be_undone(state.line[before]):
                    before -= 1
                    fault = self._fault(state.line[before], state.line[after])
                if fault:
                    self.fail(
                        f"of {slot[-8:]!r}, {self._told(state.line[after])} {fault} {self._told(state.line[before])}"
                    )

    def _may_be_undone(self, decided: _Decided) -> bool:
        """Whether it may be as if it had never been: of a writer that was revoked before anybody was told of it."""
        return not decided.is_told and header_writer(decided.header) in self.view.revoked

    def _told(self, decided: _Decided) -> str:
        value = self._values.get(decided.digest, b"?")
        return f"{value!r} (token {stamp_time(decided.stamp) % 1_000_000_000})"

    def _fault(self, before: _Decided, after: _Decided) -> str:
        """What is wrong with these two, one right after the other; empty where nothing is."""
        configuration = self.view.configuration
        if header_time(after.header) <= header_time(before.header):
            return "has no higher token than"
        if after.after == before.digest:
            return ""
        if after.after != ABSENT:
            return "is decided in place of something else than"
        if header_writer(before.header) in self.view.revoked:
            return ""  # With its epoch it went, as if it had never been, and nobody can decide it any more.
        gap_us = 2 * configuration.op_time_us + 4 * configuration.max_skew_us
        if header_time(after.header) <= before.granted_us + gap_us:
            return "begins anew too soon after"
        if self.view.keeps_state and before.is_told:
            ends_us = header_expires_at(before.header)
            over = header_is_delete(before.header) or 0 < ends_us <= self.view.now_us + configuration.max_skew_us
            if not over:
                return "begins anew, where nobody forgot"
        return ""

    # --- what operations say ---

    def ended(self, op: Op) -> None:
        """Is it so, and in the order of real time?"""
        state = self._slots.setdefault(op.slot, _Slot())
        if op.outcome == OK:
            header = op.fields[0][0]
            if digest_of(header) not in state.known:
                self.fail(f"{told(op)}: what it tells of was never decided")
                return
            decided = state.known[digest_of(header)]
            if not decided.is_told:
                decided.is_told = True
                self._compare(op.slot, state, state.line.index(decided))
            self._check_order(op, state)
            is_mine = op.kind != "read" and not op.detail
            if is_mine:
                before = op.known.get("told", b"")
                after = lineage_of(parse_header(header).metadata).after
                if before and after != digest_of(before):
                    self.fail(f"{told(op)} replaced something else than it was told of")
        elif op.outcome == MISS and op.kind != "read":
            self._check_order(op, state)

    def _check_order(self, op: Op, state: _Slot) -> None:
        assert op.end_us is not None
        at = bisect.bisect_left(state.ended_us, op.start_us)
        earlier = state.highest[at - 1] if at else b""
        if op.stamp and (op.stamp < earlier or (op.stamp == earlier and op.kind != "read" and not op.detail)):
            self.fail(f"{told(op)} is older than what was there before it began")
        if not op.stamp:
            return
        highest = max(op.stamp, state.highest[-1] if state.highest else b"")
        state.ended_us.append(op.end_us)
        state.highest.append(highest)

    def finished(self) -> None:
        """Each operation decided one header at most, its own; one that failed for certain, none."""
        mine: dict[bytes, list[_Decided]] = {}
        for state in self._slots.values():
            for decided in state.line:
                value = self._values.get(decided.digest, b"")
                if value:
                    mine.setdefault(value, []).append(decided)
        for op in self.view.ops:
            if op.type != "exact" or op.kind == "read" or not op.known.get("value"):
                continue
            decided_here = mine.get(op.known["value"], [])
            if len(decided_here) > 1:
                self.fail(f"{told(op)} was decided twice")
            elif decided_here and (op.outcome == FAILED or (op.outcome == OK and op.detail)):
                self.fail(f"{told(op)} says that it was not done, and was decided")
