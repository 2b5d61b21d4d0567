"""Compare-and-set at a node (protocol 17): when it votes, locks and grants; and what it tells who recovers.

What it holds is in instances.py. Rule numbers are those of the protocol page. It must not know sockets or files.
"""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING, Final

from quorumcache.core import admission, merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, check_value, exact_grant_string, vote_string
from quorumcache.core.config import Configuration
from quorumcache.core.config_model import EXACT
from quorumcache.core.instances import Instance, Instances
from quorumcache.core.lineage import check_lineage, is_ballot, successor_of
from quorumcache.core.model import Grant, Header, Malformed, parse_header, slot_parts, stamp_parts, stamp_time
from quorumcache.core.rights import WRITE
from quorumcache.core.slots import Held

if TYPE_CHECKING:
    from quorumcache.core.node import Node

_NOT_SIGNED: Final = "the header is not signed by its writer"
_NO_EXACT: Final = "the configuration has no exact namespaces"


def vote(node: Node, request: m.Vote, now_us: int, client: bytes | None) -> m.Reply:
    """Answer a `Vote`. Raises Malformed for what no correct client sends."""
    instances, header, root = _proposal(node, request)
    if not root:
        return m.Reject(request.id, now_us, m.BAD_SIGNATURE, _NOT_SIGNED)
    ballot = request.ballot
    unlocks = False
    if request.lock_ballot or request.votes:
        if not is_ballot(request.lock_ballot) or not header.stamp <= request.lock_ballot < ballot:
            raise Malformed("a lock that is not of an earlier ballot of its header")
        group = node.configuration.groups[request.group]
        node.verifier.check_votes(node.configuration, group, root, request.lock_ballot, request.votes)
        unlocks = True
    denied = _denied(node, request, header, now_us, client, is_locked=unlocks)
    reply = denied or _refused(node, instances, request, header, now_us)
    if reply is not None:
        return reply
    instance = instances.get(header.slot)
    if ballot < instance.promised or (ballot == instance.promised and instance.voted != header.digest):
        return m.BallotReply(request.id, now_us, m.BUSY, ballot=instance.promised)
    locked = instance.locked
    if (
        locked is not None
        and locked.header != header.raw
        and not (unlocks and locked.ballot < request.lock_ballot < ballot)
    ):
        return m.BallotReply(request.id, now_us, m.LOCKED, locked=locked)
    instances.put(header.slot, Instance(ballot, header.digest, locked))
    configuration = node.configuration
    return _signed(node, request, now_us, vote_string(configuration.digest, request.group, root, ballot))


def lock(node: Node, request: m.Lock, now_us: int, client: bytes | None) -> m.Reply:
    """Answer a `Lock`. Raises Malformed for what no correct client sends."""
    instances, header, root = _proposal(node, request)
    if not root:
        return m.Reject(request.id, now_us, m.BAD_SIGNATURE, _NOT_SIGNED)
    configuration, ballot = node.configuration, request.ballot
    node.verifier.check_votes(configuration, configuration.groups[request.group], root, ballot, request.votes)
    denied = _denied(node, request, header, now_us, client, is_locked=True)
    reply = denied or _refused(node, instances, request, header, now_us)
    if reply is not None:
        return reply
    instance = instances.get(header.slot)
    if ballot < instance.promised:
        return m.BallotReply(request.id, now_us, m.BUSY, ballot=instance.promised)
    locked = m.Locked(header.raw, request.salted, request.signature, ballot, request.votes)
    if not instances.has_room(header.slot, locked):
        return m.BallotReply(request.id, now_us, m.FULL, detail="the node has no room for a lock")
    voted = instance.voted if ballot == instance.promised else b""
    instances.put(header.slot, Instance(ballot, voted, locked))
    return _signed(node, request, now_us, exact_grant_string(configuration.digest, request.group, root, ballot))


def _signed(node: Node, request: m.Vote | m.Lock, now_us: int, message: bytes) -> m.BallotReply:
    """The answer with a vote or grant. What it says is noted already, here and in the journal; its signature may come
    later, together with others'."""
    reply = m.BallotReply(request.id, now_us, 0)
    node.ballots.add(reply, message, partial(node.verifier.remember, node.key))
    return reply


