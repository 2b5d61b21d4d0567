"""The client library: `Client` for asyncio, `SyncClient` for everyone else."""

from quorumcache.client.client import Client
from quorumcache.client.either import cached
from quorumcache.client.listing import Page
from quorumcache.client.near import NearCache
from quorumcache.client.sync import SyncClient
from quorumcache.client.tracing import OpenTelemetry, Trace
from quorumcache.wire.sealing import DataKeys

__all__ = ["Client", "DataKeys", "NearCache", "OpenTelemetry", "Page", "SyncClient", "Trace", "cached"]
