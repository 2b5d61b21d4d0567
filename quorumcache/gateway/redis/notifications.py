"""Keyspace notifications, `__keyspace@0__:key` and `__keyevent@0__:set`, from watches of the databases' namespaces.

Watches run while somebody listens to such a channel, one per namespace. It must not know connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final

from quorumcache.client import Change, Gap, Watch
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.channels import Channels
from quorumcache.gateway.redis.database import STRING, Database
from quorumcache.gateway.redis.wholes import HASH, SET

#: What names of such channels, and patterns for them, begin with.
_MARK: Final = b"__key"
_PAUSE_S: Final = 1.0
#: Type -> what a field's write and removal are called.
_FIELD_EVENTS: Final = {HASH: (b"hset", b"hdel"), SET: (b"sadd", b"srem")}


class Notifications:
    """Tells `channels` of changes in the databases."""

    def __init__(self, channels: Channels, databases: Iterable[Database]) -> None:
        self._channels = channels
        #: Namespace -> the type in it, and the databases that have it.
        self._places: dict[str, tuple[str, list[Database]]] = {}
        for database in databases:
            for kind, client in ((STRING, database.strings), *database.collections.items()):
                self._places.setdefault(client.namespace_name, (kind, []))[1].append(database)
        self._tasks: list[asyncio.Task[None]] = []
        self._beginning = asyncio.Lock()

    @property
    def are_running(self) -> bool:
        """Whether the namespaces are watched."""
        return bool(self._tasks)

    async def begin_for(self, names: Iterable[bytes]) -> None:
        """Begin, where one of these channels or patterns is about keys: what changes from now on is told. Raises what
        watching raises."""
        if not any(name.startswith(_MARK) for name in names):
            return
        async with self._beginning:
            if self._tasks:
                return
            watches: list[tuple[str, list[Database], Watch]] = []
            for kind, databases in self._places.values():
                client = databases[0].strings if kind == STRING else databases[0].collections[kind]
                watch = client.watch(b"")
                await watch.__aenter__()
                watches.append((kind, databases, watch))
            self._tasks = [
                asyncio.create_task(self._tell(*each), name=f"redis notifications of {each[0]}") for each in watches
            ]

    async def end_if_idle(self) -> None:
        """End where nobody listens any more."""
        if self._tasks and not any(
            name.startswith(_MARK) for name in (*self._channels.channels, *self._channels.patterns)
        ):
            await self.stop()

    async def stop(self) -> None:
        """End the watches."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- inside ---

    async def _tell(self, kind: str, databases: list[Database], watch: Watch) -> None:
        with contextlib.closing(watch):
            while True:
                try:
                    change = await anext(watch)
                except QuorumCacheError as error:
                    self._gap(databases, str(error))
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if isinstance(change, Gap):
                    self._gap(databases, change.reason)
                    continue
                event = _event_of(kind, change)
                stored = change.key if isinstance(change.key, bytes) else change.key.encode()
                for database in databases:
                    key = database.key_of(stored)
                    if event and key is not None and database.holds(key):
                        self._publish(database.number, key, event)

    def _gap(self, databases: list[Database], reason: str) -> None:
        for database in databases:
            self._channels.publish(b"__keyevent@%d__:gap" % database.number, reason.encode())

    def _publish(self, number: int, key: bytes, event: bytes) -> None:
        self._channels.publish(b"__keyspace@%d__:%b" % (number, key), event)
        self._channels.publish(b"__keyevent@%d__:%b" % (number, event), key)


def _event_of(kind: str, change: Change) -> bytes:
    """What Redis calls a change; empty for what it has no word for: that a collection began, or has another end."""
    if change.field is not None:
        return _FIELD_EVENTS[kind][change.deleted]
    if change.deleted:
        return b"del"
    return b"set" if kind == STRING else b""
