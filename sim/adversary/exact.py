"""What the adversary does about compare-and-set (protocol 17): lies of nodes, and schemes of proposers.

As elsewhere: each is a function with its power declared in its docstring. Its nodes vote and grant as they please; what
it cannot have is a signature of a correct node that this did not make. It must not know checkers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import exact_grant_string, intent_string, vote_string
from quorumcache.core.lineage import FIRST, successor_of
from quorumcache.core.model import (
    DELETE,
    PUT,
    TIME_US_MAX,
    Certificate,
    Entry,
    Grant,
    digest_of,
    encode_header,
    header_slot,
    header_time,
    header_writer,
    stamp_of,
    stamp_time,
    value_hash_of,
)
from quorumcache.core.settle import commit_of
from sim.adversary.conspiracy import Proposal

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode
    from sim.adversary.writers import ByzantineWriter

Lie = Callable[["ByzantineNode", int, m.Request, m.Reply], "m.Reply | None"]
Scheme = Callable[["ByzantineWriter"], None]
_BITMAP: Final = b"\x01"
_FAR_US: Final = 1 << 61
_KNOWN_MAX: Final = 64


# --- lies ---


def _sign_all(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Votes for any header in any ballot, and grants any, twice if asked."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    string = vote_string if isinstance(request, m.Vote) else exact_grant_string
    root = merkle.root_of(digest_of(request.header))
    message = string(request.configuration, request.group, root, request.ballot)
    return m.BallotReply(request.id, honest.clock_us, 0, node.key.sign(message))


def _busy(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that it promised a later ballot: soon, or in a hundred years."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    skew_us = node.configuration.max_skew_us
    time_us = node.draw.choice((stamp_time(request.ballot) + 1, honest.clock_us + 2 * skew_us, _FAR_US))
    return m.BallotReply(request.id, honest.clock_us, m.BUSY, ballot=stamp_of(time_us, bytes(32), 0))


def _stale(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that something else is current: any entry that there ever was, or nothing."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    known = node.conspiracy.entries.get(header_slot(request.header), [])
    entry = node.draw.choice(known) if known and node.draw.random() < 0.8 else None
    return m.BallotReply(request.id, honest.clock_us, m.STALE, entry=entry)


def _floor(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Says that header or ballot are below its floor."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    floor_us = node.draw.choice(
        (header_time(request.header), honest.clock_us + node.configuration.max_skew_us, _FAR_US)
    )
    ballot = node.draw.choice((b"", request.ballot))
    return m.BallotReply(request.id, honest.clock_us, m.BELOW_FLOOR, time_us=floor_us, ballot=ballot)


def _false_lock(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Shows a lock without the votes for it, or one of another's making that is old."""
    if not isinstance(request, m.Vote | m.Lock):
        return honest
    locks = node.conspiracy.locks.get(header_slot(request.header), [])
    if locks and node.draw.random() < 0.7:
        locked = node.draw.choice(locks)
    else:
        root = merkle.root_of(digest_of(request.header))
        message = vote_string(request.configuration, request.group, root, request.ballot)
        members = node.configuration.groups[request.group].members
        votes = tuple(Grant(i, _BITMAP, node.key.sign(message)) for i in members[: node.configuration.q])
        locked = m.Locked(request.header, request.salted, request.signature, request.ballot, votes)
    return m.BallotReply(request.id, honest.clock_us, m.LOCKED, locked=locked)


