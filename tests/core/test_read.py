"""Protocol 4, read: the fast path, full reads, good sets, write-back, and how reads end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import ABSENT, Entry
from quorumcache.core.outcome import MISMATCH, UNAVAILABLE, Failed, Found, Missed, Outcome, Written
from quorumcache.core.settle import Answer, good_entries
from tests import craft
from tests.cluster import START_US, Client, Cluster, configuration_of, slot

S = 1_000_000
FS = pytest.mark.parametrize("f", [1, 2, 3])
Lie = Callable[[m.Request, m.Reply], m.Reply | None]


def read(client: Client, key: str, within_us: int = 6 * S) -> Outcome:
    """Read, let time pass until it ended, and return how."""
    token = client.read(key)
    client.run()
    for _ in range(within_us // 10_000):
        if token in client.outcomes:
            return client.outcomes[token]
        client.cluster.advance(10_000)
    raise AssertionError("the read never ended")


def value(outcome: Outcome) -> bytes:
    assert isinstance(outcome, Found), outcome
    return outcome.salted[16:]


def plant(cluster: Cluster, node: int, crafted: craft.Crafted) -> Entry:
    """Make one node hold a certified entry, whatever the others do."""
    entry = craft.entry(cluster.configuration, crafted)
    reply = cluster.nodes[node].handle(craft.commit(cluster.configuration, entry), cluster.now_us)
    assert isinstance(reply, m.CommitReply)
    assert reply.codes == b"\x00"
    return entry


def raise_floor(cluster: Cluster, node: int, key: str, time_us: int) -> None:
    slots = cluster.nodes[node].slots
    slots.raise_floor(slots.shard(slot(key)), time_us)


def current(cluster: Cluster, key: str) -> list[bytes | None]:
    """What each node holds under a key."""
    held = [node.slots.current.get(slot(key)) for node in cluster.nodes.values()]
    return [None if h is None else h.salted[16:] for h in held]


def kinds(sent: list[tuple[int, m.Request]]) -> list[tuple[int, str]]:
    return [(node, type(request).__name__) for node, request in sent]


def on(kind: type[m.Request], answer: Lie) -> Lie:
    """A lie about one kind of request."""
    return lambda request, reply: answer(request, reply) if isinstance(request, kind) else reply


def withhold(request: m.Request, reply: m.Reply) -> m.Reply:
    assert isinstance(reply, m.ReadReply)
    reply.values = [b""] * len(reply.values)
    return reply


def say_absent(request: m.Request, reply: m.Reply) -> m.Reply:
    if isinstance(request, m.Read):
        return m.ReadReply(
            reply.id,
            reply.clock_us,
            ABSENT * len(request.slots),
            [b"", b""] * (max(request.values_to - request.values_from, 0)),
        )
    if isinstance(request, m.ReadFull):
        return m.ReadFullReply(reply.id, reply.clock_us, [m.FullAnswer(None, 0) for _ in request.slots])
    return reply


# --- the fast path ---


@FS
def test_read_1_q_equal_answers_end_it_and_q_less_one_do_not(f: int) -> None:
    cluster = Cluster(f)
    client = cluster.client()
    client.set("a", b"v")
    verified = client.core.verifier.verified_count
    token = client.read("a")
    sent = client.take()
    assert sorted(kinds(sent)) == [(i, "Read") for i in range(3 * f + 1)]
    q = 2 * f + 1
    for node, request in sent[: q - 1]:
        client.deliver(node, request)
    assert token not in client.outcomes
    client.deliver(*sent[q - 1])
    assert value(client.outcomes[token]) == b"v"
    assert client.core.verifier.verified_count == verified, "no signature is checked"
    assert client.core.is_idle


@FS
def test_read_1_asks_one_node_for_the_value(f: int) -> None:
    cluster = Cluster(f)
    client = cluster.client()
    client.read("a")
    asked = [r.values_to - r.values_from for _, r in client.take() if isinstance(r, m.Read)]
    assert sorted(asked) == [0] * (3 * f) + [1]


@FS
def test_read_1_q_absent_is_a_miss_that_q_vouch_for(f: int) -> None:
    cluster = Cluster(f)
    client = cluster.client()
    assert read(client, "a") == Missed(2 * f + 1)
    assert client.core.counts["reads_settled"] == 0


def test_read_1_a_withheld_value_is_fetched_from_another_of_the_q() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    token = client.read("a")
    sent = client.take()
    asked = next(node for node, r in sent if isinstance(r, m.Read) and r.values_to)
    cluster.lies[asked] = on(m.Read, withhold)
    for node, request in sent:
        client.deliver(node, request)
    fetch = client.take()
    assert kinds(fetch) == [(fetch[0][0], "Read")]
    assert fetch[0][0] != asked
    client.deliver(*fetch[0])
    assert value(client.outcomes[token]) == b"v"
    assert client.core.counts["reads_settled"] == 0
    assert client.core.counts["lies_rejected"] == 1
    assert client.core.is_idle


def test_read_1_a_fetch_counts_only_from_the_node_that_was_asked() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    token = client.read("a")
    sent = client.take()
    asked = next(node for node, r in sent if isinstance(r, m.Read) and r.values_to)
    cluster.lies[asked] = on(m.Read, withhold)
    for node, request in sent:
        client.deliver(node, request)
    fetch = client.take()
    garbage = m.ReadReply(fetch[0][1].id, START_US, b"", [])
    client.core.receive(asked, garbage, START_US)
    assert client.take() == []
    client.deliver(*fetch[0])
    assert value(client.outcomes[token]) == b"v"
    assert client.core.counts["reads_settled"] == 0


def test_read_1_a_value_withheld_by_all_who_are_asked_is_read_in_full() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    cluster.lies = dict.fromkeys(range(4), on(m.Read, withhold))
    assert value(read(client, "a")) == b"v"
    assert client.core.counts["reads_settled"] == 1


def test_read_1_a_wrong_value_is_not_returned() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")

    def forge(request: m.Request, reply: m.Reply) -> m.Reply:
        assert isinstance(reply, m.ReadReply)
        reply.values = [v[:-1] + b"x" if v else v for v in reply.values]
        return reply

    cluster.lies[0] = on(m.Read, forge)
    for _ in range(8):  # Whoever is asked first takes turns.
        assert value(read(client, "a")) == b"v"
    assert client.core.counts["lies_rejected"] >= 1


def test_read_1_slots_are_compared_one_by_one() -> None:
    """Nodes that differ on one slot of a batch do not cost the others a second round."""
    cluster = Cluster()
    client = cluster.client()
    for key in ("a", "b", "c"):
        client.set(key, key.encode())
    plant(cluster, 2, craft.craft("b", START_US + 10, b"newer"))
    cluster.down = {3}
    tokens = {key: client.read(key) for key in ("a", "b", "c")}
    client.run()
    cluster.advance(S)
    assert [value(client.outcomes[tokens[key]]) for key in ("a", "c")] == [b"a", b"c"]
    assert value(client.outcomes[tokens["b"]]) in (b"b", b"newer")
    assert client.core.counts["reads_settled"] == 1


def test_read_1_values_left_out_for_size_are_fetched_and_are_no_lie() -> None:
    cluster = Cluster()
    client = cluster.client()
    big = bytes(1 << 20)
    for i in range(18):
        client.write(f"k{i}", big)
    client.run()
    tokens = [client.read(f"k{i}") for i in range(18)]
    client.run()
    cluster.advance(S)
    assert [value(client.outcomes[t]) for t in tokens] == [big] * 18
    assert client.core.counts["lies_rejected"] == 0


@pytest.mark.parametrize("digests", [b"", bytes(31), bytes(33), bytes(64)])
def test_read_1_answers_of_another_shape_do_not_count(digests: bytes) -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    cluster.lies[1] = on(m.Read, lambda request, reply: m.ReadReply(request.id, reply.clock_us, digests, []))
    assert value(read(client, "a")) == b"v"


def test_a_read_joins_another_only_before_that_is_sent() -> None:
    cluster = Cluster()
    client = cluster.client()
    first, second = client.read("a"), client.read("a")
    sent = client.take()
    third = client.read("a")
    again = client.take()
    assert len(sent) == len(again) == 4
    for node, request in sent:
        client.deliver(node, request)
    assert first in client.outcomes
    assert second in client.outcomes
    assert third not in client.outcomes


# --- time ---


def test_read_2_equality_that_is_late_is_read_in_full_after_the_hedge() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    cluster.lies[0] = say_absent
    cluster.down = {3}
    token = client.read("a")
    client.run()
    assert token not in client.outcomes
    assert client.core.counts["reads_settled"] == 0, "the silent one might still make three equal"
    cluster.advance(20_000)
    assert client.core.counts["reads_settled"] == 1
    assert read(client, "a") is not None


def test_read_2_equality_out_of_reach_is_read_in_full_at_once() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    cluster.lies[0] = say_absent
    del cluster.nodes[1].slots.current[slot("a")]
    token = client.read("a")
    client.run()
    assert client.core.counts["reads_settled"] == 1
    assert value(client.outcomes[token]) == b"v"
    assert current(cluster, "a")[1] == b"v", "written back"


@FS
def test_reads_without_q_answers_are_unavailable_after_op_time(f: int) -> None:
    cluster = Cluster(f)
    cluster.down = set(range(f + 1))
    client = cluster.client()
    token = client.read("a")
    client.run()
    cluster.advance(5 * S - 1)
    assert token not in client.outcomes
    cluster.advance(1)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE
    assert client.core.deadline_us is None


@pytest.mark.parametrize("full", [False, True])
def test_answers_after_op_time_do_not_count_however_late_the_driver_wakes(full: bool) -> None:
    """Protocol 1 (R)."""
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    token = client.read("a", full=full)
    sent = client.take()
    for node, request in sent[:2]:
        client.deliver(node, request)
    cluster.now_us += 5 * S
    for node, request in sent[2:]:
        client.deliver(node, request)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE


def test_late_and_doubled_answers_are_harmless() -> None:
    cluster = Cluster()
    client = cluster.client()
    client.set("a", b"v")
    token = client.read("a")
    sent = client.take()
    replies = [(node, cluster.answer(node, request)) for node, request in sent]
    for _ in range(3):
        for node, reply in replies[:2]:
            assert reply is not None
            client.core.receive(node, reply, cluster.now_us)
    client._collect()
    assert token not in client.outcomes, "two nodes, however often they say it, are not three"
    for node, reply in replies * 2:
        assert reply is not None
        client.core.receive(node, reply, cluster.now_us)
    client._collect()
    assert value(client.outcomes[token]) == b"v"


def test_answers_from_outside_the_group_do_not_count() -> None:
    configuration = configuration_of(nodes=9, shards=64)
    cluster = Cluster(configuration=configuration)
    client = cluster.client()
    group = configuration.group_of(slot("a"))
    outsiders = [i for i in range(9) if i not in group.members]
    token = client.read("a")
    sent = client.take()
    assert sorted(node for node, _ in sent) == list(group.members)
    client.deliver(*sent[0])
    for node in outsiders:
        client.core.receive(node, m.ReadReply(sent[0][1].id, START_US, ABSENT, []), START_US)
    client._collect()
    assert token not in client.outcomes


def test_reads_of_another_configuration_end_as_a_mismatch() -> None:
    cluster = Cluster()
    client = cluster.client()
    cluster.nodes = Cluster(configuration=configuration_of(shards=16)).nodes
    outcome = read(client, "a")
    assert isinstance(outcome, Failed)
    assert outcome.kind == MISMATCH


# --- what is settled ---


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
