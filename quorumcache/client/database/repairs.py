"""Keys of which the cache may show something else than the database holds: deleted from the cache, again and again
until that succeeds.

It must not know databases. A delete is ordered after all that was written before it, so a write whose outcome was
unknown cannot come back behind one that succeeded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from quorumcache.client.backoff import backoff_s
from quorumcache.client.client import Client
from quorumcache.client.database.store import Key, key_bytes
from quorumcache.errors import OutcomeUnknown, QuorumCacheError, Unavailable

DELAY_S_MIN: Final = 0.05
DELAY_S_MAX: Final = 5.0
DELETE_MANY_MAX: Final = 1000


class Repairs:
    """The keys to repair, and the task that does it."""

    def __init__(
        self,
        client: Client,
        *,
        on_done: Callable[[list[bytes]], Awaitable[None]] | None = None,
        keys_max: int,
    ) -> None:
        """`on_done`: told of the keys that were repaired."""
        self.keys_max = keys_max
        #: Why the last attempt failed, in words; empty where it did not.
        self.problem = ""
        self._client = client
        self._on_done = on_done
        # Key -> how often it was noted: one that is noted again while it is repaired must be repaired again.
        self._keys: dict[bytes, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._fault: QuorumCacheError | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: Key) -> bool:
        return bool(self._keys) and key_bytes(key) in self._keys

    @property
    def is_full(self) -> bool:
        """Whether nothing that may have to be repaired should be begun."""
        return len(self._keys) >= self.keys_max

    def note(self, keys: Iterable[Key]) -> None:
        """Have these keys deleted from the cache."""
        for key in keys:
            name = key_bytes(key)
            self._keys[name] = self._keys.get(name, 0) + 1
        if self._keys and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._repair())

    def forget(self, key: Key) -> None:
        """The key need not be repaired any more: the cache was written since."""
        if self._keys:
            self._keys.pop(key_bytes(key), None)

    async def finish(self) -> None:
        """Wait until there is nothing to repair. Raises what no repetition helps against, as PermissionDenied."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        if self._keys and self._fault is not None:
            raise self._fault

    async def stop(self) -> None:
        """Give up what is left."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _repair(self) -> None:
        attempt = 0
        while self._keys:
            part = dict(list(self._keys.items())[:DELETE_MANY_MAX])
            failed: set[bytes] = set()
            try:
                await self._client.delete_many(part)
            except (Unavailable, OutcomeUnknown) as fault:
                self.problem = str(fault)
                failed = {key_bytes(key) for key in fault.failed} or set(part)
            except QuorumCacheError as fault:
                # Not allowed, or the client is closed: no repetition helps.
                self.problem, self._fault = str(fault), fault
                return
            done = [name for name in part if name not in failed and self._keys.get(name) == part[name]]
            for name in done:
                del self._keys[name]
            if done and self._on_done is not None:
                await self._on_done(done)
            if failed:
                attempt += 1
                await asyncio.sleep(backoff_s(attempt, DELAY_S_MIN, DELAY_S_MAX))
            else:
                attempt, self.problem = 0, ""
