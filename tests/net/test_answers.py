"""Large requests among others' (protocol 3): whoever asks little waits for a slice of one, not for all of it; and what
storage does not take between two slices is not granted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from quorumcache.core import cutting
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.cutting import Cut, cut
from quorumcache.core.journal import Journal
from quorumcache.core.node import Node
from quorumcache.net import answers
from quorumcache.net.server import NodeServer
from quorumcache.net.turns import SLICE_NS, Turns
from quorumcache.wire import codec
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of, slot
from tests.making import Draft

CONFIGURATION = configuration_of()
KEY = key_of("node 0")
#: What each piece takes, by the clock of these tests.
PIECE_NS = SLICE_NS // 3
PIECES_A_SLICE = 4  # The one with which it is over, too.


class Handler:
    """A node whose pieces take `PIECE_NS` each, and whose storage does as `stores` says."""

    def __init__(self, *stores: bool) -> None:
        self.node = Node(CONFIGURATION, 0, KEY.sign, Verifier(verify, [CONFIGURATION]), started_us=None)
        self.journal = self.node.slots.journal = Journal()
        self.now_ns = 0
        self.pieces_count = 0
        self.whole_count = 0
        self._stores: Iterator[bool] = iter(stores)

    def handle(self, request: m.Request, client: bytes) -> m.Reply:
        self.whole_count += 1
        return self.node.handle(request, START_US)

    def cut(self, request: m.Request) -> Cut | None:
        return cut(self.node, request)

    def go_on(self, piecewise: Cut, client: bytes) -> m.Reply | None:
        self.now_ns += PIECE_NS
        self.pieces_count += 1
        return piecewise.step(START_US)

    def gather(self) -> Sequence[m.Reply]:
        return ()

    def sign(self) -> None:
        """Nothing waits for it."""

    def stored(self) -> bool:
        if next(self._stores, True):
            self.journal.clear()
            return True
        self.journal.undo(self.node.slots)
        return False

    def lacking(self, request: m.Request) -> int:
        return 0

    def fetch(self) -> bool:
        return True

    def clock_us(self) -> int:
        return START_US

    def status(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Handler:
    """A node by whose pieces time goes on, and by nothing else."""
    return timed(Handler(), monkeypatch)


def timed(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> Handler:
    monkeypatch.setattr(answers, "time", SimpleNamespace(perf_counter_ns=lambda: handler.now_ns))
    return handler


class Session:
    """One client's, as the server has it: each frame comes once the one before is answered."""

    def __init__(self, server: NodeServer, client: bytes, frames: list[list[m.Request]], handler: Handler) -> None:
        self.replies: list[m.AnyReply] = []
        self.began: list[int] = []
        self.waited: list[int] = []
        self._frames = [codec.join([codec.encode(each) for each in frame]) for frame in frames]
        self._handler = handler
        self._server = server
        self._client = client

    async def serve(self) -> None:
        channel: Any = SimpleNamespace(
            opener=SimpleNamespace(open=lambda data: data),
            sealer=SimpleNamespace(seal=lambda data: data),
            client=self._client,
        )
        websocket: Any = SimpleNamespace(receive=self._receive, send_bytes=self._send)
        await self._server._serve(websocket, channel)

    async def _receive(self) -> Any:
        await asyncio.sleep(0)
        if not self._frames:
            return SimpleNamespace(type=aiohttp.WSMsgType.CLOSE, data=b"")
        self.began.append(self._handler.pieces_count)
        return SimpleNamespace(type=aiohttp.WSMsgType.BINARY, data=self._frames.pop(0))

    async def _send(self, data: bytes) -> None:
        self.waited.append(self._handler.pieces_count - self.began[-1])
        self.replies += codec.decode_replies(data)


def server_of(handler: Handler) -> NodeServer:
    server = NodeServer(CONFIGURATION, KEY, handler, host="127.0.0.1", port=0)
    # Nobody rests: what is tested here are turns and slices alone.
    server.turns = Turns(is_exempt=lambda _: True, clock_ns=lambda: handler.now_ns)
    return server


