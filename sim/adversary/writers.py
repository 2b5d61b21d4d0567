"""Byzantine writers: processes that own a writer's key and send what they please.

Each scheme is a function, its power declared in its docstring, started every now and then. A scheme prepares a
`Proposal` somewhere, and says what is to be done once answers had time to come in. All schemes use the grants of the
adversary's nodes, which grant anything. It must not know checkers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, PUT, Grant, header_slot
from sim.adversary.conspiracy import Conspiracy, Proposal, header_for
from sim.adversary.exact import EXACT_SCHEMES, ExactProposal
from sim.adversary.keyschemes import KEY_SCHEMES
from sim.adversary.proofs import PROOF_SCHEMES
from sim.crypto import Key
from sim.network import Network
from sim.world import World

_PROPOSALS_MAX = 256


class ByzantineWriter:
    """A writer of the adversary: one key, one address, some schemes."""

    def __init__(
        self,
        number: int,
        address: int,
        world: World,
        network: Network,
        configuration: Configuration,
        key: Key,
        conspiracy: Conspiracy,
        slots: list[bytes],
        keys: list[tuple[str, bytes]],
        schemes: tuple[str, ...],
        gap_us: int,
    ) -> None:
        self.number = number
        self.address = address
        self.world = world
        self.network = network
        self.configuration = configuration
        self.key = key
        self.conspiracy = conspiracy
        self.slots = slots
        #: (type, slot of the base) of the keys with fields.
        self.keys = keys
        self.schemes = schemes
        self.gap_us = gap_us
        self.draw: random.Random = world.random(f"writer {number}")
        self.stopped = False
        self.hoard: list[Proposal] = []
        #: The slots that are written by compare-and-set, and requests for votes and grants there.
        self.exact_slots: list[bytes] = []
        self.exact: dict[int, tuple[ExactProposal, bytes, bool]] = {}
        self._waiting: dict[int, Proposal] = {}
        self._next_id = self.draw.getrandbits(62)
        self._count = 0
        network.attach(address, self.receive)
        if schemes:
            world.at(world.now_us + self.draw.randrange(gap_us), self._act)

    def _act(self, _first: object, _second: object) -> None:
        if self.stopped:
            return
        self.world.at(self.world.now_us + int(self.gap_us * self.draw.uniform(0.3, 1.7)) + 1, self._act)
        scheme = self.draw.choice(self.schemes)
        for schemes in (SCHEMES, KEY_SCHEMES, EXACT_SCHEMES, PROOF_SCHEMES):
            if scheme in schemes:
                schemes[scheme](self)

    def stop(self) -> None:
        """The end of the attack: what was withheld is released, all at once."""
        self.stopped = True
        for proposal in self.hoard:
            self.commit(proposal, self.members(proposal))
        self.hoard.clear()

    # --- what schemes are made of ---

    def members(self, proposal: Proposal) -> list[int]:
        """The nodes of a proposal's group, as it is now."""
        if proposal.configuration is not self.configuration:
            return list(self.configuration.group_of(header_slot(proposal.headers[0])).members)
        return list(proposal.group.members)

    def some(self, nodes: list[int], least: int = 1) -> list[int]:
        """A random part of some nodes."""
        return self.draw.sample(nodes, self.draw.randint(min(least, len(nodes)), len(nodes)))

    def propose(
        self,
        *,
        slot: bytes | None = None,
        time_us: int | None = None,
        nonce: int | None = None,
        kind: int = PUT,
        others: int = 0,
    ) -> Proposal:
        """Sign a batch: one write, and `others` more of other slots of its group."""
        draw = self.draw
        slot = slot or draw.choice(self.slots)
        if time_us is None:
            skew_us = self.configuration.max_skew_us
            time_us = self.world.now_us + draw.randint(-skew_us // 2, skew_us // 2)
        nonce = draw.getrandbits(64) if nonce is None else nonce
        headers, salted = [], []
        group = self.configuration.group_of(slot)
        more = [s for s in self.slots if s != slot and self.configuration.group_of(s) is group][:others]
        for each in [slot, *more]:
            value = b"" if kind == DELETE else self.value()
            salted.append(draw.randbytes(16) + value)
            headers.append(header_for(each, time_us, self.key.public, nonce, kind, salted[-1]))
        self.conspiracy.signed.update(headers)
        return Proposal(self.configuration, self.key, headers, salted)

    def value(self) -> bytes:
        """A value that nobody wrote before."""
        self._count += 1
        return b"evil %d-%d" % (self.number, self._count)

    def new_id(self) -> int:
        """An id for a request."""
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        return self._next_id

    def prepare(self, proposal: Proposal, nodes: list[int]) -> None:
        """Ask these nodes, and take the colluding nodes' grants."""
        request_id = self.new_id()
        if len(self._waiting) >= _PROPOSALS_MAX:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[request_id] = proposal
        request = proposal.prepare(request_id)
        self.conspiracy.grants_for(proposal)
        for node in nodes:
            self.network.send(self.address, node, request)

    def commit(self, proposal: Proposal, nodes: list[int]) -> None:
        """Commit at these nodes, if there are enough grants."""
        if len(proposal.grants) >= self.configuration.q:
            self.send_commit(proposal.commit(self.new_id(), self.configuration), nodes)
            for position in range(len(proposal.headers)):
                self.conspiracy.saw_entry(proposal.entry(position))

    def send_commit(self, request: m.Commit, nodes: list[int]) -> None:
        """Send a commit as it is."""
        for node in nodes:
            self.network.send(self.address, node, request)

    def later(self, delay_us: int, action: Callable[[Proposal], None], proposal: Proposal) -> None:
        """Do something with a proposal after a while."""

        def run(_first: object, _second: object) -> None:
            if not self.stopped:
                action(proposal)

        self.world.at(self.world.now_us + delay_us, run)

    def pause_us(self) -> int:
        """Time for answers to come in: some milliseconds, or wide-area round trips."""
        return self.draw.choice((3_000, 10_000, self.configuration.grace_us))

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """Take grants."""
        if isinstance(message, m.Reply):
            if message.id in self.exact:
                exact, ballot, grant = self.exact[message.id]
                exact.take(source, ballot, grant, message)
                return
            proposal = self._waiting.get(message.id)
            if proposal is not None:
                proposal.take(source, message)


Scheme = Callable[[ByzantineWriter], None]


def _plain(writer: ByzantineWriter) -> None:
    """Writes, or deletes, as anybody would."""
    proposal = writer.propose(kind=writer.draw.choice((PUT, PUT, DELETE)))
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.members(p)), proposal)


