"""Maps: one field per name, and of each the highest stamp wins (protocol 6)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from quorumcache.core.model import DELETE, SALT_BYTES, Header
from quorumcache.core.types.base import FieldEntry, FieldType, field_name, highest


def fault_of_name(field: bytes, details: bytes) -> str:
    """Why a field does not stand for a name (or an element); empty where it does."""
    if field[:1] != b"=":
        return "a field of this type begins with '=', and then has the name"
    return "a field of this type has no metadata beside its generation" if details else ""


class Map(FieldType):
    """A map of names (up to 1,023 bytes) to values."""

    name: ClassVar[str] = "map"

    def fault_of_form(self, header: Header, field: bytes, details: bytes) -> str:
        """A name, and nothing more."""
        return fault_of_name(field, details)

    def value_of(self, fields: Iterable[FieldEntry]) -> dict[bytes, bytes]:
        """name -> value, by name."""
        found = highest(fields)
        return {
            field_name(field): found[field][1][SALT_BYTES:] for field in sorted(found) if found[field][0][2] != DELETE
        }
