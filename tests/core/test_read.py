"""Protocol 4, read: the fast path, and how reads end in time."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import ABSENT
from quorumcache.core.outcome import MISMATCH, UNAVAILABLE, Failed, Missed
from tests import craft
from tests.cluster import START_US, Cluster, configuration_of, slot
from tests.reads import FS, S, current, kinds, on, plant, read, say_absent, value, withhold

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
