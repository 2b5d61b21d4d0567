"""A process that changes a counter, a set and a map as fast as it can, and notes on a file what it began (`?`) and what
was acknowledged (`!`). Run as: python -m tests.e2e.many_writers_worker CLUSTER KEY NOTES NAME COUNT."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable

from quorumcache.client import Client
from quorumcache.errors import OutcomeUnknown, Unavailable

AT_ONCE = 32


async def main(cluster: str, key: str, notes: str, name: str, count: int) -> None:
    out = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(mark: str, what: str) -> None:
        os.write(out, f"{mark} {what}\n".encode())

    async with await Client.connect(cluster, key=key) as client:
        counter, members, items = client.counter("count"), client.set_("members"), client.map_("items")

        async def do(what: str, operation: Awaitable[None]) -> None:
            note("?", what)
            try:
                await operation
            except (Unavailable, OutcomeUnknown):
                return
            note("!", what)

        async def lane(number: int) -> None:
            for i in range(number, count, AT_ONCE):
                await do(f"add {name}", counter.add())
                if i % 10 == 0:
                    await do(f"in {name}-{i}", members.add(f"{name}-{i}"))
                    await do(f"set {name}/{number} {i}", items.set(f"{name}/{number}", b"%d" % i))
                if i % 30 == 0:
                    await do(f"out {name}-{i}", members.remove(f"{name}-{i}"))

        await asyncio.gather(*(lane(number) for number in range(AT_ONCE)))
    note("!", "end")


if __name__ == "__main__":
    _, cluster, key, notes, name, count = sys.argv
    asyncio.run(main(cluster, key, notes, name, int(count)))