def _equivocate(writer: ByzantineWriter) -> None:
    """Two values under one stamp, each prepared at a part of the nodes, then at the rest; commits what it can."""
    draw = writer.draw
    slot = draw.choice(writer.slots)
    time_us = writer.world.now_us + draw.randint(-writer.configuration.max_skew_us, writer.configuration.max_skew_us)
    nonce = draw.getrandbits(64)
    first = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    second = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    nodes = writer.members(first)
    here = writer.some(nodes)
    rest = [node for node in nodes if node not in here]
    writer.prepare(first, here)
    writer.prepare(second, rest or nodes)
    pause_us = writer.pause_us()
    if draw.random() < 0.7:
        writer.later(pause_us, lambda p: writer.prepare(p, nodes), first)
        writer.later(pause_us, lambda p: writer.prepare(p, nodes), second)
    for proposal in (first, second):
        writer.later(2 * pause_us, lambda p: writer.commit(p, writer.some(nodes)), proposal)


def _subset(writer: ByzantineWriter) -> None:
    """Commits at a part of the nodes only."""
    proposal = writer.propose()
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.some(writer.members(p))[:2]), proposal)


def _lurk(writer: ByzantineWriter) -> None:
    """Withholds the commit, and releases it to some nodes when others have written."""
    proposal = writer.propose()
    writer.prepare(proposal, writer.members(proposal))
    delay_us = writer.draw.randrange(10_000, 4 * writer.configuration.op_time_us)
    writer.later(delay_us, lambda p: writer.commit(p, writer.some(writer.members(p))), proposal)


def _hoard(writer: ByzantineWriter) -> None:
    """Gathers certificates for as many stamps as it gets, and frees room by committing to one node at a time."""
    proposal = writer.propose()
    writer.prepare(proposal, writer.members(proposal))
    writer.hoard.append(proposal)
    if len(writer.hoard) > 16:
        old = writer.hoard.pop(0)
        writer.commit(old, writer.some(writer.members(old)))
    elif writer.draw.random() < 0.4:
        writer.commit(proposal := writer.draw.choice(writer.hoard), [writer.draw.choice(writer.members(proposal))])