def _hide(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Knows of no lock, and reports nothing to who recovers."""
    if isinstance(request, m.ExactReport):
        return m.ExactReportReply(request.id, honest.clock_us, node.draw.choice((0, _FAR_US)), [], False)
    if isinstance(honest, m.BallotReply) and honest.code == m.LOCKED:
        return _sign_all(node, source, request, honest)
    return honest


def _silent(node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
    """Neither votes nor reports."""
    return None if isinstance(request, m.Vote | m.Lock | m.ExactReport) else honest


EXACT_LIES: Final[dict[str, Lie]] = {
    "votes_for_all": _sign_all,
    "busy_for_ever": _busy,
    "something_else": _stale,
    "ballot_too_low": _floor,
    "false_lock": _false_lock,
    "hides_locks": _hide,
    "votes_for_none": _silent,
}


# --- schemes ---


class ExactProposal:
    """A header that the adversary proposes, and what correct nodes signed for it, by ballot. The votes and grants of
    the adversary's nodes come with it."""

    def __init__(
        self, writer: ByzantineWriter, slot: bytes, metadata: bytes, time_us: int, kind: int = PUT, ttl_us: int = 0
    ) -> None:
        self.writer = writer
        self.configuration = writer.configuration
        self.group = self.configuration.group_of(slot)
        value = writer.value() if kind == PUT else b""
        self.salted = writer.draw.randbytes(16) + value
        self.header = encode_header(
            slot,
            stamp_of(time_us, writer.key.public, writer.draw.getrandbits(64)),
            kind,
            value_hash_of(self.salted),
            len(value),
            time_us + ttl_us if ttl_us and kind == PUT else 0,
            metadata,
        )
        writer.conspiracy.signed.add(self.header)
        self.root = merkle.root_of(digest_of(self.header))
        self.author = writer.key.public
        self.signature = writer.key.sign(intent_string(self.configuration.digest, self.group.id, self.root))
        self.votes: dict[bytes, dict[int, Grant]] = {}
        self.grants: dict[bytes, dict[int, Grant]] = {}

    @classmethod
    def found(cls, writer: ByzantineWriter, request: m.Vote) -> ExactProposal:
        """Another's header, which one of the adversary's nodes was asked to vote for."""
        proposal = cls.__new__(cls)
        proposal.writer, proposal.configuration = writer, writer.configuration
        proposal.group = writer.configuration.groups[request.group]
        proposal.header, proposal.salted, proposal.signature = request.header, request.salted, request.signature
        proposal.author = header_writer(request.header)
        proposal.root = merkle.root_of(digest_of(request.header))
        proposal.votes, proposal.grants = {}, {}
        return proposal

    def _of_liars(self, ballot: bytes, *, grant: bool) -> dict[int, Grant]:
        string = exact_grant_string if grant else vote_string
        message = string(self.configuration.digest, self.group.id, self.root, ballot)
        keys = self.writer.conspiracy.node_keys
        found = {node: keys.get(self.configuration.nodes[node].key) for node in self.group.members}
        return {node: Grant(node, _BITMAP, key.sign(message)) for node, key in found.items() if key is not None}

    def _send(self, request: m.Request, nodes: list[int]) -> None:
        for node in nodes:
            self.writer.network.send(self.writer.address, node, request)

    def vote(self, ballot: bytes, nodes: list[int]) -> None:
        """Ask these nodes for their votes, with any lock that there is."""
        self.votes.setdefault(ballot, self._of_liars(ballot, grant=False))
        lock_ballot = max((b for b in self.votes if b < ballot and self.is_locked(b)), default=b"")
        votes = self._some(self.votes[lock_ballot]) if lock_ballot else ()
        request_id = self.writer.new_id()
        self.writer.exact[request_id] = (self, ballot, False)
        head = (request_id, self.configuration.digest, self.group.id, self.header, self.salted, self.signature)
        self._send(m.Vote(*head, ballot, lock_ballot, votes), nodes)

    def lock(self, ballot: bytes, nodes: list[int]) -> None:
        """Have these nodes lock it, if there are votes enough."""
        if not self.is_locked(ballot):
            return
        self.grants.setdefault(ballot, self._of_liars(ballot, grant=True))
        request_id = self.writer.new_id()
        self.writer.exact[request_id] = (self, ballot, True)
        votes = self._some(self.votes[ballot])
        known = self.writer.conspiracy.locks.setdefault(header_slot(self.header), [])
        known.append(m.Locked(self.header, self.salted, self.signature, ballot, votes))
        del known[:-_KNOWN_MAX]
        head = (request_id, self.configuration.digest, self.group.id, self.header, self.salted, self.signature)
        self._send(m.Lock(*head, ballot, votes), nodes)

    def commit(self, nodes: list[int]) -> None:
        """Commit it at these nodes, if there are grants enough."""
        entry = self.entry()
        if entry is not None:
            self.writer.conspiracy.saw_entry(entry)
            self._send(commit_of(self.writer.new_id(), self.configuration.digest, entry), nodes)

    def entry(self) -> Entry | None:
        """It, as an entry, in the first ballot that there are grants enough of."""
        for ballot in sorted(self.grants):
            if len(self.grants[ballot]) >= self.configuration.q:
                certificate = Certificate(
                    self.configuration.digest,
                    self.group.id,
                    self.root,
                    1,
                    self.author,
                    self.signature,
                    self._some(self.grants[ballot]),
                    ballot,
                )
                return Entry(self.header, self.salted, certificate, 0, b"")
        return None

    def is_locked(self, ballot: bytes) -> bool:
        """Whether there are votes enough."""
        return len(self.votes.get(ballot, ())) >= self.configuration.q

    def _some(self, signed: dict[int, Grant]) -> tuple[Grant, ...]:
        return tuple(signed[node] for node in sorted(signed))[: self.configuration.q]

    def take(self, node: int, ballot: bytes, grant: bool, reply: m.Reply) -> None:
        """Take what a node signed."""
        if isinstance(reply, m.BallotReply) and reply.code == 0 and node in self.group.members:
            signed = (self.grants if grant else self.votes).setdefault(ballot, {})
            signed.setdefault(node, Grant(node, _BITMAP, reply.signature))


def last_of(writer: ByzantineWriter, slot: bytes) -> bytes:
    """The header of something to replace: the latest that is known, or an older one, or nothing."""
    known = sorted((e.header for e in writer.conspiracy.entries.get(slot, [])), key=lambda raw: raw[3:51])
    if not known or writer.draw.random() < 0.1:
        return b""
    return known[-1] if writer.draw.random() < 0.8 else writer.draw.choice(known)


def new_proposal(writer: ByzantineWriter, slot: bytes, before: bytes) -> ExactProposal:
    """A header of its own in place of that one, of about now."""
    draw, skew_us = writer.draw, writer.configuration.max_skew_us
    time_us = writer.world.now_us + draw.randint(-skew_us // 2, skew_us // 2)
    if before:
        time_us = max(time_us, header_time(before) + 1)
    kind = draw.choice((PUT, PUT, PUT, DELETE))
    ttl_us = draw.choice((0, 0, 50_000, 500_000))
    return ExactProposal(writer, slot, successor_of(before), min(time_us, TIME_US_MAX), kind, ttl_us)


def ballot_for(writer: ByzantineWriter, proposal: ExactProposal, after_us: int = 0) -> bytes:
    """A ballot of about now, not below the header."""
    draw, skew_us = writer.draw, writer.configuration.max_skew_us
    time_us = max(writer.world.now_us + after_us + draw.randint(-skew_us // 2, skew_us // 2), 0)
    stamp = stamp_of(time_us, writer.key.public, draw.getrandbits(64))
    return max(stamp, proposal.header[3:51])


def after(writer: ByzantineWriter, delay_us: int, action: Callable[[], None]) -> None:
    """Do something after a while, unless the attack is over by then."""

    def run(_first: object, _second: object) -> None:
        if not writer.stopped:
            action()

    writer.world.at(writer.world.now_us + delay_us, run)


def _rivals(writer: ByzantineWriter) -> None:
    """Several headers in place of the same: votes of parts of the nodes, in one ballot or in several; then locks at
    parts, and commits at parts, soon or late."""
    draw = writer.draw
    slot = draw.choice(writer.exact_slots)
    before = last_of(writer, slot)
    proposals = [new_proposal(writer, slot, before) for _ in range(draw.choice((1, 2, 2, 3)))]
    nodes = list(proposals[0].group.members)
    shared = ballot_for(writer, max(proposals, key=lambda p: p.header[3:51]))
    delay_us = 0
    for _ in range(draw.choice((1, 2, 3))):
        for proposal in proposals:
            ballot = shared if draw.random() < 0.4 else ballot_for(writer, proposal, delay_us)
            _round(writer, proposal, ballot, nodes, delay_us)
        delay_us += writer.pause_us() * draw.choice((1, 3, 10))


def _round(writer: ByzantineWriter, proposal: ExactProposal, ballot: bytes, nodes: list[int], delay_us: int) -> None:
    draw, step_us = writer.draw, writer.pause_us()
    late_us = draw.choice((0, 0, step_us, writer.configuration.op_time_us, 3 * writer.configuration.op_time_us))
    after(writer, delay_us + 1, lambda: proposal.vote(ballot, writer.some(nodes, 2)))
    after(writer, delay_us + step_us, lambda: proposal.lock(ballot, writer.some(nodes)))
    if draw.random() < 0.7:
        after(writer, delay_us + 2 * step_us + late_us, lambda: proposal.commit(writer.some(nodes)))


def _leave_locked(writer: ByzantineWriter) -> None:
    """Locks a header at one node, or two, and leaves."""
    slot = writer.draw.choice(writer.exact_slots)
    proposal = new_proposal(writer, slot, last_of(writer, slot))
    nodes = list(proposal.group.members)
    ballot = ballot_for(writer, proposal)
    proposal.vote(ballot, nodes)
    after(writer, writer.pause_us(), lambda: proposal.lock(ballot, writer.some(nodes)[:2]))


def _hoard(writer: ByzantineWriter) -> None:
    """Has a header granted, and commits it at some nodes when all may have been forgotten."""
    draw, configuration = writer.draw, writer.configuration
    slot = draw.choice(writer.exact_slots)
    proposal = new_proposal(writer, slot, last_of(writer, slot))
    nodes = list(proposal.group.members)
    ballot = ballot_for(writer, proposal)
    proposal.vote(ballot, nodes)
    after(writer, writer.pause_us(), lambda: proposal.lock(ballot, nodes))
    delay_us = draw.randrange(10_000, 6 * configuration.op_time_us)
    for _ in range(draw.choice((1, 2, 3))):
        after(writer, delay_us, lambda: proposal.commit(writer.some(nodes)[:2]))
        delay_us += draw.randrange(1, configuration.op_time_us)


def _raise_ballots(writer: ByzantineWriter) -> None:
    """Asks for votes in one ballot after the other, as late as they may be."""
    slot = writer.draw.choice(writer.exact_slots)
    proposal = new_proposal(writer, slot, last_of(writer, slot))
    nodes = list(proposal.group.members)
    for step in range(writer.draw.choice((2, 5))):
        time_us = writer.world.now_us + step * 5_000 + writer.configuration.max_skew_us
        ballot = stamp_of(time_us, writer.key.public, writer.draw.getrandbits(64))
        after(writer, 1 + step * 5_000, lambda ballot=ballot: proposal.vote(ballot, writer.some(nodes)))  # type: ignore[misc]


def _made_up_line(writer: ByzantineWriter) -> None:
    """Names predecessors that never were, or leaves out some that were."""
    draw = writer.draw
    slot = draw.choice(writer.exact_slots)
    before = last_of(writer, slot)
    metadata = bytearray(successor_of(before))
    if before:
        at = draw.choice((32, len(metadata) - 1, len(metadata) - 24))
        metadata[at] ^= 1
    else:
        metadata = bytearray(FIRST)
    proposal = ExactProposal(writer, slot, bytes(metadata), writer.world.now_us)
    nodes = list(proposal.group.members)
    _round(writer, proposal, ballot_for(writer, proposal), nodes, 0)


def _plain_write(writer: ByzantineWriter) -> None:
    """Prepares and commits a write as in any other namespace, in the form that is used here."""
    slot = writer.draw.choice(writer.exact_slots)
    exact = new_proposal(writer, slot, last_of(writer, slot))
    proposal = Proposal(writer.configuration, writer.key, [exact.header], [exact.salted])
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.members(p)), proposal)


EXACT_SCHEMES: Final[dict[str, Scheme]] = {
    "rivals": _rivals,
    "leave_locked": _leave_locked,
    "hoard_exact": _hoard,
    "raise_ballots": _raise_ballots,
    "made_up_line": _made_up_line,
    "plain_in_exact": _plain_write,
}
