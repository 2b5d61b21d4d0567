"""Rule: operations that come while a batch is under way leave together once it has ended, or a moment later; nobody
waits who is alone, and a full batch never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from quorumcache.client import Client
from quorumcache.client.pacing import FULL_BATCH, Pace


class _Timer:
    def __init__(self, at_s: float, call: Callable[[], None]) -> None:
        self.at_s, self.call, self.is_cancelled = at_s, call, False

    def cancel(self) -> None:
        self.is_cancelled = True


class _Loop:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[_Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> _Timer:
        self.timers.append(_Timer(self.now_s + delay_s, call))
        return self.timers[-1]

    def go_on(self, seconds: float) -> None:
        self.now_s += seconds
        due = [timer for timer in self.timers if timer.at_s <= self.now_s + 1e-9 and not timer.is_cancelled]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.call()


class _Batch:
    finished = False


class _Paced:
    def __init__(self, hold_s: float = 0.001) -> None:
        self.loop = _Loop()
        self.wakes = 0
        self.pace = Pace(cast(asyncio.AbstractEventLoop, self.loop), hold_s, self._wake)

    def _wake(self) -> None:
        self.wakes += 1


def test_who_is_alone_does_not_wait() -> None:
    paced = _Paced()
    assert not paced.pace.holds(1)
    batch = _Batch()
    paced.pace.sent(batch)
    batch.finished = True
    assert not paced.pace.holds(1)


def test_what_comes_while_a_batch_is_under_way_leaves_when_that_has_ended() -> None:
    paced, batch = _Paced(), _Batch()
    paced.pace.sent(batch)
    paced.loop.go_on(0.0002)
    assert paced.pace.holds(1)
    paced.pace.release()  # Something else ended.
    assert paced.wakes == 0
    assert paced.pace.is_holding
    batch.finished = True
    paced.pace.release()
    assert paced.wakes == 1
    assert not paced.pace.is_holding
    assert not paced.pace.holds(2)
    paced.loop.go_on(1.0)
    assert paced.wakes == 1, "no timer is left"


def test_nobody_waits_longer_than_a_moment_after_the_batch_before() -> None:
    paced = _Paced()
    paced.pace.sent(_Batch())
    paced.loop.go_on(0.0008)
    assert paced.pace.holds(1)
    paced.loop.go_on(0.0001)
    assert paced.pace.holds(2)
    assert paced.wakes == 0
    paced.loop.go_on(0.0002)
    assert paced.wakes == 1
    assert not paced.pace.holds(2), "it is not held again"
    paced.pace.sent(_Batch())
    paced.loop.go_on(0.002)
    assert not paced.pace.holds(1), "whoever comes later than that does not wait at all"


def test_a_full_batch_does_not_wait() -> None:
    paced = _Paced()
    paced.pace.sent(_Batch())
    assert paced.pace.holds(FULL_BATCH - 1)
    assert not paced.pace.holds(FULL_BATCH)


def test_nothing_is_woken_after_the_end() -> None:
    paced = _Paced()
    paced.pace.sent(_Batch())
    assert paced.pace.holds(1)
    paced.pace.stop()
    paced.loop.go_on(1.0)
    assert paced.wakes == 0


async def test_tasks_that_ask_at_different_times_come_to_share_their_batches(client: Client) -> None:
    await asyncio.gather(*(client.set(f"k{i}", b"v") for i in range(16)))
    core, batches = client._engine.core, 0
    client._engine._reads._hold_s = 5.0  # However slow the machine is.
    flush_reads = core.flush_reads

    def counted(now_us: int) -> None:
        nonlocal batches
        batches += 1
        flush_reads(now_us)

    core.flush_reads = counted  # type: ignore[method-assign]

    async def ask(i: int) -> None:
        for _ in range(i):
            await asyncio.sleep(0)
        for _ in range(20):
            assert await client.get(f"k{i}") == b"v"

    await asyncio.gather(*(ask(i) for i in range(16)))
    assert batches <= 20 + 16, "they came into step"
