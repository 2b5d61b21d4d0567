"""An aiohttp application on a socket: listening, and ceasing to. It must not know what the application does."""

from __future__ import annotations

from typing import Final

from aiohttp import web

BACKLOG: Final = 512
SHUTDOWN_S_MAX: Final = 1.0


class Listener:
    """Listens at `host:port` for an application; port 0 is any free one, and `port` says which once it listens."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._runner: web.AppRunner | None = None

    async def start(self, app: web.Application) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S_MAX)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port, backlog=BACKLOG, reuse_address=True).start()
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
