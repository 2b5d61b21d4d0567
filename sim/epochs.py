"""A new epoch in which a writer is revoked, as protocol 9 has it: nodes seal, q seals activate, revoked entries go.

The core has no machine for this yet, so the steps are done here, from outside, in the order of the protocol page: a
sealed node is silent; a node activates once q nodes of the group have sealed; activating evicts the revoked writer's
entries and promises, floors raised. It must not know clients.
"""

from __future__ import annotations

from dataclasses import replace

from quorumcache.core.config import Configuration
from quorumcache.core.model import header_writer
from quorumcache.core.node import Node


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
