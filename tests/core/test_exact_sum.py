"""Increments of one client that go together, and who waits for whom (protocol 17, "In each other's way")."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.exactqueue import WAITING_MAX
from quorumcache.core.exactsum import DIGITS_MAX, Addition, Additions
from quorumcache.core.exactwrite import PAUSE_US_MAX
from quorumcache.core.model import header_expires_at, header_time, stamp_time
from quorumcache.core.outcome import UNKNOWN, Decided, Failed, Outcome, Unchanged
from tests.cluster import START_US, Client, Cluster
from tests.exact import LIFE_US, Hand, ask, delete, exact_configuration, lock_slot, put

SALT = bytes(16)
BIG = 10**DIGITS_MAX - 1
SUMMANDS = st.integers(-1000, 1000) | st.sampled_from([BIG, -BIG])


def told(outcome: Outcome | None) -> int | None:
    return outcome.number if isinstance(outcome, Decided) else None


def kinds(client: Client) -> list[type]:
    """What the client sends to node 0 from now on, until it is quiet."""
    sent = []
    while requests := client.take():
        for node, request in requests:
            if node == 0:
                sent.append(type(request))
            client.deliver(node, request)
    return sent


@given(
    st.one_of(SUMMANDS.map(lambda number: b"%d" % number), st.sampled_from([b"", b"-", b"x", b"1.5"])),
    st.lists(SUMMANDS, min_size=1, max_size=20),
)
def test_together_is_one_after_another(text: bytes, summands: list[int]) -> None:
    """All that stands, and all that each is told, is what it would be had each gone alone, in order."""
    header = Hand(exact_configuration(), START_US).header
    value, alone = text, []
    for by in summands:
        change = Addition(by)(header, SALT + value, START_US)
        alone.append(None if change is None else int(change.value))
        value = value if change is None else change.value
    together = Additions([Addition(by) for by in summands])
    change = together(header, SALT + text, START_US)
    assert (text if change is None else change.value) == value
    outcome: Outcome = Unchanged(header, SALT + text) if change is None else Decided(header, SALT + change.value)
    assert [told(each) for each in together.outcomes(outcome)] == alone


def test_what_waits_goes_together_and_each_is_told_its_own() -> None:
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    tokens = [ask(client, Addition(by)) for by in (1, 10, 100)]
    assert kinds(client) == [m.ReadFull, m.Vote, m.Lock, m.Commit]
    assert [told(client.outcomes[token]) for token in tokens] == [1, 11, 111]
    first = ask(client, Addition(1))
    client.take()  # Lost on the way; the others queue up behind it.
    later = [ask(client, Addition(1)) for _ in range(50)]
    cluster.advance(1_000_000)
    assert [told(client.outcomes[token]) for token in (first, *later)] == list(range(112, 163))


def test_other_operations_keep_their_places_between_them() -> None:
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    changes = (Addition(1), Addition(1), put(b"40"), Addition(1), Addition(1), delete(), Addition(7))
    tokens = [ask(client, change) for change in changes]
    client.run()
    assert [told(client.outcomes[token]) for token in tokens] == [1, 2, None, 41, 42, None, 7]


def test_a_new_number_expires_when_the_first_of_them_says() -> None:
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    tokens = [ask(client, Addition(1, START_US + ttl_us)) for ttl_us in (90_000_000, 5)]
    client.run()
    for token in tokens:
        outcome = client.outcomes[token]
        assert isinstance(outcome, Decided)
        assert header_expires_at(outcome.header) == START_US + 90_000_000


def test_they_fail_together_and_what_is_no_number_is_left_alone() -> None:
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    ask(client, put(b"text"))
    tokens = [ask(client, Addition(1)) for _ in range(3)]
    client.run()
    for token in tokens:
        outcome = client.outcomes[token]
        assert isinstance(outcome, Unchanged)
        assert outcome.salted[16:] == b"text"
    tokens = [ask(client, Addition(1), "other") for _ in range(3)]
    for node, request in client.take():
        client.deliver(node, request)
    client.take()
    cluster.down = {0, 1}
    cluster.advance(LIFE_US + 1)
    outcomes = [client.outcomes[token] for token in tokens]
    assert all(isinstance(outcome, Failed) and outcome.kind == UNKNOWN for outcome in outcomes)


def test_no_more_wait_than_may() -> None:
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    tokens = [ask(client, Addition(1)) for _ in range(WAITING_MAX + 3)]
    client.run()
    ended = [told(client.outcomes[token]) for token in tokens]
    assert ended == [*range(1, WAITING_MAX + 1), None, None, None]


def busy_with(cluster: Cluster, rival: Hand) -> None:
    """All nodes voted for it in a ballot of times to come: any other has to wait, or to go above it."""
    for node in range(4):
        reply = cluster.answer(node, rival.vote(rival.ballot(cluster.now_us + 500_000, "w2")))
        assert isinstance(reply, m.BallotReply)
        assert reply.code == 0


def votes_of(client: Client) -> int:
    """Deliver what the client sends; how many votes node 0 was asked for."""
    return sum(kind is m.Vote for kind in kinds(client))


def test_who_finds_another_at_it_looks_before_it_goes_above() -> None:
    """While that one's entry comes, no ballot is raised against it."""
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    rival = Hand(cluster.configuration, cluster.now_us, value=b"5", name="w2")
    busy_with(cluster, rival)
    token = ask(client, Addition(1))
    assert votes_of(client) == 1
    ballot = rival.ballot(cluster.now_us + 500_000, "w2")
    for node in range(4):
        reply = cluster.answer(node, rival.commit(ballot))
        assert isinstance(reply, m.CommitReply)
    cluster.now_us += 2 * PAUSE_US_MAX + 1
    client.core.wake(cluster.now_us)
    assert kinds(client)[:2] == [m.ReadFull]
    cluster.advance(1_000_000)
    assert told(client.outcomes[token]) == 6


