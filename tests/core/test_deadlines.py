"""Protocol 1, op_time (R): an operation counts only answers received within op_time of its first send."""

import pytest

from quorumcache.core.outcome import UNAVAILABLE, UNKNOWN, Failed, Found, Written
from tests.cluster import Cluster, slot

OP_TIME_US = 5_000_000


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_a_read_counts_no_answer_after_op_time_even_if_its_timer_is_late(cluster: Cluster) -> None:
    client = cluster.client()
    client.set("k", b"v")
    token = client.read("k")
    sent = client.take()
    cluster.now_us += OP_TIME_US
    for node, request in sent:
        client.deliver(node, request)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE
    assert client.core.is_idle


def test_a_full_read_counts_no_answer_after_op_time(cluster: Cluster) -> None:
    client = cluster.client()
    client.set("k", b"v")
    token = client.read("k", full=True)
    sent = client.take()
    cluster.now_us += OP_TIME_US
    for node, request in sent:
        client.deliver(node, request)
    assert isinstance(client.outcomes[token], Failed)
    assert client.core.is_idle


def test_a_write_counts_no_grant_after_op_time(cluster: Cluster) -> None:
    client = cluster.client()
    token = client.write("k", b"v")
    sent = client.take()
    cluster.now_us += OP_TIME_US
    for node, request in sent:
        client.deliver(node, request)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE
    assert client.take() == []


def test_a_commit_confirmed_after_op_time_has_an_unknown_outcome(cluster: Cluster) -> None:
    client = cluster.client()
    token = client.write("k", b"v")
    for node, request in client.take():
        client.deliver(node, request)
    commits = client.take()
    cluster.now_us += OP_TIME_US
    for node, request in commits:
        client.deliver(node, request)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN
    # It did take effect: that is what "unknown" means.
    assert isinstance(client.get("k"), Found)


def test_an_answer_just_within_op_time_counts(cluster: Cluster) -> None:
    client = cluster.client()
    token = client.write("k", b"v")
    sent = client.take()
    cluster.now_us += OP_TIME_US - 1
    for node, request in sent:
        client.deliver(node, request)
    client.run()
    assert isinstance(client.outcomes[token], Written)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_abandon_ends_every_operation_at_any_stage(cluster: Cluster, stage: int) -> None:
    client = cluster.client()
    client.set("k", b"v")
    tokens = [client.write("k", b"w"), client.write("j", b"w"), client.read("k"), client.read("k", full=True)]
    if stage >= 1:
        sent = client.take()
        tokens.append(client.write("k", b"x"))  # collapses behind the one in flight
        tokens.append(client.read("j"))
        if stage >= 2:
            for node, request in sent:
                client.deliver(node, request)
    client.core.abandon(cluster.now_us)
    client.take()
    assert set(tokens) <= set(client.outcomes)
    assert client.core.is_idle
    assert slot("k") not in client.core._in_flight
