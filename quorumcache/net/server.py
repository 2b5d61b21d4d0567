"""The node's side of sessions: an aiohttp server that opens frames, hands requests to a handler, and sends its replies.

Requests of a session are handled in order, frame by frame; a client that does not read its replies is not read from
either, so neither side's memory grows. Beside sessions it serves `/healthz` and `/v1/status` to anyone who can connect.
Knows aiohttp; must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from quorumcache.core.ballots import PROOF_BYTES_MAX
from quorumcache.core.config import Configuration
from quorumcache.core.messages import Reply, Request
from quorumcache.net import tls
from quorumcache.net.admission import Admission
from quorumcache.net.listening import Listener
from quorumcache.net.turns import QUANTUM_NS, Turns
from quorumcache.wire import codec
from quorumcache.wire import handshake as h
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.frame import FRAME_BYTES_MAX
from quorumcache.wire.keys import SigningKey

SESSIONS_MAX: Final = 1024
CREDIT_BYTES: Final = 16 << 20
HELLO_S_MAX: Final = 5.0
#: A client that reads nothing for this long loses its session.
SEND_S_MAX: Final = 30.0
HEARTBEAT_S: Final = 15.0
#: Replies travel in frames of about this size; between two of them other sessions have their turn.
REPLIES_BYTES_GOAL: Final = 256 << 10


class Handler(Protocol):
    """What answers requests: a running node, or a test's liar."""

    def handle(self, request: Request, client: bytes) -> Reply | None:
        """Answer one request; None is silence. `client`: the key that whoever asks has proven, empty for a stranger."""

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
        handle, stored, encode = self._handler.handle, self._handler.stored, codec.encode
        lacking, gather = self._handler.lacking, self._handler.gather
        open_, seal, wrap = channel.opener.open, channel.sealer.seal, self._wrap
        receive, send_bytes = websocket.receive, websocket.send_bytes
        binary, client, turns, clock_ns = aiohttp.WSMsgType.BINARY, channel.client, self.turns, time.perf_counter_ns
        while True:
            message = await receive()
            if message.type is not binary:
                if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.ERROR):
                    raise Unreadable("a message that is no binary frame, or over its bound")
                return
            if (turn := turns.wait(client)) is not None:
                await turn
            parts: list[bytes] = []
            handled: list[Request] = []
            late: list[tuple[int, Request]] = []
            unsigned: list[tuple[int, Reply]] = []
            size, began_ns, to_sign = 0, clock_ns(), gather()
            for request in codec.decode_requests(open_(message.data)):
                reply = handle(request, client)
                handled.append(request)
                if reply is None:
                    pass
                elif more := lacking(request):
                    late.append((len(parts), request))
                    parts.append(b"")
                    size += more
                elif to_sign and to_sign[-1] is reply:
                    unsigned.append((len(parts), reply))
                    parts.append(b"")
                    size += PROOF_BYTES_MAX
                else:
                    part = encode(reply)
                    parts.append(part)
                    size += len(part)
                if size > REPLIES_BYTES_GOAL or clock_ns() - began_ns > QUANTUM_NS:
                    self._sign(parts, unsigned)
                    if late:
                        parts = self._completed(parts, late, client)
                    turns.used(client, clock_ns() - began_ns)
                    if (now := stored()) is not True:
                        parts = await self._when_stored(now, handled, client, parts)
                    if parts:
                        await self._send(send_bytes, seal(codec.join(parts)), wrap)
                    parts, handled, late, unsigned, size = [], [], [], [], 0
                    await asyncio.sleep(0)
                    if (turn := turns.wait(client)) is not None:
                        await turn
                    began_ns, to_sign = clock_ns(), gather()
            self._sign(parts, unsigned)
            if late:
                parts = self._completed(parts, late, client)
            turns.used(client, clock_ns() - began_ns)
            if (now := stored()) is not True:
                parts = await self._when_stored(now, handled, client, parts)
            if parts:
                await self._send(send_bytes, seal(codec.join(parts)), wrap)

    def _sign(self, parts: list[bytes], unsigned: list[tuple[int, Reply]]) -> None:
        """Have the votes and grants signed that wait for it, all together, and put these replies in their places."""
        self._handler.sign()
        for place, reply in unsigned:
            parts[place] = codec.encode(reply)

    def _completed(self, parts: list[bytes], late: list[tuple[int, Request]], client: bytes) -> list[bytes]:
        """The encoded replies, with those in their places that lacked values before: these are fetched all at once."""
        if self._handler.fetch():
            for place, request in late:
                reply = self._handler.handle(request, client)
                if reply is not None and not self._handler.lacking(request):
                    parts[place] = codec.encode(reply)
        # Where a value cannot be had there is no reply: to whoever asks, this node is silent.
        return [part for part in parts if part]

    async def _when_stored(
        self, stored: Awaitable[None] | bool, handled: list[Request], client: bytes, parts: list[bytes]
    ) -> list[bytes]:
        """The replies, once what they say is stored; other ones where it cannot be."""
        if stored is False:
            parts, late = [], []
            for request in handled:
                reply = self._handler.handle(request, client)
                if self._handler.lacking(request):
                    late.append((len(parts), request))
                    parts.append(b"")
                elif reply is not None:
                    parts.append(codec.encode(reply))
            if late:
                parts = self._completed(parts, late, client)
            stored = self._handler.stored()
        if not isinstance(stored, bool):
            await stored
        return parts

    async def _send(
        self, send_bytes: Any, frame: bytes, wrap: Callable[[bytes], Awaitable[bytes | None]] | None
    ) -> None:
        if wrap is not None:
            wrapped = await wrap(frame)
            if wrapped is None:
                return
            frame = wrapped
        if len(frame) < 1 << 16:
            await send_bytes(frame)
            return
        async with asyncio.timeout(SEND_S_MAX):
            await send_bytes(frame)
