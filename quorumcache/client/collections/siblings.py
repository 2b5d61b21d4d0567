"""Siblings: values that were written without knowing of each other, all of them, until somebody merges them."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, NamedTuple, cast

from quorumcache.client.collections.handle import Handle, Snapshot, generation_text
from quorumcache.core.model import PUT, header_slot
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_slot, highest
from quorumcache.core.types.siblings import SIBLING_FIELD_BYTES, Siblings, encode_seen, standing

_SIBLINGS: Final = cast(Siblings, FIELD_TYPES["siblings"])


class Context(NamedTuple):
    """What a read showed. Who writes with it replaces that, and nothing else."""

    seen: dict[bytes, int]
    generation: str


class Found(NamedTuple):
    """The values that nothing has replaced, oldest first, and the context to write with."""

    values: list[Any]
    context: Context


class SiblingsHandle(Handle):
    """A key that keeps every value until a writer says that it has seen it: concurrent writes are never lost, they
    stand side by side. At most 256 at once, 64 of one writer."""

    type: ClassVar[str] = "siblings"

    async def read(self, *, strict: bool = False) -> Found:
        """All values that nothing has replaced, with the context to write with; none where there is no such key."""
        found = await self._found(strict)
        if found is None:
            return Found([], Context({}, ""))
        fields = found.fields or []
        by_header = dict(highest(fields).values())
        client = self._client
        values = [client._loads(client._opened(header_slot(raw), raw, by_header[raw])) for raw in standing(by_header)]
        return Found(values, Context(_SIBLINGS.seen_in(fields), generation_text(found)))

    async def values(self, *, strict: bool = False) -> list[Any]:
        """All values that nothing has replaced, oldest first."""
        return (await self.read(strict=strict)).values

    async def snapshot(self, *, strict: bool = False) -> Snapshot | None:
        """All values that stand, with the key's generation; None where there is no such key."""
        found = await self.read(strict=strict)
        return Snapshot(found.values, found.context.generation) if found.context.generation else None

    async def write(self, value: Any, context: Context | None = None) -> None:
        """Write a value beside what is there; with the `context` of a read, in the place of what that read showed."""
        client = self._client
        data = client._data(value)
        details = encode_seen(context.seen if context is not None else {})
        lock = client._engine.sibling_locks.get(self._base)
        if lock is None:
            lock = client._engine.sibling_locks[self._base] = asyncio.Lock()
        # One at a time: who has seen a later write of this client object has not therefore seen an earlier one.
        async with lock:
            own = (client.writer or bytes(32)) + os.urandom(SIBLING_FIELD_BYTES - 32)
            slot = field_slot(self._base, own)
            change = (slot, PUT, data, details)
            client._check_written(await client._write_field(change, 0, client._expires_at(self._ttl)))

    async def resolve(self, merge: Callable[[list[Any]], Any | Awaitable[Any]]) -> Any:
        """Read, merge, write: where several values stand, `merge(values)` (oldest first) makes one of them, which is
        written in their place. Returns that value; the only value where there is one; None where there is none.

        `merge` should give the same for the same values in any order: others may be merging too.
        """
        found = await self.read()
        if len(found.values) < 2:
            return found.values[0] if found.values else None
        merged = merge(found.values)
        if inspect.isawaitable(merged):
            merged = await merged
        await self.write(merged, found.context)
        return merged
