"""The answers of one session: gathered, signed, stored, sent in frames, and held back while it is others' turn.

What a session asks is in server.py, whose turn it is in turns.py. It must not know what the messages mean.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from quorumcache.core.ballots import PROOF_BYTES_MAX
from quorumcache.core.messages import Reply, Request
from quorumcache.net.turns import SLICE_NS, Turns
from quorumcache.wire import codec
from quorumcache.wire import handshake as h

if TYPE_CHECKING:
    from quorumcache.net.server import Handler

#: A client that reads nothing for this long loses its session.
SEND_S_MAX: Final = 30.0
#: Replies travel in frames of about this size; between two of them other sessions have their turn.
REPLIES_BYTES_GOAL: Final = 256 << 10


class Answers:
    """To be used so: `begin`, `add` each request with its reply, `pause` whenever `is_long`, at the end `say`.

    From `begin` to `say` or `pause` there is no awaiting: until then replies may lack what makes them whole.
    """

    __slots__ = (
        "_began_ns",
        "_channel",
        "_handled",
        "_handler",
        "_late",
        "_parts",
        "_send_bytes",
        "_size",
        "_to_sign",
        "_turns",
        "_unsigned",
        "_wrap",
    )

    def __init__(
        self,
        handler: Handler,
        turns: Turns,
        channel: h.Channel,
        send_bytes: Callable[[bytes], Awaitable[None]],
        wrap: Callable[[bytes], Awaitable[bytes | None]] | None,
    ) -> None:
        self._handler = handler
        self._turns = turns
        self._channel = channel
        self._send_bytes = send_bytes
        self._wrap = wrap
        self._parts: list[bytes] = []
        self._handled: list[Request] = []
        self._late: list[tuple[int, Request]] = []
        self._unsigned: list[tuple[int, Reply]] = []
        self._to_sign: Sequence[Reply] = ()
        self._size = self._began_ns = 0

    def begin(self) -> None:
        """It is this session's turn."""
        self._parts, self._handled, self._late, self._unsigned, self._size = [], [], [], [], 0
        self._began_ns = time.perf_counter_ns()
        self._to_sign = self._handler.gather()

    def add(self, request: Request, reply: Reply | None) -> None:
        """A request was handled."""
        parts, to_sign = self._parts, self._to_sign
        self._handled.append(request)
        if reply is None:
            pass
        elif more := self._handler.lacking(request):
            self._late.append((len(parts), request))
            parts.append(b"")
            self._size += more
        elif to_sign and to_sign[-1] is reply:
            self._unsigned.append((len(parts), reply))
            parts.append(b"")
            self._size += PROOF_BYTES_MAX
        else:
            part = codec.encode(reply)
            parts.append(part)
            self._size += len(part)

    def is_long(self) -> bool:
        """Whether others should have their turn now."""
        return self._size > REPLIES_BYTES_GOAL or time.perf_counter_ns() - self._began_ns > SLICE_NS

    async def pause(self) -> bool:
        """`say` what there is, have others go on, and wait for this session's turn. False where nothing is stored any
        more."""
        is_stored = await self.say()
        await asyncio.sleep(0)
        if (turn := self._turns.wait(self._channel.client)) is not None:
            await turn
        self.begin()
        return is_stored

    async def say(self) -> bool:
        """Send the replies, once what they say is signed and stored; other ones where it cannot be: then False."""
        parts, client = self._parts, self._channel.client
        self._handler.sign()
        for place, reply in self._unsigned:
            parts[place] = codec.encode(reply)
        if self._late:
            parts = self._completed(parts, self._late)
        self._turns.used(client, time.perf_counter_ns() - self._began_ns)
        stored = self._handler.stored()
        # Without replies, as between two pieces of a request, nobody is told anything: they will wait for it.
        if stored is not True and (parts or stored is False):
            parts = await self._when_stored(stored, parts)
        if parts:
            await self._send(self._channel.sealer.seal(codec.join(parts)))
        return stored is not False

    def _completed(self, parts: list[bytes], late: list[tuple[int, Request]]) -> list[bytes]:
        """The encoded replies, with those in their places that lacked values before: these are fetched all at once."""
        if self._handler.fetch():
            for place, request in late:
                reply = self._handler.handle(request, self._channel.client)
                if reply is not None and not self._handler.lacking(request):
                    parts[place] = codec.encode(reply)
        # Where a value cannot be had there is no reply: to whoever asks, this node is silent.
        return [part for part in parts if part]

    async def _when_stored(self, stored: Awaitable[None] | bool, parts: list[bytes]) -> list[bytes]:
        """The replies, once what they say is stored; other ones where it cannot be."""
        if stored is False:
            parts, late = [], []
            for request in self._handled:
                reply = self._handler.handle(request, self._channel.client)
                if self._handler.lacking(request):
                    late.append((len(parts), request))
                    parts.append(b"")
                elif reply is not None:
                    parts.append(codec.encode(reply))
            if late:
                parts = self._completed(parts, late)
            stored = self._handler.stored()
        if not isinstance(stored, bool):
            await stored
        return parts

    async def _send(self, frame: bytes) -> None:
        if self._wrap is not None:
            wrapped = await self._wrap(frame)
            if wrapped is None:
                return
            frame = wrapped
        if len(frame) < 1 << 16:
            await self._send_bytes(frame)
            return
        async with asyncio.timeout(SEND_S_MAX):
            await self._send_bytes(frame)
