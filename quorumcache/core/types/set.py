"""Sets: one field per element, present unless deleted; of each the highest stamp wins (protocol 6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from quorumcache.core.model import DELETE, Header
from quorumcache.core.types.base import FieldEntry, FieldType, field_name, highest
from quorumcache.core.types.map import fault_of_name


class Set(FieldType):
    """A set of elements (up to 1,023 bytes each)."""

    name: ClassVar[str] = "set"

    def fault_of_form(self, header: Header, field: bytes, details: bytes) -> str:
        """An element, and nothing more."""
        return fault_of_name(field, details) or ("an element of a set has no value" if header.size else "")

    def value_of(self, fields: Iterable[FieldEntry]) -> set[bytes]:
        """The elements."""
        return {field_name(field) for field, (raw, _) in highest(fields).items() if raw[2] != DELETE}
