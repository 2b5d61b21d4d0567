"""The client library: `Client` for asyncio, `SyncClient` for everyone else."""

from quorumcache.client.client import Client
from quorumcache.client.listing import Page
from quorumcache.client.sync import SyncClient
from quorumcache.wire.sealing import DataKeys

__all__ = ["Client", "DataKeys", "Page", "SyncClient"]
