"""The gateway: a listening socket, its connections and their bounds, its databases.

Whoever may connect reads, and writes with the gateway's key, and takes its word for what it reads: it belongs beside
the programs that use it (docs/redis.md). It must not know commands.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from quorumcache.client import Client
from quorumcache.errors import Misuse
from quorumcache.gateway.redis import commands
from quorumcache.gateway.redis.channels import Channels
from quorumcache.gateway.redis.connection import Connection
from quorumcache.gateway.redis.cursors import Cursors
from quorumcache.gateway.redis.database import Database
from quorumcache.gateway.redis.deadlines import Deadlines
from quorumcache.gateway.redis.notifications import Notifications
from quorumcache.gateway.redis.scripting import Scripts
from quorumcache.gateway.redis.settings import DATABASES, DatabaseNames, Settings
from quorumcache.net import tls

BACKLOG: Final = 1024
SWEEP_S: Final = 1.0
#: How long a connection may take to authenticate.
AUTHENTICATION_S_MAX: Final = 10.0

assert commands.LOADED, "the commands are in the table"


class RedisGateway:
    """Serves a client's cluster to Redis clients. The client stays the caller's to close.

    Raises Misuse where the settings name namespaces that are not there or of another type.
    """

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.databases = databases_of(client, settings)
        self.deadlines = Deadlines(asyncio.get_running_loop(), settings.timeout_s)
        self.channels = Channels()
        parts = [part for database in self.databases.values() for _, part in database.parts]
        self.notifications = Notifications(self.channels, parts)
        self.cursors = Cursors()
        self.scripts = Scripts()
        self.loop = asyncio.get_running_loop()
        self.began_s = time.monotonic()
        self.commands_count = 0
        self.connections_count = 0
        self.refused_count = 0
        #: Memory that requests hold, all connections' together.
        self.held_bytes = 0
        self.port = settings.port
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        self._ids = 0

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        context = self.settings.tls
        self._server = await self.loop.create_server(
            lambda: Connection(self),
            self.settings.host,
            self.settings.port,
            backlog=BACKLOG,
            ssl=context,
            ssl_handshake_timeout=tls.HANDSHAKE_S_MAX if context is not None else None,
            ssl_shutdown_timeout=tls.SHUTDOWN_S_MAX if context is not None else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweep()

    async def stop(self) -> None:
        """Stop listening, and close all connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        await self.notifications.stop()
        for connection in list(self.connections):
            connection.abort()
        await asyncio.sleep(0)
        self.deadlines.stop()
        if self._server is not None:
            await self._server.wait_closed()

    # --- for connections ---

    def admit(self, connection: Connection) -> bool:
        """Whether there is a place for one more."""
        if len(self.connections) >= self.settings.connections_max:
            self.refused_count += 1
            return False
        self.connections.add(connection)
        self.connections_count += 1
        return True

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self.held_bytes -= connection.held_bytes
        self.channels.forget(connection.session)

    def next_id(self) -> int:
        """A number for a new connection."""
        self._ids += 1
        return self._ids

    def report(self, bug: Exception) -> None:
        """Say where an error of our own can be seen."""
        self.loop.call_exception_handler({"message": "a Redis command failed by our own fault", "exception": bug})

    # --- inside ---

    def _sweep(self) -> None:
        """Close those that are idle for too long, do not say who they are, or do not read."""
        settings, now_s = self.settings, self.loop.time()
        for connection in list(self.connections):
            session = connection.session
            idle_s = now_s - session.active_s
            if connection.full_s and now_s - connection.full_s > settings.output_s_max:
                connection.abort()
            elif not session.is_authenticated and now_s - session.began_s > AUTHENTICATION_S_MAX:
                connection.refuse("ERR no authentication in time")
            elif settings.idle_s and idle_s > settings.idle_s and not session.subscriptions and connection.is_idle:
                connection.abort()
        if self.notifications.are_running:
            self._ending = self.loop.create_task(self.notifications.end_if_idle())
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)


def databases_of(client: Client, settings: Settings) -> dict[int, Database]:
    """The databases that the settings name, by number. Raises Misuse."""
    types = {info.name: info.type for info in client.configuration.namespaces}
    named = settings.databases or dict.fromkeys(range(DATABASES), _default_names(types))
    if 0 not in named:
        raise Misuse("database 0 is where each connection begins: name its namespaces too")
    found: dict[int, Database] = {}
    for number, names in named.items():
        found[number] = _database_of(client, types, number, names)
    if settings.prefixes:
        base = named[0]
        taken = {base.strings, base.hashes, base.sets}
        routes = {}
        for prefix, names in settings.prefixes.items():
            if {names.strings, names.hashes, names.sets}.difference((None,)) & taken:
                raise Misuse(f"keys that begin with {prefix!r} need namespaces of their own, that database 0 has not")
            routes[prefix] = _database_of(client, types, 0, names)
        found[0].route(routes)
    return found


def _database_of(client: Client, types: dict[str, str], number: int, names: DatabaseNames) -> Database:
    if not 0 <= number < DATABASES:
        raise Misuse(f"there is no database {number}: they are 0 to {DATABASES - 1}")
    clients: list[Client | None] = []
    is_exact = types.get(names.strings) == "exact"
    if is_exact and (names.hashes or names.sets):
        raise Misuse(
            f"database {number} is exact: {names.strings!r} holds its hashes and sets itself, so name no others"
        )
    wanted = ((names.strings, "exact" if is_exact else "register"), (names.hashes, "map"), (names.sets, "set"))
    for name, kind in wanted:
        if name is not None and types.get(name) != kind:
            there = f"of type {types[name]}" if name in types else "not there"
            raise Misuse(f"database {number} needs a namespace of type {kind}, and {name!r} is {there}")
        clients.append(client.namespace(name, serializer="bytes") if name is not None else None)
    strings, hashes, sets = clients
    assert strings is not None
    return Database(number, strings, hashes, sets, shared=names.shared)


def _default_names(types: dict[str, str]) -> DatabaseNames:
    """For all databases: the first namespace of each type. Raises Misuse where there is none of registers."""
    first = {kind: name for name, kind in reversed(types.items())}
    if "register" not in first:
        raise Misuse("the cluster has no namespace of type register, which strings are kept in")
    return DatabaseNames(first["register"], first.get("map"), first.get("set"), shared=True)
