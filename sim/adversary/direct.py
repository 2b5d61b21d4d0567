"""What the adversary does about keys in mode primary (protocol 10): liars that were asked first, and its writers.

A liar keeps an honest node for believable answers, as everywhere, and shows, hides or passes on what was signed once,
however old; it signs with the keys that the adversary owns, and makes up the rest. Each draws from a stream of its own.
It must not know checkers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import intent_string
from quorumcache.core.model import DELETE, PUT, Certificate, Entry, digest_of, header_time
from sim.adversary.conspiracy import Proposal, header_for

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode
    from sim.adversary.writers import ByzantineWriter

ACT_US: Final = 100_000
_HOARD_MAX: Final = 16
#: What a liar says to a put: that it stored it, and did not; that something newer is there, by claims that are
#: possible or not; any refusal; the truth, but it passes nothing on.
_TO_PUTS: Final = (
    "honest",
    "says so",
    "says so",
    "forgets",
    "newer",
    "just newer",
    "just newer",
    "far newer",
    "refuses",
    "ahead",
    "rejects",
    "silent",
)
#: To a get: nothing, what is older, of another key, made up, under a wrong signature; too much or too little.
_TO_GETS: Final = ("honest", "hides", "older", "older", "other key", "made up", "made up", "behind", "short", "silent")
_TO_FORWARDS: Final = ("honest", "says so", "short", "silent")


class DirectLiar:
    """One Byzantine node's part in mode primary. It has moods, drawn once, and tells one of their lies at a time."""

    def __init__(self, node: ByzantineNode, slots: list[bytes]) -> None:
        self._node = node
        self._slots = slots
        draw = self._draw = node.world.random(f"direct {node.index}")
        self._to_puts, self._to_gets, self._to_forwards = (
            draw.sample(lies, draw.choice((1, 3, len(lies)))) for lies in (_TO_PUTS, _TO_GETS, _TO_FORWARDS)
        )
        self._percent = draw.choice((100, 60, 30))
        self._passes_on = draw.random() < 0.3
        node.world.at(node.world.now_us + draw.randrange(ACT_US), self._act)

    def receive(self, source: int, message: m.Put | m.Forward | m.Get) -> None:
        """Answer, or not."""
        node = self._node
        self._learn(message)
        lies = self._to_forwards
        if not isinstance(message, m.Forward):
            lies = self._to_puts if isinstance(message, m.Put) else self._to_gets
        how = self._draw.choice(lies) if self._draw.randrange(100) < self._percent else "honest"
        stores = how not in ("says so", "silent") or self._draw.random() < 0.3
        honest = node.node.handle(message, node.clock.read_us()) if stores else None
        if isinstance(message, m.Put) and message.forward and self._passes_on and honest is not None:
            self._pass_on(message)
        reply = honest
        if how == "silent":
            reply = None
        elif honest is None or (how != "honest" and not isinstance(honest, m.Reject)):
            reply = self._tell(how, message)
        if isinstance(message, m.Put):
            node.observer.took(node, message, m.PutReply(message.id, 0, bytes(len(message.headers)), []))
        node.store()
        if reply is not None:
            node.network.send(node.index, source, reply, node.delay_us())

    def _tell(self, how: str, message: m.Put | m.Forward | m.Get) -> m.Reply:
        if isinstance(message, m.Put):
            return self._put(how, message)
        return self._get(how, message) if isinstance(message, m.Get) else self._forward(how, message)

    def _learn(self, message: m.Put | m.Forward | m.Get) -> None:
        saw = self._node.conspiracy.saw_entry
        if isinstance(message, m.Forward):
            for bundle in message.bundles:
                for item in bundle.items:
                    path = merkle.path_of(bundle.leaves, item.position) if bundle.leaves else item.path
                    saw(Entry(item.header, item.salted, bundle.certificate, item.position, path))
        elif isinstance(message, m.Put):
            leaves = b"".join(map(digest_of, message.headers))
            root, count = merkle.root_of(leaves), len(message.headers)
            certificate = Certificate(
                message.configuration, message.group, root, count, message.writer, message.signature, ()
            )
            for i, (header, salted) in enumerate(zip(message.headers, message.salted, strict=True)):
                saw(Entry(header, salted, certificate, i, merkle.path_of(leaves, i)))

    def _put(self, how: str, request: m.Put) -> m.Reply:
        count, clock_us = len(request.headers), self._node.clock.read_us()
        draw, skew_us = self._draw, self._node.configuration.max_skew_us
        if how in ("says so", "forgets"):
            slots = self._node.node.slots
            for slot in self._slots:
                if how == "forgets" and slot in slots.current and draw.random() < 0.5:
                    slots.drop(slot)
            return m.PutReply(request.id, clock_us, bytes([m.OK]) * count, [])
        if how in ("newer", "just newer", "far newer"):
            ahead = {"newer": (1, 1000, skew_us, 2 * skew_us), "just newer": (0, 1)}.get(how, (60 * skew_us, 1 << 55))
            times = [header_time(header) + draw.choice(ahead) for header in request.headers]
            return m.PutReply(request.id, clock_us, bytes([m.STALE]) * count, times)
        if how == "ahead":
            return m.PutReply(request.id, clock_us, bytes([m.AHEAD]) * count, [clock_us] * count)
        if how == "refuses":
            codes = bytes(draw.choice((m.DENIED, m.AHEAD, m.BUSY, m.FULL, 77)) for _ in request.headers)
            return m.PutReply(request.id, clock_us, codes, [0] * count, "so it says")
        return m.Reject(request.id, clock_us, draw.choice(list(m.REJECTIONS)), "so it says")

    def _get(self, how: str, request: m.Get) -> m.Reply:
        node, draw = self._node, self._draw
        clock_us, asked = node.clock.read_us(), len(request.slots)
        bundles: list[m.Bundle] = []
        for slot in request.slots:
            known = node.conspiracy.entries.get(slot)
            if how == "older" and known:
                bundles.append(_bundle(draw.choice(known)))
            elif how == "other key":
                others = [s for s in sorted(node.conspiracy.entries) if s != slot]
                if others:
                    bundles.append(_bundle(draw.choice(node.conspiracy.entries[draw.choice(others)])))
            elif how == "made up":
                bundles.append(_bundle(self.made_up(slot)))
        answered = {"short": draw.choice((0, max(0, asked - 1))), "behind": asked}.get(how, asked)
        return m.GetReply(request.id, clock_us, answered, bundles, how == "behind")

    def _forward(self, how: str, request: m.Forward) -> m.Reply:
        count = sum(len(bundle.items) for bundle in request.bundles)
        count -= how == "short"
        return m.ForwardReply(request.id, self._node.clock.read_us(), bytes([m.OK]) * count)

    def made_up(self, slot: bytes) -> Entry:
        """An entry that no writer signed: of a value of its own making, under a signature that is for something else,
        or over the right header with another value."""
        node, draw = self._node, self._draw
        known = node.conspiracy.entries.get(slot)
        base = draw.choice(known) if known else None
        salted = draw.randbytes(16) + b"forged %d" % draw.getrandbits(30)
        if base is not None and draw.random() < 0.3:
            return Entry(base.header, salted, base.certificate, base.position, base.path)
        configuration = node.configuration
        writer = base.certificate.writer if base is not None else configuration.writers[0].key
        header = header_for(slot, node.clock.read_us(), writer, draw.getrandbits(64), PUT, salted)
        if base is not None and draw.random() < 0.3:
            return Entry(header, salted, base.certificate, base.position, base.path)
        group, root = configuration.group_of(slot).id, merkle.root_of(digest_of(header))
        signature = node.key.sign(intent_string(configuration.digest, group, root))
        if base is not None and draw.random() < 0.5:
            signature = base.certificate.signature
        return Entry(header, salted, Certificate(configuration.digest, group, root, 1, writer, signature, ()), 0, b"")

    # --- of its own accord ---

    def _act(self, _first: object, _second: object) -> None:
        """Pass on what is old, or made up, to anybody; not once the world heals."""
        node, draw = self._node, self._draw
        if node.observer.phase != "faults":  # type: ignore[attr-defined]
            return
        node.world.at(node.world.now_us + ACT_US, self._act)
        if node.down:
            return
        slot = draw.choice(self._slots)
        known = node.conspiracy.entries.get(slot)
        entry = draw.choice(known) if known and draw.random() < 0.6 else self.made_up(slot)
        target = draw.randrange(len(node.configuration.nodes))
        if target != node.index:
            request = m.Forward(node.new_id(), node.configuration.digest, [_bundle(entry)])
            node.network.send(node.index, target, request)

    def _pass_on(self, put: m.Put) -> None:
        """As an honest primary would, but to some only, and once."""
        node, draw = self._node, self._draw
        leaves = b"".join(map(digest_of, put.headers))
        root = merkle.root_of(leaves)
        certificate = Certificate(put.configuration, put.group, root, len(put.headers), put.writer, put.signature, ())
        items = [m.Item(i, header, put.salted[i]) for i, header in enumerate(put.headers)]
        group = node.configuration.groups.get(put.group)
        for peer in () if group is None else group.members:
            if peer != node.index and draw.random() < 0.6:
                bundle = m.Bundle(certificate, leaves, items)
                node.network.send(
                    node.index, peer, m.Forward(node.new_id(), node.configuration.digest, [bundle]), 5_000
                )