def test_who_died_half_way_is_not_waited_for() -> None:
    """Liveness: a client that died blocks nobody for longer than a pause and a look."""
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    busy_with(cluster, Hand(cluster.configuration, cluster.now_us, value=b"5", name="w2"))
    token = ask(client, Addition(1))
    for kind in (m.ReadFull, m.Vote):  # Rounds take a second: two of those would be too long a wait.
        sent = client.take()
        assert {type(request) for _, request in sent} == {kind}
        cluster.now_us += 1_000_000
        for node, request in sent:
            client.deliver(node, request)
    assert client.core.round_us == 1_000_000
    cluster.now_us += 2 * PAUSE_US_MAX + 2 * PAUSE_US_MAX
    client.core.wake(cluster.now_us)
    client.run()
    assert told(client.outcomes[token]) == 1


def test_a_first_ballot_is_low_and_lower_the_later_it_is_made() -> None:
    """Client rule 1: whoever comes second finds who is at it, and undoes nothing."""
    cluster = Cluster(configuration=exact_configuration())
    early_us = cluster.configuration.op_time_us // 8
    first, sooner, later = (cluster.client(name) for name in ("w1", "w2", "w3"))
    ask(first, Addition(1))
    first.run()
    decided_us = stamp_time(cluster.nodes[0].slots.current[lock_slot()].batch.certificate.ballot)
    ballots_us, tokens = [], []
    for client in (sooner, later):
        cluster.now_us += early_us // 4
        tokens.append(ask(client, Addition(1)))
        for node, request in client.take():
            client.deliver(node, request)
        votes = client.take()
        ballots_us.append({stamp_time(vote.ballot) for _, vote in votes if isinstance(vote, m.Vote)}.pop())
        for node, vote in votes:
            client.deliver(node, vote)
    assert decided_us < ballots_us[1] < ballots_us[0] < cluster.now_us - early_us // 4
    assert kinds(sooner) == [m.Lock, m.Commit]
    assert told(sooner.outcomes[tokens[0]]) == 2
    assert kinds(later) == []  # It waits.


def test_a_first_ballot_is_not_old() -> None:
    """Client rule 1: ballots die, so one that is about to is no good."""
    cluster = Cluster(configuration=exact_configuration())
    client = cluster.client()
    ask(client, Addition(1))
    client.run()
    cluster.now_us += cluster.configuration.op_time_us // 8 + 1
    token = ask(client, Addition(1))
    client.run()
    outcome = client.outcomes[token]
    assert isinstance(outcome, Decided)
    assert header_time(outcome.header) >= cluster.now_us
