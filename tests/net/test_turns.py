"""Fair shares of a node: of its time by keys, of its sessions by keys, of its connections by who says something."""

from __future__ import annotations

import asyncio

import pytest

from quorumcache.net.admission import Admission
from quorumcache.net.turns import BURST_NS, LIGHT_NS, LIGHT_PART, REST_FACTOR, REST_NS_MAX, Shares, Turns


async def test_whoever_has_used_its_turn_waits_and_others_do_not() -> None:
    turns = Turns(quantum_ns=100)
    assert turns.wait(b"a") is None
    turns.used(b"a", 100)
    waiting = [turns.wait(b"a") for _ in range(3)]
    assert all(waiting)
    assert turns.wait(b"b") is None
    order = []
    for number, turn in enumerate(waiting):
        assert turn is not None
        turn.add_done_callback(lambda _, number=number: order.append(number))
    for served in range(1, 4):
        # One session of the key a turn of the loop, in their order; and who comes now is behind them.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order[:served] == list(range(served))
    assert turns.waited_counts == {b"a": 3}
    await asyncio.sleep(0)
    assert turns.wait(b"a") is None


async def test_many_sessions_of_one_key_get_no_more_than_one_of_another() -> None:
    """Two keys that always have work, one in 30 sessions: each session asks, uses a whole turn, and asks again."""
    turns, served = Turns(quantum_ns=100), {b"many": 0, b"one": 0}

    async def session(key: bytes) -> None:
        while sum(served.values()) < 300:
            if (turn := turns.wait(key)) is not None:
                await turn
            served[key] += 1
            turns.used(key, 100)
            await asyncio.sleep(0)

    async with asyncio.timeout(10):
        await asyncio.gather(*(session(b"many") for _ in range(30)), session(b"one"))
    assert served[b"one"] >= 90


async def test_who_gives_up_waiting_keeps_nobody_else() -> None:
    turns = Turns(quantum_ns=1)
    turns.used(b"a", 1)
    first, second = turns.wait(b"a"), turns.wait(b"a")
    assert first is not None
    assert second is not None
    first.cancel()
    async with asyncio.timeout(10):
        await second


def test_a_heavy_key_rests_in_proportion_while_a_light_one_asks_and_only_then() -> None:
    shares, piece_ns = Shares(), BURST_NS + 1
    shares.used(b"heavy", piece_ns, 0)
    assert shares.rest_ns(b"heavy", 0) == 0
    shares.asks(b"light", 0)
    assert shares.rest_ns(b"heavy", 0) == REST_FACTOR * piece_ns
    assert shares.rest_ns(b"light", 0) == 0
    assert shares.rest_ns(b"heavy", REST_FACTOR * piece_ns) == 0
    # Whatever a piece took, and however the machine stood still meanwhile.
    shares.used(b"heavy", 100 * REST_NS_MAX, 1)
    assert shares.rest_ns(b"heavy", 1) == REST_NS_MAX
    # The light one has gone.
    shares.used(b"heavy", piece_ns, LIGHT_NS)
    assert shares.rest_ns(b"heavy", LIGHT_NS) == 0


def test_heavy_keys_rest_together_but_not_for_each_other() -> None:
    shares, piece_ns = Shares(), BURST_NS + 1
    for key in (b"a", b"b"):
        shares.asks(key, 0)
        shares.used(key, piece_ns, 0)
        shares.asks(key, 0)
    assert not shares.rest_ns(b"a", 0)
    assert not shares.rest_ns(b"b", 0)
    shares.asks(b"light", 0)
    assert shares.rest_ns(b"a", 0) == shares.rest_ns(b"b", 0) == REST_FACTOR * piece_ns


def test_who_uses_a_light_part_of_the_time_is_never_heavy_and_a_heavy_one_gets_light_again() -> None:
    shares, now_ns = Shares(), 0
    for _ in range(100):
        now_ns += LIGHT_PART * 1_000_000
        shares.used(b"light", 1_000_000, now_ns)
        assert not shares.is_heavy(b"light", now_ns)
    shares.used(b"light", 10 * BURST_NS, now_ns)
    assert shares.is_heavy(b"light", now_ns)
    assert not shares.is_heavy(b"light", now_ns + 10 * LIGHT_PART * BURST_NS)


async def test_a_heavy_key_waits_out_its_rest_and_a_light_and_an_exempt_one_go_first() -> None:
    now_ns = 0
    turns = Turns(is_exempt=lambda key: key == b"node", clock_ns=lambda: now_ns)
    turns.used(b"node", BURST_NS + 1)
    turns.used(b"heavy", BURST_NS + 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert turns.wait(b"node") is None
    assert turns.wait(b"heavy") is None  # A node that asks is no reason to rest.
    assert turns.wait(b"light") is None
    assert turns.wait(b"node") is None
    turn = turns.wait(b"heavy")
    assert turn is not None
    for _ in range(5):
        await asyncio.sleep(0)
    assert not turn.done()
    assert turns.wait(b"light") is None
    now_ns = REST_FACTOR * (BURST_NS + 1)
    async with asyncio.timeout(10):
        await turn


def test_strangers_get_half_of_the_sessions_a_key_a_quarter_and_nodes_theirs() -> None:
    admission = Admission(8, frozenset({b"node"}))
    for key, count in ((b"", 4), (b"w", 2), (b"x", 2)):
        for _ in range(count):
            assert not admission.refusal(key)
            admission.enter(key)
        assert admission.refusal(key)
    assert "its 8 sessions" in admission.refusal(b"y")
    assert not admission.refusal(b"node")
    admission.leave(b"w")
    assert not admission.refusal(b"y")
    assert "of clients without a key" in admission.refusal(b"")


@pytest.mark.parametrize("ends_first", [True, False])
def test_the_oldest_of_too_many_openings_is_given_up(ends_first: bool) -> None:
    admission, given_up = Admission(8, frozenset(), openings_max=2), []
    admission.opens("a", lambda: given_up.append("a"))
    admission.opens("b", lambda: given_up.append("b"))
    if ends_first:
        admission.opened("a")
    admission.opens("c", lambda: given_up.append("c"))
    assert given_up == ([] if ends_first else ["a"])
    assert admission.given_up_count == len(given_up)
