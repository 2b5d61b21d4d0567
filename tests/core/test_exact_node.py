"""A node's rules of compare-and-set, one by one (protocol 17: vote, lock, commit, what it forgets, how it starts)."""

from __future__ import annotations

import msgspec
import pytest

from quorumcache.core import messages as m
from quorumcache.core.lineage import FIRST, lineage_of, successor_of
from quorumcache.core.model import DELETE, Malformed, digest_of, header_stamp, stamp_of
from tests.cluster import START_US, Cluster, key_of
from tests.exact import GAP_US, LIFE_US, Hand, exact_configuration, lock_slot, recover, restart

S = 1_000_000


def cluster_of() -> Cluster:
    return Cluster(configuration=exact_configuration())


def code_of(cluster: Cluster, request: m.Request, node: int = 0) -> str:
    """What the node says: a code's name, or the rejection's."""
    reply = cluster.answer(node, request)
    if isinstance(reply, m.Reject):
        return m.REJECTIONS[reply.code]
    if isinstance(reply, m.CommitReply):
        return m.COMMIT_CODES[reply.codes[0]]
    assert isinstance(reply, m.BallotReply)
    assert (reply.code == 0) == bool(reply.signature)
    return m.BALLOT_CODES[reply.code]


def test_it_votes_for_one_header_in_a_ballot() -> None:
    """Rule 4."""
    cluster = cluster_of()
    one, other = (Hand(cluster.configuration, START_US, value=value) for value in (b"1", b"2"))
    ballot = one.ballot(START_US + 5)
    assert code_of(cluster, one.vote(ballot)) == "OK"
    assert code_of(cluster, one.vote(ballot)) == "OK"
    assert code_of(cluster, other.vote(ballot)) == "BUSY"
    assert code_of(cluster, other.vote(one.ballot(START_US + 4))) == "BUSY"
    assert code_of(cluster, other.vote(one.ballot(START_US + 6))) == "OK"
    assert code_of(cluster, one.vote(ballot)) == "BUSY"


def test_a_lock_holds_until_a_later_one_is_shown() -> None:
    """Rule 5: only a lock of another header, from between the two ballots, unlocks."""
    cluster = cluster_of()
    one, other = (Hand(cluster.configuration, START_US, value=value) for value in (b"1", b"2"))
    at = [one.ballot(START_US + i) for i in range(10)]
    assert code_of(cluster, one.lock(at[3])) == "OK"
    reply = cluster.answer(0, other.vote(at[5]))
    assert isinstance(reply, m.BallotReply)
    assert reply.code == m.LOCKED
    assert reply.locked == m.Locked(one.header, one.salted, one.signature, at[3], one.signed(at[3], (0, 1, 2)))
    assert code_of(cluster, other.vote(at[5], lock_ballot=at[2])) == "LOCKED"
    assert code_of(cluster, other.vote(at[5], lock_ballot=at[3])) == "LOCKED"
    assert code_of(cluster, other.vote(at[5], lock_ballot=at[4])) == "OK"
    assert code_of(cluster, one.vote(at[6])) == "OK"


def test_it_grants_nothing_below_its_promise() -> None:
    cluster = cluster_of()
    one, other = (Hand(cluster.configuration, START_US, value=value) for value in (b"1", b"2"))
    at = [one.ballot(START_US + i) for i in range(10)]
    assert code_of(cluster, other.vote(at[5])) == "OK"
    assert code_of(cluster, one.lock(at[4])) == "BUSY"
    assert code_of(cluster, one.lock(at[6])) == "OK"