def _bundle(entry: Entry) -> m.Bundle:
    return m.Bundle(entry.certificate, b"", [m.Item(entry.position, entry.header, entry.salted, entry.path)])


class DirectWriter:
    """A writer of the adversary, on keys in mode primary."""

    def __init__(self, writer: ByzantineWriter, slots: list[bytes]) -> None:
        self.writer = writer
        self.slots = slots
        self.draw = writer.world.random(f"direct writer {writer.number}")
        self.stopped = False
        self.hoard: list[Proposal] = []
        self._next_id = self.draw.getrandbits(62)
        self._count = 0
        self.schemes = self.draw.sample(sorted(DIRECT_SCHEMES), self.draw.choice((1, 2, len(DIRECT_SCHEMES))))
        writer.world.at(writer.world.now_us + self.draw.randrange(writer.gap_us), self._act)

    def _act(self, _first: object, _second: object) -> None:
        if self.stopped:
            return
        gap_us = int(self.writer.gap_us * self.draw.uniform(0.3, 1.7)) + 1
        self.writer.world.at(self.writer.world.now_us + gap_us, self._act)
        DIRECT_SCHEMES[self.draw.choice(self.schemes)](self)

    def stop(self) -> None:
        """The end of the attack: what was withheld is released."""
        self.stopped = True
        for proposal in self.hoard:
            self.put(proposal, some=True)
        self.hoard.clear()

    def propose(
        self, slot: bytes, time_us: int | None = None, nonce: int | None = None, kind: int = PUT, author: bytes = b""
    ) -> Proposal:
        """Sign a write; in another's name, where an `author` is given."""
        draw, writer = self.draw, self.writer
        self._count += 1
        value = b"" if kind == DELETE else b"evil %d-d%d" % (writer.number, self._count)
        salted = draw.randbytes(16) + value
        if time_us is None:
            skew_us = writer.configuration.max_skew_us
            time_us = writer.world.now_us + draw.randint(-skew_us // 2, skew_us // 2)
        nonce = draw.getrandbits(64) if nonce is None else nonce
        header = header_for(slot, time_us, author or writer.key.public, nonce, kind, salted)
        if not author:
            writer.conspiracy.signed.add(header)
        return Proposal(writer.configuration, writer.key, [header], [salted])

    def put(self, proposal: Proposal, *, some: bool = False, forward: bool | None = None, author: bytes = b"") -> None:
        """Send it to all of its group, or to some."""
        draw, writer = self.draw, self.writer
        members = list(proposal.group.members)
        if some:
            members = draw.sample(members, draw.randint(1, len(members)))
        for node in members:
            self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
            put = m.Put(
                self._next_id,
                writer.configuration.digest,
                proposal.group.id,
                author or proposal.writer,
                proposal.signature,
                proposal.headers,
                proposal.salted,
                draw.random() < 0.5 if forward is None else forward,
            )
            writer.network.send(writer.address, node, put)


def _plain(writer: DirectWriter) -> None:
    """Writes, or deletes, as anybody would, at some nodes or all."""
    kind = writer.draw.choice((PUT, PUT, DELETE))
    writer.put(writer.propose(writer.draw.choice(writer.slots), kind=kind), some=writer.draw.random() < 0.5)


def _equivocate(writer: DirectWriter) -> None:
    """Two values under one stamp, at some nodes each."""
    slot, nonce = writer.draw.choice(writer.slots), writer.draw.getrandbits(64)
    time_us = writer.writer.world.now_us
    for _ in range(2):
        writer.put(writer.propose(slot, time_us, nonce), some=True)


def _ahead(writer: DirectWriter) -> None:
    """Stamps at the edge of what the skew allows, and far beyond."""
    skew_us = writer.writer.configuration.max_skew_us
    offset_us = writer.draw.choice((skew_us // 2, skew_us, skew_us + skew_us // 2, 3_600_000_000))
    writer.put(writer.propose(writer.draw.choice(writer.slots), writer.writer.world.now_us + offset_us), some=True)


def _backdate(writer: DirectWriter) -> None:
    """Stamps of the past."""
    time_us = writer.writer.world.now_us - writer.draw.randrange(1, 3 * writer.writer.configuration.op_time_us)
    writer.put(writer.propose(writer.draw.choice(writer.slots), time_us), some=True)


def _hoard(writer: DirectWriter) -> None:
    """Signs, and sends when others have written since."""
    writer.hoard.append(writer.propose(writer.draw.choice(writer.slots)))
    if len(writer.hoard) > _HOARD_MAX or writer.draw.random() < 0.3:
        writer.put(writer.hoard.pop(0), some=True)


def _masquerade(writer: DirectWriter) -> None:
    """Signs a write in another writer's name, and says who it is, or not."""
    others = [info.key for info in writer.writer.configuration.writers if info.key != writer.writer.key.public]
    author = writer.draw.choice(others)
    proposal = writer.propose(writer.draw.choice(writer.slots), author=author)
    writer.put(proposal, author=writer.draw.choice((author, proposal.writer)))


def _wrong_value(writer: DirectWriter) -> None:
    """Another value than the header names."""
    proposal = writer.propose(writer.draw.choice(writer.slots))
    proposal.salted[0] = proposal.salted[0][:-1] + b"?"
    writer.put(proposal)


def _elsewhere(writer: DirectWriter) -> None:
    """A signed write of a namespace whose writes need a quorum."""
    writer.put(writer.propose(writer.draw.choice(writer.writer.slots)))


DIRECT_SCHEMES: Final[dict[str, Callable[[DirectWriter], None]]] = {
    "plain": _plain,
    "equivocate": _equivocate,
    "ahead": _ahead,
    "backdate": _backdate,
    "hoard": _hoard,
    "masquerade": _masquerade,
    "wrong value": _wrong_value,
    "elsewhere": _elsewhere,
}
