"""One client's connection: bytes in, requests to its session, replies out; with bounds on what waits on either side.

One task per connection, and none per request: the task does what has to wait for something else than the cluster, and
rests while requests go straight from the socket to the client and back (`_begin`). It must not know commands.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from quorumcache.gateway.redis.encoding import encode
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.parsing import ProtocolFault, Requests
from quorumcache.gateway.redis.running import Running
from quorumcache.gateway.redis.session import CALLS_MAX, Session

if TYPE_CHECKING:
    from quorumcache.gateway.redis.server import RedisGateway

#: While requests run, no more than about this is read ahead.
_AHEAD_BYTES_MAX: Final = 256 << 10
#: A connection with a request larger than this is the first to go when memory for requests is short.
_LARGE_BYTES: Final = 64 << 10
_HIGH_BYTES: Final = 1 << 20


class Connection(asyncio.Protocol):
    """See the module's text."""

    def __init__(self, gateway: RedisGateway) -> None:
        self._gateway = gateway
        self._requests = Requests()
        #: What its task waits for: something to do.
        self._waiter: asyncio.Future[None] | None = None
        #: Requests that run without the task, and those that were taken for it.
        self._running: Running | None = None
        self._is_running = False
        self._taken: list[list[bytes]] = []
        self._drained: asyncio.Future[None] | None = None
        self._is_paused = False
        self._wants_end = False
        self._fault: ProtocolFault | None = None
        self._pushes: list[bytes] = []
        self._pushed_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport
        self.session: Session
        #: What its requests hold in memory, as the gateway last counted it.
        self.held_bytes = 0
        #: Since when its reader has been too slow, on the loop's clock; 0 where it is not.
        self.full_s = 0.0

    # --- from the loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class.
        peer = transport.get_extra_info("peername") or ("?", 0)
        if not self._gateway.admit(self):
            self.refuse("ERR max number of clients reached")
            return
        self._transport.set_write_buffer_limits(high=_HIGH_BYTES)
        self.session = Session(self._gateway, self._gateway.next_id(), f"{peer[0]}:{peer[1]}", self.push)
        self._task = self._gateway.loop.create_task(self._run(), name=f"redis client {self.session.id}")

    def data_received(self, data: bytes) -> None:
        if self._task is None:
            return
        self._requests.feed(data)
        self._account()
        if self.is_idle:
            self._begin()
        elif self.held_bytes > _AHEAD_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._drained = self._gateway.loop.create_future()
        self.full_s = self._gateway.loop.time()

    def resume_writing(self) -> None:
        self.full_s = 0.0
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def eof_received(self) -> bool:
        # What was asked for before is still answered: `printf ... | nc` ends its side first.
        if self._task is None:
            return False
        self._wants_end = True
        if self.is_idle:
            self._wake()
        return self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            if self._running is not None:
                self._running.stop()
                self._running = None
            self._gateway.leave(self)
        self.resume_writing()

    # --- for the gateway ---

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its client."""
        return self._waiter is not None and not self._is_running

    def push(self, message: list[Any]) -> None:
        """Send what was not asked for: after the replies that are being made, if any."""
        out: list[bytes] = []
        encode(out, message, self.session.resp3)
        data = b"".join(out)
        self._pushed_bytes += len(data)
        if self.is_idle:
            self._transport.write(data)
            self._pushed_bytes = 0
        else:
            self._pushes.append(data)
        if self._transport.get_write_buffer_size() + self._pushed_bytes > self._gateway.settings.output_bytes_max:
            # As Redis does: who does not read what it subscribed to must not fill the memory.
            self._transport.abort()

    def refuse(self, text: str) -> None:
        """Say why, and close."""
        out: list[bytes] = []
        encode(out, Fault(text), False)
        self._transport.write(b"".join(out))
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not sent is lost."""
        self._transport.abort()

    # --- inside ---

    def _wake(self) -> None:
        """Let the task go on, if it waits."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _begin(self) -> None:
        """Run what came without the task, as far as that goes; then wake it for the rest."""
        while self._waiter is not None and self._drained is None and not self._wants_end:
            try:
                batch = self._take()
            except ProtocolFault as fault:
                self._fault = fault
                break
            if not batch:
                self._go_on_reading()
                return
            self.session.active_s = self._gateway.loop.time()
            self._is_running = True
            running = self.session.begin(batch, self._answer)
            if running is None:
                self._is_running = False
                self._taken = batch
                break
            if self._is_running:
                self._running = running
                return
        self._wake()

    def _answer(self, answer: bytes | Exception) -> None:
        """What `_begin` began has ended."""
        was_waited_for, self._running, self._is_running = self._running is not None, None, False
        if self._task is None:
            return
        if isinstance(answer, Exception):
            waiter, self._waiter = self._waiter, None
            if waiter is not None and not waiter.done():
                waiter.set_exception(answer)
            return
        self._transport.write(answer)
        self._send_pushes()
        if was_waited_for:
            self._begin()

    def _go_on_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    async def _run(self) -> None:
        session = self.session
        try:
            while not session.is_ending:
                if self._drained is not None:
                    await self._drained
                batch, self._taken = self._taken or self._take(), []
                if not batch:
                    if self._wants_end:
                        break
                    self._send_pushes()
                    self._go_on_reading()
                    self._waiter = waiter = self._gateway.loop.create_future()
                    await waiter
                    continue
                session.active_s = self._gateway.loop.time()
                self._transport.write(await session.answer(batch))
            self._send_pushes()
            self._transport.close()
        except ProtocolFault as fault:
            self.refuse(f"ERR {fault}")
        except Exception as bug:  # noqa: BLE001 - a fault of ours must not leave a client waiting
            self._gateway.report(bug)
            self.refuse("ERR internal error: the gateway's log has more")

    def _take(self) -> list[list[bytes]]:
        if self._fault is not None:
            raise self._fault
        batch: list[list[bytes]] = []
        try:
            while len(batch) < CALLS_MAX:
                request = self._requests.next()
                if request is None:
                    break
                batch.append(request)
        except ProtocolFault as fault:
            if not batch:
                raise
            self._fault = fault  # What came before it is answered first.
        self._account()
        return batch

    def _send_pushes(self) -> None:
        if self._pushes:
            self._transport.write(b"".join(self._pushes))
            self._pushes.clear()
        self._pushed_bytes = 0

    def _account(self) -> None:
        held_bytes = self._requests.held_bytes
        self._gateway.held_bytes += held_bytes - self.held_bytes
        self.held_bytes = held_bytes
        if held_bytes > _LARGE_BYTES and self._gateway.held_bytes > self._gateway.settings.requests_bytes_max:
            self.refuse("ERR the gateway's memory for requests is full: try again, with smaller ones")