def _flood(writer: ByzantineWriter) -> None:
    """Opens promises without end: on one slot, stamp after stamp."""
    slot = writer.draw.choice(writer.slots)
    for step in range(6):
        proposal = writer.propose(slot=slot, time_us=writer.world.now_us + step)
        writer.prepare(proposal, writer.members(proposal))


def _edge(writer: ByzantineWriter) -> None:
    """Proposes stamps at the edge of what the skew allows, and commits them at once or somewhat later."""
    skew_us = writer.configuration.max_skew_us
    offset_us = writer.draw.choice((skew_us // 2 - 1, skew_us - 1, skew_us, skew_us + skew_us // 2, skew_us // 4))
    proposal = writer.propose(time_us=writer.world.now_us + offset_us)
    writer.prepare(proposal, writer.members(proposal))
    delay_us = writer.pause_us() + writer.draw.choice((0, 0, skew_us, 3 * skew_us))
    writer.later(delay_us, lambda p: writer.commit(p, writer.some(writer.members(p))), proposal)


def _backdate(writer: ByzantineWriter) -> None:
    """Proposes stamps of the past, where slots were emptied since."""
    back_us = writer.draw.choice((1, 3, 10)) * writer.draw.randrange(1, writer.configuration.op_time_us)
    proposal = writer.propose(time_us=writer.world.now_us - back_us)
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.some(writer.members(p))), proposal)


def _future(writer: ByzantineWriter) -> None:
    """Proposes stamps far ahead of every clock."""
    ahead_us = writer.draw.choice((1, 10, 3600)) * 1_000_000
    proposal = writer.propose(time_us=writer.world.now_us + ahead_us)
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.members(p)), proposal)


def _wrong_value(writer: ByzantineWriter) -> None:
    """Commits different values under one certified header."""
    proposal = writer.propose()
    writer.prepare(proposal, writer.members(proposal))

    def commit(p: Proposal) -> None:
        for node in writer.members(p):
            p.salted[0] = (
                writer.draw.randbytes(16) + (b"evil %d-%d" % (writer.number, 10**6 + node))[-len(p.salted[0]) :]
            )
            if len(p.grants) >= writer.configuration.q:
                writer.send_commit(p.commit(writer.new_id(), writer.configuration), [node])

    writer.later(writer.pause_us(), commit, proposal)


def _bad_certificate(writer: ByzantineWriter) -> None:
    """Commits two values under one stamp with too few grants: garbage for signatures, one grant many times."""
    draw = writer.draw
    slot = draw.choice(writer.slots)
    skew_us = writer.configuration.max_skew_us
    time_us = writer.world.now_us + draw.choice((0, -10 * skew_us, skew_us))
    nonce = draw.getrandbits(64)
    first = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    second = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    writer.prepare(first, writer.some(writer.members(first)))
    writer.conspiracy.grants_for(second)
    choice = draw.randrange(3)

    def commit(p: Proposal) -> None:
        q = writer.configuration.q
        certificate = p.certificate()
        if choice == 0 or not certificate.grants:
            have = {g.node: g for g in certificate.grants}
            grants = tuple(have.get(n) or Grant(n, b"\x01", draw.randbytes(64)) for n in sorted(p.group.members)[:q])
        elif choice == 1:
            grants = (certificate.grants * q)[:q]
        else:
            grants = certificate.grants
        bundle = p.commit(writer.new_id(), writer.configuration).bundles[0]
        forged = msgspec.structs.replace(bundle, certificate=msgspec.structs.replace(certificate, grants=grants))
        request = m.Commit(writer.new_id(), writer.configuration.digest, [forged])
        writer.send_commit(request, writer.some(writer.members(p), 2))

    for proposal in (first, second):
        writer.later(writer.pause_us(), commit, proposal)


def _reuse(writer: ByzantineWriter) -> None:
    """Two values under one stamp, the second prepared when the promises of the first may have aged out."""
    configuration = writer.configuration
    slot = writer.draw.choice(writer.slots)
    time_us = writer.world.now_us + configuration.max_skew_us // 2
    nonce = writer.draw.getrandbits(64)
    first = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    second = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    nodes = writer.members(first)
    writer.prepare(first, nodes)
    aged_us = configuration.op_time_us + 2 * configuration.max_skew_us + 80_000
    writer.later(aged_us, lambda p: writer.prepare(p, nodes), second)
    for proposal in (second, first):
        writer.later(aged_us + writer.pause_us(), lambda p: writer.commit(p, writer.some(nodes)), proposal)


