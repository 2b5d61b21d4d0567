"""Write-behind under whatever may happen: failing caches and databases, crashes, cancellation, a second process.

After all that, when everything works again: each acknowledged write was given to the database, each process's writes of
a key in their order, and the cache shows nothing but what the database holds.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quorumcache.client.database import WriteBehind
from quorumcache.errors import QuorumCacheError, StoreFailed
from tests.client.database.fake_client import FAILURES, FakeCache, FakeClient
from tests.client.database.stores import FakeStore

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
KEYS = ("a", "b")


class Process:
    """One process with its queue; it can crash and start again."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.path = world.directory / f"queue{number}.db"
        self.client = FakeClient(world.cache)
        self.tasks: list[asyncio.Task[None]] = []
        self.issued: dict[str, list[bytes]] = {key: [] for key in KEYS}
        self.acknowledged: list[tuple[str, bytes]] = []
        self.start()

    def start(self) -> None:
        self.behind = WriteBehind(
            self.client.as_client(), self.world.store, queue=self.path, delay=0.0, batch_max=3, durability="process"
        )

    def write(self, key: str, deleted: bool) -> None:
        if deleted:
            self.spawn(self.behind.delete(key))  # It has no value to know it by, but takes part.
            return
        value = b"%d" % next(self.world.numbers)
        self.issued[key].append(value)

        async def write() -> None:
            await self.behind.set(key, value)
            self.acknowledged.append((key, value))

        self.spawn(write())

    def read(self, key: str) -> None:
        async def read() -> None:
            try:
                await self.behind.get(key)
            except StoreFailed:
                pass  # As it is told to.

        self.spawn(read())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))

    async def crash(self) -> None:
        """Stop at once, wherever everything is; then start again."""
        for task in self.tasks:
            task.cancel()
        behind = self.behind
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.tasks.clear()
        behind._flusher._task.cancel()
        await asyncio.gather(behind._flusher._task, return_exceptions=True)
        await behind._flights.stop()
        await behind._repairs.stop()
        await behind._queue.close()
        self.start()


class World:
    def __init__(self, directory: Path, processes: int) -> None:
        self.directory = directory
        self.cache = FakeCache()
        self.store = FakeStore()
        self.numbers = itertools.count(1)
        self.processes = [Process(self, number) for number in range(processes)]

    async def do(self, step: tuple[Any, ...]) -> None:
        kind, who, *rest = step
        process = self.processes[who % len(self.processes)]
        if kind == "write":
            process.write(*rest)
        elif kind == "read":
            process.read(*rest)
        elif kind == "cache":
            process.client.failure = rest[0]
        elif kind == "database":
            self.store.save_error = rest[0] and StoreFailed("told to fail")
            self.store.load_error = self.store.save_error
        elif kind == "crash":
            await process.crash()
        elif kind == "cancel":
            if process.tasks:
                process.tasks[-1].cancel()
        else:
            await asyncio.sleep(0.0 if rest[0] < 3 else 0.001 * rest[0])

    async def calm(self) -> None:
        """Everything works again, and what waits is done."""
        self.store.save_error = self.store.load_error = None
        for process in self.processes:
            process.client.failure = ""
        for process in self.processes:
            await asyncio.gather(*process.tasks, return_exceptions=True)
            await process.behind._queue.idle()
            await process.behind.flush(20.0)
        for process in self.processes:
            await process.behind._repairs.finish()
        self.cache.deliver()

    def check(self) -> None:
        saves = [change for save in self.store.saves for change in save]
        given = [(change.key, change.value) for change in saves]
        for process in self.processes:
            for written in process.acknowledged:
                assert written in given, f"{written} was acknowledged, and the database never saw it"
            for key, issued in process.issued.items():
                order = {value: place for place, value in enumerate(issued)}
                first_seen = [
                    value for value in dict.fromkeys(value for k, value in given if k == key) if value in order
                ]
                places = [order[value] for value in first_seen]
                assert places == sorted(places), f"writes of {key} came out of order: {first_seen}"
        for key, value in self.cache.rows.items():
            assert value == self.store.rows.get(key, (0, None))[1], f"the cache shows an old value of {key!r}"


who, keys = st.integers(0, 1), st.sampled_from(KEYS)
STEPS = {
    "write": st.tuples(st.just("write"), who, keys, st.booleans()),
    "read": st.tuples(st.just("read"), who, keys),
    "cache": st.tuples(st.just("cache"), who, st.sampled_from(FAILURES)),
    "database": st.tuples(st.just("database"), who, st.booleans()),
    "crash": st.tuples(st.just("crash"), who),
    "cancel": st.tuples(st.just("cancel"), who),
    "turns": st.tuples(st.just("turns"), who, st.integers(0, 6)),
}


async def _run(steps: list[tuple[Any, ...]], processes: int) -> None:
    # In memory where that can be: the disk is not what is tested here.
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        world = World(Path(directory), processes)
        for step in steps:
            await world.do(step)
        await world.calm()
        world.check()
        for process in world.processes:
            await process.behind.close()


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (("flusher", "RETRY_S"), ("repairs", "DELAY_S")):
            patch.setattr(f"quorumcache.client.database.{module}.{name}_MIN", 0.0005)
            patch.setattr(f"quorumcache.client.database.{module}.{name}_MAX", 0.002)
        yield


@pytest.mark.parametrize("processes", [1, 2])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_nothing_acknowledged_is_lost_and_the_cache_ends_as_the_database(processes: int, data: st.DataObject) -> None:
    """With two processes nobody reads: what a reader loads may come late into the cache, and stays for its ttl."""
    kinds = [step for kind, step in STEPS.items() if processes == 1 or kind != "read"]
    steps = data.draw(st.lists(st.one_of(*kinds), max_size=40))
    try:
        asyncio.run(_run(steps, processes))
    except QuorumCacheError as error:
        raise AssertionError(f"{type(error).__name__}: {error}") from error
