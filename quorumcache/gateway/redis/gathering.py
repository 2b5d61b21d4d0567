"""What many connections ask for, gathered into few batches: while one is on its way, what comes waits for the next.

Each connection alone has one small request at a time, and a frame to every node for each would cost most of the time
there is. Nobody waits who is alone, nor for longer than a moment: a batch that takes long holds up nobody. It must not
know what operations are for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from quorumcache.client import Client
from quorumcache.client.mixed import Operation, ReadSlot, run_mixed
from quorumcache.core.outcome import Outcome

#: How long operations wait at most for the batch before them to come back.
READS_S_MAX: Final = 0.002
WRITES_S_MAX: Final = 0.006


class Lane:
    """One stream of batches over a client. All that `run` in the same turn of the loop, while the way is free, leave
    together; who comes while they are on their way leaves when they are back."""

    def __init__(self, client: Client, wait_s_max: float) -> None:
        self._client = client
        self._wait_s_max = wait_s_max
        self._loop = asyncio.get_running_loop()
        self._is_open = False
        self._under_way = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def run(self, parts: Sequence[Operation]) -> list[Outcome]:
        """As `run_mixed`."""
        if not self._is_open:
            if not self._under_way:
                self._open()
            else:
                if self._timer is None:
                    self._timer = self._loop.call_later(self._wait_s_max, self._open)
                turn = self._loop.create_future()
                self._waiting.append(turn)
                await turn
        self._under_way += 1
        try:
            return await run_mixed(self._client, parts)
        finally:
            self._under_way -= 1
            if not self._under_way and self._waiting:
                self._open()

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
        if not self._is_open:
            self._is_open = True
            # Behind those that were woken: they all still leave in this turn.
            self._loop.call_soon(self._close)

    def _close(self) -> None:
        self._is_open = False


class Gathering:
    """Reads and writes in lanes of their own: a write takes several times as long."""

    def __init__(self, client: Client) -> None:
        self._reads = Lane(client, READS_S_MAX)
        self._writes = Lane(client, WRITES_S_MAX)

    async def run(self, parts: Sequence[Operation]) -> list[Outcome]:
        """As `run_mixed`."""
        lane = self._writes if any(type(part) is not ReadSlot for part in parts) else self._reads
        return await lane.run(parts)
