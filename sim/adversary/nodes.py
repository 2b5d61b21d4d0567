"""Byzantine nodes: an honest node behind a liar, that draws one of its lies per request (`lies.py`).

What it does of its own accord, gossip and completing what others left, is here too. It must not know checkers or how
schedules are drawn.
"""

from __future__ import annotations

import random
from typing import Final

import msgspec

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string
from quorumcache.core.model import (
    Certificate,
    Entry,
    Grant,
    digest_of,
    value_hash_of,
)
from quorumcache.core.node import Node
from quorumcache.core.settle import commit_of
from sim.adversary import repairs
from sim.adversary.conspiracy import Conspiracy
from sim.adversary.direct import DirectLiar
from sim.adversary.epochlies import EPOCH_LIES
from sim.adversary.exact import EXACT_LIES
from sim.adversary.keylies import KEY_LIES
from sim.adversary.lies import LIES, ROLES, Lie, made_up
from sim.adversary.listings import lie_of
from sim.adversary.proofs import PROOF_LIES
from sim.adversary.roles import SCRIPTED, Role
from sim.processes import TICK_US, NodeProcess

_FOREIGN_MAX: Final = 64


def lie_named(name: str) -> Lie:
    """The lie of this name, of any kind."""
    for lies in (LIES, KEY_LIES, EPOCH_LIES, EXACT_LIES):
        if name in lies:
            return lies[name]
    return PROOF_LIES[name]


