"""The client library: `Client` for asyncio, `SyncClient` for everyone else."""

from quorumcache.client.client import Client
from quorumcache.client.either import cached
from quorumcache.client.exact import ABSENT, Lock
from quorumcache.client.listing import Page
from quorumcache.client.near import NearCache
from quorumcache.client.sync import SyncClient
from quorumcache.client.tracing import OpenTelemetry, Trace
from quorumcache.client.watching import Change, Gap, Watch
from quorumcache.wire.sealing import DataKeys

__all__ = [
    "ABSENT",
    "Change",
    "Client",
    "DataKeys",
    "Gap",
    "Lock",
    "NearCache",
    "OpenTelemetry",
    "Page",
    "SyncClient",
    "Trace",
    "Watch",
    "cached",
]
