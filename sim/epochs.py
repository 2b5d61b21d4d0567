"""The feature `epochs`: administrators order epochs while everything else goes on, and nodes and clients go over to
them by themselves, with the code that is shipped for it.

Belongs here: what is ordered and of whom, and what the run knows of epochs by its true state. What nodes do is in
moving.py, what liars do in adversary/epochs.py.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.epochmessages import signed_of
from quorumcache.core.seals import Step
from quorumcache.errors import ConfigurationError
from sim.cluster import ADMIN
from sim.crypto import Suite
from sim.places import Directory, Port

if TYPE_CHECKING:
    from sim.engine import Engine
    from sim.moving import MovingNode

AGAIN_US: Final = 150_000
#: How long after the healing everybody has to be in the last epoch, at most: a node that was away asks ever less often.
SETTLING_US: Final = 12_000_000
_FAR: Final = 1 << 62
#: Changes that leave groups as they are: what exact namespaces take (protocol 17).
_WHERE_NODES_STAY: Final = ("revoke", "retire", "grace", "writer")


class Epochs:
    """The administrators of one run, and who is where."""

    def __init__(self, engine: Engine, suite: Suite, address: int) -> None:
        self._engine = engine
        self._key = suite.key(ADMIN)
        self._address = address
        nodes = engine.config.nodes + engine.plan.spares
        self._names = [f"n{i}" for i in range(nodes)]
        self._keys = [suite.key(f"node {i}").public for i in range(nodes)]
        self.directory = Directory(self._keys)
        #: All that began at a correct node, in their order, and the steps that lead there.
        self.chain = [engine.configuration]
        #: What is signed as the successor of the last of these, once it is.
        self.ordered: SignedConfiguration | None = None
        #: Whether a correct node sealed for it, so that it has to come.
        self.is_coming = False
        self._unused = list(range(engine.config.nodes, nodes))
        self._next_id = 1
        engine.network.attach(address, lambda _source, _message: None)

    def port(self, address: int) -> Port:
        """The network as the process at this address sees it."""
        return Port(self._engine.network, self.directory, address, self.chain[0])

    @property
    def is_settled(self) -> bool:
        """Whether all correct nodes are where the last epoch wants them, and have what they joined for."""
        engine = self._engine
        return not self.is_coming and not any(
            self.lags(node) or node.joining for node in engine.moving if not node.is_byzantine
        )

    def lags(self, node: MovingNode) -> bool:
        """Whether a node of the last epoch is not in it, or one that it left does not know."""
        last, membership = self.chain[-1], node.membership
        if last.node_by_key(node.key.public) is not None:
            return membership is None or membership.configuration.digest != last.digest
        return membership is not None and not membership.has_left

    # --- orders ---

    def order(self, choice: int, *, again: bool = False) -> str:
        """Have some nodes seal for the next epoch: the one that is signed already, or a new one. Returns what it is."""
        engine = self._engine
        draw = random.Random(choice)
        last = self.chain[-1]
        what = "again"
        if self.ordered is None:
            # Mostly one waits until an epoch has settled before one orders the next.
            if not self.is_settled and draw.random() < 0.8:
                engine.world.at(engine.now_us + AGAIN_US, self._order_later, choice)
                return "" if again else "waits"
            successor, what = self._draft(draw, last)
            message = SignedConfiguration(successor).signed_message
            self.ordered = SignedConfiguration(successor, ((self._key.public, self._key.sign(message)),))
            self._publish(self.ordered)
        nodes = [self.directory.addresses[info.key] for info in last.nodes]
        targets = draw.sample(nodes, draw.choice((1, 1, 2, len(nodes))))
        self._send(targets)
        if draw.random() < 0.6:
            # An operator who looks whether it went through.
            engine.world.at(engine.now_us + AGAIN_US, self._order_again, (choice, self.ordered))
        return what

    def propose(self, successor: Configuration, targets: list[int]) -> None:
        """Have these nodes seal for this successor of the last epoch: a script's doing."""
        message = SignedConfiguration(successor).signed_message
        self.ordered = SignedConfiguration(successor, ((self._key.public, self._key.sign(message)),))
        self._publish(self.ordered)
        self._send(targets)

    def _send(self, targets: list[int]) -> None:
        assert self.ordered is not None
        self._next_id += 1
        request = m.SealEpoch(self._next_id, self.chain[-1].digest, signed_of(self.ordered), [])
        for target in targets:
            self._engine.network.send(self._address, target, request)

    def _order_later(self, choice: int, _second: object) -> None:
        if self._engine.phase == "faults":
            what = self.order(choice, again=True)
            if what:
                self._engine.record.faults.append((self._engine.now_us, "epoch", 0, what))

    def _order_again(self, asked: tuple[int, SignedConfiguration], _second: object) -> None:
        choice, ordered = asked
        if self._engine.phase == "faults" and self.ordered is ordered:
            self.order(choice + 1, again=True)

    def _draft(self, draw: random.Random, last: Configuration) -> tuple[Configuration, str]:
        """The next configuration, and what changes in a few words."""
        changes = draw.sample(("revoke", "retire", "grace", "replace", "replace", "add", "remove", "writer"), 8)
        if self._engine.plan.exact:
            changes = [change for change in changes if change in _WHERE_NODES_STAY]
        wanted = draw.choice((1, 1, 2))
        successor, words = last, []
        for change in changes:
            try:
                after = self._change(draw, change, successor)
            except ConfigurationError:
                after = None
            if after is not None:
                successor = after
                words.append(change)
                if len(words) == wanted:
                    break
        fields = {"nodes": successor.nodes, "writers": successor.writers, "grace_us": successor.grace_us}
        return amend.successor_of(last, **fields), ", ".join(words)

    def _change(self, draw: random.Random, change: str, last: Configuration) -> Configuration | None:
        engine = self._engine
        names = [info.name for info in last.nodes]
        if change in ("revoke", "retire"):
            return self._against_writer(draw, change, last)
        if change == "grace":
            most = engine.plan.grace_us
            return amend.successor_of(last, grace_us=draw.choice([x for x in (most // 2, most, most - 1) if x > 0]))
        if change == "writer":
            number = len(last.writers)
            return amend.add_writer(last, f"newcomer-{number}", draw.randbytes(32)) if number < 12 else None
        fresh = [number for number in self._unused if self._keys[number] not in {info.key for info in last.nodes}]
        if change == "remove":
            return amend.remove_node(last, draw.choice(names)) if len(names) > last.n else None
        if not fresh:
            return None
        number = draw.choice(fresh)
        name, key = self._names[number], self._keys[number]
        if change == "add":
            after = amend.add_node(last, name, key) if len(names) < engine.config.nodes + 2 else None
        else:
            after = amend.replace_node(last, draw.choice(names), key, new_name=name)
        if after is None:
            return None
        liars = sum(engine.nodes[self.directory.addresses[info.key]].is_byzantine for info in after.nodes)
        if liars > engine.config.f:
            return None
        self._unused.remove(number)
        return after

    def _against_writer(self, draw: random.Random, change: str, last: Configuration) -> Configuration | None:
        engine = self._engine
        evil = {writer.key.public for writer in engine.writers}
        keys = {client.key.public for client in engine.clients if client.key is not None}
        active = [info for info in last.writers if info.status == "active"]
        bad = [info for info in active if info.key in evil]
        good = [info for info in active if info.key in keys]
        chosen = bad if bad and draw.random() < 0.7 else good
        if not chosen or (chosen is good and len(good) < 3):
            return None
        name = draw.choice(chosen).name
        return amend.revoke_writer(last, name) if change == "revoke" else amend.retire_writer(last, name)

    def _publish(self, signed: SignedConfiguration) -> None:
        """It is signed: the adversary knows it, operators start the nodes that are to join."""
        engine, last, successor = self._engine, self.chain[-1], signed.configuration
        for writer in successor.writers:
            if writer.status != "active":
                engine.barred.add(writer.key)
                if writer.status == "revoked":
                    engine.revoked.setdefault(writer.key, _FAR)
        engine.conspiracy.hear_of(signed)
        draw = engine.world.random(f"invitations {successor.epoch}")
        for info in successor.nodes:
            if last.node_by_key(info.key) is None:
                node = engine.moving[self.directory.addresses[info.key]]
                known = draw.choice(self.chain)
                engine.world.at(engine.now_us + draw.choice((0, draw.randrange(400_000))), self._invite, (node, known))

    def _invite(self, who: tuple[MovingNode, Configuration], _second: object) -> None:
        node, known = who
        node.invite(known)

    def settle(self) -> None:
        """The network has healed: let what was begun go on until it is over, as far as it goes."""
        engine = self._engine
        limit_us = engine.now_us + SETTLING_US
        while not self.is_settled and engine.now_us < limit_us and not engine.world.stopped:
            engine.world.run_until(engine.now_us + 100_000)
        if engine.world.stopped:
            return
        if self.is_coming:
            engine.fail("epochs", f"a correct node sealed epoch {self.chain[-1].epoch}, and the next one never began")
        for node in engine.moving:
            if not node.is_byzantine and self.lags(node):
                where = "no epoch" if node.membership is None else f"epoch {node.configuration.epoch}"
                engine.fail("epochs", f"node {node.number} is in {where} still, and the last is {self.chain[-1].epoch}")
                return

    # --- what happens ---

    def sealed(self, node: MovingNode, before: Configuration, successor: SignedConfiguration) -> None:
        """A node noted that an epoch ends for this successor."""
        if not node.is_byzantine and before.digest == self.chain[-1].digest:
            self.is_coming = True

    def begun(self, node: MovingNode, before: Configuration, step: Step) -> None:
        """A node noted that the next epoch has begun."""
        if node.is_byzantine or before.digest != self.chain[-1].digest:
            return
        engine = self._engine
        successor = step.successor.configuration
        self.chain.append(successor)
        self.ordered, self.is_coming = None, False
        engine.configuration = successor
        for key, since_us in engine.revoked.items():
            if since_us == _FAR and successor.is_revoked(key):
                engine.revoked[key] = engine.now_us
        for info in successor.writers:
            if info.status != "active":
                engine.retired.setdefault(info.key, engine.now_us)
        draw = engine.world.random(f"adversary {successor.epoch}")
        for writer in engine.writers:
            engine.world.at(engine.now_us + draw.randrange(100_000), self._go_on, (writer, successor))
        engine.conspiracy.adopt(successor)

    def _go_on(self, what: tuple[object, Configuration], _second: object) -> None:
        writer, successor = what
        if successor.epoch > writer.configuration.epoch:  # type: ignore[attr-defined]
            writer.configuration = successor  # type: ignore[attr-defined]
            writer.network.configuration = successor  # type: ignore[attr-defined]

    def served(self, node: MovingNode, request: m.Request, reply: m.Reply) -> None:
        """A correct node served a request."""
        self._engine.served(node, request, reply)

    def stuck(self, node: MovingNode, problem: ConfigurationError) -> None:
        """A correct node cannot follow the others: nobody signed two successors here, so it has to."""
        if not node.is_byzantine:
            self._engine.fail("epochs", f"node {node.number} cannot follow: {problem}")
