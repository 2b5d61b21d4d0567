"""The feature `revoke`: a new epoch in which a writer is revoked, played from outside, without the code that nodes have
for it (that is the feature `epochs`). So it goes with all that the latter does not, as values on disk.

Done in the order of the protocol page: a sealed node is silent; a node activates once q nodes of the group have sealed;
activating evicts the revoked writer's entries and promises, floors raised; clients begin anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quorumcache.core.config import Configuration
from quorumcache.core.model import header_writer
from quorumcache.core.node import Node
from sim.adversary.nodes import ByzantineNode

if TYPE_CHECKING:
    from sim.clients import ClientProcess
    from sim.engine import Engine
    from sim.processes import NodeProcess


def revoking(configuration: Configuration, writer: bytes) -> Configuration:
    """The next epoch, in which `writer` is revoked."""
    writers = tuple(replace(info, status="revoked") if info.key == writer else info for info in configuration.writers)
    return replace(configuration, epoch=configuration.epoch + 1, previous=configuration.digest, writers=writers)


def activate(node: Node, configuration: Configuration) -> None:
    """Have a node that sealed its epoch work under the next one."""
    node.configuration = configuration
    node.slots.configuration = configuration
    if any(info.mode == "primary" for info in configuration.namespaces):
        # There rights alone keep a revoked writer out: nobody has to grant its writes. (Of other modes, where nobody
        # commits what is revoked, runs stay what they were.)
        node.rights = configuration.rights_table
    node.verifier.chain[configuration.digest] = configuration
    for slot, held in list(node.slots.current.items()):
        if configuration.is_revoked(header_writer(held.header)) and slot in node.slots.current:
            node.slots.drop(node.slots.place_of(slot))
    for promise in list(node.slots.promises):
        if configuration.is_revoked(promise.header.writer):
            node.slots.drop_promise(promise)


def revoke(engine: Engine, which: int) -> None:
    """Publish an epoch in which a writer is revoked, preferably one of the adversary's."""
    if engine.revoked:
        return
    evil = [w.key.public for w in engine.writers]
    able = [c.key.public for c in engine.clients if c.key is not None]
    writer = evil[which % len(evil)] if evil else able[which % len(able)]
    following = revoking(engine.configuration, writer)
    engine.revoked[writer] = 1 << 62
    engine.conspiracy.adopt(following)
    draw = engine.world.random("epoch")
    now_us = engine.world.now_us
    seal_us = [0 if node.is_byzantine else draw.randrange(100_000) for node in engine.nodes]
    # Every group seals: wait for the q-th of each, which the (N - n + q)-th of all is at the latest.
    enough = sorted(seal_us)[len(engine.nodes) - engine.configuration.n + engine.configuration.q - 1]
    active_us = [max(seal, enough) + draw.randrange(50_000) for seal in seal_us]
    for node, seal, active in zip(engine.nodes, seal_us, active_us, strict=True):
        engine.world.at(now_us + seal, _seal, node)
        engine.world.at(now_us + active, _activate, node, following)
    known_us = now_us + sorted(active_us)[len(engine.nodes) - engine.configuration.n + engine.configuration.q - 1]
    engine.world.at(known_us, _known, engine, writer)
    for client in engine.clients:
        engine.world.at(now_us + draw.randrange(300_000), _adopt, client, (engine, following))
    for evil_writer in engine.writers:
        evil_writer.configuration = following


def _seal(node: NodeProcess, _second: object) -> None:
    node.sealed = True


def _activate(node: NodeProcess, following: Configuration) -> None:
    node.configuration = following
    node.chain.append(following)
    node.sealed = False
    activate(node.node, following)
    node.store()
    if not node.down:
        node.begin_repair()
    if isinstance(node, ByzantineNode):
        node.adopt_twin()


def _known(engine: Engine, writer: bytes) -> None:
    engine.revoked[writer] = engine.world.now_us


def _adopt(client: ClientProcess, known: tuple[Engine, Configuration]) -> None:
    engine, following = known
    client.adopt(following)
    engine.configuration = following
