"""What every store has to do, whatever the database: run by the tests of each. And a store that does as it is told."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest

from quorumcache.client.database import Change, Store
from quorumcache.client.database.store import Key, key_bytes
from quorumcache.errors import InvalidKey, InvalidValue


def put(key: Key, value: Any, version: int) -> Change:
    return Change(key, value, False, version)


def gone(key: Key, version: int) -> Change:
    return Change(key, None, True, version)


async def check_values(store: Store) -> None:
    """What was saved is loaded, by key as asked for; str and bytes of one key are one key."""
    assert await store.load(["a", b"b"]) == {}
    assert not await store.save([put("a", b"1", 1), put(b"b", b"\x00\xff", 2), put("ключ", b"", 3)])
    assert await store.load(["a", b"a", "b", "ключ", "c"]) == {"a": b"1", b"a": b"1", "b": b"\x00\xff", "ключ": b""}
    assert not await store.save([])
    many = [put(f"many:{i}", b"%d" % i, 10) for i in range(1500)]
    assert not await store.save(many)
    assert len(await store.load([change.key for change in many])) == 1500


async def check_order(store: Store) -> None:
    """Within a batch the last change of a key counts."""
    await store.save([put("k", b"1", 1), put("k", b"2", 2), gone("gone", 3), put("gone", b"x", 4), gone("gone", 5)])
    assert await store.load(["k", "gone"]) == {"k": b"2"}
    await store.save([gone("k", 6), put("k", b"3", 7)])
    assert await store.load(["k"]) == {"k": b"3"}


async def check_versions(store: Store) -> None:
    """An older change never replaces a newer one, nor brings back what was deleted; the same one may come again."""
    await store.save([put("k", b"new", 10), put("free", b"1", 1)])
    assert [key_bytes(key) for key in await store.save([put("k", b"old", 9), put("free", b"2", 2)]) or ()] == [b"k"]
    assert await store.load(["k", "free"]) == {"k": b"new", "free": b"2"}
    assert not await store.save([put("k", b"new", 10)])
    assert not await store.save([gone("k", 11)])
    assert list(await store.save([put("k", b"old", 9)]) or ()) == ["k"]
    assert await store.load(["k"]) == {}
    assert not await store.save([put("k", b"newest", 12)])
    assert await store.load(["k"]) == {"k": b"newest"}


async def check_refusals(store: Store) -> None:
    """What the database cannot hold is refused, and the rest of its batch is not made either."""
    with pytest.raises(InvalidKey, match="cannot be kept as text"):
        store.check(put(b"\xff", b"v", 1))
    with pytest.raises(InvalidKey, match="NUL"):
        await store.save([put("fine", b"v", 1), put("a\0b", b"v", 1)])
    with pytest.raises(InvalidValue, match="bytes are expected"):
        store.check(put("k", {"not": "bytes"}, 1))
    assert await store.load(["fine"]) == {}


class FakeStore(Store):
    """A database in a dict: it says when it is asked, waits, and fails as it is told."""

    def __init__(self) -> None:
        self.rows: dict[bytes, tuple[int, Any]] = {}
        self.loads: list[list[Key]] = []
        self.saves: list[list[Change]] = []
        self.load_error: Exception | None = None
        self.save_error: Exception | None = None
        self.poison: dict[bytes, Exception] = {}
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.may_save = asyncio.Event()
        self.may_save.set()

    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        self.loads.append(list(keys))
        rows = {key: self.rows.get(key_bytes(key), (0, None))[1] for key in keys}
        await self.may_load.wait()
        if self.load_error is not None:
            raise self.load_error
        return {key: value for key, value in rows.items() if value is not None}

    async def save(self, changes: Sequence[Change]) -> Collection[Key]:
        self.saves.append(list(changes))
        await self.may_save.wait()
        if self.save_error is not None:
            raise self.save_error
        for change in changes:
            if key_bytes(change.key) in self.poison:
                raise self.poison[key_bytes(change.key)]
        overtaken = []
        for change in changes:
            if self.rows.get(key_bytes(change.key), (0, None))[0] > change.version:
                overtaken.append(change.key)
            else:
                self.rows[key_bytes(change.key)] = (change.version, change.value)
        return overtaken

    def value(self, key: str) -> Any:
        return self.rows.get(key.encode(), (0, None))[1]
