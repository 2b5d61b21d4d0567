"""Where a node keeps what it holds, beside its memory: `MemoryStorage` (nowhere) and `SqliteStorage` (a directory).

Writes down what the core's journal names, and loads it again. It must not know sockets, or the rules of the protocol.
"""

from pathlib import Path
from typing import Final

from quorumcache.errors import Misuse
from quorumcache.storage.interface import DURABILITIES, Identity, NotStored, Storage
from quorumcache.storage.memory import MemoryStorage
from quorumcache.storage.sqlite import SqliteStorage

__all__ = ["DURABILITIES", "KINDS", "Identity", "MemoryStorage", "NotStored", "SqliteStorage", "Storage", "storage_of"]

KINDS: Final = ("memory", "sqlite")


def storage_of(kind: str, directory: Path | None = None, durability: str = "process") -> Storage:
    """Storage of a kind, one of `KINDS`; "sqlite" in a directory that is its own. Raises Misuse for anything else."""
    if kind not in KINDS:
        raise Misuse(f"storage {kind!r}: is one of {', '.join(KINDS)}")
    if kind == "memory":
        if directory is not None:
            raise Misuse("storage is memory, which needs no data directory: was sqlite meant?")
        return MemoryStorage()
    if directory is None:
        raise Misuse("storage is sqlite, which needs a data directory: where is it to keep entries?")
    return SqliteStorage(directory, durability=durability)
