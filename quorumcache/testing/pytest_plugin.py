"""pytest fixtures: `pytest_plugins = ["quorumcache.testing.pytest_plugin"]` in a conftest.py (needs pytest-asyncio).

Only fixtures belong here; what they hand out is in local.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from quorumcache.client import Client
from quorumcache.testing.local import LocalCluster


@pytest_asyncio.fixture
async def quorumcache_cluster() -> AsyncIterator[LocalCluster]:
    """A cluster of four nodes (f = 1) in this process, new for each test."""
    async with LocalCluster() as cluster:
        yield cluster


@pytest_asyncio.fixture
async def quorumcache_client(quorumcache_cluster: LocalCluster) -> AsyncIterator[Client]:
    """A client of `quorumcache_cluster` that may write."""
    async with await quorumcache_cluster.client() as client:
        yield client
