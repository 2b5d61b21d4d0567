"""The client library: `Client` for asyncio, `SyncClient` for everyone else."""

from quorumcache.client.client import Client
from quorumcache.client.sync import SyncClient

__all__ = ["Client", "SyncClient"]
