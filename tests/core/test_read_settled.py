"""Protocol 4, read: full reads, good sets, and write-back."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.outcome import Found, Missed, Written
from quorumcache.core.settle import Answer, good_entries
from tests import craft
from tests.cluster import START_US, Cluster, configuration_of, slot
from tests.reads import S, current, on, plant, raise_floor, read, say_absent, value


def test_read_3_expired_entries_and_tombstones_are_misses_that_q_vouch_for() -> None:
    cluster = Cluster()
    client = cluster.client()
    token = client.write("a", b"v", expires_at_us=START_US + 10)
    client.run()
    assert isinstance(client.outcomes[token], Written)
    assert value(read(client, "a")) == b"v"
    cluster.now_us = START_US + 10
    assert read(client, "a") == Missed(3)
    client.set("b", b"v")
    client.delete("b")
    client.run()
    assert read(client, "b") == Missed(3)


def test_read_3_an_expired_entry_is_settled_before_it_is_a_miss() -> None:
    cluster = Cluster()
    client = cluster.client()
    plant(cluster, 1, craft.craft("a", START_US, b"v", expires_at_us=START_US + 1))
    cluster.now_us += 10
    cluster.down = {3}
    assert isinstance(read(client, "a"), Missed)
    assert current(cluster, "a")[:3] == [b"v"] * 3


def test_read_2_the_highest_of_a_good_set_is_written_back_to_those_that_lack_it() -> None:
    cluster = Cluster()
    client = cluster.client()
    plant(cluster, 0, craft.craft("a", START_US, b"old"))
    plant(cluster, 1, craft.craft("a", START_US + 1, b"new"))
    cluster.down = {3}
    assert value(read(client, "a")) == b"new"
    assert current(cluster, "a") == [b"new", b"new", b"new", None]


def test_read_2_a_claim_without_a_valid_certificate_is_not_an_answer() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    fake = craft.entry(cluster.configuration, craft.craft("a", START_US + S, b"forged"))
    fake.certificate = craft.certificate(cluster.configuration, [craft.craft("a", START_US)])

    def forge(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.ReadFull):
            return m.ReadFullReply(reply.id, reply.clock_us, [m.FullAnswer(fake, 0)])
        return say_absent(request, reply)

    cluster.lies[0] = forge
    del cluster.nodes[1].slots.current[slot("a")]
    assert value(read(client, "a")) == b"v"
    assert client.core.counts["lies_rejected"] >= 1


def test_read_2_an_entry_of_another_slot_is_not_an_answer() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    other = craft.entry(cluster.configuration, craft.craft("b", START_US + S, b"other"))
    cluster.lies[0] = on(
        m.ReadFull, lambda request, reply: m.ReadFullReply(reply.id, reply.clock_us, [m.FullAnswer(other, 0)])
    )
    token = client.read("a", full=True)
    client.run()
    cluster.advance(S)
    assert value(client.outcomes[token]) == b"v"


@pytest.mark.parametrize(
    ("code", "found"),
    [(m.OK, True), (m.EVICTED, True), (m.REVOKED, False), (m.RECOVERING, False), (m.COMMIT_FULL, False), (9, False)],
)
def test_read_2_a_write_back_counts_ok_and_evicted_only(code: int, found: bool) -> None:
    cluster = Cluster()
    client = cluster.client()
    for node in (0, 1):
        plant(cluster, node, craft.craft("a", START_US, b"v"))
    cluster.down = {3}
    cluster.lies[2] = on(m.Commit, lambda request, reply: m.CommitReply(reply.id, reply.clock_us, bytes((code,)), []))
    outcome = read(client, "a")
    assert isinstance(outcome, Found) == found
    if not found:
        assert outcome == Missed(1), "only one node said that it is absent: too few for strict"


def test_read_2_no_good_set_among_all_answers_is_a_miss() -> None:
    """Every absent answer has a floor above the only entry."""
    cluster = Cluster()
    client = cluster.client()
    plant(cluster, 0, craft.craft("a", START_US, b"v"))
    for node in (1, 2, 3):
        raise_floor(cluster, node, "a", START_US)
    token = client.read("a", full=True)
    client.run()
    assert client.outcomes[token] == Missed(3)


def test_read_2_the_write_back_of_the_only_good_set_may_fail_and_the_read_ends_all_the_same() -> None:
    """Section 11, a miss must have a way to end: when the grace time is over."""
    cluster = Cluster()
    client = cluster.client()
    for node in (0, 1):
        plant(cluster, node, craft.craft("a", START_US, b"v"))
    cluster.down = {3}
    cluster.lies[2] = on(
        m.Commit, lambda request, reply: m.CommitReply(reply.id, reply.clock_us, bytes((m.REVOKED,)), [])
    )
    token = client.read("a", full=True)
    client.run()
    cluster.advance(199_999)
    assert token not in client.outcomes
    cluster.advance(1)
    assert client.outcomes[token] == Missed(1)
    assert client.core.deadline_us is None


def test_read_full_returns_an_entry_that_verifies() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    outcome = client.get("a", full=True)
    assert isinstance(outcome, Found)
    assert outcome.entry is not None
    assert client.core.verifier.check_entry(outcome.entry).slot == slot("a")


def test_a_node_that_rejects_and_answers_has_one_vote() -> None:
    for full in (False, True):
        cluster = Cluster()
        client = cluster.client()
        client.set("a", b"v")
        token = client.read("a", full=full)
        sent = client.take()
        client.deliver(*sent[3])
        reject = m.Reject(sent[3][1].id, START_US, m.OVERLOADED)
        client.core.receive(sent[3][0], reject, START_US)
        client.core.receive(sent[2][0], reject, START_US)
        client._collect()
        assert token not in client.outcomes
        for node, request in sent[:2]:
            client.deliver(node, request)
        client.run()
        cluster.advance(S)
        assert value(client.outcomes[token]) == b"v"


# --- good sets ---


def answers(*given: tuple[int | None, int]) -> dict[int, Answer]:
    """Per node: the time of its entry, or None and its floor."""
    configuration = configuration_of()
    entries = {t: craft.entry(configuration, craft.craft("a", t, b"%d" % t)) for t, _ in given if t is not None}
    return {i: Answer(None if t is None else entries[t], floor) for i, (t, floor) in enumerate(given)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(5, 0), (5, 0), (5, 0)], [5]),
        ([(5, 0), (5, 0), (None, 4)], [5]),
        ([(5, 0), (5, 0), (None, 5)], []),
        ([(5, 0), (3, 0), (None, 4)], [5]),
        ([(3, 0), (3, 0), (None, 5)], []),
        ([(5, 0), (3, 0), (3, 0), (3, 0)], [5, 3]),
        ([(5, 0), (3, 0), (3, 0), (None, 2)], [5, 3]),
        ([(5, 0), (3, 0), (3, 0), (None, 4)], [5]),
        ([(5, 9), (3, 9), (3, 9)], [5]),
        ([(5, 0), (5, 0)], []),
        ([(None, 9), (3, 0), (3, 0), (3, 0)], [3]),
    ],
)
def test_good_sets(given: list[tuple[int | None, int]], expected: list[int]) -> None:
    """Protocol 4, read 2 (R): q answers are good if their highest entry is above the floor of every absent one."""
    assert [entry.time_us for entry, _ in good_entries(answers(*given), 3)] == expected


def test_read_2_no_good_set_is_a_miss_as_soon_as_all_have_answered() -> None:
    """Nobody is left to wait for: two entries, and two absent with floors above them."""
    cluster = Cluster()
    client = cluster.client()
    for node in (0, 1):
        plant(cluster, node, craft.craft("a", START_US, b"v"))
        raise_floor(cluster, node + 2, "a", START_US)
    token = client.read("a", full=True)
    client.run()
    assert client.outcomes[token] == Missed(2)


def test_read_2_q_absent_end_a_full_read_too() -> None:
    cluster = Cluster()
    cluster.down = {3}
    client = cluster.client()
    token = client.read("a", full=True)
    client.run()
    assert client.outcomes[token] == Missed(3)
