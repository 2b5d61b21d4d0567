"""A Redis gateway on a cluster of four in-process nodes, one of which lies, for a whole module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import pytest
import pytest_asyncio

from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo
from quorumcache.gateway.redis import RedisGateway, Settings
from quorumcache.testing import LocalCluster

NAMESPACES = (NamespaceInfo("maps", type="map"), NamespaceInfo("sets", type="set"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[LocalCluster]:
    liar = getattr(request.module, "LIAR", "changing")
    async with LocalCluster(namespaces=NAMESPACES, byzantine={1: liar}, op_time=2.0) as cluster:
        yield cluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cluster: LocalCluster) -> Client:
    return await cluster.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(client: Client) -> AsyncIterator[RedisGateway]:
    async with serving(client) as gateway:
        yield gateway


class serving:  # noqa: N801
    """A gateway that listens on any free port."""

    def __init__(self, client: Client, **settings: Any) -> None:
        self._gateway = RedisGateway(client, Settings(port=0, **settings))

    async def __aenter__(self) -> RedisGateway:
        await self._gateway.start()
        return self._gateway

    async def __aexit__(self, *_: object) -> None:
        await self._gateway.stop()


class Raw:
    """A connection by hand: bytes as they are."""

    @classmethod
    async def open(cls, port: int) -> Self:
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(self, data: bytes, reply: bytes) -> None:
        """Send bytes; what comes back must be exactly `reply`."""
        self.writer.write(data)
        async with asyncio.timeout(10):
            assert await self.reader.readexactly(len(reply)) == reply

    async def line(self, data: bytes) -> bytes:
        """Send bytes; the line that comes back."""
        self.writer.write(data)
        async with asyncio.timeout(10):
            return (await self.reader.readline()).removesuffix(b"\r\n")

    async def rest(self, data: bytes = b"") -> bytes:
        """Send bytes; all that comes back until the other side closes."""
        if data:
            self.writer.write(data)
        async with asyncio.timeout(10):
            return await self.reader.read(-1)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass  # The other side was first.


@pytest_asyncio.fixture(loop_scope="module")
async def raw(gateway: RedisGateway) -> AsyncIterator[Callable[[], Awaitable[Raw]]]:
    opened: list[Raw] = []

    async def open_raw(port: int = 0) -> Raw:
        opened.append(await Raw.open(port or gateway.port))
        return opened[-1]

    yield open_raw
    for each in opened:
        await each.close()


def words(*arguments: bytes) -> bytes:
    """A request."""
    return b"*%d\r\n" % len(arguments) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in arguments)


def refused(what: str) -> Any:
    """That a command is refused with these words in its error."""
    return pytest.raises(Exception, match=what)
