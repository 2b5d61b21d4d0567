"""An aiohttp application on a socket: listening, and ceasing to. It must not know what the application does."""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from aiohttp import web

from quorumcache.net import tls

BACKLOG: Final = 512
SHUTDOWN_S_MAX: Final = 1.0


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
        bounds = (tls.HANDSHAKE_S_MAX, tls.SHUTDOWN_S_MAX) if self._context is not None else (None, None)
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._context,
            backlog=BACKLOG,
            reuse_address=True,
            ssl_handshake_timeout=bounds[0],
            ssl_shutdown_timeout=bounds[1],
        )


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
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S_MAX)
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
