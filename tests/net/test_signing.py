"""What a server has signed together: votes and grants of one frame, and nothing that is not stored (protocol 17)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from quorumcache.core import messages as m
from quorumcache.core.ballots import BallotSigner
from quorumcache.core.certificate import Verifier, vote_string
from quorumcache.core.cutting import Cut, cut
from quorumcache.core.journal import Journal
from quorumcache.core.node import Node
from quorumcache.net import answers
from quorumcache.net.server import NodeServer
from quorumcache.wire import codec
from quorumcache.wire.keys import verify
from tests.cluster import START_US, key_of
from tests.exact import Hand, exact_configuration

CONFIGURATION = exact_configuration()
KEY = key_of("node 0")


class Handler:
    """A node whose storage does as `stores` says, and what happened, in its order."""

    def __init__(self, *stores: bool) -> None:
        self.happened: list[str] = []
        self.ballots = BallotSigner(self._sign)
        verifier = Verifier(verify, [CONFIGURATION])
        self.node = Node(CONFIGURATION, 0, self._sign, verifier, started_us=None, ballots=self.ballots)
        self.journal = self.node.slots.journal = Journal()
        self.breaks_at = -1
        self._stores: Iterator[bool] = iter(stores)

    def _sign(self, message: bytes) -> bytes:
        self.happened.append("sign")
        return KEY.sign(message)

    def handle(self, request: m.Request, client: bytes) -> m.Reply | None:
        if request.id == self.breaks_at:
            raise RuntimeError("the session ends here")
        return self.node.handle(request, START_US)

    def cut(self, request: m.Request) -> Cut | None:
        return cut(self.node, request)

    def go_on(self, piecewise: Cut, client: bytes) -> m.Reply | None:
        return piecewise.step(START_US)

    def gather(self) -> Sequence[m.Reply]:
        return self.ballots.gather()

    def sign(self) -> None:
        self.ballots.sign()

    def stored(self) -> bool:
        takes = next(self._stores, True)
        self.happened.append("store" if takes else "refuse")
        if takes:
            self.journal.clear()
        else:
            self.journal.undo(self.node.slots)
        return takes

    def lacking(self, request: m.Request) -> int:
        return 0

    def fetch(self) -> bool:
        return True

    def clock_us(self) -> int:
        return START_US

    def status(self) -> dict[str, Any]:
        return {}


def ask(handler: Handler, *frames: list[m.Request]) -> list[list[m.BallotReply]]:
    """What a session is answered to these frames, frame by frame."""
    messages = [
        SimpleNamespace(type=aiohttp.WSMsgType.BINARY, data=codec.join([codec.encode(each) for each in frame]))
        for frame in frames
    ]
    messages.append(SimpleNamespace(type=aiohttp.WSMsgType.CLOSE, data=b""))
    sent: list[bytes] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send_bytes(data: bytes) -> None:
        handler.happened.append("send")
        sent.append(data)

    async def serve() -> None:
        server = NodeServer(CONFIGURATION, KEY, handler, host="127.0.0.1", port=0)
        websocket: Any = SimpleNamespace(receive=receive, send_bytes=send_bytes)
        channel: Any = SimpleNamespace(
            opener=SimpleNamespace(open=lambda data: data), sealer=SimpleNamespace(seal=lambda data: data), client=b""
        )
        await server._serve(websocket, channel)

    asyncio.run(serve())
    replies = [codec.decode_replies(data) for data in sent]
    assert all(isinstance(reply, m.BallotReply) for frame in replies for reply in frame)
    return replies  # type: ignore[return-value]


def votes(count: int, first: int = 0) -> list[m.Request]:
    """Requests for votes, each of a key of its own."""
    found: list[m.Request] = []
    for number in range(first, first + count):
        hand = Hand(CONFIGURATION, START_US, key=f"k{number}")
        vote = hand.vote()
        vote.id = number
        found.append(vote)
    return found


@pytest.fixture(autouse=True)
def _all_in_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_NS", 1 << 60)  # However slow the machine is.


def counts(replies: list[m.BallotReply]) -> list[int]:
    """Of how many leaves each one's tree is; 1: it was signed alone."""
    verifier = Verifier(verify, [CONFIGURATION])
    found = []
    for reply in replies:
        hand = Hand(CONFIGURATION, START_US, key=f"k{reply.id}")
        assert verifier.is_ballot_signed(KEY.public, string_of(hand), reply.signature)
        found.append(1 if len(reply.signature) == 64 else int.from_bytes(reply.signature[64:66], "big"))
    return found


def string_of(hand: Hand) -> bytes:
    return vote_string(CONFIGURATION.digest, hand.group.id, hand.root, hand.stamp)


def test_a_frame_has_one_signature_before_it_is_stored_and_sent() -> None:
    handler = Handler()
    one, other = ask(handler, votes(5), votes(1, 5))
    assert handler.happened == ["sign", "store", "send", "sign", "store", "send"]
    assert [reply.id for reply in one] == list(range(5))
    assert counts(one) == [5] * 5
    assert counts(other) == [1]


def test_a_part_that_took_too_long_is_signed_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_NS", -1)
    handler = Handler()
    replies = ask(handler, votes(3))
    assert [counts(part) for part in replies] == [[1], [1], [1]]
    assert handler.happened[:9] == ["sign", "store", "send"] * 3


def test_what_could_not_be_stored_is_signed_by_no_proof_that_leaves() -> None:
    """One proof would give away its neighbours, too."""
    handler = Handler(False)
    (replies,) = ask(handler, votes(3))
    assert counts(replies) == [1, 1, 1]
    assert handler.happened == ["sign", "refuse", "sign", "sign", "sign", "store", "send"]


def test_what_a_broken_session_left_is_signed_by_nobody() -> None:
    handler = Handler()
    handler.breaks_at = 2
    with pytest.raises(RuntimeError):
        ask(handler, votes(3))
    assert handler.happened == []
    (replies,) = ask(handler, votes(2, 3))
    assert counts(replies) == [2, 2]
