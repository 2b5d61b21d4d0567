"""What a client does in a namespace whose values clients seal: hide keys, seal on writing, open on reading.

Which namespaces those are, says the configuration; where data keys come from, the caller. How sealing works is in
wire/sealing.py. It must not know sockets or quorums.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.errors import Misuse
from quorumcache.wire.sealing import SEALED_BYTES_MORE, DataKeys, place_of, read_data_keys

#: Where data keys come from: a file, the keys, or a function of the namespace's name that gives either.
DataKeysSource = DataKeys | str | os.PathLike[str] | Callable[[str], "DataKeys | str | os.PathLike[str]"]


class Vault:
    """The data keys of one namespace in a client's hand."""

    __slots__ = ("_cluster_id", "_hides", "_keys")

    #: By how much sealing makes a value longer.
    bytes_more = SEALED_BYTES_MORE

    def __init__(self, cluster_id: str, info: NamespaceInfo, keys: DataKeys) -> None:
        self._cluster_id = cluster_id
        self._keys = keys
        self._hides = info.hide_keys

    @property
    def hides_keys(self) -> bool:
        """Whether nodes see a keyed hash in place of each key."""
        return self._hides

    def name_of(self, key: bytes) -> bytes:
        """What nodes see of a key."""
        return self._keys.hidden_name(key) if self._hides else key

    def seal(self, slot: bytes, stamp: bytes, value: bytes) -> bytes:
        """Seal a value for the write with this stamp."""
        return self._keys.seal(place_of(self._cluster_id, slot), stamp, value)

    def open(self, slot: bytes, stamp: bytes, sealed: bytes) -> bytes:
        """The value that was read from this slot under this stamp. Raises CannotOpen."""
        return self._keys.open(place_of(self._cluster_id, slot), stamp, sealed)


def vault_for(configuration: Configuration, namespace: str, source: DataKeysSource | None) -> Vault | None:
    """The vault of a namespace; None where its values are not sealed.

    Raises Misuse where keys are missing, or are given and no namespace has a use for them; KeyFileError.
    """
    if source is not None and not any(info.encryption == "client" for info in configuration.namespaces):
        raise Misuse(
            "data keys are given, but no namespace of the cluster has encryption = 'client': values go unsealed"
        )
    info = configuration.namespace(namespace.encode())
    if info is None or info.encryption != "client":
        return None
    if source is None:
        raise Misuse(
            f"clients seal the values of the namespace {namespace!r}: name the file of data keys "
            "(data_keys=... or --data-keys)"
        )
    given = source(namespace) if callable(source) else source
    if not isinstance(given, DataKeys | str | os.PathLike):
        raise Misuse(f"data keys of type {type(given).__name__}; a file, DataKeys or a function that gives either")
    keys = given if isinstance(given, DataKeys) else read_data_keys(Path(given))
    if info.hide_keys and not keys.has_names:
        raise Misuse(
            f"clients hide the keys of the namespace {namespace!r}, and {keys!r} have no line 'names: ' to do so with"
        )
    return Vault(configuration.cluster_id, info, keys)
