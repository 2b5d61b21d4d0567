"""quorumcache: a distributed cache that stays right while up to f of 3f+1 nodes lie.

    async with await quorumcache.Client.connect("cluster.toml", key="keys/writer-default.key") as client:
        await client.set("greeting", b"hello", ttl=60)

Only the public names belong here, and nothing inside the package imports from this module. They are loaded when they
are first used, so that `import quorumcache` costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from quorumcache.version import VERSION

if TYPE_CHECKING:
    from quorumcache.client import Client, DataKeys, NearCache, OpenTelemetry, Page, SyncClient, cached
    from quorumcache.client.database import (
        Change,
        PostgresStore,
        ReadThrough,
        SqliteStore,
        Store,
        SyncReadThrough,
        SyncWriteBehind,
        SyncWriteThrough,
        WriteBehind,
        WriteThrough,
    )
    from quorumcache.errors import (
        CannotOpen,
        ConfigurationError,
        ConfigurationMismatch,
        DeadlineExceeded,
        InvalidKey,
        InvalidProof,
        InvalidValue,
        KeyFileError,
        Misuse,
        OutcomeUnknown,
        PeerMisbehaved,
        PermissionDenied,
        QueueFull,
        QuorumCacheError,
        StoreFailed,
        Unavailable,
    )

__all__ = [
    "CannotOpen",
    "Change",
    "Client",
    "ConfigurationError",
    "ConfigurationMismatch",
    "DataKeys",
    "DeadlineExceeded",
    "InvalidKey",
    "InvalidProof",
    "InvalidValue",
    "KeyFileError",
    "Misuse",
    "NearCache",
    "OpenTelemetry",
    "OutcomeUnknown",
    "Page",
    "PeerMisbehaved",
    "PermissionDenied",
    "PostgresStore",
    "QueueFull",
    "QuorumCacheError",
    "ReadThrough",
    "SqliteStore",
    "Store",
    "StoreFailed",
    "SyncClient",
    "SyncReadThrough",
    "SyncWriteBehind",
    "SyncWriteThrough",
    "Unavailable",
    "WriteBehind",
    "WriteThrough",
    "__version__",
    "cached",
]

__version__ = VERSION

_CLIENTS: Final = ("Client", "DataKeys", "NearCache", "OpenTelemetry", "Page", "SyncClient", "cached")
_DATABASE: Final = (
    "Change",
    "PostgresStore",
    "ReadThrough",
    "SqliteStore",
    "Store",
    "SyncReadThrough",
    "SyncWriteBehind",
    "SyncWriteThrough",
    "WriteBehind",
    "WriteThrough",
)
_HOMES: Final = {
    **dict.fromkeys(_CLIENTS, "quorumcache.client"),
    **dict.fromkeys(_DATABASE, "quorumcache.client.database"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "quorumcache.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