def test_a_lock_takes_the_votes_of_a_quorum() -> None:
    """Decision by 2f, votes of another ballot, votes for another header: none of it is a lock."""
    cluster = cluster_of()
    one, other = (Hand(cluster.configuration, START_US, value=value) for value in (b"1", b"2"))
    ballot = one.stamp
    assert code_of(cluster, one.lock(ballot, nodes=(0, 1))) == "BAD_FORM"
    for votes in (
        other.signed(ballot, (0, 1, 2)),
        one.signed(one.ballot(START_US + 1), (0, 1, 2)),
        one.signed(ballot, (0, 1, 2), grant=True),
        one.signed(ballot, (0, 0, 1, 2)),
        one.signed(ballot, (2, 1, 0)),
    ):
        assert code_of(cluster, msgspec.structs.replace(one.lock(ballot), votes=votes)) == "BAD_FORM"
    assert code_of(cluster, one.lock(ballot)) == "OK"


def test_what_is_replaced_has_to_be_current() -> None:
    """Rule 1: `after` and the line are compared with what is here, even where nothing is."""
    cluster = cluster_of()
    configuration = cluster.configuration
    first = Hand(configuration, START_US)
    second = Hand(configuration, START_US + 1, after=first.header)
    assert code_of(cluster, second.vote()) == "STALE"
    assert code_of(cluster, first.commit()) == "OK"
    reply = cluster.answer(0, Hand(configuration, START_US + 2).vote())
    assert isinstance(reply, m.BallotReply)
    assert (reply.code, reply.entry) == (m.STALE, first.entry())
    assert code_of(cluster, first.vote(first.ballot(START_US + 3))) == "STALE"
    lie = bytearray(successor_of(first.header))
    lie[-1] ^= 1
    assert code_of(cluster, Hand(configuration, START_US + 2, metadata=bytes(lie)).vote()) == "STALE"
    assert code_of(cluster, second.vote()) == "OK"


def test_lines_have_one_form() -> None:
    header = b""
    for i in range(36):
        header = Hand(exact_configuration(), START_US + i, after=header).header
        lineage = lineage_of(successor_of(header))
        assert lineage.after == digest_of(header)
        assert len(lineage.line) == min(i + 1, 32)
        assert lineage.is_whole == (i < 32)
        assert lineage.line[0] == (digest_of(header)[:16], START_US + i)
    for bad in (b"", FIRST[:-1], FIRST + b"x", bytes(33), successor_of(header)[:-24], b"\x01" + FIRST[1:]):
        with pytest.raises(Malformed):
            lineage_of(bad)


def test_headers_and_ballots_below_the_floor() -> None:
    """Rules 2 and 3; which of the two it is, the reply tells."""
    cluster = cluster_of()
    slots = cluster.nodes[0].slots
    slots.raise_floor(slots.shards[0], START_US + 10)
    low = Hand(cluster.configuration, START_US + 10)
    reply = cluster.answer(0, low.vote(low.ballot(START_US + 20)))
    assert isinstance(reply, m.BallotReply)
    assert (reply.code, reply.time_us, reply.ballot) == (m.BELOW_FLOOR, START_US + 10, b"")
    open_ = Hand(cluster.configuration, START_US + 11)
    assert code_of(cluster, open_.lock()) == "OK"
    slots.raise_floor(slots.shards[0], START_US + 15)
    assert code_of(cluster, open_.vote(open_.ballot(START_US + 16))) == "OK"  # Locked here: the floor is not for it.
    reply = cluster.answer(0, open_.vote(open_.ballot(START_US + 14)))
    assert isinstance(reply, m.BallotReply)
    assert (reply.code, len(reply.ballot)) == (m.BELOW_FLOOR, 48)


def test_a_ballot_lives_for_op_time() -> None:
    """Rule 3."""
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    assert code_of(cluster, hand.vote(hand.ballot(START_US + S + 1))) == "AHEAD"
    assert code_of(cluster, hand.vote(hand.ballot(START_US + S))) == "OK"
    cluster.now_us += LIFE_US + S
    assert code_of(cluster, hand.lock(hand.ballot(START_US + S))) == "BELOW_FLOOR"
    assert code_of(cluster, hand.vote(hand.ballot(cluster.now_us))) == "OK"


