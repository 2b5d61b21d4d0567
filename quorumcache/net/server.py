"""The node's side of sessions: an aiohttp server that opens frames, hands requests to a handler, and sends its replies.

Requests of a session are handled in order, frame by frame; a client that does not read its replies is not read from
either, so neither side's memory grows. Beside sessions it serves `/healthz` and `/v1/status` to anyone who can connect.
Knows aiohttp; must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from quorumcache.core.config import Configuration
from quorumcache.core.cutting import Cut
from quorumcache.core.messages import Reply, Request
from quorumcache.net import tls
from quorumcache.net.admission import Admission
from quorumcache.net.answers import Answers
from quorumcache.net.listening import Listener
from quorumcache.net.turns import Turns
from quorumcache.wire import codec
from quorumcache.wire import handshake as h
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.frame import FRAME_BYTES_MAX
from quorumcache.wire.keys import SigningKey

SESSIONS_MAX: Final = 1024
CREDIT_BYTES: Final = 16 << 20
HELLO_S_MAX: Final = 5.0
HEARTBEAT_S: Final = 15.0
#: No request in a frame of so few bytes takes long.
SMALL_BYTES_MAX: Final = 2048


class Handler(Protocol):
    """What answers requests: a running node, or a test's liar."""

    def handle(self, request: Request, client: bytes) -> Reply | None:
        """Answer one request; None is silence. `client`: the key that whoever asks has proven, empty for a stranger."""

    def cut(self, request: Request) -> Cut | None:
        """The request, to be worked on in pieces; None where it is to be handled at once. What a piece did must be
        `stored` before others are answered."""

    def go_on(self, piecewise: Cut, client: bytes) -> Reply | None:
        """The next piece of such a request; once it is `finished`, its reply, and None is silence."""

    def gather(self) -> Sequence[Reply]:
        """From now on replies may lack signatures until `sign`: they are in this list then, the latest last."""

    def sign(self) -> None:
        """Sign them all, with one signature; from now on no reply lacks one."""

    def stored(self) -> Awaitable[None] | bool:
        """Store what was answered since the last call. True: it is stored; an awaitable: it is once that is done;
        False: it cannot be, and what was answered has to be asked again."""

    def lacking(self, request: Request) -> int:
        """How many bytes of values the answer just given lacks, which have to be fetched; 0: it is whole."""

    def fetch(self) -> bool:
        """Fetch what answers lacked: now they can be given. False: they cannot."""

    def clock_us(self) -> int:
        """The node's clock, in microseconds since the epoch."""

    def status(self) -> dict[str, Any]:
        """What `/v1/status` shows."""


class Epochs(Protocol):
    """Which epochs a node knows."""

    def serves(self, digest: bytes) -> bool:
        """Whether a session may be opened under this configuration."""

    def is_client(self, key: bytes) -> bool:
        """Whether a session may be opened with this key."""