def _spoil(writer: ByzantineWriter) -> None:
    """Gives each node a certificate in which that node's own grant, which it knows to be good, is garbage."""
    proposal = writer.propose()
    nodes = writer.members(proposal)
    writer.prepare(proposal, nodes)

    def commit(p: Proposal) -> None:
        whole = p.commit(writer.new_id(), writer.configuration).bundles[0]
        for node in nodes:
            grants = tuple(
                Grant(g.node, g.bitmap, writer.draw.randbytes(64)) if g.node == node else g
                for g in whole.certificate.grants
            )
            certificate = msgspec.structs.replace(whole.certificate, grants=grants)
            bundle = msgspec.structs.replace(whole, certificate=certificate)
            writer.send_commit(m.Commit(writer.new_id(), writer.configuration.digest, [bundle]), [node])

    writer.later(writer.pause_us(), commit, proposal)


def _impersonate(writer: ByzantineWriter) -> None:
    """Signs, with its own key, headers that name another writer."""
    draw = writer.draw
    victim = draw.choice([w.key for w in writer.configuration.writers if not w.name.startswith("evil")])
    salted = draw.randbytes(16) + b"evil %d-impersonated" % writer.number
    slot = draw.choice(writer.slots)
    header = header_for(slot, writer.world.now_us, victim, draw.getrandbits(64), PUT, salted)
    proposal = Proposal(writer.configuration, writer.key, [header], [salted])
    writer.prepare(proposal, writer.members(proposal))
    writer.later(writer.pause_us(), lambda p: writer.commit(p, writer.members(p)), proposal)


def _partial(writer: ByzantineWriter) -> None:
    """Batches of which nodes grant different parts, committed as if all had granted all."""
    draw = writer.draw
    slot = draw.choice(writer.slots)
    time_us = writer.world.now_us + draw.randint(-writer.configuration.max_skew_us, 0)
    nonce = draw.getrandbits(64)
    # A second header under the stamp of the first batch's, so that some nodes refuse one of them.
    blocker = writer.propose(slot=slot, time_us=time_us, nonce=nonce)
    nodes = writer.members(blocker)
    writer.prepare(blocker, writer.some(nodes))
    proposal = writer.propose(slot=slot, time_us=time_us, nonce=nonce, others=2)
    pause_us = writer.pause_us()
    writer.later(pause_us, lambda p: writer.prepare(p, nodes), proposal)
    writer.later(2 * pause_us, lambda p: writer.commit(p, writer.some(nodes)), blocker)
    writer.later(2 * pause_us, lambda p: writer.commit(p, writer.some(nodes)), proposal)


def _unseen(writer: ByzantineWriter) -> None:
    """Names digests that it never saw, sends headers of other groups, two of one slot, and bytes that are no header."""
    draw = writer.draw
    proposal = writer.propose()
    request = proposal.prepare(writer.new_id())
    choice = draw.randrange(4)
    if choice == 0:
        request.headers = [draw.randbytes(len(request.headers[0]))]
    elif choice == 1:
        request.headers = request.headers * 2
    elif choice == 2:
        request.group = draw.randbytes(16)
    else:
        request.signature = draw.randbytes(64)
    for node in writer.members(proposal):
        writer.network.send(writer.address, node, request)
    bundle = m.Bundle(proposal.certificate(), draw.randbytes(32), [m.Item(0, proposal.headers[0], proposal.salted[0])])
    writer.send_commit(m.Commit(writer.new_id(), proposal.configuration.digest, [bundle]), writer.members(proposal))


SCHEMES: Final[dict[str, Scheme]] = {
    "plain": _plain,
    "equivocate": _equivocate,
    "subset": _subset,
    "lurk": _lurk,
    "hoard": _hoard,
    "flood": _flood,
    "edge": _edge,
    "backdate": _backdate,
    "future": _future,
    "wrong_value": _wrong_value,
    "bad_certificate": _bad_certificate,
    "reuse": _reuse,
    "spoil": _spoil,
    "impersonate": _impersonate,
    "partial": _partial,
    "unseen": _unseen,
}


def powers() -> dict[str, str]:
    """What each scheme does, in prose."""
    return {name: scheme.__doc__ or "" for name, scheme in SCHEMES.items()}
