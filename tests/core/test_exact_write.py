"""Compare-and-set from a client's side: alone, in each other's way, after somebody died (protocol 17)."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.exactjudge import FORGOTTEN, LOST, TOO_MANY, WON, verdict_of
from quorumcache.core.exactwrite import token_of
from quorumcache.core.model import digest_of, parse_header
from quorumcache.core.outcome import Decided, Failed, Found, Missed, Unchanged
from tests.cluster import START_US, Cluster, slot
from tests.exact import GAP_US, LIFE_US, Hand, Race, add, ask, delete, exact_configuration, lock_slot, plus, put, swap


def cluster_of(f: int = 1) -> Cluster:
    cluster = Cluster(configuration=exact_configuration(f))
    return cluster


@pytest.mark.parametrize("f", [1, 2])
def test_alone_it_takes_a_read_and_three_rounds(f: int) -> None:
    cluster = cluster_of(f)
    client = cluster.client()
    token = ask(client, plus())
    kinds = []
    for _ in range(20):
        sent = client.take()
        if not sent:
            break
        kinds.append(type(sent[0][1]))
        for node, request in sent:
            client.deliver(node, request)
    assert kinds == [m.ReadFull, m.Vote, m.Lock, m.Commit]
    outcome = client.outcomes[token]
    assert isinstance(outcome, Decided)
    assert outcome.salted[16:] == b"1"
    reader = cluster.client(None)
    read = reader.core.read(lock_slot(), "read")
    reader.run()
    found = reader.outcomes["read"]
    assert read is None
    assert isinstance(found, Found)
    assert found.salted[16:] == b"1"


def test_each_change_is_asked_what_is_settled() -> None:
    cluster = cluster_of()
    client = cluster.client()
    results = []
    for change in (add(b"a"), add(b"b"), swap(b"a", b"c"), swap(b"a", b"d"), delete(), delete(), add(b"e")):
        token = ask(client, change)
        client.run()
        results.append(client.outcomes[token])
    kinds = [type(result) for result in results]
    assert kinds == [Decided, Unchanged, Decided, Unchanged, Decided, Unchanged, Decided]
    assert isinstance(results[1], Unchanged)
    assert results[1].salted[16:] == b"a"
    assert results[5] == Unchanged(b"", b"")
    tokens = [token_of(result) for result in results if isinstance(result, Decided)]
    assert tokens == sorted(set(tokens))


def test_a_chain_names_those_before_it() -> None:
    cluster = cluster_of()
    client = cluster.client()
    for count in range(1, 13):
        token = ask(client, plus())
        client.run()
        outcome = client.outcomes[token]
        assert isinstance(outcome, Decided)
        assert outcome.salted[16:] == str(count).encode()


def test_what_has_expired_is_replaced_as_what_it_was() -> None:
    cluster = cluster_of()
    client = cluster.client()
    first = ask(client, add(b"holder 1", ttl_us=1_000_000))
    client.run()
    decided = client.outcomes[first]
    assert isinstance(decided, Decided)
    cluster.advance(3_000_000)
    second = ask(client, add(b"holder 2", ttl_us=1_000_000))
    client.run()
    later = client.outcomes[second]
    assert isinstance(later, Decided)
    assert parse_header(later.header).metadata[:32] == digest_of(decided.header)
    assert token_of(later) > token_of(decided)


@pytest.mark.parametrize("late_us", [0, 1_000_000, 1_900_000, 2_100_000])
def test_what_has_expired_is_replaced_at_once_whenever_that_is(late_us: int) -> None:
    """What a node forgets: nothing refuses votes for what follows an entry for being about to be forgotten."""
    cluster = cluster_of()
    for ttl_us, value in ((30_000_000, b"1"), (0, b"2")):
        client = cluster.client()
        token = ask(client, add(value, ttl_us=ttl_us))
        client.run()
        assert isinstance(client.outcomes[token], Decided)
        cluster.advance(ttl_us + late_us)
        for node in cluster.nodes.values():
            node.tick(cluster.now_us)


def test_writes_of_other_ways_are_denied() -> None:
    cluster = cluster_of()
    client = cluster.client()
    client.core.write(lock_slot(), 0, b"v", 0, "set")
    client.run()
    outcome = client.outcomes["set"]
    assert isinstance(outcome, Failed)
    assert outcome.kind == "denied"
    assert "compare-and-set alone" in outcome.detail
    client.core.exact(slot("k"), plus(), "wrong")
    client.run()
    assert isinstance(client.outcomes["wrong"], Failed)


def test_who_comes_after_one_that_died_finishes_what_it_locked() -> None:
    cluster = cluster_of()
    configuration = cluster.configuration
    dead = Hand(configuration, cluster.now_us, value=b"41", name="w2")
    assert cluster.answer(0, dead.lock()).code == 0  # type: ignore[union-attr]
    assert cluster.answer(1, dead.lock()).code == 0  # type: ignore[union-attr]
    client = cluster.client()
    token = ask(client, plus())
    cluster.advance(1_000_000)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Decided)
    assert outcome.salted[16:] == b"42"


def test_one_lock_that_is_hidden_by_a_liar_is_found_at_its_other_node() -> None:
    cluster = cluster_of()
    dead = Hand(cluster.configuration, cluster.now_us, value=b"41", name="w2")
    for node in (0, 1, 2):
        assert cluster.answer(node, dead.lock()).code == 0  # type: ignore[union-attr]
    cluster.lies[0] = lambda request, reply: (
        m.BallotReply(request.id, cluster.now_us, m.BUSY, ballot=b"\xff" * 48) if isinstance(request, m.Vote) else reply
    )
    client = cluster.client()
    token = ask(client, plus())
    cluster.advance(2_000_000)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Decided)
    assert outcome.salted[16:] == b"42"


def test_a_node_that_lacks_what_is_replaced_is_given_it() -> None:
    cluster = cluster_of()
    client = cluster.client()
    cluster.down.add(3)
    token = ask(client, plus())
    cluster.advance(1_000_000)
    assert isinstance(client.outcomes[token], Decided)
    cluster.down = {0}
    token = ask(client, plus())
    cluster.advance(1_000_000)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Decided)
    assert outcome.salted[16:] == b"2"


def test_without_a_quorum_nothing_was_sent_or_nobody_knows() -> None:
    cluster = cluster_of()
    client = cluster.client()
    cluster.down = {0, 1}
    token = ask(client, plus())
    cluster.advance(LIFE_US + 1)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unavailable"
    cluster.down.clear()
    token = ask(client, plus())
    for node, request in client.take():
        client.deliver(node, request)
    cluster.down = {0, 1}
    cluster.advance(LIFE_US + 1)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unknown"


@pytest.mark.parametrize(
    ("kind", "denying", "told"), [(m.Vote, 4, "denied"), (m.Vote, 2, "unknown"), (m.Lock, 2, "unknown")]
)
def test_what_some_may_have_locked_has_not_failed_for_certain(kind: type, denying: int, told: str) -> None:
    """Protocol 17, client rule 4: quotas are each node's own, and others may hold a lock that the next one finishes."""
    cluster = cluster_of()
    for node in range(4 - denying, 4):
        cluster.lies[node] = lambda request, reply: (
            m.BallotReply(request.id, cluster.now_us, m.DENIED, detail="no room")
            if isinstance(request, kind)
            else reply
        )
    client = cluster.client()
    token = ask(client, put(b"mine"))
    cluster.advance(LIFE_US + 1)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == told
    cluster.lies.clear()
    token = ask(client, add(b"another's"))
    cluster.advance(LIFE_US + 1)
    after = client.outcomes[token]
    assert isinstance(after, Unchanged if kind is m.Lock else Decided)
    assert after.salted[16:] == (b"mine" if kind is m.Lock else b"another's")


