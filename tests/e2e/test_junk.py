"""Junk: random and mutated frames at a live node. Each is answered with an error or ends its own session; the node
serves others throughout, grows by nothing, and loses nothing."""

import asyncio
import random

import aiohttp
import pytest

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.testing import LocalCluster
from quorumcache.wire import codec
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.handshake import Channel
from tests.raw import opening_for, websocket_to

KEYS = [f"k{i}" for i in range(50)]


class _Attacker:
    """One attacker's sessions with node 0."""

    def __init__(self, configuration: Configuration, http: aiohttp.ClientSession, seed: int) -> None:
        self.sent = self.answered = self.ended = 0
        self._configuration = configuration
        self._http = http
        self._random = random.Random(seed)
        self._websocket: aiohttp.ClientWebSocketResponse | None = None
        self._channel: Channel | None = None
        digest = configuration.digest
        group = next(iter(configuration.groups))
        slot = b"\x07default\x00\x02k1\x00\x00"
        self._requests: list[m.Request] = [
            m.Ping(1, digest),
            m.Read(2, digest, [slot], 0, 1),
            m.ReadFull(3, digest, [slot, slot]),
            m.Report(4, digest, 3, b""),
            m.Prepare(5, digest, group, bytes(32), bytes(64), [bytes(120), bytes(99) + slot]),
        ]

    async def attack(self, count: int) -> None:
        """Send so much junk: random bytes, mutated frames, mutated payloads sealed well, broken openings."""
        for _ in range(count):
            if self._websocket is None or self._channel is None:
                await self._open()
                continue
            payload = self._payload()
            kind = self._random.randrange(100)
            survives = kind >= 2
            if kind == 0 or (kind == 1 and self._configuration.tls):
                # Over TLS nobody but this side itself can alter a frame, so a mutated one is any other.
                frame = self._random.randbytes(self._random.randrange(0, 2000))
            elif kind == 1:
                frame = self._mutated(self._channel.sealer.seal(payload))
            else:
                frame = self._channel.sealer.seal(payload)
                try:
                    codec.decode_requests(payload)
                except Unreadable:
                    survives = False
            self.sent += 1
            await self._websocket.send_bytes(frame)
            if survives:
                answer = await self._websocket.receive()
                assert answer.type is aiohttp.WSMsgType.BINARY, "a session ended over what a node must answer"
                codec.decode_replies(self._channel.opener.open(answer.data))
                self.answered += 1
            else:
                assert (await self._websocket.receive()).type is aiohttp.WSMsgType.CLOSE
                self.ended += 1
                await self.close()

    async def close(self) -> None:
        """End the session."""
        if self._websocket is not None:
            await self._websocket.close()
        self._websocket = self._channel = None

    async def _open(self) -> None:
        configuration = self._configuration
        websocket, binding = await websocket_to(self._http, configuration)
        self.sent += 1
        opening = opening_for(configuration, binding)
        hello = opening.hello
        spoilt = self._random.randrange(4) == 0
        await websocket.send_bytes(self._mutated(hello) if spoilt else hello)
        answer = await websocket.receive()
        if spoilt:
            # A mutation of the expendable (the fresh key) still opens a session: one that this side cannot use.
            await websocket.close()
            self.ended += 1
            return
        opened = opening.finish(answer.data)
        assert isinstance(opened, tuple)
        self._websocket, self._channel = websocket, opened[0]

    def _payload(self) -> bytes:
        """A request with a few bytes changed that still decodes more often than not, or anything at all."""
        encoded = codec.join([codec.encode(self._random.choice(self._requests))])
        if self._random.randrange(50) == 0:
            return self._random.randbytes(self._random.randrange(1, 500))
        for _ in range(50):
            mutated = self._mutated(encoded)
            try:
                codec.decode_requests(mutated)
            except Unreadable:
                continue
            return mutated
        return encoded

    def _mutated(self, data: bytes) -> bytes:
        changed = bytearray(data)
        while changed == data:
            for _ in range(self._random.randrange(1, 4)):
                changed[self._random.randrange(len(changed))] = self._random.randrange(256)
        return bytes(changed)


@pytest.mark.attack
@pytest.mark.parametrize(
    ("warm", "count", "encrypted"),
    [
        (1000, 2500, True),
        (1000, 1000, False),
        pytest.param(1000, 100_000, True, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
async def test_junk_at_a_live_node_harms_nobody_else(warm: int, count: int, encrypted: bool) -> None:
    async with (
        LocalCluster(processes=True, tls=encrypted) as cluster,
        await cluster.client() as client,
        aiohttp.ClientSession() as http,
    ):
        await client.set_many({key: key.encode() for key in KEYS})
        # The node's own answer must be needed: with another down, every quorum has it.
        await cluster.kill(3)
        attackers = [_Attacker(cluster.configuration, http, seed) for seed in range(4)]
        served = 0
        attacking = True

        async def serve() -> None:
            nonlocal served
            while attacking:
                key = f"live{served % 10}"
                await client.set(key, b"%d" % served)
                assert await client.get(key) == b"%d" % served
                served += 1
                await asyncio.sleep(0.01)

        serving = asyncio.create_task(serve())
        await asyncio.gather(*(attacker.attack(warm // 4) for attacker in attackers))
        before = (await cluster.status(0))["resident_bytes_max"]
        await asyncio.gather(*(attacker.attack(count // 4) for attacker in attackers))
        attacking = False
        await serving
        for attacker in attackers:
            await attacker.close()
        status = await cluster.status(0)
        sent, answered = sum(a.sent for a in attackers), sum(a.answered for a in attackers)
        print(
            f"{sent} junk frames: {answered} answered, {sum(a.ended for a in attackers)} ended their session; ", end=""
        )
        print(f"served {served} pairs meanwhile; resident {before >> 10} -> {status['resident_bytes_max'] >> 10} KiB")
        assert sent >= warm + count
        # How many fit into the attack depends on the machine.
        assert served, "nobody was served while the junk came"
        assert status["resident_bytes_max"] < before + (8 << 20)
        for _ in range(400):  # What was closed may not have ended at the node yet.
            if (status := await cluster.status(0))["sessions"]["open"] <= 3:
                break
            await asyncio.sleep(0.05)
        assert status["sessions"]["open"] <= 3
        assert await client.get_many(KEYS) == {key: key.encode() for key in KEYS}
