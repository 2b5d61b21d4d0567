"""What all types with fields share: the base of a key, its generation, and the interface of a type (protocol 6).

The base is the entry of the empty field. Its generation is the stamp of the base that began it; a base that goes on
with a generation (a new time to live), and each field, name it in the first 48 bytes of their metadata. Everything of
a key is ordered by its rank: generation first, then stamp. It must not know what any one type does with its fields.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, ClassVar, Final

from quorumcache.core.model import DELETE, FIELD_BYTES_MAX, STAMP_BYTES, Header

GENERATION_BYTES: Final = STAMP_BYTES
#: Fields of one key, tombstones among them: they leave with their key only.
KEY_FIELDS_MAX: Final = 65_536
#: Headers and values of one key.
KEY_SIZE_MAX: Final = 16 << 20
#: A name is at most this long: its field has one byte more, for the base has the empty field.
NAME_BYTES_MAX: Final = FIELD_BYTES_MAX - 1
_NAME_MARK: Final = b"="
_HEADER_SLOT: Final = 95
_LAST: Final = b"\xff" * STAMP_BYTES

#: A field as readers have it: its header's bytes, and its salt and value.
FieldEntry = tuple[bytes, bytes]


def base_slot_of(slot: bytes) -> bytes:
    """The slot of the key's base: the same namespace and key, the empty field."""
    key_at = 3 + slot[0]
    end = key_at + (slot[key_at - 2] << 8 | slot[key_at - 1])
    return slot if len(slot) == end + 2 else slot[:end] + b"\0\0"


def is_base_slot(slot: bytes) -> bool:
    """Whether the slot's field is the empty one."""
    key_at = 3 + slot[0]
    return len(slot) == key_at + (slot[key_at - 2] << 8 | slot[key_at - 1]) + 2


def field_of(slot: bytes) -> bytes:
    """The field in a (well-formed) slot."""
    key_at = 3 + slot[0]
    return slot[key_at + (slot[key_at - 2] << 8 | slot[key_at - 1]) + 2 :]


def field_slot(base_slot: bytes, field: bytes) -> bytes:
    """The slot of a field of the key whose base is in `base_slot`."""
    return base_slot[:-2] + len(field).to_bytes(2, "big") + field


def metadata_of(raw: bytes) -> bytes:
    """The metadata in a header's canonical bytes (which have parsed before)."""
    at = _HEADER_SLOT
    key_at = at + 3 + raw[at]
    field_at = key_at + (raw[key_at - 2] << 8 | raw[key_at - 1]) + 2
    return raw[field_at + (raw[field_at - 2] << 8 | raw[field_at - 1]) + 2 :]


def generation_of(raw: bytes) -> bytes:
    """The generation (48 bytes) that a header's canonical bytes name: a base without one begins its own."""
    return metadata_of(raw)[:GENERATION_BYTES] or raw[3:51]


def rank_of(raw: bytes) -> bytes:
    """Generation and stamp, 96 bytes: what everything of a key is ordered by. A key's tombstone is above all that says
    it goes on with the generation that the tombstone began: what is deleted stays so."""
    metadata = metadata_of(raw)
    if metadata:
        return metadata[:GENERATION_BYTES] + raw[3:51]
    return raw[3:51] + (_LAST if raw[2] == DELETE else raw[3:51])


def name_field(name: bytes) -> bytes:
    """The field of a map's name or a set's element: never empty, for the empty one is the base's."""
    return _NAME_MARK + name


def field_name(field: bytes) -> bytes:
    """The inverse of `name_field`."""
    return field[1:]


def base_fault(header: Header) -> str:
    """Why no node may promise this header of a base; empty where it may."""
    metadata = header.metadata
    if metadata:
        if header.kind == DELETE:
            return "the base that deletes a key goes on with no generation"
        if len(metadata) != GENERATION_BYTES:
            return "a base names the generation that it goes on with, or nothing"
        if metadata >= header.stamp:
            return "a base cannot go on with a generation that is not older"
    if header.size:
        return "a base has no value"
    return ""


class FieldType:
    """One type: what its fields must be, and what value they have. Without state of its own."""

    name: ClassVar[str]
    #: How many fields a key may have.
    fields_max: ClassVar[int] = KEY_FIELDS_MAX
    #: Of how many writes may be promised in one key at a time, all writers' together.
    promised_max: ClassVar[int] = KEY_FIELDS_MAX // 4

    def fault(self, header: Header) -> str:
        """Why no node may promise this header of a field, by its form alone; empty where it may."""
        if len(header.metadata) < GENERATION_BYTES:
            return "a field names the generation of its key"
        if header.metadata[:GENERATION_BYTES] > header.stamp:
            return "a field cannot be older than the generation of its key"
        if header.expires_at_us:
            return "fields do not expire: their key does"
        return self.fault_of_form(header, field_of(header.slot), header.metadata[GENERATION_BYTES:])

    def fault_of_form(self, header: Header, field: bytes, details: bytes) -> str:
        """What `fault` asks of this type: `details` is the metadata after the generation."""
        raise NotImplementedError

    def fault_beside(self, header: Header, current: bytes | None, promised: Sequence[Header]) -> str:
        """Why this header may not be promised beside what the node has in this very slot: the current entry's header,
        and those of open promises, all of the same generation."""
        return ""

    def seen_us(self, header: Header) -> int:
        """The latest time that the header's metadata speaks of, in microseconds; 0 where of none."""
        return 0

    def after_us(self, details: bytes, author: bytes) -> int:
        """The time that the stamp of a write with these details (the metadata after the generation) by this client
        object (writer and nonce, 40 bytes) has to be above; 0 where they ask for nothing."""
        return 0

    def replaced(self, raw: bytes, others: Iterable[bytes]) -> bool:
        """Whether the field of this header is replaced by one of `others` (headers of other fields of its key and
        generation), and need not be kept or shown."""
        return False

    def standing(self, headers: Iterable[bytes]) -> list[bytes]:
        """Those of these headers (of fields of one key and generation) that none of the others replaces: as `replaced`,
        at less cost where they are many."""
        return list(headers)

    @property
    def full_detail(self) -> str:
        """What is said to a writer whose field does not fit."""
        return f"the key has {self.fields_max} fields, deleted ones among them"

    def fits(self, header: Header, others: Collection[bytes]) -> bool:
        """Whether a field that is new to its key fits in beside the `others` (headers)."""
        return len(others) < self.fields_max

    @property
    def replaces(self) -> bool:
        """Whether fields of this type can be replaced by others."""
        return False

    def value_of(self, fields: Iterable[FieldEntry]) -> Any:
        """The value of a key, from all its fields, tombstones included, in any order and with repetitions: of each
        field the highest stamp counts."""
        raise NotImplementedError


def highest(fields: Iterable[FieldEntry]) -> dict[bytes, FieldEntry]:
    """Of each field the entry with the highest stamp, by field: how all types begin to merge."""
    found: dict[bytes, FieldEntry] = {}
    for entry in fields:
        raw = entry[0]
        at = _HEADER_SLOT
        key_at = at + 3 + raw[at]
        field_at = key_at + (raw[key_at - 2] << 8 | raw[key_at - 1]) + 2
        field = raw[field_at : field_at + (raw[field_at - 2] << 8 | raw[field_at - 1])]
        before = found.get(field)
        if before is None or before[0][3:51] < raw[3:51]:
            found[field] = entry
    return found
