"""One cluster in this process for the tests of a module, and a client of it for each test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from quorumcache.client import Client, SyncClient
from quorumcache.testing import LocalCluster


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    """Four nodes, which are given all the time that a busy machine needs."""
    async with LocalCluster(max_skew=0.02, op_time=30.0, grace=0.05) as cluster:
        yield cluster


@pytest.fixture
async def failing_cluster() -> AsyncIterator[LocalCluster]:
    """Four nodes, some of which are to be taken down: operations give up soon, so that tests need not wait."""
    async with LocalCluster(max_skew=0.02, op_time=0.7, grace=0.05) as cluster:
        yield cluster


@pytest.fixture
async def client(cluster: LocalCluster) -> Client:
    """A client that reads and writes; the cluster closes it."""
    return await cluster.client()


@pytest.fixture(scope="module")
def distant_cluster() -> Iterator[LocalCluster]:
    """A cluster in a loop and thread of its own, for blocking clients."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    async def start() -> LocalCluster:
        return await LocalCluster(max_skew=0.02, grace=0.05).__aenter__()

    cluster = run(start())
    try:
        yield cluster
    finally:
        run(cluster.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def sync_client(distant_cluster: LocalCluster) -> Iterator[SyncClient]:
    """A blocking client of it."""
    with SyncClient(distant_cluster.signed, key=distant_cluster.writers["default"]) as client:
        yield client