def _proposal(node: Node, request: m.Vote | m.Lock) -> tuple[Instances, Header, bytes]:
    """The header proposed, its form and value checked, and the root that is voted for: empty where its writer did not
    sign that."""
    configuration, instances = node.configuration, node.slots.instances
    if instances is None:
        raise Malformed(_NO_EXACT)
    group = configuration.groups.get(request.group)
    if group is None or node.index not in group.members:
        raise Malformed("this node does not serve the group that the ballot names")
    header = parse_header(request.header)
    if configuration.group_of(header.slot) is not group:
        raise Malformed("the header's slot does not belong to the group that the ballot names")
    if not instances.of(header.slot):
        raise Malformed("compare-and-set is for exact namespaces")
    check_lineage(header)
    if not is_ballot(request.ballot) or request.ballot < header.stamp:
        raise Malformed("a ballot that is no stamp, or below its header's")
    check_value(header.raw, request.salted)
    root = merkle.root_of(header.digest)
    if not node.verifier.is_intended(header.writer, group, root, request.signature):
        return instances, header, b""
    return instances, header, root


def _denied(
    node: Node, request: m.Vote | m.Lock, header: Header, now_us: int, client: bytes | None, *, is_locked: bool
) -> m.BallotReply | None:
    """The rights of the header's writer, and of whoever proposes it. `is_locked`: q nodes voted for it, so it had the
    right then; in a later epoch its writer may be retired, and it has to be finished all the same, for it may have been
    decided. Not so where the writer is revoked."""
    proposer = stamp_parts(request.ballot)[1]
    why, who = "", header.writer
    if not is_locked or node.configuration.is_revoked(who):
        why = admission.denial(node, header, now_us, EXACT)
    if not why and client is not None and client != proposer:
        why, who = "the ballot names another proposer than who sent it", client
    if not why and proposer != header.writer:
        namespace, name, _ = slot_parts(header.slot)
        if not node.rights.may(proposer, WRITE, namespace, name):
            why, who = node.rights.missing(proposer, WRITE, namespace, name), proposer
    if not why:
        return None
    node.denied(who, WRITE)
    return m.BallotReply(request.id, now_us, m.DENIED, detail=why[:200])


def _refused(
    node: Node, instances: Instances, request: m.Vote | m.Lock, header: Header, now_us: int
) -> m.BallotReply | None:
    """Rules 1 to 3, and whether there is room."""
    slots, slot, ballot_us = node.slots, header.slot, stamp_time(request.ballot)
    shard = slots.shard(slot)
    if instances.is_silent(slot):
        return m.BallotReply(
            request.id, now_us, m.SILENT, detail="the node began without stored state, and asks others what it promised"
        )
    held = slots.current.get(slot)
    here = b"" if held is None else held.header
    if (held is not None and held.digest == header.digest) or header.metadata != successor_of(here):
        entry = None if held is None else slots.entry_of(held)
        return m.BallotReply(request.id, now_us, m.STALE, time_us=shard.floor_us, entry=entry)
    instance = instances.get(slot)
    if held is not None and header.time_us <= held.time_us:
        return m.BallotReply(request.id, now_us, m.BELOW_FLOOR, time_us=held.time_us)
    if held is None and header.time_us <= shard.floor_us and not is_open(instance, header):
        return m.BallotReply(request.id, now_us, m.BELOW_FLOOR, time_us=shard.floor_us)
    least_us = max(shard.floor_us, now_us - instances.life_us)
    if ballot_us <= least_us:
        # It names the ballot: another may do, which is not so of a header below the floor.
        return m.BallotReply(request.id, now_us, m.BELOW_FLOOR, time_us=least_us, ballot=request.ballot)
    if ballot_us > now_us + node.configuration.max_skew_us:
        return m.BallotReply(request.id, now_us, m.AHEAD)
    if not instances.has_room(slot):
        return m.BallotReply(request.id, now_us, m.BUSY, detail="the node's table of ballots is full")
    if not admission.may_store(slots, header, now_us):
        return m.BallotReply(
            request.id, now_us, m.FULL, detail="the node is full, and evicts nothing from exact namespaces"
        )
    if shard.floor_us >= ballot_us:  # Making room may have raised it.
        return m.BallotReply(request.id, now_us, m.BELOW_FLOOR, time_us=shard.floor_us, ballot=request.ballot)
    return None