def test_rights_of_the_writer_and_of_who_proposes() -> None:
    configuration = exact_configuration(revoked=("w2",))
    cluster = Cluster(configuration=configuration)
    assert code_of(cluster, Hand(configuration, START_US, name="w2").vote()) == "DENIED"
    assert code_of(cluster, Hand(configuration, START_US, name="stranger").vote()) == "DENIED"
    mine = Hand(configuration, START_US)
    assert code_of(cluster, mine.vote(mine.ballot(START_US + 1, "w2"))) == "DENIED"
    assert code_of(cluster, mine.vote(mine.ballot(START_US + 1, "w3"))) == "OK"
    node = cluster.nodes[0]
    for client, code in ((key_of("w1").public, m.DENIED), (key_of("w3").public, 0), (None, 0)):
        reply = node.handle(mine.vote(mine.ballot(START_US + 2, "w3")), START_US, client)
        assert isinstance(reply, m.BallotReply)
        assert reply.code == code


def test_forms_that_no_client_sends() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    replace = msgspec.structs.replace
    assert code_of(cluster, replace(hand.vote(), signature=bytes(64))) == "BAD_SIGNATURE"
    for change in (
        {"salted": b"another value of"},
        {"ballot": stamp_of(START_US - 1, b"", 0)},
        {"ballot": b"\xff" * 48},
        {"group": bytes(16)},
        {"header": hand.header[:-1]},
        {"header": Hand(cluster.configuration, START_US, metadata=b"").header},
        {"lock_ballot": hand.stamp},
        {"lock_ballot": b"x"},
        {"votes": hand.signed(hand.stamp, (0, 1, 2))},
    ):
        assert code_of(cluster, replace(hand.vote(), **change)) == "BAD_FORM", change


def test_certificates_with_a_ballot_are_for_exact_namespaces_alone() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    entry = hand.entry()
    for certificate in (
        msgspec.structs.replace(entry.certificate, ballot=b""),
        msgspec.structs.replace(entry.certificate, ballot=hand.ballot(START_US + 1)),
        msgspec.structs.replace(entry.certificate, grants=hand.signed(hand.stamp, (0, 1), grant=True)),
        msgspec.structs.replace(entry.certificate, grants=hand.signed(hand.stamp, (0, 1, 2))),
    ):
        bundle = m.Bundle(certificate, b"", [m.Item(0, entry.header, entry.salted)])
        assert code_of(cluster, m.Commit(3, cluster.configuration.digest, [bundle])) == "BAD_FORM"
    assert code_of(cluster, hand.commit()) == "OK"


def test_a_commit_ends_what_it_stands_for() -> None:
    cluster = cluster_of()
    configuration = cluster.configuration
    first, rival = (Hand(configuration, START_US + i) for i in range(2))
    assert code_of(cluster, rival.lock()) == "OK"
    assert code_of(cluster, first.commit(first.ballot(START_US + 5))) == "OK"
    instance = cluster.nodes[0].slots.instances.get(lock_slot())  # type: ignore[union-attr]
    assert (instance.locked, instance.promised) == (None, first.ballot(START_US + 5))
    second = Hand(configuration, START_US + 6, after=first.header)
    assert code_of(cluster, second.vote()) == "OK"
    assert code_of(cluster, first.commit()) == "OK"  # Superseded or not: it is here.
    assert (
        code_of(cluster, rival.commit()) == "OK"
    )  # Certified, and above: which cannot be, and is stored all the same.


def test_a_commit_below_the_floor_is_for_who_knows_it() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    assert code_of(cluster, hand.lock(), 1) == "OK"
    for node in (0, 1):
        slots = cluster.nodes[node].slots
        slots.raise_floor(slots.shards[0], START_US + 10)
    assert code_of(cluster, hand.commit(), 0) == "EVICTED"
    assert code_of(cluster, hand.commit(), 1) == "OK"


