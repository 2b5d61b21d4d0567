"""Nodes that lie on real sockets: each behaviour wraps an honest core node and changes what it says.

A behaviour sees requests and honest replies, holds its own node's key, and may send any bytes; it has no other node's
or writer's key. Only this package starts a node that has one: no configuration switches a shipping node into it.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import ClassVar, Final

from msgspec.structs import replace

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string
from quorumcache.core.config import Configuration
from quorumcache.core.evidence import Witnessed, witness_string
from quorumcache.core.model import ABSENT, Entry, digest_of, slot_of, value_hash_of
from quorumcache.core.node import Node
from quorumcache.core.quorum import full_bitmap
from quorumcache.core.slots import Held
from quorumcache.errors import Misuse
from quorumcache.net.server import NodeServer
from quorumcache.node import RunningNode
from quorumcache.wire.keys import SigningKey

SLOW_S: Final = 0.3
CHANGE_S: Final = 1.5
SLOTS_MAX: Final = 65_536
FAR_US: Final = 3_600_000_000


class Behaviour:
    """What a node does instead of the protocol; as it stands here, nothing: `lie` says the lie in a line of prose.

    `told` counts lies: replies that differ from the honest ones, and frames delayed or replaced.
    """

    name: ClassVar[str] = "honest"
    lie: ClassVar[str] = "none: it follows the protocol"

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        self.told = 0
        self._sign = sign

    def answer(self, node: Node, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply | None:
        """The reply to a request of whoever has proven this key, lies included."""
        honest = node.handle(request, now_us, client)
        reply = self.twist(node, request, honest)
        if reply is not honest:
            self.told += 1
        return reply

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        """The reply that is sent in place of the honest one: the same object where there is nothing to lie about."""
        return reply

    def witness(self, node: Node, request: m.Witness, reply: m.WitnessReply, header: bytes, floor_us: int) -> m.Reply:
        """A signed answer that says something else."""
        made = Witnessed(reply.incarnation, request.challenge, reply.clock_us, floor_us, request.slot, header, b"")
        signature = self._sign(witness_string(node.configuration.digest, made))
        return replace(reply, floor_us=floor_us, header=header, signature=signature)

    async def frame(self, frame: bytes) -> bytes | None:
        """The bytes that are sent in place of an outgoing frame; None loses it."""
        return frame


class Silent(Behaviour):
    """Crashed, but for its sessions."""

    name = "silent"
    lie = "takes every request and never answers"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        return None


class Slow(Behaviour):
    """Correct, and of no use."""

    name = "slow"
    lie = f"answers truthfully, {1000 * SLOW_S:.0f} ms late"

    async def frame(self, frame: bytes) -> bytes | None:
        self.told += 1
        await asyncio.sleep(SLOW_S)
        return frame


class Stale(Behaviour):
    """Entries that were true once: their certificates are valid, so only other nodes' answers unmask it."""

    name = "stale"
    lie = "says OK to every write and shows readers what it held before, valid certificates and all"

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        super().__init__(sign)
        self._frozen: dict[bytes, Held] = {}

    def answer(self, node: Node, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply | None:
        if isinstance(request, m.Commit):
            for bundle in request.bundles:
                for item in bundle.items:
                    slot = item.header[95:-2]
                    held = node.slots.current.get(slot)
                    if held is not None and slot not in self._frozen and len(self._frozen) < SLOTS_MAX:
                        self._frozen[slot] = held
        return super().answer(node, request, now_us, client)

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        current = node.slots.current
        if isinstance(request, m.Read) and isinstance(reply, m.ReadReply):
            old = {i: held for i, slot in enumerate(request.slots) if (held := self._frozen.get(slot)) is not None}
            old = {i: held for i, held in old.items() if held is not current.get(request.slots[i])}
            if old:
                return _with_read(request, reply, {i: (h.header, h.salted) for i, h in old.items()})
        elif isinstance(request, m.Witness) and isinstance(reply, m.WitnessReply):
            old_one = self._frozen.get(request.slot)
            if old_one is not None and old_one is not current.get(request.slot):
                return self.witness(node, request, reply, old_one.header, reply.floor_us)
        elif isinstance(request, m.ReadFull) and isinstance(reply, m.ReadFullReply):
            answers = [
                m.FullAnswer(held.entry(), answer.floor_us)
                if (held := self._frozen.get(slot)) is not None and held is not current.get(slot)
                else answer
                for slot, answer in zip(request.slots, reply.answers, strict=True)
            ]
            if any(new is not was for new, was in zip(answers, reply.answers, strict=True)):
                return replace(reply, answers=answers)
        return reply


class _Forger(Behaviour):
    """Shows entries that it made up from real ones."""

    def forge(self, header: bytes, salted: bytes) -> tuple[bytes, bytes]:
        raise NotImplementedError

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.Read) and isinstance(reply, m.ReadReply):
            held = {i: h for i, slot in enumerate(request.slots) if (h := node.slots.current.get(slot)) is not None}
            if held:
                forged = {i: self.forge(h.header, h.salted) for i, h in held.items()}
                return _with_read(request, reply, forged)
        elif isinstance(reply, m.ReadFullReply) and any(answer.entry is not None for answer in reply.answers):
            return replace(reply, answers=[m.FullAnswer(self._forge_entry(a.entry), a.floor_us) for a in reply.answers])
        elif isinstance(reply, m.PrepareReply) and any(r.proof is not None for r in reply.refusals):
            return replace(reply, refusals=[replace(r, proof=self._forge_entry(r.proof)) for r in reply.refusals])
        return reply

    def _forge_entry(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            return None
        header, salted = self.forge(entry.header, entry.salted)
        return replace(entry, header=header, salted=salted)


class ForgedValue(_Forger):
    """A consistent header, digest and value, signed by nobody."""

    name = "forged-value"
    lie = "swaps values for its own, with headers and digests made to fit"

    def forge(self, header: bytes, salted: bytes) -> tuple[bytes, bytes]:
        size = max(0, len(salted) - 16)
        forged = salted[:16] + (b"forged! " * (size // 8 + 1))[:size]
        return header[:51] + value_hash_of(forged) + header[83:], forged


class ForgedStamp(_Forger):
    """Old values dressed up as the newest."""

    name = "forged-stamp"
    lie = "gives every value a stamp an hour ahead, so that its own looks newest"

    def forge(self, header: bytes, salted: bytes) -> tuple[bytes, bytes]:
        time_us = int.from_bytes(header[3:11], "big") + FAR_US
        return header[:3] + time_us.to_bytes(8, "big") + header[11:], salted


class CorruptedCertificate(Behaviour):
    """True entries that cannot be shown to be true."""

    name = "corrupted-certificate"
    lie = "flips a bit in every certificate it shows, and names digests nobody signed"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(reply, m.ReadReply) and any(reply.digests):
            digests = b"".join(
                digest if digest == ABSENT else _flip(digest)
                for digest in (reply.digests[at : at + 32] for at in range(0, len(reply.digests), 32))
            )
            return replace(reply, digests=digests)
        if isinstance(reply, m.ReadFullReply) and any(answer.entry is not None for answer in reply.answers):
            return replace(reply, answers=[m.FullAnswer(_corrupt(a.entry), a.floor_us) for a in reply.answers])
        if isinstance(reply, m.PrepareReply) and any(r.proof is not None for r in reply.refusals):
            return replace(reply, refusals=[replace(r, proof=_corrupt(r.proof)) for r in reply.refusals])
        return reply


class EquivocatingGrants(Behaviour):
    """A node that votes for everyone, in both directions."""

    name = "equivocating-grants"
    lie = "grants every header to every writer whatever it granted before, every other time for another batch"

    def answer(self, node: Node, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply | None:
        if not isinstance(request, m.Prepare) or not request.headers:
            return super().answer(node, request, now_us, client)
        self.told += 1
        count = len(request.headers)
        root = merkle.root_of(b"".join(digest_of(header) for header in request.headers))
        bitmap = full_bitmap(count)
        signed = root if self.told % 2 else os.urandom(32)
        signature = self._sign(grant_string(node.configuration.digest, request.group, signed, bitmap))
        return m.PrepareReply(request.id, now_us, bitmap, signature, [])


class RefusesEverything(Behaviour):
    """An obstinate node."""

    name = "refuses-everything"
    lie = "denies every writer the right to write, and rejects every other request as overload"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(request, m.Prepare):
            refusals = [m.Refusal(i, m.DENIED, 0, None, "not today") for i in range(len(request.headers))]
            return m.PrepareReply(request.id, reply.clock_us, bytes((len(request.headers) + 7) >> 3), b"", refusals)
        return m.Reject(request.id, reply.clock_us, m.OVERLOADED, "not today")


class WrongAnswers(Behaviour):
    """Answers that are true, of something else."""

    name = "wrong-answers"
    lie = "answers with other slots' entries, with other requests' ids, and with replies of the wrong kind"

    def __init__(self, sign: Callable[[bytes], bytes]) -> None:
        super().__init__(sign)
        self._last_id = 1

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        last_id, self._last_id = self._last_id, request.id
        turn = self.told % 4
        if turn == 0:
            return replace(reply, id=last_id)
        if turn == 1:
            return replace(reply, id=(request.id + 1) & ((1 << 63) - 1))
        if turn == 2:
            return m.CommitReply(request.id, reply.clock_us, bytes(1), [])
        other = next(iter(node.slots.current.values()), None)
        if other is not None and isinstance(request, m.Read) and isinstance(reply, m.ReadReply):
            return _with_read(request, reply, dict.fromkeys(range(len(request.slots)), (other.header, other.salted)))
        if other is not None and isinstance(reply, m.ReadFullReply):
            return replace(reply, answers=[m.FullAnswer(other.entry(), 0) for _ in reply.answers])
        return m.Pong(request.id, reply.clock_us)


class GarbageFrames(Behaviour):
    """Noise."""

    name = "garbage-frames"
    lie = "sends random bytes in place of frames, and frames with bits flipped"

    async def frame(self, frame: bytes) -> bytes | None:
        self.told += 1
        if self.told % 2:
            return os.urandom(random.randrange(1, 4096))
        at = random.randrange(len(frame))
        return frame[:at] + bytes((frame[at] ^ 1 << random.randrange(8),)) + frame[at + 1 :]


class LyingFloor(Behaviour):
    """A node that pretends to have forgotten everything."""

    name = "lying-floor"
    lie = "stores nothing, calls every slot absent under a floor of zero, and refuses writes with a floor an hour ahead"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        far_us = reply.clock_us + FAR_US
        if isinstance(request, m.Prepare):
            refusals = [m.Refusal(i, m.BELOW_FLOOR, far_us) for i in range(len(request.headers))]
            return m.PrepareReply(request.id, reply.clock_us, bytes((len(request.headers) + 7) >> 3), b"", refusals)
        if isinstance(reply, m.CommitReply):
            count = len(reply.codes)
            return replace(reply, codes=bytes((m.EVICTED,)) * count, floors=[far_us] * count)
        if isinstance(request, m.Read) and isinstance(reply, m.ReadReply):
            return replace(reply, digests=bytes(len(reply.digests)), values=[b""] * len(reply.values))
        if isinstance(reply, m.ReadFullReply):
            return replace(reply, answers=[m.FullAnswer(None, 0) for _ in reply.answers])
        if isinstance(request, m.Witness) and isinstance(reply, m.WitnessReply):
            return self.witness(node, request, reply, b"", 0)
        return reply


class WithholdsValues(Behaviour):
    """A node that tells what it has, and does not hand it out."""

    name = "withholds-values"
    lie = "names the right digests and keeps the values to itself"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        if isinstance(reply, m.ReadReply) and any(reply.values):
            return replace(reply, values=[b""] * len(reply.values))
        if isinstance(reply, m.ReadFullReply) and any(answer.entry is not None for answer in reply.answers):
            return replace(reply, answers=[m.FullAnswer(None, a.floor_us) for a in reply.answers])
        return reply


class LyingListing(Behaviour):
    """A node that hides keys, makes some up, and never comes to an end."""

    name = "lying-listing"
    lie = "leaves out every other key of a listing and names keys that nobody wrote, as many as it may; else is honest"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        if not isinstance(request, m.Scan) or not isinstance(reply, m.ScanReply):
            return reply
        if self.told % 2:
            return replace(reply, keys=reply.keys[::2], digests=os.urandom(32 * len(reply.keys[::2])), stop=None)
        # In order and in their shards, so that only reads unmask them; shorter than others, so that they come first.
        shard, made = request.start.shard, []
        for number in range(1 << 16):
            key = request.prefix + number.to_bytes(2, "big")
            slot = slot_of(request.namespace, key)
            if node.configuration.shard_of(slot) == shard and (len(key), key) > (
                len(request.start.after),
                request.start.after,
            ):
                made.append(key)
                if len(made) == request.count:
                    break
        full = len(made) == request.count
        stop = m.Position(shard, made[-1]) if full else None
        return replace(reply, keys=made, digests=os.urandom(32 * len(made)), stop=stop)


class LyingClock(Behaviour):
    """A node out of its time."""

    name = "lying-clock"
    lie = "tells a clock an hour ahead, then one an hour behind"

    def twist(self, node: Node, request: m.Request, reply: m.Reply) -> m.Reply | None:
        return replace(reply, clock_us=max(0, reply.clock_us + (FAR_US if self.told % 2 else -FAR_US)))


LIES: Final[tuple[type[Behaviour], ...]] = (
    WithholdsValues,
    Stale,
    ForgedValue,
    Silent,
    CorruptedCertificate,
    EquivocatingGrants,
    ForgedStamp,
    Slow,
    WrongAnswers,
    LyingFloor,
    GarbageFrames,
    RefusesEverything,
    LyingListing,
    LyingClock,
)
_ALL: Final[tuple[type[Behaviour], ...]] = (Behaviour, *LIES)
BEHAVIOURS: Final = {kind.name: kind for kind in _ALL}
CHANGING: Final = "changing"
#: All names that `make_byzantine` takes.
NAMES: Final = (*BEHAVIOURS, CHANGING)


class LyingNode(RunningNode):
    """A node that lies. `behaviour` is one of `NAMES`; "changing" goes through all lies, `change_s` seconds each.

    Its status tells, under "lying": the behaviour and its lie now, and how many lies it told, in all and by behaviour.
    """

    def __init__(
        self, configuration: Configuration, key: SigningKey, behaviour: str, *, change_s: float = CHANGE_S
    ) -> None:
        super().__init__(configuration, key)
        self.server = NodeServer(
            configuration, key, self, host=self.server.host, port=self.server.port, wrap=self._frame
        )
        self._sign = key.sign
        self._change_s = change_s
        self._past: dict[str, int] = {}
        self._changing: asyncio.Task[None] | None = None
        self._started = False
        self._changes = behaviour == CHANGING
        self._behaviour = self._made(behaviour)

    def behave(self, behaviour: str) -> None:
        """Change the behaviour, to one of `NAMES`. Raises Misuse for another."""
        made = self._made(behaviour)
        self._switch(made)
        self._changes = behaviour == CHANGING
        self._drive()

    async def start(self) -> None:
        """As any node's; and begin to change, where it changes."""
        await super().start()
        self._started = True
        self._drive()

    async def stop(self) -> None:
        """As any node's."""
        self._started = False
        self._drive()
        await super().stop()

    def cut(self, request: m.Request) -> None:
        """Nothing is worked on in pieces: lies are told at once."""

    def handle(self, request: m.Request, client: bytes) -> m.Reply | None:
        """Answer one request, as the behaviour has it."""
        if isinstance(request, m.Follow | m.SealEpoch):
            return super().handle(request, client)
        return self._behaviour.answer(self.node, request, self.clock_us(), client)

    def gather(self) -> list[m.BallotReply]:
        """Nothing waits to be signed: each lie is told for itself, with a signature of its own."""
        return []

    def status(self) -> dict[str, object]:
        """A node's status, and what it lies."""
        told = dict(self._past)
        told[self._behaviour.name] = told.get(self._behaviour.name, 0) + self._behaviour.told
        return {
            **super().status(),
            "lying": {
                "behaviour": self._behaviour.name,
                "lie": self._behaviour.lie,
                "told": sum(told.values()),
                "told_by": told,
            },
        }

    async def _frame(self, frame: bytes) -> bytes | None:
        return await self._behaviour.frame(frame)

    def _made(self, name: str) -> Behaviour:
        kind = LIES[0] if name == CHANGING else BEHAVIOURS.get(name)
        if kind is None:
            raise Misuse(f"no behaviour is called {name!r}; there are {', '.join(NAMES)}")
        return kind(self._sign)

    def _switch(self, behaviour: Behaviour) -> None:
        before = self._behaviour
        self._past[before.name] = self._past.get(before.name, 0) + before.told
        self._behaviour = behaviour

    def _drive(self) -> None:
        if self._changing is not None:
            self._changing.cancel()
            self._changing = None
        if self._started and self._changes:
            self._changing = asyncio.get_running_loop().create_task(self._change(), name="changing lies")

    async def _change(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._change_s)
            turn += 1
            self._switch(LIES[turn % len(LIES)](self._sign))


def _with_read(request: m.Read, reply: m.ReadReply, shown: dict[int, tuple[bytes, bytes]]) -> m.ReadReply:
    """A read's reply that shows other headers and values at some positions."""
    digests = bytearray(reply.digests)
    values = list(reply.values)
    for i, (header, salted) in shown.items():
        digests[32 * i : 32 * i + 32] = digest_of(header)
        at = 2 * (i - request.values_from)
        if request.values_from <= i < request.values_to and at + 1 < len(values):
            values[at : at + 2] = [header, salted]
    return replace(reply, digests=bytes(digests), values=values)


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def _corrupt(entry: Entry | None) -> Entry | None:
    if entry is None:
        return None
    grants = entry.certificate.grants
    if not grants:
        return entry
    corrupted = replace(grants[0], signature=_flip(grants[0].signature))
    return replace(entry, certificate=replace(entry.certificate, grants=(corrupted, *grants[1:])))
