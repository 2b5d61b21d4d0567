"""A process that writes behind as fast as it can, and says what was acknowledged, until it is killed.

Arguments: the queue's file, the database's file, a first number. One line per acknowledged write: key, number.
"""

from __future__ import annotations

import asyncio
import sys

from quorumcache.client.database import SqliteStore, WriteBehind
from quorumcache.testing import LocalCluster

WRITERS = 20


async def main(queue: str, database: str, first: int) -> None:
    async with LocalCluster(max_skew=0.02, grace=0.05) as cluster:
        client = await cluster.client()
        store = SqliteStore(database)
        cache = WriteBehind(client, store, queue=queue, durability="process", delay=0.005, batch_max=20)
        print("ready", flush=True)

        async def write(writer: int) -> None:
            number = first
            while True:
                number += 1
                await cache.set(f"k{writer}", b"%d" % number)
                print(f"k{writer} {number}", flush=True)

        await asyncio.gather(*(write(writer) for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
