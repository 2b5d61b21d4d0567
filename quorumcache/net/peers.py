"""Links to several nodes at once: what a client, or a node that recovers, talks through.

Knows sessions; must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

import aiohttp

from quorumcache.core.config import Configuration
from quorumcache.core.messages import AnyReply, Request
from quorumcache.net.link import Link
from quorumcache.wire import codec
from quorumcache.wire.keys import SigningKey

#: What links share: one connection pool.
Http = aiohttp.ClientSession


def open_http() -> Http:
    """The aiohttp session that links share: no proxy, no cookies, no overall deadline."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, connect=5.0),
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=False,
    )


def send_all(links: dict[int, Link], outbox: Iterable[tuple[tuple[int, ...], Request]]) -> None:
    """Hand requests to the links of their nodes, each encoded once."""
    for nodes, request in outbox:
        encoded = codec.encode(request)
        for node in nodes:
            link = links.get(node)
            if link is not None:
                link.send(request.id, encoded)


class Peers:
    """Sessions with the given nodes under this side's key (None: as a stranger), as an async context manager. Replies
    go to `on_reply(node, reply)`."""

    def __init__(self, configuration: Configuration, nodes: Sequence[int], key: SigningKey | None) -> None:
        self.on_reply: Callable[[int, AnyReply], None] = lambda _node, _reply: None
        self.links: dict[int, Link] = {}
        self._configuration = configuration
        self._nodes = nodes
        self._key = key
        self._http: aiohttp.ClientSession | None = None
        self._event = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._http = open_http()
        for node in self._nodes:
            link = Link(
                self._configuration,
                self._configuration.nodes[node],
                self._http,
                on_replies=self._on_replies,
                on_change=self._on_change,
                key=self._key,
            )
            self.links[node] = link
            link.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.links.values():
            await link.stop()
        if self._http is not None:
            await self._http.close()

    def send(self, outbox: Iterable[tuple[tuple[int, ...], Request]]) -> None:
        """Send requests to nodes."""
        send_all(self.links, outbox)

    async def up(self, count: int, *, wait_s_max: float) -> int:
        """Wait until `count` sessions are up, or the time is over; returns how many are."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s_max
        while sum(link.up for link in self.links.values()) < count and loop.time() < end_s:
            await self.heard(end_s - loop.time())
        return sum(link.up for link in self.links.values())

    async def heard(self, wait_s_max: float) -> None:
        """Wait for the next reply or change of a session, at most this long."""
        self._event.clear()
        try:
            async with asyncio.timeout(wait_s_max):
                await self._event.wait()
        except TimeoutError:
            return

    def _on_replies(self, node: int, replies: list[AnyReply]) -> None:
        for reply in replies:
            self.on_reply(node, reply)
        self._event.set()

    def _on_change(self, _node: int, _up: bool, _clock_us: int) -> None:
        self._event.set()
