"""Protocol 4, write 2 and 3: what a writer makes of refusals of every kind, and overtaken writes."""

from __future__ import annotations

import pytest

from quorumcache.core import messages as m
from quorumcache.core.model import PUT, header_stamp, stamp_time
from quorumcache.core.outcome import DENIED, Failed, Written
from tests import craft
from tests.cluster import START_US, Client, Cluster, key_of, slot
from tests.steps import S, finish, floor_liar, is_quiet, raise_floor, value_of

FS = pytest.mark.parametrize("f", [1, 2, 3])


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


def test_beside_a_liar_a_slow_clock_is_waited_for_with_the_stamp_that_there_is() -> None:
    """Protocol 15, "Patience": cluster time is known to a round trip only, so a stamp of just now may be a hair more
    than max_skew ahead of a correct node. One new stamp after another would be so too, and leave promises at the others
    until these say BUSY (seed 115464)."""
    cluster = Cluster()
    cluster.lies[3] = floor_liar(START_US + 100 * S)
    handle = cluster.nodes[0].handle
    cluster.nodes[0].handle = lambda request, now_us: handle(request, now_us - S)  # type: ignore[method-assign]
    client = cluster.client()
    for node in range(4):
        client.core.clock.report(node, START_US + 60 - (S if node == 0 else 0), cluster.now_us)
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert stamp_time(outcome.stamp) == START_US + 60
    assert client.core.counts["write_attempts"] == 1
    assert cluster.now_us < START_US + S // 10


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


def test_f_denied_do_not_fail_a_write_that_others_refuse_for_better_reasons() -> None:
    """Protocol 4, write 2: only f+1 DENIED do."""
    cluster = Cluster()
    raise_floor(cluster, 2, "a", START_US + 10)

    def deny(request: m.Request, reply: m.Reply) -> m.Reply:
        if isinstance(request, m.Prepare):
            return m.PrepareReply(request.id, reply.clock_us, b"\x00", b"", [m.Refusal(0, m.DENIED, detail="no")])
        return reply

    cluster.lies[3] = deny
    client = cluster.client()
    assert isinstance(finish(client, client.write("a", b"v")), Written)


def test_a_floor_that_no_correct_node_could_have_is_not_believed_however_often_it_is_claimed() -> None:
    """Protocol 4, write 2: from the second attempt on, claims count up to cluster time + 3 max_skew only."""
    cluster = Cluster()
    raise_floor(cluster, 2, "a", START_US + S)
    low, high = floor_liar(START_US), floor_liar(START_US + 100 * S)
    client = cluster.client()
    cluster.lies[3] = lambda request, reply: (low if client.core.counts["write_attempts"] == 1 else high)(
        request, reply
    )
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert client.core.counts["write_attempts"] == 3, "protocol 5.6: at most two attempts beyond waiting for clocks"
    assert stamp_time(outcome.stamp) == START_US + S + 1


@pytest.mark.parametrize("fast_us", [0, 300_000])
def test_a_liar_does_not_make_a_write_that_is_ahead_try_one_stamp_after_another(fast_us: int) -> None:
    """Where a quorum is only AHEAD, the same bytes go again: each new stamp would leave a promise at fast nodes."""
    cluster = Cluster()
    cluster.lies[3] = floor_liar(START_US + 100 * S)
    answer = cluster.nodes[0].handle
    cluster.nodes[0].handle = lambda request, now_us: answer(request, now_us + fast_us)  # type: ignore[method-assign]
    client = cluster.client()
    client.set("warm", b"up")
    client.core.note_ahead(slot("a"), START_US + S + 200_000, START_US)
    before = client.core.counts["write_attempts"]
    outcome = finish(client, client.write("a", b"v"))
    assert isinstance(outcome, Written)
    assert client.core.counts["write_attempts"] == before + 1


def test_a_write_below_what_the_first_answers_showed_is_not_overtaken() -> None:
    """Protocol 4, write 3: V may have been complete when this write began, if its stamp did not exceed everything in q
    informative answers to the first attempt."""
    cluster = Cluster()
    cluster.down = {3}
    configuration = cluster.configuration

    def plant(offset_us: int) -> None:
        entry = craft.entry(configuration, craft.craft("a", START_US + offset_us, b"theirs", writer="w2"))
        cluster.nodes[0].handle(craft.commit(configuration, entry), cluster.now_us)

    plant(10)
    raise_floor(cluster, 2, "a", START_US + 1000)
    client = cluster.client()
    token = client.write("a", b"mine")
    for offset_us in (20, 30):
        for node, request in client.take():
            client.deliver(node, request)
        cluster.now_us += 250_000 if offset_us == 20 else 0
        plant(offset_us)
        client.core.wake(cluster.now_us)
    outcome = finish(client, token)
    assert isinstance(outcome, Written)
    assert not outcome.overtaken
