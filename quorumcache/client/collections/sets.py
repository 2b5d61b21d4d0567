"""Sets: elements, each by itself."""

from __future__ import annotations

from typing import ClassVar

from quorumcache.client.collections.handle import Handle, Name, Snapshot, generation_text, name_of
from quorumcache.core.model import DELETE, PUT, header_slot
from quorumcache.core.types.base import field_slot, name_field


class SetHandle(Handle):
    """A set that many writers change at once: of each element, the newest add or remove wins; none disturbs others.

    Elements are str or bytes of up to 1,023 bytes, and come back as str.
    """

    type: ClassVar[str] = "set"

    async def add(self, *elements: Name) -> None:
        """Add elements: one batch, one signature. They are there, for every reader, when this returns."""
        await self._put(PUT, elements)

    async def remove(self, *elements: Name) -> None:
        """Remove elements, whether they are there or not. A removed one still counts among the key's 65,536 fields."""
        await self._put(DELETE, elements)

    async def contains(self, element: Name, *, strict: bool = False) -> bool:
        """Whether the element is there."""
        return await self._field(self._name(element), strict) is not None

    async def members(self, *, strict: bool = False) -> set[str]:
        """All elements; the empty set where there is no such key."""
        return _members(await self._fields(strict))

    async def size(self, *, strict: bool = False) -> int:
        """How many elements there are."""
        return len(await self.members(strict=strict))

    async def snapshot(self, *, strict: bool = False) -> Snapshot | None:
        """All elements with the key's generation; None where there is no such key."""
        found = await self._found(strict)
        return None if found is None else Snapshot(_members(found.fields or []), generation_text(found))

    async def _put(self, kind: int, elements: tuple[Name, ...]) -> None:
        wanted = list(dict.fromkeys(elements))
        await self._change(
            [(field_slot(self._base, name_field(self._name(element))), kind, b"", b"") for element in wanted], wanted
        )


def _members(fields: list[tuple[bytes, bytes]]) -> set[str]:
    return {name_of(header_slot(raw)) for raw, _ in fields if raw[2] != DELETE}