def test_what_is_dead_is_replaced_until_it_is_forgotten_and_a_vote_keeps_it_for_life_alone() -> None:
    """What a node forgets: a vote that came to nothing counts for `life`, so nodes that had it wait little longer."""
    cluster = cluster_of()
    made = Hand(cluster.configuration, START_US, expires_at_us=START_US + S)
    voted_us = START_US + GAP_US + LIFE_US - S
    for node in (0, 1):
        assert code_of(cluster, made.commit(), node) == "OK"
    cluster.now_us = voted_us
    assert code_of(cluster, Hand(cluster.configuration, voted_us, after=made.header).vote()) == "OK"
    for late_us, held in ((S + 2, (True, False)), (LIFE_US, (True, False)), (LIFE_US + 2, (False, False))):
        cluster.now_us = voted_us + late_us
        for node in (0, 1):
            cluster.nodes[node].tick(cluster.now_us)
        assert tuple(lock_slot() in cluster.nodes[node].slots.current for node in (0, 1)) == held
    assert cluster.nodes[0].slots.shards[0].floor_us >= voted_us


@pytest.mark.parametrize("kind", ["expired", "deleted", "locked"])
def test_what_is_over_is_forgotten_late_and_leaves_a_floor(kind: str) -> None:
    """What a node forgets: `gap + life` after the slot's latest ballot; the floor rises to now - `life`."""
    cluster = cluster_of()
    node = cluster.nodes[0]
    slots, instances = node.slots, node.slots.instances
    assert instances is not None
    if kind == "locked":
        hand = Hand(cluster.configuration, START_US)
        assert code_of(cluster, hand.lock()) == "OK"
        last_us = START_US
    else:
        made = Hand(cluster.configuration, START_US, expires_at_us=START_US + S if kind == "expired" else 0)
        assert code_of(cluster, made.commit()) == "OK"
        hand, last_us = made, START_US
        if kind == "deleted":
            hand = Hand(cluster.configuration, START_US + 1, after=made.header, kind=DELETE, value=b"")
            assert code_of(cluster, hand.commit()) == "OK"
        # A ballot of another, later: nothing is forgotten before that is as old.
        cluster.now_us += S
        last_us = cluster.now_us
        after = Hand(cluster.configuration, last_us, after=hand.header)
        assert code_of(cluster, after.vote()) == "OK"
    instances_here = lambda: lock_slot() in slots.current or len(instances) > 0  # noqa: E731
    cluster.now_us = last_us + LIFE_US
    node.tick(cluster.now_us)
    assert instances_here()
    for _ in range(40):
        cluster.now_us += S
        node.tick(cluster.now_us)
        if not instances_here():
            break
        assert cluster.now_us <= last_us + GAP_US + LIFE_US + 3 * S, "it is never forgotten"
    assert cluster.now_us > START_US + GAP_US + LIFE_US
    assert slots.shards[0].floor_us >= cluster.now_us - LIFE_US - 3 * S
    assert slots.shards[0].floor_us > last_us


def test_nothing_is_evicted_from_an_exact_namespace() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    assert code_of(cluster, hand.commit()) == "OK"
    slots = cluster.nodes[0].slots
    cluster.now_us += 3600 * S
    assert not slots._may_go(lock_slot(), cluster.now_us)


def test_who_began_without_state_is_silent_until_it_asked_after_a_wait() -> None:
    """Start without stored state: it votes for nothing; then it takes the lock of what may be decided."""
    cluster = cluster_of()
    hand, rival = (Hand(cluster.configuration, START_US, value=value) for value in (b"1", b"2"))
    for node in (0, 1):
        assert code_of(cluster, hand.lock(), node) == "OK"
    cluster.now_us += S
    recovery = restart(cluster, 0)
    assert code_of(cluster, rival.vote(rival.ballot(cluster.now_us))) == "SILENT"
    cluster.now_us += GAP_US + LIFE_US
    assert not recover(cluster, recovery)
    assert code_of(cluster, rival.vote(rival.ballot(cluster.now_us))) == "SILENT"
    cluster.now_us += 3 * S
    assert recover(cluster, recovery)
    instance = cluster.nodes[0].slots.instances.get(lock_slot())  # type: ignore[union-attr]
    assert instance.locked is not None
    assert instance.locked.header == hand.header
    assert code_of(cluster, rival.vote(rival.ballot(cluster.now_us))) in ("LOCKED", "BELOW_FLOOR")