@pytest.mark.parametrize("seed", range(12))
def test_many_count_at_once_and_each_result_is_its_own(seed: int) -> None:
    """I2: every result is unique, and the last is the count; messages come in any order, some twice, some never."""
    cluster = cluster_of()
    clients = [cluster.client(name) for name in ("w1", "w2", "w3", "w1")]
    tokens = [(client, ask(client, plus())) for client in clients for _ in range(3)]
    Race(cluster, seed, loss=0.05 * (seed % 3)).run()
    outcomes = [client.outcomes[token] for client, token in tokens]
    counts = sorted(int(o.salted[16:]) for o in outcomes if isinstance(o, Decided))
    unknown = sum(isinstance(o, Failed) and o.kind == "unknown" for o in outcomes)
    assert len(set(counts)) == len(counts)
    reader = cluster.client(None)
    cluster.advance(LIFE_US)
    reader.core.read(lock_slot(), "end")
    cluster.advance(LIFE_US)
    end = reader.outcomes["end"]
    assert isinstance(end, Found)
    assert max(counts) <= int(end.salted[16:]) <= len(counts) + unknown
    if not seed % 3:
        assert counts == list(range(1, 13))


@pytest.mark.parametrize("seed", range(6))
def test_one_of_many_adds(seed: int) -> None:
    cluster = cluster_of()
    clients = [cluster.client(name) for name in ("w1", "w2", "w3")]
    tokens = [(client, ask(client, add(str(i).encode()))) for i, client in enumerate(clients * 3)]
    Race(cluster, seed).run()
    outcomes = [client.outcomes[token] for client, token in tokens]
    won = [o for o in outcomes if isinstance(o, Decided)]
    assert len(won) == 1
    assert all(isinstance(o, Unchanged) and o.salted == won[0].salted for o in outcomes if o is not won[0])