def large(count: int = 40 * cutting.PIECE_COUNT, *, nonce: int = 0) -> Draft:
    draft = Draft(CONFIGURATION, nonce=nonce)
    group = CONFIGURATION.group_of(slot("key 0"))
    number = 0
    while len(draft.headers) < min(count, 1024):
        if CONFIGURATION.group_of(slot(f"key {number}")) is group:
            draft.put(f"key {number}")
        number += 1
    return draft


def test_who_asks_little_waits_for_a_slice_of_a_large_request(handler: Handler) -> None:
    draft = large()
    server = server_of(handler)
    heavy = Session(server, b"heavy", [[draft.prepare()], [draft.commit()]], handler)
    light = Session(server, b"light", [[m.Ping(i, CONFIGURATION.digest)] for i in range(20)], handler)

    async def both() -> None:
        await asyncio.gather(heavy.serve(), light.serve())

    asyncio.run(both())
    assert [type(reply) for reply in heavy.replies] == [m.PrepareReply, m.CommitReply]
    assert len(light.replies) == 20
    assert handler.pieces_count > 3 * len(draft.headers) // cutting.PIECE_COUNT
    assert max(light.began) > 10 * PIECES_A_SLICE, "it asked before or after, and not meanwhile"
    assert max(light.waited) <= PIECES_A_SLICE


def test_many_sessions_of_one_key_take_turns_of_pieces(handler: Handler) -> None:
    """Cutting gains nobody anything: what all sessions of a key use counts for all of them."""
    server = server_of(handler)
    heavy = [Session(server, b"heavy", [[large(nonce=i).prepare()]], handler) for i in range(8)]
    light = Session(server, b"light", [[m.Ping(i, CONFIGURATION.digest)] for i in range(40)], handler)

    async def all_of_them() -> None:
        await asyncio.gather(*(each.serve() for each in heavy), light.serve())

    asyncio.run(all_of_them())
    assert all(len(each.replies) == 1 for each in heavy)
    assert max(light.began) > 100
    # In one turn of the loop a key has a millisecond, and a slice that began within it.
    assert max(light.waited[1:]) <= 1_000_000 // PIECE_NS + PIECES_A_SLICE


def test_what_is_small_is_handled_at_once(handler: Handler) -> None:
    session = Session(server_of(handler), b"", [[large(cutting.PIECE_COUNT).prepare()], [large(3).prepare()]], handler)
    asyncio.run(session.serve())
    assert (handler.pieces_count, handler.whole_count, len(session.replies)) == (0, 2, 2)


@pytest.mark.parametrize("fails_at", range(6))
def test_what_could_not_be_stored_between_slices_is_not_granted(fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol 3: what a piece promised and storage did not take is undone, and the request is handled anew."""
    handler = timed(Handler(*[True] * fails_at, False), monkeypatch)
    draft = large(20 * cutting.PIECE_COUNT)
    session = Session(server_of(handler), b"", [[draft.prepare()], [draft.commit()]], handler)
    asyncio.run(session.serve())
    prepared, committed = session.replies
    assert isinstance(prepared, m.PrepareReply)
    assert isinstance(committed, m.CommitReply)
    assert not prepared.refusals
    assert handler.whole_count == 1, "storage failed after the requests, and not in between"
    assert committed.codes == bytes(len(draft.headers))
    assert len(handler.node.slots.current) == len(draft.headers)
    assert not handler.node.slots.promises


def test_a_grant_names_only_promises_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, before anything is committed."""
    for fails_at in range(12):
        handler = timed(Handler(*[True] * fails_at, False), monkeypatch)
        draft = large(20 * cutting.PIECE_COUNT)
        session = Session(server_of(handler), b"", [[draft.prepare()]], handler)
        asyncio.run(session.serve())
        assert isinstance(session.replies[0], m.PrepareReply)
        assert not session.replies[0].refusals
        assert len(handler.node.slots.promises) == len(draft.headers)