def test_two_reports_are_not_enough() -> None:
    cluster = cluster_of()
    recovery = restart(cluster, 0)
    cluster.now_us += GAP_US + LIFE_US + 3 * S
    cluster.down.add(3)
    assert not recover(cluster, recovery)
    for _ in range(10):
        cluster.now_us += 10 * S
        assert not recover(cluster, recovery)
    cluster.down.clear()
    cluster.now_us += 10 * S
    recover(cluster, recovery)  # The round that goes on may end first.
    cluster.now_us += 10 * S
    assert recover(cluster, recovery)


def test_a_slot_is_in_doubt_where_somebody_may_have_forgotten_it() -> None:
    """A reporter that is absent with a floor above: silent there, and only there, until that is cleared up."""
    cluster = cluster_of()
    doubtful, clear = (Hand(cluster.configuration, START_US, key=key) for key in ("a", "b"))
    for node in (1, 2):
        assert code_of(cluster, doubtful.commit(), node) == "OK"
    for node in (1, 2, 3):
        assert code_of(cluster, clear.commit(), node) == "OK"
    slots = cluster.nodes[3].slots
    slots.raise_floor(slots.shards[0], START_US + S)
    recovery = restart(cluster, 0)
    cluster.now_us += GAP_US + LIFE_US + 3 * S
    assert not recover(cluster, recovery)
    mine = cluster.nodes[0].slots
    assert (lock_slot("a") in mine.current, lock_slot("b") in mine.current) == (False, True)
    vote = Hand(cluster.configuration, cluster.now_us, key="a").vote()
    assert code_of(cluster, vote) == "SILENT"
    assert code_of(cluster, Hand(cluster.configuration, cluster.now_us, key="c").vote()) == "OK"
    slots.put_back(lock_slot("a"), cluster.nodes[1].slots.current[lock_slot("a")])
    cluster.now_us += 11 * S
    assert recover(cluster, recovery)
    assert lock_slot("a") in mine.current
    assert header_stamp(mine.current[lock_slot("a")].header) == doubtful.stamp


def test_a_lock_in_doubt_is_not_taken() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    assert code_of(cluster, hand.lock(), 1) == "OK"
    slots = cluster.nodes[3].slots
    slots.raise_floor(slots.shards[0], START_US + S)
    recovery = restart(cluster, 0)
    cluster.now_us += GAP_US + LIFE_US + 3 * S
    assert not recover(cluster, recovery)
    assert code_of(cluster, Hand(cluster.configuration, cluster.now_us).vote()) == "SILENT"


def test_reports_that_lie_do_not_count() -> None:
    cluster = cluster_of()
    hand = Hand(cluster.configuration, START_US)
    for node in (1, 2, 3):
        assert code_of(cluster, hand.lock(), node) == "OK"
    forged = msgspec.structs.replace(
        m.Locked(hand.header, hand.salted, hand.signature, hand.stamp, hand.signed(hand.stamp, (0, 1))),
    )
    cluster.lies[3] = lambda request, reply: (
        m.ExactReportReply(request.id, cluster.now_us, 0, [m.ExactHeld(None, forged)], False)
        if isinstance(request, m.ExactReport)
        else reply
    )
    recovery = restart(cluster, 0)
    cluster.now_us += GAP_US + LIFE_US + 3 * S
    assert not recover(cluster, recovery)


def test_reports_come_in_pages() -> None:
    cluster = cluster_of()
    for i in range(150):
        hand = Hand(cluster.configuration, START_US, key=f"k{i}")
        for node in (1, 2, 3):
            assert code_of(cluster, hand.commit() if i % 3 else hand.lock(), node) == "OK"
    recovery = restart(cluster, 0)
    cluster.now_us += GAP_US + LIFE_US + 3 * S
    assert recover(cluster, recovery, 20)
    slots = cluster.nodes[0].slots
    assert len(slots.current) == 100
    assert slots.instances is not None
    assert len(slots.instances) == 50
