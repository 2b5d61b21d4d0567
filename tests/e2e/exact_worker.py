"""A process that counts, takes a lock, or races for fresh keys, and notes on a file what it began and how that ended.

Run as: python -m tests.e2e.exact_worker CLUSTER KEY NOTES NAME WHAT FIRST END. A line is what it is of, a mark, the
time (nanoseconds of the machine's monotonic clock) and what came of it. Marks: `?` begun, `!` acknowledged, `-` lost to
another, `x` failed for certain, `u` of unknown outcome; of locks `take` (with until when it is certainly held) and
`leave`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

from quorumcache.client import Client
from quorumcache.errors import OutcomeUnknown, Unavailable

LANES = 4
LOCK_S = 2.0
#: Of ten takings one is long, so that holders are seen, and killed, while they hold it.
LONG_S, LONG_AT = 0.2, 5

Note = Callable[[int, str, object], None]


async def _tried(note: Note, number: int, operation: Awaitable[int | None]) -> None:
    note(number, "?", "")
    try:
        result = await operation
    except OutcomeUnknown:
        note(number, "u", "")
    except Unavailable:
        note(number, "x", "")
    else:
        note(number, "-" if result is None else "!", "" if result is None else result)


async def _count(client: Client, note: Note, first: int, end: int) -> None:
    for number in range(first, end):
        await _tried(note, number, client.incr("count"))


async def _race(client: Client, note: Note, first: int, end: int, name: str) -> None:
    async def lane(begin: int) -> None:
        for number in range(begin, end, LANES):
            await _tried(note, number, client.add(f"race-{number}", name.encode()))

    await asyncio.gather(*(lane(first + i) for i in range(LANES)))


async def _lock(client: Client, note: Note, first: int, end: int) -> None:
    lock = client.lock("lock", LOCK_S)
    number = first
    while number < end:
        try:
            token = await lock.acquire()
        except (Unavailable, OutcomeUnknown) as error:
            note(number, "u" if isinstance(error, OutcomeUnknown) else "x", "")
            continue
        now = time.monotonic_ns()  # Before `left` is asked: what is noted is never later than the end.
        note(number, "take", f"{token} {now + int(lock.left * 1e9)}")
        await asyncio.sleep(LONG_S if number % 10 == LONG_AT else 0.001)
        note(number, "leave", token)
        number += 1
        try:
            await lock.release()
        except (Unavailable, OutcomeUnknown) as error:
            note(number, "u" if isinstance(error, OutcomeUnknown) else "x", "")


async def main(cluster: str, key: str, notes: str, name: str, what: str, first: int, end: int) -> None:
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(number: int, mark: str, result: object) -> None:
        os.write(out, f"{number} {mark} {time.monotonic_ns()} {result}\n".encode())

    async with await Client.connect(cluster, key=key, namespace="exact") as client:
        if what == "count":
            await _count(client, note, first, end)
        elif what == "lock":
            await _lock(client, note, first, end)
        else:
            await _race(client, note, first, end, name)


if __name__ == "__main__":
    _, cluster, key, notes, name, what, first, end = sys.argv
    asyncio.run(main(cluster, key, notes, name, what, int(first), int(end)))
