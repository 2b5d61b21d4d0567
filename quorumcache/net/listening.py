"""An aiohttp application on a socket: listening, and ceasing to. It must not know what the application does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from aiohttp import web

from quorumcache.net import tls

BACKLOG: Final = 512
SHUTDOWN_S_MAX: Final = 1.0
#: How long a connection has for its first request's head, TLS included, and how many may be at that at once.
HEAD_S_MAX: Final = 10.0
SILENT_MAX: Final = 512
KEEPALIVE_S_MAX: Final = 75.0


class _Site(web.BaseSite):
    """A listening socket as aiohttp's own, but with bounds on how long TLS may take to begin and to end."""

    __slots__ = ("_context", "_host", "_port")

    def __init__(self, runner: web.AppRunner, host: str, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._host = host
        self._port = port
        self._context = context

    @property
    def name(self) -> str:
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None
        accepts = _Accepts(server)
        bounds = (tls.HANDSHAKE_S_MAX, tls.SHUTDOWN_S_MAX) if self._context is not None else (None, None)
        self._server = await asyncio.get_running_loop().create_server(
            accepts,
            self._host,
            self._port,
            ssl=self._context,
            backlog=BACKLOG,
            reuse_address=True,
            ssl_handshake_timeout=bounds[0],
            ssl_shutdown_timeout=bounds[1],
        )


class _Accepts:
    """Makes what serves a new connection, and ends those that ask for nothing: after `HEAD_S_MAX`, or earlier where too
    many of them wait. aiohttp itself waits for ever for the first line of a first request."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        handler = self._server()
        while len(self._silent) >= SILENT_MAX:
            self._end(next(iter(self._silent)))
        self._silent[handler] = asyncio.get_running_loop().call_later(HEAD_S_MAX, self._end, handler)
        return handler

    def _end(self, handler: web.RequestHandler) -> None:
        self._silent.pop(handler).cancel()
        # One that has sent the head of a request is bounded by what serves it.
        if not handler._request_count and handler.transport is not None:
            handler.transport.abort()


class Listener:
    """Listens at `host:port` for an application, over TLS where a context is given; port 0 is any free one, and `port`
    says which once it listens."""

    def __init__(self, host: str, port: int, *, context: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self._context = context
        self._runner: web.AppRunner | None = None

    async def start(self, app: web.Application) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S_MAX, keepalive_timeout=KEEPALIVE_S_MAX)
        await runner.setup()
        try:
            await _Site(runner, self.host, self.port, self._context).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def stop(self) -> None:
        """Let what is under way end, for a second at most, and stop listening."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def free_ports(count: int) -> list[int]:
    """Ports of this machine's loopback that nobody listens on right now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
