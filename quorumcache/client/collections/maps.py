"""Maps: names to values, each name by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from quorumcache.client.collections.handle import Handle, Name, Snapshot, generation_text, name_of
from quorumcache.core.model import DELETE, PUT, header_slot
from quorumcache.core.types.base import field_slot, name_field


class MapHandle(Handle):
    """A map that many writers change at once: of each name, the newest value wins; of different names, none is lost.

    Names are str or bytes of up to 1,023 bytes, and come back as str. Values go through the client's serializer.
    """

    type: ClassVar[str] = "map"

    async def get(self, name: Name, default: Any = None, *, strict: bool = False) -> Any:
        """The value of a name, or `default` where it is not there."""
        entry = await self._field(self._name(name), strict)
        return default if entry is None else self._load(entry)

    async def get_many(self, names: Iterable[Name], *, strict: bool = False) -> dict[Name, Any]:
        """The values of those names that are there, by name. One round trip for all."""
        wanted = list(dict.fromkeys(names))
        entries = await self._read_fields([self._name(name) for name in wanted], strict) if wanted else []
        return {name: self._load(entry) for name, entry in zip(wanted, entries, strict=True) if entry is not None}

    async def contains(self, name: Name, *, strict: bool = False) -> bool:
        """Whether the name is there."""
        return await self._field(self._name(name), strict) is not None

    async def items(self, *, strict: bool = False) -> dict[str, Any]:
        """All names with their values, by name. The names are a snapshot where 2f+1 nodes agreed, and each the newest
        otherwise."""
        return self._items(await self._fields(strict))

    async def names(self, *, strict: bool = False) -> list[str]:
        """All names, in order."""
        return list(await self.items(strict=strict))

    async def size(self, *, strict: bool = False) -> int:
        """How many names there are."""
        return sum(raw[2] != DELETE for raw, _ in await self._fields(strict))

    async def snapshot(self, *, strict: bool = False) -> Snapshot | None:
        """All items with the key's generation; None where there is no such key."""
        found = await self._found(strict)
        return None if found is None else Snapshot(self._items(found.fields or []), generation_text(found))

    async def set(self, name: Name, value: Any) -> None:
        """Set the value of a name; it is complete, and will be read, when this returns. Raises as `Client.set` does."""
        await self.set_many({name: value})

    async def set_many(self, items: Mapping[Name, Any]) -> None:
        """Set many names: one batch, one signature; not atomic. Raises as `Client.set_many` does."""
        client = self._client
        changes = [
            (field_slot(self._base, name_field(self._name(name))), PUT, client._data(value), b"")
            for name, value in items.items()
        ]
        await self._change(changes, list(items))

    async def remove(self, *names: Name) -> None:
        """Remove names, whether they are there or not. A removed name still counts among the key's 65,536 fields."""
        wanted = list(dict.fromkeys(names))
        await self._change(
            [(field_slot(self._base, name_field(self._name(name))), DELETE, b"", b"") for name in wanted], wanted
        )

    def _items(self, fields: list[tuple[bytes, bytes]]) -> dict[str, Any]:
        found = {name_of(header_slot(entry[0])): entry for entry in fields if entry[0][2] != DELETE}
        return {name: self._load(found[name]) for name in sorted(found)}

    def _load(self, entry: tuple[bytes, bytes]) -> Any:
        return self._client._loads(self._client._opened(header_slot(entry[0]), *entry))
