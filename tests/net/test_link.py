"""A client's session with one node: that it ends when it is told to, whatever happens at that moment."""

import asyncio

import pytest

from quorumcache.net.link import Link
from quorumcache.testing import LocalCluster


async def test_a_link_that_is_stopped_while_its_session_breaks_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    breaking = asyncio.Event()

    async def slow_to_end(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            breaking.set()
            await asyncio.sleep(0.05)

    async with LocalCluster() as cluster:
        with monkeypatch.context() as patch:
            patch.setattr(Link, "_write", slow_to_end)
            client = await cluster.client()
            await cluster.kill(0)
            await breaking.wait()
            async with asyncio.timeout(10):
                await client.close()
