"""Types: how a key's fields become a value (protocol 6), one file each, behind one interface (`base.FieldType`).

`FIELD_TYPES` has those whose keys have many fields; a register's key is one slot and needs none of this. They must not
know messages, quorums or nodes.
"""

from collections.abc import Iterable
from typing import Final

from quorumcache.core.config_model import NamespaceInfo
from quorumcache.core.types.base import FieldType
from quorumcache.core.types.counter import Counter
from quorumcache.core.types.map import Map
from quorumcache.core.types.set import Set
from quorumcache.core.types.siblings import Siblings

FIELD_TYPES: Final[dict[str, FieldType]] = {kind.name: kind for kind in (Siblings(), Counter(), Set(), Map())}


def types_by_prefix(namespaces: Iterable[NamespaceInfo]) -> dict[bytes, FieldType]:
    """A slot's first bytes, which are its namespace -> the type, for those namespaces whose keys have fields."""
    return {
        bytes((len(info.name.encode()),)) + info.name.encode(): FIELD_TYPES[info.type]
        for info in namespaces
        if info.type in FIELD_TYPES
    }


__all__ = ["FIELD_TYPES", "FieldType", "types_by_prefix"]
