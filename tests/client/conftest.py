"""One cluster in this process for the tests of a module, and a client of it for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from quorumcache.client import Client
from quorumcache.testing import LocalCluster


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    """Four nodes; operations give up after half a second, so that tests of failures do not wait."""
    async with LocalCluster(max_skew=0.02, op_time=0.5, grace=0.05) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: LocalCluster) -> Client:
    """A client that reads and writes; the cluster closes it."""
    return await cluster.client()
