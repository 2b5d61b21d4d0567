"""A process that writes behind is killed, at random times, again and again: nothing that it acknowledged is lost."""

import asyncio
import random
import signal
import sys
from pathlib import Path

from quorumcache.client import Client
from quorumcache.client.database import SqliteStore, WriteBehind

KILLS = 3
LINES_MAX = 2000


async def _write_and_die(queue: Path, database: Path, first: int, lines: int) -> dict[str, int]:
    """Run the process until it has acknowledged so many writes; the last number of each key that was."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.client.database.behind_process",
        str(queue),
        str(database),
        str(first),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        acknowledged: dict[str, int] = {}
        for _ in range(lines):
            key, number = (await process.stdout.readline()).split()
            acknowledged[key.decode()] = int(number)
        process.send_signal(signal.SIGKILL)
        # What was said before it died counts, but for a line that was cut short.
        for line in (await process.stdout.read()).split(b"\n")[:-1]:
            key, number = line.split()
            acknowledged[key.decode()] = int(number)
        return acknowledged
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_nothing_acknowledged_is_lost_when_the_process_is_killed(client: Client, tmp_path: Path) -> None:
    queue, database = tmp_path / "queue.db", tmp_path / "app.db"
    acknowledged: dict[str, int] = {}
    for turn in range(KILLS):
        lines = random.randint(1, LINES_MAX)
        acknowledged |= await _write_and_die(queue, database, turn * 1_000_000, lines)
    store = SqliteStore(database)
    cache = WriteBehind(client, store, queue=queue)
    # At once, before anything is saved, and when all is.
    for _ in range(2):
        found = await cache.get_many(acknowledged)
        for key, number in acknowledged.items():
            assert int(found[key]) >= number, f"{key}: {number} was acknowledged, and {found[key]!r} is there"
        await cache.flush(20.0)
    saved = await store.load(list(acknowledged))
    assert {key for key, number in acknowledged.items() if int(saved[key]) < number} == set()
    assert cache.status.dead == 0
    await cache.close()
    await store.close()
