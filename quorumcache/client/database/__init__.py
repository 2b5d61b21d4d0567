"""A database behind the cache: read-through, write-through, write-behind, and stores for SQLite and PostgreSQL."""

from quorumcache.client.database.behind import QueueStatus, WriteBehind
from quorumcache.client.database.postgres import PostgresStore
from quorumcache.client.database.queue import DeadLetter
from quorumcache.client.database.sqlite import SqliteStore
from quorumcache.client.database.store import Change, Store
from quorumcache.client.database.sync import SyncReadThrough, SyncWriteBehind, SyncWriteThrough
from quorumcache.client.database.through import ReadThrough, WriteThrough

__all__ = [
    "Change",
    "DeadLetter",
    "PostgresStore",
    "QueueStatus",
    "ReadThrough",
    "SqliteStore",
    "Store",
    "SyncReadThrough",
    "SyncWriteBehind",
    "SyncWriteThrough",
    "WriteBehind",
    "WriteThrough",
]