class ByzantineNode(NodeProcess):
    """A node of the adversary. It keeps an honest `Node` (two, as a twin) for believable answers."""

    def conspire(self, conspiracy: Conspiracy, lies: tuple[str, ...], percent: int) -> None:
        """Join the conspiracy, with these lies, telling one in `percent` of 100 cases."""
        self.is_byzantine = True
        self.conspiracy = conspiracy
        self.draw: random.Random = self.world.random(f"byzantine {self.index}")
        self.lies = lies
        self.percent = percent
        self.role: Role | None = None
        self.direct: DirectLiar | None = None
        self.late_us = 0
        self.victims = frozenset(i for i in range(64) if self.draw.random() < 0.5)
        self.said: dict[type, list[m.Reply]] = {}
        self._twin: Node = self._without_journal()
        self._foreign: dict[int, tuple[m.Prepare, dict[int, Grant]]] = {}
        self._next_id = self.draw.getrandbits(62)
        conspiracy.node_keys[self.key.public] = self.key
        self.world.at(self.world.now_us + self.draw.randrange(TICK_US), self._act)

    def adopt_twin(self) -> None:
        """The twin follows into a new configuration, empty."""
        self._twin = self._without_journal()

    def _without_journal(self) -> Node:
        node = self._make(None)
        node.slots.journal = None
        return node

    def receive(self, source: int, message: m.Request | m.Reply) -> None:
        """A message arrived: remember what is worth it, and answer with the truth or a lie."""
        if self.down:
            return
        if isinstance(message, m.Reply):
            if message.id in self._foreign:
                self._take_foreign(source, message)
                return
            super().receive(source, message)
            return
        if self.direct is not None and isinstance(message, (m.Put, m.Forward, m.Get)):
            self.direct.receive(source, message)
            return
        if type(message) is m.Commit:
            self.conspiracy.saw_commit(message)
            if "complete" in self.lies:
                self._complete()
        elif type(message) is m.Vote:
            self.conspiracy.saw_vote(message)
        elif type(message) is m.Prepare and "complete" in self.lies:
            self._gather(message)
        clock_us = self.clock.read_us()
        is_twin = "twins" in self.lies and source in self.victims
        reply: m.Reply | None = (
            self._twin.handle(message, clock_us) if is_twin else self.answer(source, message, clock_us)
        )
        assert reply is not None
        self.late_us = 0
        if self.role is not None and type(reply) is not m.Reject and self.role.concerns(self, message):
            reply = ROLES[SCRIPTED](self, source, message, reply)
        elif self.lies and type(reply) is not m.Reject and self.draw.randrange(100) < self.percent:
            name = self.draw.choice(self.lies)
            reply = lie_named(name)(self, source, message, reply)
        if isinstance(message, m.Scan) and isinstance(reply, m.ScanReply):
            reply = lie_of(self.world.random(f"listing {self.index} {message.id}"), self.configuration, message, reply)
        if isinstance(message, m.ShardSums | m.ShardList) or (
            isinstance(message, m.ReadFull) and source < len(self.configuration.nodes)
        ):
            draw = self.world.random(f"repair {self.index} {message.id}")
            honest = self._twin.handle(message, clock_us) if is_twin else self.answer(source, message, clock_us)
            reply = repairs.lie_of(
                draw, self.conspiracy, self.configuration, message, honest, lambda slot: made_up(self, slot)
            )
        if reply is not None:
            said = self.said.setdefault(type(reply), [])
            said.append(reply)
            if len(said) > 16:
                del said[0]
            self.network.send(self.index, source, reply, self.delay_us() + self.late_us)

    # --- of its own accord ---

    def _act(self, _first: object, _second: object) -> None:
        self.world.at(self.world.now_us + 2 * TICK_US, self._act)
        if self.down:
            return
        if "gossip" in self.lies:
            self._gossip()

    def new_id(self) -> int:
        """An id for a request of its own."""
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        return self._next_id

    def _gossip(self) -> None:
        """Commit something old, valid, somewhere."""
        known = self.conspiracy.entries
        if not known:
            return
        entry = self.draw.choice(known[self.draw.choice(list(known))])
        node = self.draw.randrange(len(self.configuration.nodes))
        if node != self.index:
            self.network.send(self.index, node, commit_of(self.new_id(), self.configuration.digest, entry))

    def _gather(self, prepare: m.Prepare) -> None:
        """Ask the others to promise what somebody else prepared: the writer's intent is good for anyone."""
        if len(prepare.headers) != 1 or prepare.configuration != self.configuration.digest:
            return
        group = self.configuration.groups.get(prepare.group)
        if group is None or any(other.signature == prepare.signature for other, _ in self._foreign.values()):
            return
        if len(self._foreign) >= _FOREIGN_MAX:
            del self._foreign[next(iter(self._foreign))]
        request_id = self.new_id()
        self._foreign[request_id] = (prepare, {})
        again = msgspec.structs.replace(prepare, id=request_id)
        for node in group.members:
            if node != self.index:
                self.network.send(self.index, node, again)

    def _take_foreign(self, source: int, reply: m.Reply) -> None:
        prepare, grants = self._foreign[reply.id]
        if isinstance(reply, m.PrepareReply) and reply.signature:
            grants[source] = Grant(source, reply.bitmap, reply.signature)
            root = merkle.root_of(digest_of(prepare.headers[0]))
            message = grant_string(prepare.configuration, prepare.group, root, b"\x01")
            grants[self.index] = Grant(self.index, b"\x01", self.key.sign(message))
            self._complete()

    def _complete(self) -> None:
        """Commit what it has the grants for, where a value that it knows fits the header."""
        values = [bytes(16) + value for value in self.conspiracy.values]
        hashes = {value_hash_of(salted): salted for salted in values}
        for request_id, (prepare, grants) in list(self._foreign.items()):
            header = prepare.headers[0]
            salted = hashes.get(header[51:83])
            if salted is None or len(grants) < self.configuration.q:
                continue
            del self._foreign[request_id]
            certificate = Certificate(
                prepare.configuration,
                prepare.group,
                merkle.root_of(digest_of(header)),
                1,
                prepare.writer,
                prepare.signature,
                tuple(grants[node] for node in sorted(grants)),
            )
            commit = commit_of(self.new_id(), self.configuration.digest, Entry(header, salted, certificate, 0, b""))
            for node in self.configuration.groups[prepare.group].members:
                if node != self.index:
                    self.network.send(self.index, node, commit)
