"""Protocol 4, write: two rounds, time, commits, and how writes end (refusals are in test_refusals.py)."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, PUT, TIME_US_MAX, VALUE_BYTES_MAX, stamp_time
from quorumcache.core.outcome import DENIED, MISMATCH, UNAVAILABLE, UNKNOWN, Failed, Written
from tests.cluster import START_US, Cluster, configuration_of, slot
from tests.steps import S, finish, is_quiet, kinds, value_of

FS = pytest.mark.parametrize("f", [1, 2, 3])


@FS
def test_a_write_takes_one_prepare_and_one_commit_for_each_node(f: int) -> None:
    cluster = Cluster(f)
    client = cluster.client()
    token = client.write("a", b"v")
    n, q = 3 * f + 1, 2 * f + 1
    prepares = client.take()
    assert kinds(prepares) == [(i, "Prepare") for i in range(n)]
    for node, request in prepares[: q - 1]:
        client.deliver(node, request)
    assert client.take() == [], "q-1 grants certify nothing"
    client.deliver(*prepares[q - 1])
    commits = client.take()
    assert kinds(commits) == [(i, "Commit") for i in range(n)]
    for node, request in commits[: q - 1]:
        client.deliver(node, request)
    assert token not in client.outcomes, "q-1 answers complete nothing"
    client.deliver(*commits[q - 1])
    assert isinstance(client.outcomes[token], Written)
    assert is_quiet(client)


@FS
def test_a_write_survives_f_silent_nodes_and_resends_to_them_only(f: int) -> None:
    cluster = Cluster(f)
    cluster.down = set(range(f))
    client = cluster.client()
    token = client.write("a", b"v")
    assert isinstance(finish(client, token), Written)
    assert value_of(client, "a") == b"v"


@FS
def test_f_plus_1_silent_nodes_make_a_write_unavailable_after_op_time(f: int) -> None:
    cluster = Cluster(f)
    cluster.down = set(range(f + 1))
    client = cluster.client()
    token = client.write("a", b"v")
    client.run()
    cluster.advance(5 * S - 1)
    assert token not in client.outcomes
    cluster.advance(1)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE
    assert "nothing was written" in outcome.detail
    assert is_quiet(client)


def test_silent_nodes_get_the_same_bytes_again() -> None:
    """Protocol 4, write 2."""
    cluster = Cluster()
    client = cluster.client()
    client.write("a", b"v")
    first = client.take()
    client.deliver(*first[0])
    cluster.now_us += 250_000
    client.core.wake(cluster.now_us)
    again = client.take()
    assert again == first[1:]


def test_a_commit_without_q_answers_is_outcome_unknown() -> None:
    """Protocol 4, write 4."""
    cluster = Cluster()
    client = cluster.client()
    token = client.write("a", b"v")
    for node, request in client.take():
        client.deliver(node, request)
    cluster.down = {0, 1}
    outcome = finish(client, token)
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN
    assert is_quiet(client)


def test_answers_after_op_time_do_not_count_even_where_the_driver_wakes_late() -> None:
    """Protocol 1 (R): an operation counts only answers received within op_time of its first send."""
    cluster = Cluster()
    client = cluster.client()
    token = client.write("a", b"v")
    prepares = client.take()
    for node, request in prepares[:2]:
        client.deliver(node, request)
    cluster.now_us += 5 * S
    client.deliver(*prepares[2])
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNAVAILABLE
    assert not any(isinstance(request, m.Commit) for _, request in client.take())


def test_answers_to_a_commit_after_op_time_do_not_count() -> None:
    """Protocol 1 (R), for the second round."""
    cluster = Cluster()
    client = cluster.client()
    token = client.write("a", b"v")
    for node, request in client.take():
        client.deliver(node, request)
    commits = client.take()
    for node, request in commits[:2]:
        client.deliver(node, request)
    cluster.now_us += 5 * S
    client.deliver(*commits[2])
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN


def test_writes_of_another_configuration_end_as_a_mismatch() -> None:
    cluster = Cluster()
    client = cluster.client()
    other = Cluster(configuration=configuration_of(shards=16))
    cluster.nodes = other.nodes
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Failed)
    assert outcome.kind == MISMATCH


def test_a_node_that_rejects_and_answers_has_one_vote() -> None:
    """A liar that both rejects and answers must not, with one overloaded node, fail an operation."""
    cluster = Cluster()
    client = cluster.client()
    token = client.write("a", b"v")
    prepares = client.take()
    client.deliver(*prepares[3])
    reject = m.Reject(prepares[3][1].id, START_US, m.OVERLOADED)
    client.core.receive(3, reject, START_US)
    client.core.receive(2, reject, START_US)
    client.run()
    assert token not in client.outcomes
    client.deliver(*prepares[0])
    client.deliver(*prepares[1])
    client.run()
    assert isinstance(client.outcomes[token], Written)


def test_an_overloaded_node_is_asked_again() -> None:
    cluster = Cluster()
    cluster.down = {3}
    client = cluster.client()
    token = client.write("a", b"v")
    prepares = client.take()
    client.core.receive(2, m.Reject(prepares[2][1].id, START_US, m.OVERLOADED), START_US)
    for node, request in prepares[:2]:
        client.deliver(node, request)
    assert isinstance(finish(client, token), Written)


def test_grants_that_a_node_did_not_sign_do_not_count() -> None:
    cluster = Cluster()
    client = cluster.client()

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(reply, m.PrepareReply):
            reply.signature = bytes(64)
        return reply

    cluster.lies[0] = lie
    token = client.write("a", b"v")
    for node, request in client.take()[:3]:
        client.deliver(node, request)
    assert client.take() == []
    assert client.core.counts["lies_rejected"] == 1
    cluster.advance(S)
    assert isinstance(client.outcomes[token], Written)


@pytest.mark.parametrize(
    ("codes", "counts"),
    [
        (m.OK, True),
        (m.EVICTED, True),
        (m.REVOKED, False),
        (m.RECOVERING, False),
        (m.COMMIT_FULL, False),
        (m.INVALID, False),
        (77, False),
    ],
)
def test_only_ok_and_evicted_complete_a_write(codes: int, counts: bool) -> None:
    """Protocol 4, write 4."""
    cluster = Cluster()
    cluster.down = {3}
    client = cluster.client()

    def answer(request: m.Request, reply: m.Reply) -> m.Reply:
        return m.CommitReply(request.id, reply.clock_us, bytes((codes,)), []) if type(request) is m.Commit else reply

    cluster.lies[2] = answer
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written) == counts
    assert is_quiet(client)


def test_f_plus_1_revoked_end_a_write_at_once() -> None:
    cluster = Cluster()
    client = cluster.client()

    def answer(request: m.Request, reply: m.Reply) -> m.Reply:
        code = bytes((m.REVOKED,))
        return m.CommitReply(request.id, reply.clock_us, code, []) if type(request) is m.Commit else reply

    cluster.lies[0] = cluster.lies[1] = answer
    token = client.write("a", b"v")
    for node, request in client.take():
        client.deliver(node, request)
    for node, request in client.take()[:2]:
        client.deliver(node, request)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == UNKNOWN


def test_a_recovering_node_may_answer_ok_later() -> None:
    cluster = Cluster()
    cluster.down = {3}
    client = cluster.client()

    def answer(request: m.Request, reply: m.Reply) -> m.Reply:
        if type(request) is m.Commit and cluster.now_us < START_US + S:
            return m.CommitReply(request.id, reply.clock_us, bytes((m.RECOVERING,)), [])
        return reply

    cluster.lies[2] = answer
    assert isinstance(finish(client, client.write("a", b"v")), Written)


def test_writes_behind_one_in_flight_collapse_into_the_newest() -> None:
    cluster = Cluster()
    client = cluster.client()
    first = client.write("a", b"1")
    prepares = client.take()
    behind = [client.write("a", b"%d" % i) for i in range(2, 6)]
    assert client.take() == []
    for node, request in prepares:
        client.deliver(node, request)
    client.run()
    outcomes = [client.outcomes[token] for token in behind]
    assert all(isinstance(outcome, Written) for outcome in [client.outcomes[first], *outcomes])
    assert len({outcome.stamp for outcome in outcomes if isinstance(outcome, Written)}) == 1
    assert value_of(client, "a") == b"5"
    assert client.core.counts["write_attempts"] == 2


def test_a_write_behind_one_that_fails_is_sent_all_the_same() -> None:
    cluster = Cluster()
    cluster.down = {0, 1}
    client = cluster.client()
    first = client.write("a", b"1")
    client.run()
    second = client.write("a", b"2")
    cluster.advance(5 * S)
    assert isinstance(client.outcomes[first], Failed)
    cluster.down = set()
    assert isinstance(finish(client, second), Written)


def test_writes_of_one_turn_are_one_batch() -> None:
    cluster = Cluster()
    client = cluster.client()
    tokens = [client.write(f"k{i}", b"v") for i in range(64)]
    sent = client.take()
    assert kinds(sent) == [(i, "Prepare") for i in range(4)]
    for node, request in sent:
        client.deliver(node, request)
    client.run()
    assert all(isinstance(client.outcomes[t], Written) for t in tokens)


def test_a_wrong_guess_of_cluster_time_does_not_stop_writes() -> None:
    """Protocol 4, write 1: cluster time is what q nodes say; the guess is only for the time before."""
    for guess_us in (3600 * S, -3600 * S):
        cluster = Cluster()
        client = cluster.client()
        client.core.clock._guess_us = client.core.clock.offset_us = guess_us
        nonce = client.core.nonce
        first = finish(client, client.write("a", b"1"))
        second = finish(client, client.write("a", b"2"))
        assert isinstance(first, Written)
        assert isinstance(second, Written)
        assert abs(stamp_time(second.stamp) - cluster.now_us) < 2 * S
        assert (client.core.nonce != nonce) == (guess_us > 0), "times may recur: no stamp may"


@pytest.mark.parametrize(
    ("kind", "value", "expires_at_us", "metadata"),
    [
        (PUT, bytes(VALUE_BYTES_MAX + 1), 0, b""),
        (PUT, b"", -1, b""),
        (PUT, b"", TIME_US_MAX + 1, b""),
        (PUT, b"", 0, bytes(4097)),
        (DELETE, b"v", 0, b""),
        (DELETE, b"", 1, b""),
    ],
)
def test_what_no_node_would_accept_is_the_callers_misuse(
    kind: int, value: bytes, expires_at_us: int, metadata: bytes
) -> None:
    client = Cluster().client()
    with pytest.raises(ValueError):
        client.core.write(slot("a"), kind, value, expires_at_us, "token", metadata)
    assert is_quiet(client)


def test_a_client_without_a_key_cannot_write() -> None:
    client = Cluster().client(None)
    token = client.write("a", b"v")
    client.run()
    outcome = client.outcomes[token]
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED


def test_a_value_is_sealed_anew_for_each_stamp_that_it_is_proposed_under() -> None:
    """Protocol 4, write 2: prepare again with a new batch; what is bound to the stamp has to follow it."""
    cluster = Cluster()
    first, second = cluster.client(), cluster.client("w2")
    for i in range(3):
        assert isinstance(first.set("a", b"%d" % i), Written)
    sealed_for: list[bytes] = []

    def seal(place: bytes, stamp: bytes, value: bytes) -> bytes:
        assert place == slot("a")
        sealed_for.append(stamp)
        return b"sealed for " + stamp + value

    token = ("sealed", 0)
    second.core.write(slot("a"), PUT, b"v", 0, token, seal=seal)
    outcome = finish(second, token)
    assert isinstance(outcome, Written)
    assert len(set(sealed_for)) == len(sealed_for) > 1
    assert outcome.stamp == sealed_for[-1]
    assert value_of(first, "a") == b"sealed for " + outcome.stamp + b"v"
    # A delete has nothing to seal.
    token = ("deleted", 0)
    second.core.write(slot("a"), DELETE, b"", 0, token, seal=seal)
    assert isinstance(finish(second, token), Written)
    assert value_of(first, "a") is None