class NodeServer:
    """Serves a node's sessions at `host:port` (port 0: any free one; `port` says which).

    `key` is the node's. Over TLS unless the configuration says otherwise. `wrap`, for tests, may delay frames on
    their way out, replace their bytes, or (with None) lose them.
    """

    def __init__(
        self,
        configuration: Configuration,
        key: SigningKey,
        handler: Handler,
        *,
        host: str,
        port: int,
        compress: bool = True,
        sessions_max: int = SESSIONS_MAX,
        wrap: Callable[[bytes], Awaitable[bytes | None]] | None = None,
    ) -> None:
        self._binding = b""
        context = None
        if configuration.tls:
            certificate = tls.certificate_of(key)
            context = tls.server_context(key, certificate)
            self._binding = tls.binding_of(certificate.public_bytes(Encoding.DER))
        self._listener = Listener(host, port, context=context)
        self.sessions_count = 0
        self.sessions_refused_count = 0
        self.sessions_broken_count = 0
        self._configuration = configuration
        #: What else sessions may be opened under, and with which keys: of a node that goes from epoch to epoch.
        self.epochs: Epochs | None = None
        self._key = key
        self._handler = handler
        self._compress = compress
        self._admission = Admission(sessions_max, frozenset(node.key for node in configuration.nodes))
        #: Whose turn it is, by keys. Nodes bring each other what clients wrote: they need not rest.
        self.turns = Turns(is_exempt=lambda client: client in self._admission.nodes)
        self._wrap = wrap
        self._sockets: set[web.WebSocketResponse] = set()

    async def start(self) -> None:
        """Listen. Raises OSError where the address cannot be had."""
        app = web.Application(client_max_size=1 << 16)
        app.router.add_get("/v1/session", self._session)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/healthz", self._health)
        await self._listener.start(app)

    def moved(self, configuration: Configuration) -> None:
        """The node is in another epoch. Sessions go on: what is asked in them says under which it is asked."""
        self._configuration = configuration
        self._admission.nodes |= {node.key for node in configuration.nodes}

    @property
    def host(self) -> str:
        """Where it listens."""
        return self._listener.host

    @property
    def port(self) -> int:
        """Where it listens; once it does, this is never 0."""
        return self._listener.port

    async def stop(self) -> None:
        """Close all sessions and stop listening."""
        for websocket in list(self._sockets):
            with contextlib.suppress(OSError, aiohttp.ClientError):
                await websocket.close(code=aiohttp.WSCloseCode.GOING_AWAY, message=b"the node stops")
        await self._listener.stop()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def _status(self, _request: web.Request) -> web.Response:
        status = self._handler.status()
        status["sessions"] = {
            "open": self.sessions_count,
            "refused": self.sessions_refused_count,
            "broken": self.sessions_broken_count,
        }
        return web.json_response(status)

    async def _session(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(
            max_msg_size=FRAME_BYTES_MAX, heartbeat=HEARTBEAT_S, compress=False, writer_limit=1 << 20
        )
        await websocket.prepare(request)
        self.sessions_count += 1
        self._sockets.add(websocket)
        admission, client = self._admission, None

        def give_up() -> None:
            if request.transport is not None:
                request.transport.abort()

        admission.opens(websocket, give_up)
        try:
            channel = await self._open(websocket)
            if channel is not None:
                admission.opened(websocket)
                if refusal := admission.refusal(channel.client):
                    # As many asked for the last places at once.
                    self.sessions_refused_count += 1
                    await self._close(websocket, aiohttp.WSCloseCode.TRY_AGAIN_LATER, refusal)
                    return websocket
                client = channel.client
                admission.enter(client)
                await self._serve(websocket, channel)
        except Unreadable as fault:
            # A peer's fault, and its session's end; nobody else's.
            self.sessions_broken_count += 1
            await self._close(websocket, aiohttp.WSCloseCode.PROTOCOL_ERROR, str(fault))
        except TimeoutError:
            self.sessions_broken_count += 1
            await self._close(websocket, aiohttp.WSCloseCode.POLICY_VIOLATION, "the client was silent for too long")
        except (OSError, aiohttp.ClientError):
            self.sessions_broken_count += 1
        finally:
            self.sessions_count -= 1
            admission.opened(websocket)
            if client is not None:
                admission.leave(client)
            self._sockets.discard(websocket)
            # aiohttp sets the heartbeat anew for what arrives while a session closes, and its timer then holds all of
            # the session for as long: who breaks sessions on purpose could fill the memory.
            websocket._heartbeat = None
            websocket._cancel_heartbeat()
        return websocket

    async def _close(self, websocket: web.WebSocketResponse, code: int, reason: str) -> None:
        with contextlib.suppress(OSError, aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(1.0):
                await websocket.close(code=code, message=reason.encode()[:120])

    async def _open(self, websocket: web.WebSocketResponse) -> h.Channel | None:
        opening = await self._first(websocket)
        if opening is None:
            return None
        hello = h.read_hello(opening)
        refusal = self._refusal(hello)
        if refusal is not None:
            self.sessions_refused_count += 1
            await websocket.send_bytes(refusal)
            await websocket.close()
            return None
        channel, answer = h.welcome(
            opening,
            hello,
            self._key.sign,
            os.urandom(32),
            clock_us=self._handler.clock_us(),
            credit_bytes=CREDIT_BYTES,
            compress=self._compress,
            binding=self._binding,
        )
        await websocket.send_bytes(answer)
        if hello.client:
            message = await self._first(websocket)
            if message is None:
                return None
            try:
                h.check_proof(message, hello, channel)
            except h.WrongKey:
                self.sessions_refused_count += 1
                reason = "the client did not prove its key " + hello.client.hex()
                await self._close(websocket, aiohttp.WSCloseCode.POLICY_VIOLATION, reason)
                return None
        return channel

    async def _first(self, websocket: web.WebSocketResponse) -> bytes | None:
        """One of the messages that a client opens with; None where it leaves instead."""
        async with asyncio.timeout(HELLO_S_MAX):
            message = await websocket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED):
            return None
        raise Unreadable("a session opens with a binary message")

    def _refusal(self, hello: h.Hello) -> bytes | None:
        mine = self._configuration
        if hello.cluster_id != mine.cluster_id:
            detail = f"this node belongs to cluster {mine.cluster_id!r}, the client asks for {hello.cluster_id!r}"
            return h.refusal(h.OTHER_CLUSTER, detail)
        epochs = self.epochs
        if hello.configuration != mine.digest and not (epochs and epochs.serves(hello.configuration)):
            detail = (
                f"this node works under epoch {mine.epoch}, configuration {mine.digest.hex()[:16]}; the client under "
                f"{hello.configuration.hex()[:16]}: whoever has the lower epoch must load the newer configuration"
            )
            return h.refusal(h.OTHER_CONFIGURATION, detail)
        if hello.node != self._key.public:
            detail = f"the client expects node key {hello.node.hex()}, this node's is {self._key.public.hex()}"
            return h.refusal(h.OTHER_KEY, detail)
        if hello.client and not (epochs or mine).is_client(hello.client):
            detail = (
                f"the key {hello.client.hex()} is none of the {len(mine.writers)} writers' of epoch {mine.epoch}: "
                "use a key file that was made for this cluster, or have its administrators add the key"
            )
            return h.refusal(h.UNKNOWN_CLIENT, detail)
        too_many = self._admission.refusal(hello.client)
        return h.refusal(h.TOO_MANY, too_many) if too_many else None

    async def _serve(self, websocket: web.WebSocketResponse, channel: h.Channel) -> None:
        handle, cut, go_on = self._handler.handle, self._handler.cut, self._handler.go_on
        open_, receive, binary = channel.opener.open, websocket.receive, aiohttp.WSMsgType.BINARY
        client, turns = channel.client, self.turns
        answers = Answers(self._handler, turns, channel, websocket.send_bytes, self._wrap)
        add, is_long = answers.add, answers.is_long
        while True:
            message = await receive()
            if message.type is not binary:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.ERROR):
                    raise Unreadable("a message that is no binary frame, or over its bound")
                return
            if (turn := turns.wait(client)) is not None:
                await turn
            answers.begin()
            payload = open_(message.data)
            may_be_large = len(payload) > SMALL_BYTES_MAX
            requests = codec.decode_requests(payload)
            last = len(requests) - 1
            for number, request in enumerate(requests):
                reply, piecewise = None, cut(request) if may_be_large else None
                while piecewise is not None:
                    reply = go_on(piecewise, client)
                    if piecewise.finished:
                        break
                    if is_long() and not await answers.pause():
                        # What its pieces did is stored, and no more will be: it is refused like any other.
                        piecewise = None
                add(request, handle(request, client) if piecewise is None else reply)
                # What comes behind the last has to wait for its turn anyway.
                if number < last and is_long():
                    await answers.pause()
            await answers.say()
