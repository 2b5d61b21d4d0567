"""HTTP for curl and other languages: a local client behind `GET/PUT/DELETE /v1/{namespace}/{key}`.

Whoever calls it trusts it as they would the client library in their own process, so it listens on loopback and turns
away what a web page could send here. Knows aiohttp and the client's public names; must not know the protocol.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web
from aiohttp.typedefs import Handler

from quorumcache import errors
from quorumcache.client import Client
from quorumcache.client.listing import LIMIT, LIMIT_MAX
from quorumcache.core.model import KEY_BYTES_MAX, VALUE_BYTES_MAX
from quorumcache.net.listening import Listener

#: Requests at a time; each may hold one value. More are told to come again.
REQUESTS_MAX: Final = 256
#: What a page in a browser may call this machine. Anything else in Host was pointed here by somebody's name server.
LOCAL_NAMES: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))

# The first that fits: class, HTTP status, name.
_STATUSES: Final[tuple[tuple[type[errors.QuorumCacheError], int, str], ...]] = (
    (errors.InvalidValue, 400, "invalid_value"),
    (errors.InvalidKey, 400, "invalid_key"),
    (errors.Misuse, 400, "misuse"),
    (errors.PermissionDenied, 403, "permission_denied"),
    (errors.Unavailable, 503, "unavailable"),
    (errors.OutcomeUnknown, 504, "outcome_unknown"),
    (errors.QuorumCacheError, 502, "error"),
)
_NAMES: Final = {404: "no_such_address", 405: "method_not_allowed", 413: "too_large"}


class HttpGateway:
    """Serves a client's cluster at `host:port` (port 0: any free one; `port` says which).

    `any_name`: answer under every host name, not only this machine's own. The client stays the caller's to close.
    """

    def __init__(self, client: Client, *, host: str, port: int, any_name: bool = False) -> None:
        self._listener = Listener(host, port)
        self.requests_count = 0
        self._client = client
        self._clients: dict[str, Client] = {}
        self._sealed: dict[str, str] = {}  # namespaces whose values this client cannot open: why
        for info in client.configuration.namespaces:
            try:
                self._clients[info.name] = client.within(info.name)
            except errors.KeyFileError:
                raise
            except errors.Misuse as fault:
                self._sealed[info.name] = str(fault)
        self._any_name = any_name
        self._under_way = 0

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        app = web.Application(middlewares=[self._guard], client_max_size=VALUE_BYTES_MAX)
        app.router.add_get("/healthz", self._health)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/{namespace}/", self._keys)
        app.router.add_get("/v1/{namespace}/{key:.+}", self._get)
        app.router.add_put("/v1/{namespace}/{key:.+}", self._put)
        app.router.add_delete("/v1/{namespace}/{key:.+}", self._delete)
        await self._listener.start(app)

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._listener.host

    @property
    def port(self) -> int:
        """Where it listens; once it does, this is never 0."""
        return self._listener.port

    async def stop(self) -> None:
        """Let what is under way end, and stop listening."""
        await self._listener.stop()

    # --- what it answers ---

    async def _get(self, request: web.Request) -> web.StreamResponse:
        client, key = self._place(request)
        value = await client.get(key)
        if value is None:
            return _error(404, "no_such_key", "there is no such key, or it has expired")
        return web.Response(body=value, content_type="application/octet-stream")

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        """A page of keys, each as it stands in an address; `prefix` is percent-decoded to bytes, as keys are."""
        asked = dict(pair.partition("=")[::2] for pair in request.rel_url.raw_query_string.split("&") if pair)
        unknown = asked.keys() - {"prefix", "limit", "cursor"}
        if unknown:
            raise errors.Misuse(f"a listing takes prefix, limit and cursor, not {min(unknown)[:40]!r}")
        limit = asked.get("limit", str(LIMIT))
        if not (limit.isascii() and limit.isdigit() and len(limit) < 9):
            raise errors.Misuse(f"limit={limit[:40]!r}: it is 1 to {LIMIT_MAX} keys")
        prefix = unquote_to_bytes(asked.get("prefix", "").replace("+", " "))
        page = await self._client_of(request).scan(prefix, int(limit), asked.get("cursor"))
        return web.json_response({"keys": [quote(key, safe="") for key in page.keys], "cursor": page.cursor})

    async def _put(self, request: web.Request) -> web.StreamResponse:
        client, key = self._place(request)
        ttl = _ttl(request)
        value = await request.read()
        limit = self._limit(request)
        if len(value) > limit:
            return _error(413, "too_large", f"a value of {len(value)} bytes; this namespace takes at most {limit}")
        await client.set(key, value, ttl=ttl)
        return web.Response(status=204)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        client, key = self._place(request)
        await client.delete(key)
        return web.Response(status=204)

    async def _health(self, _request: web.Request) -> web.StreamResponse:
        configuration = self._client.configuration
        missing = len(self._client.unreachable)
        if missing > configuration.f:
            up = len(configuration.nodes) - missing
            return _error(503, "unavailable", f"only {up} of {len(configuration.nodes)} nodes are connected")
        return web.json_response({"ok": True})

    async def _status(self, _request: web.Request) -> web.StreamResponse:
        client = self._client
        configuration, unreachable = client.configuration, client.unreachable
        nodes = [
            {
                "name": info.name,
                "address": info.address,
                "connected": info.name not in unreachable,
                "problem": unreachable.get(info.name, ""),
            }
            for info in configuration.nodes
        ]
        told = {
            "cluster_id": configuration.cluster_id,
            "epoch": configuration.epoch,
            "configuration": configuration.digest.hex(),
            "f": configuration.f,
            "namespaces": list(self._clients),
            "may_write": client.writer is not None,
            "requests": self.requests_count,
            "nodes": nodes,
            "counts": client.counts,
        }
        return web.json_response(told)

    # --- inside ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Bounds, names and errors, for all requests alike."""
        if not self._any_name and _host_name(request) not in LOCAL_NAMES:
            # A web page can have its own name resolve to this machine and then read what is answered.
            return _error(421, "other_host", f"this is not the host {request.host[:100]!r}: use localhost")
        if self._under_way >= REQUESTS_MAX:
            return _error(503, "busy", f"{REQUESTS_MAX} requests are under way already; try again")
        self.requests_count += 1
        self._under_way += 1
        try:
            return await _answered(handler, request)
        except errors.QuorumCacheError as fault:
            _, status, name = next(row for row in _STATUSES if isinstance(fault, row[0]))
            return _error(status, name, str(fault))
        except web.HTTPException as fault:
            answer = _error(fault.status, _NAMES.get(fault.status, "bad_request"), _words(fault))
            if "Allow" in fault.headers:
                answer.headers["Allow"] = fault.headers["Allow"]
            return answer
        finally:
            self._under_way -= 1

    def _client_of(self, request: web.Request) -> Client:
        name = request.match_info["namespace"]
        client = self._clients.get(name)
        if client is None and name in self._sealed:
            raise errors.Misuse(self._sealed[name])
        if client is None:
            raise errors.Misuse(f"there is no namespace {name[:100]!r}; there are {', '.join(self._clients)}")
        return client

    def _place(self, request: web.Request) -> tuple[Client, bytes]:
        """The client for the request's namespace, and its key: all after the namespace, percent-decoded, as bytes."""
        client = self._client_of(request)
        key = unquote_to_bytes(request.rel_url.raw_path.split("/", 3)[3])
        if len(key) > KEY_BYTES_MAX:
            raise errors.InvalidKey(f"a key of {len(key)} bytes; keys have 1 to {KEY_BYTES_MAX} bytes")
        return client, key

    def _limit(self, request: web.Request) -> int:
        info = self._client.configuration.namespace(request.match_info["namespace"].encode())
        return min((info.value_bytes_max if info is not None else 0) or VALUE_BYTES_MAX, VALUE_BYTES_MAX)


async def _answered(handler: Callable[[web.Request], Awaitable[Any]], request: web.Request) -> web.StreamResponse:
    answer = await handler(request)
    assert isinstance(answer, web.StreamResponse)
    return answer


def _host_name(request: web.Request) -> str:
    """The name in the Host header, without its port."""
    host = request.host.lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]


def _ttl(request: web.Request) -> float | None:
    text = request.query.get("ttl")
    if text is None:
        return None
    try:
        ttl = float(text)
    except ValueError:
        ttl = math.nan
    if not 0 < ttl < math.inf:
        raise errors.InvalidValue(f"ttl={text[:40]!r}: it is a number of seconds above 0, or left out for no end")
    return ttl


def _error(status: int, name: str, detail: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else None
    return web.json_response({"error": name, "detail": detail}, status=status, headers=headers, dumps=_dumps)


def _dumps(value: object) -> str:
    return json.dumps(value) + "\n"


def _words(fault: web.HTTPException) -> str:
    if fault.status == 413:
        return f"a value has at most {VALUE_BYTES_MAX} bytes"
    if fault.status == 404:
        return "there are /v1/{namespace}/{key}, /v1/{namespace}/, /v1/status and /healthz"
    return fault.reason
