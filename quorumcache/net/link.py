"""A client's session with one node, kept alive: connect, prove, send, receive, reconnect.

What is handed to `send` in one event-loop turn travels in one frame. Requests unanswered when a session breaks are sent
again, with the same ids, over the next one. The node's credit window bounds what is under way; beyond it requests wait
in a bounded backlog, and what finds no place there is dropped: the protocol's own resends make up for it, and the node
cannot make this side's memory grow. Knows aiohttp; must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

import aiohttp

from quorumcache.core.config import Configuration, NodeInfo
from quorumcache.core.messages import AnyReply
from quorumcache.net.tls import NodePin, WrongNodeKey, binding_to
from quorumcache.wire import codec
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.frame import FRAME_BYTES_MAX
from quorumcache.wire.handshake import Channel, Opening, Refused, Welcome, WrongKey, proof
from quorumcache.wire.keys import SigningKey

CONNECT_S_MAX: Final = 5.0
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 5.0
BACKLOG_BYTES_MAX: Final = 32 << 20
HEARTBEAT_S: Final = 15.0
#: How long a session that ends waits for the node's farewell: a node that hangs must not hold up who leaves.
CLOSE_S_MAX: Final = 1.0
#: A frame is closed at about this size, so that large messages do not hold up small ones for long.
FRAME_BYTES_GOAL: Final = 1 << 20


class Link:
    """The session with one node, over TLS unless the configuration says otherwise. `key` is what this side proves.

    `on_replies(node, replies)` gets what arrives; `on_change(node, up, clock_us)` is told when the session comes up,
    with the node's clock, and when it goes down. `problem` says for people why it is down.
    """

    def __init__(
        self,
        configuration: Configuration,
        node: NodeInfo,
        http: aiohttp.ClientSession,
        *,
        on_replies: Callable[[int, list[AnyReply]], None],
        on_change: Callable[[int, bool, int], None],
        key: SigningKey | None = None,
        compress: bool = False,
    ) -> None:
        self.node = node
        self.problem = "not connected yet"
        #: Set where the node proved another key, or spoke no protocol: (error kind, text), for the status table.
        self.misbehaved = ""
        self.up = False
        self.sent_count = 0
        self.dropped_count = 0
        self._configuration = configuration
        self._http = http
        self._on_replies = on_replies
        self._on_change = on_change
        self._key = key
        self._compress = compress
        self._pin = NodePin(node) if configuration.tls else None
        self.received_bytes = 0
        self._credit_bytes = 0
        self._under_way: dict[int, bytes] = {}  # id -> request: sent, not answered
        self._under_way_bytes = 0
        self._backlog: deque[tuple[int, bytes]] = deque()
        self._backlog_bytes = 0
        self._waiting: set[int] = set()  # the ids in the backlog
        self._wake: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect, and keep connected until `stop`."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"link to {self.node.name}")

    def moved(self, configuration: Configuration, node: NodeInfo) -> None:
        """The cluster is in another epoch, where this same node has another place. The session goes on; the next one
        will be opened under that configuration."""
        self._configuration, self.node = configuration, node

    async def stop(self) -> None:
        """Close the session and end."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def send(self, request_id: int, encoded: bytes) -> None:
        """Send a request with the frame of this turn. Never blocks: see the module's text for what bounds it."""
        if request_id in self._under_way or request_id in self._waiting:
            return  # It is on its way in this very session, or will be first thing in the next; or waits its turn.
        if self._backlog_bytes + len(encoded) > BACKLOG_BYTES_MAX:
            self.dropped_count += 1
            return
        self._backlog.append((request_id, encoded))
        self._waiting.add(request_id)
        self._backlog_bytes += len(encoded)
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def forget(self, is_wanted: Callable[[int], bool]) -> None:
        """Drop what nobody waits for any more from the backlog, and, while the session is down, from what would be
        sent again."""
        self._backlog = deque(pair for pair in self._backlog if is_wanted(pair[0]))
        self._waiting = {request_id for request_id, _ in self._backlog}
        self._backlog_bytes = sum(len(encoded) for _, encoded in self._backlog)
        if not self.up:
            self._under_way = {i: e for i, e in self._under_way.items() if is_wanted(i)}
            self._under_way_bytes = sum(len(encoded) for encoded in self._under_way.values())

    # --- inside ---

    async def _run(self) -> None:
        delay_s = RETRY_S_MIN
        while self._task is not None:
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    websocket, channel, answer = await self._open()
            except (aiohttp.ClientError, OSError, TimeoutError, _NoSession) as fault:
                self.problem = words_of(fault, tls=self._configuration.tls) or f"no answer within {CONNECT_S_MAX:g} s"
                if isinstance(fault, WrongNodeKey):
                    self.misbehaved = self.problem
            else:
                delay_s = RETRY_S_MIN
                self.problem = ""
                try:
                    await self._serve(websocket, channel, answer)
                except (aiohttp.ClientError, OSError, Unreadable) as fault:
                    self.problem = str(fault) or type(fault).__name__
                    if isinstance(fault, Unreadable):
                        self.misbehaved = str(fault)
                finally:
                    self._go_down()
                    await self._close(websocket)
            # Jitter, so that many clients of a restarted node do not return at the same moment.
            await asyncio.sleep(delay_s * (0.5 + random.random() / 2))
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _open(self) -> tuple[aiohttp.ClientWebSocketResponse, Channel, Welcome]:
        websocket = await self._http.ws_connect(
            f"{'https' if self._pin is not None else 'http'}://{self.node.address}/v1/session",
            ssl=self._pin if self._pin is not None else True,
            max_msg_size=FRAME_BYTES_MAX,
            heartbeat=HEARTBEAT_S,
            timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S_MAX),
            compress=0,
        )
        try:
            # Asked again here, and not only by the pin: what follows must not rest on a hook of a library alone.
            tls = websocket.get_extra_info("ssl_object")
            binding = binding_to(self.node, tls) if self._pin is not None else b""
            opening = Opening(
                self._configuration.cluster_id,
                self._configuration.digest,
                self.node.key,
                os.urandom(32),
                compress=self._compress,
                client=self._key.public if self._key is not None else b"",
                binding=binding,
            )
            await websocket.send_bytes(opening.hello)
            message = await websocket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                raise _NoSession("the node closed the session before it answered")
            try:
                outcome = opening.finish(message.data)
            except WrongKey:
                self.misbehaved = (
                    f"it did not prove the key {self.node.key.hex()} that the configuration names for "
                    f"{self.node.name}: another node, another cluster or an impostor answers at this address"
                )
                raise _NoSession(self.misbehaved) from None
            except Unreadable as fault:
                self.misbehaved = f"it does not speak this protocol ({fault})"
                raise _NoSession(self.misbehaved) from None
            if isinstance(outcome, Refused):
                raise _NoSession(f"the node refused the session: {_printable(outcome.detail)}")
            if self._key is not None:
                await websocket.send_bytes(proof(outcome[0], self._key.sign))
        except BaseException:
            await self._close(websocket)
            raise
        self.misbehaved = ""
        return websocket, outcome[0], outcome[1]

    async def _close(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        try:
            await websocket.close()
        finally:
            if self._pin is not None:
                self._pin.cut()
                # The loop may end with the client: let it see first that the connection has.
                await asyncio.sleep(0)

    async def _serve(self, websocket: aiohttp.ClientWebSocketResponse, channel: Channel, answer: Welcome) -> None:
        self._credit_bytes = answer.credit_bytes
        self.up = True
        # What was under way when the last session broke goes first, with the same ids.
        again = list(self._under_way.items())
        self._under_way.clear()
        self._under_way_bytes = 0
        self._backlog.extendleft(reversed(again))
        self._waiting.update(request_id for request_id, _ in again)
        self._backlog_bytes += sum(len(encoded) for _, encoded in again)
        self._on_change(self.node.index, True, answer.clock_us)
        writer = asyncio.get_running_loop().create_task(
            self._write(websocket, channel), name=f"writer to {self.node.name}"
        )
        try:
            await self._read(websocket, channel)
        finally:
            writer.cancel()
            # Not `await writer` with its cancellation suppressed: that would swallow one of this task too, where
            # `stop` comes while the session breaks, and the link would live on.
            await asyncio.wait([writer])
            fault = None if writer.cancelled() else writer.exception()
            if fault is not None and not isinstance(fault, aiohttp.ClientError | OSError):
                raise fault

    async def _read(self, websocket: aiohttp.ClientWebSocketResponse, channel: Channel) -> None:
        opener, under_way = channel.opener, self._under_way
        receive = websocket.receive
        while True:
            message = await receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                said = message.type is aiohttp.WSMsgType.CLOSE and message.extra
                reason = f": {_printable(str(message.extra))}" if said else ""
                self.problem = f"the node closed the session{reason}"
                if websocket.exception() is not None:
                    self.problem = f"the session broke: {websocket.exception()}"
                return
            self.received_bytes += len(message.data)
            replies = codec.decode_replies(opener.open(message.data))
            for reply in replies:
                sent = under_way.pop(reply.id, None)
                if sent is not None:
                    self._under_way_bytes -= len(sent)
            if self._backlog and self._wake is not None and not self._wake.done():
                self._wake.set_result(None)
            self._on_replies(self.node.index, replies)

    async def _write(self, websocket: aiohttp.ClientWebSocketResponse, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        seal, send_bytes = channel.sealer.seal, websocket.send_bytes
        while True:
            part = self._next_part()
            if part:
                await send_bytes(seal(codec.join(part)))
                self.sent_count += 1
                continue
            self._wake = loop.create_future()
            await self._wake
            self._wake = None

    def _next_part(self) -> list[bytes]:
        """Requests for the next frame, as far as the node's credit goes."""
        backlog, under_way = self._backlog, self._under_way
        part: list[bytes] = []
        size = 0
        while backlog and len(part) < codec.MESSAGES_PER_FRAME_MAX and size < FRAME_BYTES_GOAL:
            request_id, encoded = backlog[0]
            # A request larger than the whole window may go when nothing else is under way.
            if self._under_way_bytes + len(encoded) > self._credit_bytes and under_way:
                break
            backlog.popleft()
            self._waiting.discard(request_id)
            self._backlog_bytes -= len(encoded)
            if request_id not in under_way:
                under_way[request_id] = encoded
                self._under_way_bytes += len(encoded)
                part.append(encoded)
                size += len(encoded)
        return part

    def _go_down(self) -> None:
        if self.up:
            self.up = False
            self._on_change(self.node.index, False, 0)


def words_of(fault: BaseException, *, tls: bool) -> str:
    """Why a node could not be reached, in the operating system's words where it has some. `tls`: whether over TLS."""
    if tls and isinstance(fault, aiohttp.ClientSSLError | ssl.SSLError | ConnectionResetError):
        inner = fault.os_error if isinstance(fault, aiohttp.ClientConnectorError) else fault
        reason = getattr(inner, "reason", None) or str(inner) or type(inner).__name__
        return (
            f"no TLS session ({reason}): what answers there speaks no TLS 1.3; "
            "if it is the node, it works under another configuration, with tls = false"
        )
    if not tls and isinstance(fault, aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError):
        return (
            f"it does not answer as a node without TLS does ({fault.__class__.__name__}); "
            "if it is the node, it works under another configuration, with tls = true"
        )
    if isinstance(fault, aiohttp.ClientConnectorError):
        number = fault.os_error.errno
        # Negative, or without a number: from the name lookup, which has words of its own.
        return os.strerror(number) if number is not None and number > 0 else str(fault.os_error)
    return str(fault)


def _printable(text: str) -> str:
    """What a peer says, for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


class _NoSession(Exception):
    """The node was reached, but no session came of it."""
