"""Protocol 4, write: two rounds, refusals of every kind, overtaken writes, and how writes end."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import DELETE, PUT, TIME_US_MAX, VALUE_BYTES_MAX, header_stamp, stamp_time
from quorumcache.core.outcome import DENIED, MISMATCH, UNAVAILABLE, UNKNOWN, Failed, Found, Missed, Written
from tests import craft
from tests.cluster import START_US, Client, Cluster, configuration_of, key_of, slot

S = 1_000_000
FS = pytest.mark.parametrize("f", [1, 2, 3])


def value_of(client: Client, key: str) -> bytes | None:
    """The value read, None for a miss."""
    token = client.read(key)
    client.run()
    client.cluster.advance(S)
    outcome = client.outcomes[token]
    assert isinstance(outcome, Found | Missed), outcome
    return outcome.salted[16:] if isinstance(outcome, Found) else None


def finish(client: Client, token: object, within_us: int = 6 * S) -> object:
    """Run until the operation ended, and return how."""
    client.run()
    for _ in range(within_us // 10_000):
        if token in client.outcomes:
            return client.outcomes[token]
        client.cluster.advance(10_000)
    raise AssertionError("the operation never ended")


def is_quiet(client: Client) -> bool:
    """Whether nothing is left of any operation."""
    client.run()
    core = client.core
    return core.is_idle and not core._delayed and not core._routes and core.deadline_us is None


def raise_floor(cluster: Cluster, node: int, key: str, time_us: int) -> None:
    slots = cluster.nodes[node].slots
    slots.raise_floor(slots.shard(slot(key)), time_us)


def kinds(sent: list[tuple[int, m.Request]]) -> list[tuple[int, str]]:
    return [(node, type(request).__name__) for node, request in sent]


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


# --- refusals ---


@FS
def test_stale_nodes_make_the_next_attempt_exceed_what_they_proved(f: int) -> None:
    cluster = Cluster(f)
    other, client = cluster.client("w2"), cluster.client("w1")
    other.core.clock._guess_us = 0
    cluster.now_us += 500_000
    other.set("a", b"theirs")
    cluster.now_us -= 400_000
    token = client.write("a", b"mine")
    outcome = finish(client, token)
    assert isinstance(outcome, Written)
    assert not outcome.overtaken
    assert stamp_time(outcome.stamp) == START_US + 500_001
    assert value_of(other, "a") == b"mine"


def test_unproven_stale_is_ignored_and_costs_nothing_but_another_attempt() -> None:
    """Protocol 4, write 2: unproven claims are ignored."""
    cluster = Cluster()

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            return m.PrepareReply(request.id, reply.clock_us, b"\x00", b"", [m.Refusal(0, m.STALE)])
        return reply

    cluster.lies[3] = lie
    client = cluster.client()
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) == START_US, "A, B and C granted: the liar is not even heard"


@pytest.mark.parametrize("what", ["another slot", "a lower stamp", "no certificate"])
def test_a_stale_proof_that_proves_nothing_is_a_lie(what: str) -> None:
    cluster = Cluster()
    configuration = cluster.configuration
    crafted = craft.craft("b" if what == "another slot" else "a", START_US + (S if what != "a lower stamp" else -S))
    proof = craft.entry(configuration, crafted)
    if what == "no certificate":
        proof.certificate = craft.certificate(configuration, [craft.craft("a", START_US)])

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            return m.PrepareReply(request.id, reply.clock_us, b"\x00", b"", [m.Refusal(0, m.STALE, 0, proof)])
        return reply

    cluster.lies[3] = lie
    raise_floor(cluster, 2, "a", START_US)  # So that A and B alone grant, and the liar is listened to.
    client = cluster.client()
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) < START_US + S
    assert client.core.counts["lies_rejected"] >= 1


@FS
def test_f_plus_1_floors_are_believed_up_to_the_f_plus_1st(f: int) -> None:
    """Protocol 4, write 2: above the (f+1)-th highest claimed floor."""
    cluster = Cluster(f)
    for node in range(f + 1):
        raise_floor(cluster, node, "a", START_US + 1000 + node)
    client = cluster.client()
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) == START_US + 1001, "above the lowest of them: one of f+1 is correct"


def test_one_liar_cannot_raise_the_first_retry_with_a_floor() -> None:
    cluster = Cluster()
    cluster.lies[3] = floor_liar(START_US + 2 * S)
    raise_floor(cluster, 2, "a", START_US + 50)
    client = cluster.client()
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) == START_US + 51, "the second highest claim, not the liar's"


def floor_liar(floor_us: int):  # type: ignore[no-untyped-def]
    """Claims a floor for whatever is prepared."""

    def lie(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            refusals = [m.Refusal(i, m.BELOW_FLOOR, floor_us) for i in range(len(request.headers))]
            return m.PrepareReply(request.id, reply.clock_us, bytes((len(refusals) + 7) // 8), b"", refusals)
        return reply

    return lie


@pytest.mark.parametrize("claim_us", [2 * S, 3 * S, 3 * S + 1, 100 * S, (1 << 62) - START_US])
def test_a_high_floor_at_one_node_and_a_liar_delay_a_write_but_do_not_stop_it(claim_us: int) -> None:
    """Protocol 4, write 2: from the second attempt on, above any claimed floor up to cluster time + 3 max_skew."""
    cluster = Cluster()
    cluster.lies[3] = floor_liar(START_US + claim_us)
    raise_floor(cluster, 2, "a", START_US + S)
    client = cluster.client()
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) <= START_US + 3 * S + 1
    assert client.core.counts["write_attempts"] <= 3, "protocol 5.6: at most two attempts beyond waiting for clocks"
    assert value_of(client, "a") == b"v"


def test_ahead_alone_waits_and_sends_the_same_bytes_again() -> None:
    """Protocol 4, write 2."""
    cluster = Cluster()
    client = cluster.client()
    client.core.note_ahead(slot("a"), START_US + 1_500_000, START_US)
    token = client.write("a", b"v")
    first = client.take()
    for node, request in first:
        client.deliver(node, request)
    assert client.take() == []
    cluster.now_us += 500_001
    client.core.wake(cluster.now_us)
    assert client.take() == first
    assert isinstance(finish(client, token), Written)
    assert client.core.counts["write_attempts"] == 1


def test_busy_waits_longer_each_time_and_leaves_no_promises_behind() -> None:
    """Protocol 3, prepare rule 7: a new stamp for each try would fill the nodes that granted as well."""
    cluster = Cluster()
    client = cluster.client()
    asked_at: list[int] = []

    def busy(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare) and cluster.now_us < START_US + 2 * S:
            asked_at.append(cluster.now_us)
            return m.PrepareReply(request.id, reply.clock_us, b"\x00", b"", [m.Refusal(0, m.BUSY)])
        return reply

    cluster.lies[2] = cluster.lies[3] = busy
    token = client.write("a", b"v")
    assert isinstance(finish(client, token), Written)
    gaps = [b - a for a, b in zip(asked_at[::2], asked_at[2::2], strict=False)]
    assert gaps == sorted(gaps)
    assert len(gaps) < 12
    assert client.core.counts["write_attempts"] == 1


@FS
def test_f_plus_1_denied_fail_and_f_do_not(f: int) -> None:
    """Protocol 4, write 2: f+1 DENIED fail with PermissionDenied."""

    def deny(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            return m.PrepareReply(request.id, reply.clock_us, b"\x00", b"", [m.Refusal(0, m.DENIED, detail="no")])
        return reply

    cluster = Cluster(f)
    client = cluster.client()
    for node in range(f):
        cluster.lies[node] = deny
    assert isinstance(client.set("a", b"v"), Written)
    cluster.lies[f] = deny
    outcome = finish(client, client.write("a", b"w"))
    assert outcome == Failed(DENIED, "no")
    assert is_quiet(client)


def test_one_denied_header_of_a_batch_leaves_the_others_alone() -> None:
    cluster = Cluster()
    client = cluster.client()
    good = client.write("a", b"v")
    bad = ("write", "bad")
    client.core.write(slot("b"), PUT, b"v", 0, bad, b"metadata that a register must not have")
    assert isinstance(finish(client, good), Written)
    outcome = client.outcomes[bad]
    assert isinstance(outcome, Failed)
    assert outcome.kind == DENIED


def test_one_refusal_with_proof_and_one_silent_node_end_with_the_grace_time() -> None:
    """Section 11, grace in prepare: neither q grants nor more than f refusals; the writer would wait for ever."""
    cluster = Cluster()
    raise_floor(cluster, 2, "a", START_US + 10)
    cluster.down = {3}
    client = cluster.client()
    token = client.write("a", b"v")
    client.run()
    cluster.advance(199_999)
    assert client.core.counts["write_attempts"] == 1
    cluster.advance(2)
    assert client.core.counts["write_attempts"] == 2
    assert isinstance(finish(client, token), Written)


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


# --- commit ---


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


# --- overtaken ---


def overtake(cluster: Cluster, client: Client, rival: Client) -> object:
    """Bring a write of `client` to its second refusal by a newer entry; its token."""
    token = client.write("a", b"mine")
    for wait_us in (400_000, 400_000):
        prepares = client.take()
        cluster.now_us += wait_us
        assert isinstance(rival.set("a", b"theirs"), Written)
        for node, request in prepares:
            client.deliver(node, request)
        client.core.wake(cluster.now_us)
    return token


def test_a_write_overtaken_twice_completes_the_other_entry_and_is_ordered_before_it() -> None:
    """Protocol 4, write 3; section 11: a writer 100 ms away meets STALE for ever against one 2 ms away."""
    cluster = Cluster()
    client, rival = cluster.client("w1"), cluster.client("w2")
    token = overtake(cluster, client, rival)
    outcome = finish(client, token)
    assert isinstance(outcome, Written)
    assert outcome.overtaken
    assert value_of(client, "a") == b"theirs"
    assert is_quiet(client)


def test_a_write_refused_once_is_not_overtaken_yet() -> None:
    """Protocol 4, write 3: what refused the first attempt may have been complete before the write began."""
    cluster = Cluster()
    client, rival = cluster.client("w1"), cluster.client("w2")
    cluster.now_us += 100
    rival.set("a", b"theirs")
    cluster.now_us -= 100
    outcome = finish(client, client.write("a", b"mine"))
    assert isinstance(outcome, Written)
    assert not outcome.overtaken


@pytest.mark.parametrize("why", ["value not to be had", "revoked"])
def test_an_overtaken_write_goes_on_where_the_other_entry_is_not_to_be_had_or_stored(why: str) -> None:
    """Protocol 4, write 3: should V not be had, or be refused (REVOKED), go on as in step 2."""
    cluster = Cluster()
    client, rival = cluster.client("w1"), cluster.client("w2")
    token = overtake(cluster, client, rival)

    def hide(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.ReadFull) and why == "value not to be had":
            return m.ReadFullReply(request.id, reply.clock_us, [m.FullAnswer(None, 0)])
        if isinstance(request, m.Commit) and why == "revoked" and request.bundles[0].certificate.writer != own:
            return m.CommitReply(request.id, reply.clock_us, bytes((m.REVOKED,)), [])
        return reply

    own = key_of("w1").public
    cluster.lies = dict.fromkeys(range(4), hide)
    outcome = finish(client, token)
    assert isinstance(outcome, Written)
    assert not outcome.overtaken
    cluster.lies = {}
    assert value_of(client, "a") == b"mine"


# --- one client ---


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


def test_no_stamp_is_used_twice_however_many_slots_are_ahead() -> None:
    cluster = Cluster()
    client = cluster.client()
    nonce = client.core.nonce
    for i in range(4096):
        client.core.note_ahead(slot(f"k{i}"), START_US + S, START_US)
    assert client.core.nonce == nonce
    client.core.note_ahead(slot("one more"), START_US + S, START_US)
    assert client.core.nonce != nonce
    assert len(client.core._ahead) <= 4096


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


def test_new_attempts_have_new_salts_and_stamps() -> None:
    """Section 11, salt: with the old one, whoever collects the missing grants could commit the first attempt too."""
    cluster = Cluster()
    raise_floor(cluster, 2, "a", START_US + 10)
    raise_floor(cluster, 3, "a", START_US + 10)
    client = cluster.client()
    client.write("a", b"v")
    first = client.take()
    for node, request in first:
        client.deliver(node, request)
    client.core.wake(cluster.now_us)
    second = client.take()
    headers = [request.headers[0] for _, request in (first[0], second[0]) if isinstance(request, m.Prepare)]
    assert headers[0][51:83] != headers[1][51:83], "the value's hash, by its salt"
    assert header_stamp(headers[0]) < header_stamp(headers[1])
