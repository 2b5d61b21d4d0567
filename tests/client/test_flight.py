"""One run per key at a time: errors, cancellation of those who wait, of the run, and writes that overtake it."""

import asyncio

import pytest

from quorumcache.client.flight import Flight, Flights
from quorumcache.errors import Misuse, Unavailable


class Work:
    """Something to run that counts its runs and ends when it is told to."""

    def __init__(self) -> None:
        self.runs = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self, flight: Flight[int]) -> int:
        self.runs += 1
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        return self.runs


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_who_ask_for_a_key_share_one_run_and_the_next_is_a_new_one() -> None:
    flights, work = Flights[int](), Work()
    waiters = [asyncio.create_task(flights.run("k", work)) for _ in range(100)]
    other = asyncio.create_task(flights.run("other", work))
    await _turns()
    assert work.runs == len(flights) == 2
    work.go.set()
    assert set(await asyncio.gather(*waiters)) == {await other} == {2}
    assert not len(flights)
    assert await flights.run("k", work) == 3


async def test_an_error_reaches_all_who_wait_and_is_not_kept() -> None:
    flights = Flights[int]()

    async def fail(flight: Flight[int]) -> int:
        await asyncio.sleep(0)
        raise ZeroDivisionError("once")

    waiters = [asyncio.create_task(flights.run("k", fail)) for _ in range(10)]
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 10
    work = Work()
    work.go.set()
    assert await flights.run("k", work) == 1


async def test_the_run_goes_on_while_anyone_waits_and_ends_with_the_last() -> None:
    flights, work = Flights[int](), Work()
    first, second = (asyncio.create_task(flights.run("k", work)) for _ in range(2))
    await _turns()
    first.cancel()
    await _turns()
    assert not work.ended
    second.cancel()
    await _turns()
    assert (work.runs, work.ended, len(flights)) == (1, 1, 0)
    assert first.cancelled()
    assert second.cancelled()


async def test_who_comes_while_an_abandoned_run_is_cancelled_gets_a_new_one() -> None:
    flights, work = Flights[int](), Work()
    first = asyncio.create_task(flights.run("k", work))
    await _turns()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.go.set()
    assert await flights.run("k", work) == 2


async def test_a_run_that_cancels_itself_is_an_error_and_not_the_waiters_cancellation() -> None:
    flights = Flights[int]()

    async def cancel(flight: Flight[int]) -> int:
        raise asyncio.CancelledError

    with pytest.raises(Unavailable, match="was cancelled"):
        await flights.run("k", cancel)


async def test_a_run_may_answer_before_it_ends() -> None:
    flights, rest, done = Flights[int](), asyncio.Event(), []

    async def work(flight: Flight[int]) -> int:
        flight.answer(7)
        await rest.wait()
        done.append(flight.is_overtaken)
        raise ZeroDivisionError("nobody waits for this any more")

    assert await flights.run("k", work) == 7
    assert await flights.run("k", work) == 7  # The same run.
    flights.overtake("k")
    assert not len(flights)
    rest.set()
    await _turns()
    assert done == [True]


async def test_a_run_that_asks_for_itself_is_refused_rather_than_waiting_for_ever() -> None:
    flights = Flights[int]()

    async def selfish(flight: Flight[int]) -> int:
        return await flights.run("k", selfish)

    async def through_another(flight: Flight[int]) -> int:
        return await flights.run("other", selfish)

    for work in (selfish, through_another):
        with pytest.raises(Misuse, match="asks for that value itself"):
            await flights.run("k", work)
    assert not len(flights)


async def test_an_answer_waits_a_moment_for_what_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flights, kept = Flights[int](), asyncio.Event()

    async def keep() -> None:
        await kept.wait()

    async def work(flight: Flight[int]) -> int:
        await flight.answer_when(7, keep())
        return 7

    monkeypatch.setattr("quorumcache.client.flight.KEEP_S_MAX", 60.0)
    waiter = asyncio.create_task(flights.run("k", work))
    await _turns(20)
    assert not waiter.done()
    kept.set()
    assert await waiter == 7
    kept.clear()
    monkeypatch.setattr("quorumcache.client.flight.KEEP_S_MAX", 0.001)
    assert await flights.run("k", work) == 7
    assert len(flights) == 1  # It goes on.
    kept.set()


async def test_stopping_ends_all_runs_also_overtaken_ones() -> None:
    flights, work = Flights[int](), Work()
    first = asyncio.create_task(flights.run("k", work))
    await _turns()
    flights.overtake("k")
    second = asyncio.create_task(flights.run("k", work))
    await _turns()
    assert work.runs == 2
    await flights.stop()
    assert work.ended == 2
    for waiter in (first, second):
        with pytest.raises(Unavailable):
            await waiter
