"""What all handles of keys with fields share: finding the namespace, reading, writing many fields, time to live.

A handle names one key and holds nothing of its value. It must not know how operations run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from quorumcache.client.bulk import Many, Part
from quorumcache.core.model import DELETE, PUT, header_expires_at
from quorumcache.core.outcome import Found, Missed, Outcome
from quorumcache.core.types.base import NAME_BYTES_MAX, field_name, field_of, field_slot, generation_of, name_field
from quorumcache.errors import InvalidKey, Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client

Key = str | bytes
Name = str | bytes
#: One write of a field: its slot, put or delete, the value, and what follows the generation in the metadata.
FieldChange = tuple[bytes, int, bytes, bytes | Callable[[bytes], bytes]]

FIELDS_IN_CALL_MAX: Final = 65_536


class Snapshot(NamedTuple):
    """A key's value, and the generation that it belongs to: while that stays the same, nothing acknowledged is lost.
    A key that was deleted, expired or lost to eviction comes back under another."""

    value: Any
    generation: str


class Handle:
    """One key of a namespace whose keys have fields. `ttl`: seconds that the key lives from its making on, where a
    write through this handle makes it; later writes do not change that, `expire` does."""

    type: ClassVar[str]

    def __init__(self, client: Client, key: Key, ttl: float | None) -> None:
        """Not for callers: use the client's method."""
        self._client = client
        self._key = key
        self._ttl = ttl
        self._base = client._base_slot(key)
        client._expires_at(ttl)  # Raises now, not at the first write.

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key!r}>"

    # --- of the whole key ---

    async def exists(self, *, strict: bool = False) -> bool:
        """Whether the key is there."""
        return await self._found(strict) is not None

    async def delete(self) -> None:
        """Delete the key with all that is in it, whether it is there or not. What others add meanwhile may go with it,
        or begin it anew."""
        await self._client._delete_slot(self._base)

    async def ttl(self) -> float | None:
        """Seconds until the key expires; `math.inf` where it never does; None where there is no such key."""
        found = await self._found(False)
        if found is None:
            return None
        expires_at_us = header_expires_at(found.header)
        return max(0.0, (expires_at_us - self._client._cluster_us()) / 1e6) if expires_at_us else math.inf

    async def expire(self, ttl: float | None) -> bool:
        """Give the key a new time to live, in seconds from now (None: for ever). False where there is no such key."""
        outcome = await self._client._write_field((self._base, PUT, b"", b""), self._client._expires_at(ttl), 0)
        if isinstance(outcome, Missed):
            self._client._check_miss(outcome, False)
            return False
        self._client._check_written(outcome)
        return True

    # --- for the types ---

    async def _found(self, strict: bool) -> Found | None:
        outcome = await self._client._read(self._base, False)
        if isinstance(outcome, Found):
            return outcome
        self._client._check_miss(outcome, strict)
        return None

    async def _fields(self, strict: bool) -> list[tuple[bytes, bytes]]:
        found = await self._found(strict)
        return [] if found is None or found.fields is None else found.fields

    async def _field(self, name: bytes, strict: bool) -> tuple[bytes, bytes] | None:
        """One field that is there; None where it, or its key, is not."""
        outcome = await self._client._read(field_slot(self._base, name_field(name)), False)
        if isinstance(outcome, Found):
            for entry in outcome.fields or ():
                if entry[0][2] != DELETE:
                    return entry
            return None
        self._client._check_miss(outcome, strict)
        return None

    async def _read_fields(self, names: Sequence[bytes], strict: bool) -> list[tuple[bytes, bytes] | None]:
        outcomes = await self._client._many([field_slot(self._base, name_field(name)) for name in names], None)
        found: list[tuple[bytes, bytes] | None] = []
        for outcome in outcomes:
            entry = None
            if isinstance(outcome, Found):
                entry = next((e for e in outcome.fields or () if e[0][2] != DELETE), None)
            else:
                self._client._check_miss(outcome, strict)
            found.append(entry)
        return found

    async def _change(self, changes: Sequence[FieldChange], names: Sequence[Name]) -> None:
        """Write fields, in one batch. Where any fail, raises the gravest of their errors, with `failed`."""
        if not changes:
            return
        if len(changes) > FIELDS_IN_CALL_MAX:
            raise Misuse(f"{len(changes)} fields in one call; at most {FIELDS_IN_CALL_MAX} are allowed: split it")
        client = self._client
        expires_at_us = client._expires_at(self._ttl)
        if len(changes) == 1:
            client._check_written(await client._write_field(changes[0], 0, expires_at_us))
            return
        engine = client._engine
        client._check_usable()
        future: asyncio.Future[list[Outcome]] = engine.loop.create_future()
        many = Many(future, len(changes))
        try:
            for i, change in enumerate(changes):
                if not engine.admit():
                    engine.kick()
                    await engine.admitted()
                slot, kind, value, details = change
                seal = client._seal if kind == PUT and value else None
                engine.core.write(slot, kind, value, 0, Part(many, i), details, expires_at_us, seal=seal)
        finally:
            engine.kick()
        client._check_many(list(names), await future)

    def _name(self, name: Name) -> bytes:
        return name_bytes(name, self.type)


def name_bytes(name: Name, kind: str) -> bytes:
    """A field's name as bytes. Raises InvalidKey."""
    if isinstance(name, str):
        try:
            name = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as fault:
            raise InvalidKey(f"a name that UTF-8 cannot encode: {fault}") from None
    elif type(name) is not bytes:
        raise InvalidKey(f"a name of type {type(name).__name__} in a {kind}; names are str or bytes")
    if len(name) > NAME_BYTES_MAX:
        raise InvalidKey(f"a name of {len(name)} bytes in a {kind}; at most {NAME_BYTES_MAX} are allowed")
    return name


def name_of(slot: bytes) -> str:
    """The name in a field's slot; bytes that are no UTF-8 come as surrogates, and go back to the same bytes."""
    return field_name(field_of(slot)).decode("utf-8", "surrogateescape")


def generation_text(found: Found) -> str:
    """A generation as callers see it: hexadecimal, and in order of time."""
    return generation_of(found.header).hex()