def is_open(instance: Instance, header: Header) -> bool:
    """Whether the node voted for this very header, or locked it, and still knows."""
    return instance.voted == header.digest or (instance.locked is not None and instance.locked.header == header.raw)


# --- commit ---


def store(node: Node, header: Header, held: Held, now_us: int) -> int:
    """The commit rules of protocol 3 for an entry of an exact namespace that was verified; returns a commit code."""
    slots, instances = node.slots, node.slots.instances
    assert instances is not None, "no certificate with a ballot is valid elsewhere"
    slot, stamp = header.slot, header.stamp
    before = slots.current.get(slot)
    if before is not None and before.digest == held.digest:
        return m.OK
    if node.configuration.is_revoked(header.writer):
        return m.REVOKED
    if before is not None:
        if stamp <= before.stamp:
            return m.OK
    else:
        shard = slots.shard(slot)
        if header.time_us <= shard.floor_us and not is_open(instances.get(slot), header):
            return m.RECOVERING if shard.recovering else m.EVICTED
    if not slots.store(slot, held, now_us):
        return m.COMMIT_FULL
    instances.stored(slot, stamp, held.batch.certificate.ballot)
    return m.OK


# --- what it tells who recovers ---


def report(node: Node, request: m.ExactReport, now_us: int) -> m.Reply:
    """Answer an `ExactReport`: entries and locks of a shard, page by page."""
    instances, slots = node.slots.instances, node.slots
    if instances is None:
        raise Malformed(_NO_EXACT)
    if request.shard >= len(slots.shards):
        raise Malformed("the configuration has no such shard")
    if request.after:
        slot_parts(request.after)
    shard = slots.shards[request.shard]
    named = {slot for slot in shard.slots if instances.of(slot)}.union(instances.locked_in(shard))
    after = request.after
    names = heapq.nsmallest(m.REPORT_ENTRIES_MAX + 1, (slot for slot in named if slot > after))
    items: list[m.ExactHeld] = []
    size = 0
    for slot in names[: m.REPORT_ENTRIES_MAX]:
        held, locked = slots.current.get(slot), instances.get(slot).locked
        if held is not None:
            size += held.size + signed_bytes(held.batch.certificate.grants)
        if locked is not None:
            size += len(locked.header) + len(locked.salted) + signed_bytes(locked.votes)
        if items and size > m.REPLY_VALUES_BYTES_MAX:
            break
        items.append(m.ExactHeld(None if held is None else slots.entry_of(held), locked))
    return m.ExactReportReply(request.id, now_us, shard.floor_us, items, len(items) < len(names))


def signed_bytes(signed: tuple[Grant, ...]) -> int:
    """How many bytes the signatures of votes or grants have, or the proofs in their place."""
    return sum(len(each.signature) for each in signed)


def verify_lock(verifier: Verifier, configuration: Configuration, locked: m.Locked) -> Header:
    """Verify that a header is locked: its value, its writer's intent, and the votes of q nodes. Returns the header;
    raises Malformed."""
    header = parse_header(locked.header)
    if not configuration.is_exact(header.slot) or not is_ballot(locked.ballot) or locked.ballot < header.stamp:
        raise Malformed("a lock that is not of an exact namespace, or whose ballot is below its header")
    check_lineage(header)
    check_value(header.raw, locked.salted)
    group = configuration.group_of(header.slot)
    root = merkle.root_of(header.digest)
    if not verifier.is_intended(header.writer, group, root, locked.signature):
        raise Malformed("what is locked is not signed by its writer")
    verifier.check_votes(configuration, group, root, locked.ballot, locked.votes)
    return header