def test_a_plain_read_of_nothing_is_a_miss() -> None:
    cluster = cluster_of()
    reader = cluster.client(None)
    reader.core.read(lock_slot(), "read")
    reader.run()
    assert reader.outcomes["read"] == Missed(3)


def test_a_header_below_the_floor_is_given_up_for_a_later_one() -> None:
    """Rule 2: a floor above the header at q nodes, none of which knows it, means that nobody ever decides it."""
    cluster = cluster_of()
    client = cluster.client()
    token = ask(client, put(b"v"))
    for node, request in client.take():
        client.deliver(node, request)
    for node in cluster.nodes.values():
        node.slots.raise_floor(node.slots.shard(lock_slot()), cluster.now_us + 500_000)
    cluster.advance(3_000_000)
    assert isinstance(client.outcomes[token], Decided)


def chain(at: list[int], after: bytes = b"") -> list[bytes]:
    """Headers at these times, in microseconds after the start, each in place of the one before."""
    headers = []
    for at_us in at:
        after = Hand(exact_configuration(), START_US + at_us, after=after).header
        headers.append(after)
    return headers


def test_what_a_settled_entry_says() -> None:
    """Client rule 3: a conflict shows which header came right after what was to be replaced."""
    gap_us = 14_000_000
    first, second, third, *_, last = line = chain(list(range(34)))
    assert verdict_of(second, first, second, 0, gap_us) == WON
    assert verdict_of(second, first, line[32], 0, gap_us) == WON
    rival = Hand(exact_configuration(), START_US + 1, after=first, value=b"rival").header
    for settled in (second, third, line[32]):
        assert verdict_of(rival, first, settled, 0, gap_us) == LOST
    assert verdict_of(rival, first, last, 0, gap_us) == TOO_MANY
    fresh = Hand(exact_configuration(), START_US + 5, value=b"rival").header
    assert verdict_of(fresh, b"", third, 0, gap_us) == LOST


@pytest.mark.parametrize(("apart_us", "verdict"), [(0, LOST), (GAP_US, LOST), (GAP_US + 1, FORGOTTEN)])
def test_a_line_that_begins_anew(apart_us: int, verdict: str) -> None:
    """I2: who forgot did so late, so what begins anew after a decided header is later by more than the gap."""
    first, mine = chain([0, 1])
    anew, after = chain([1 + apart_us, 2 + apart_us])
    assert verdict_of(mine, first, anew, 0, GAP_US) == verdict
    assert verdict_of(mine, first, after, 0, GAP_US) == verdict
    assert verdict_of(chain([1])[0], b"", after, 0, GAP_US) == (WON if not apart_us else verdict)
    if apart_us:
        earlier = chain([1])[0]
        # For what replaces nothing, either may be the later one; a ballot of the earlier one says that it is not.
        assert verdict_of(anew, b"", earlier, 0, GAP_US) == verdict
        assert verdict_of(anew, b"", earlier, START_US + 2, GAP_US) == LOST
