"""Changes to a configuration, each as the successor that makes it (protocol 9).

Belongs here: one function per change, from a configuration to the next epoch's. What a successor may change at all is
in core/succession.py, and is checked there. Must not know who signs, or how a cluster moves.

Each raises ConfigurationError where the change does not fit: a name that is not there, or is there already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from quorumcache.core.config_model import Configuration, NodeInfo, WriterInfo
from quorumcache.core.config_rules import fault
from quorumcache.core.rights import EVERY_WRITER, Limits


def successor_of(config: Configuration, **fields: Any) -> Configuration:
    """The configuration of the next epoch, with these fields changed."""
    return replace(config, epoch=config.epoch + 1, previous=config.digest, **fields)


def add_writer(
    config: Configuration, name: str, key: bytes, *, namespaces: Sequence[str] = (), limits: Limits | None = None
) -> Configuration:
    """A new writer. It may write where every writer may, and in `namespaces`, whose lists it is put on."""
    spaces = {space.name: space for space in config.namespaces}
    for space_name in namespaces:
        space = spaces.get(space_name)
        if space is None:
            raise fault("namespaces", f"{space_name[:80]!r} is none of them")
        if space.writers != EVERY_WRITER:
            spaces[space_name] = replace(space, writers=(*space.writers, name))
    writer = WriterInfo(name, key, limits=Limits() if limits is None else limits)
    return successor_of(config, writers=(*config.writers, writer), namespaces=tuple(spaces.values()))


def retire_writer(config: Configuration, name: str) -> Configuration:
    """The writer gets no new grants; what was certified stands."""
    writer = _writer(config, name)
    if writer.status != "active":
        raise fault("writers", f"{name} is {writer.status} already")
    return _with_writer(config, replace(writer, status="retired"))


def revoke_writer(config: Configuration, name: str) -> Configuration:
    """The writer gets no new grants, and what it wrote is dropped."""
    writer = _writer(config, name)
    if writer.status == "revoked":
        raise fault("writers", f"{name} is revoked already")
    return _with_writer(config, replace(writer, status="revoked"))


def rotate_key(config: Configuration, name: str, key: bytes) -> Configuration:
    """The writer goes on under a new key; the old one is retired, as NAME.EPOCH, so that what it wrote stands.

    Limits, and rights by the writer's name, go to the new key. A key that leaked has to be revoked, not rotated.
    """
    writer = _writer(config, name)
    if writer.status != "active":
        raise fault("writers", f"{name} is {writer.status}; only an active writer's key is rotated")
    old = replace(writer, name=f"{name}.{config.epoch}", status="retired", limits=Limits())
    fresh = [replace(writer, key=key) if x is writer else x for x in config.writers]
    return successor_of(config, writers=(*fresh, old))


def set_quota(config: Configuration, namespace: str, quota_bytes: int) -> Configuration:
    """Another quota for a namespace, in bytes of each node's memory; 0 is none."""
    space = config.namespace(namespace.encode("ascii", "replace"))
    if space is None:
        raise fault("namespaces", f"{namespace[:80]!r} is none of them")
    if space.quota_bytes == quota_bytes:
        raise fault("namespaces", f"{namespace} has a quota of {quota_bytes} bytes already")
    spaces = [replace(x, quota_bytes=quota_bytes) if x is space else x for x in config.namespaces]
    return successor_of(config, namespaces=tuple(spaces))


def add_node(
    config: Configuration, name: str, key: bytes, *, address: str = "", zone: str = "", weight: int = 1
) -> Configuration:
    """One more node, at the end of the list."""
    node = NodeInfo(len(config.nodes), name, key, address, zone, weight)
    return successor_of(config, nodes=(*config.nodes, node))


def remove_node(config: Configuration, name: str) -> Configuration:
    """A node less. At least 3f+1 have to remain."""
    gone = _node(config, name)
    left = [x for x in config.nodes if x is not gone]
    return successor_of(config, nodes=tuple(replace(x, index=i) for i, x in enumerate(left)))


def replace_node(
    config: Configuration, name: str, key: bytes, *, new_name: str = "", address: str = ""
) -> Configuration:
    """Another node, by its key, in the place of one: with its zone and weight, and its name and address unless given.

    A node that was broken into, or that lost its configuration, comes back as another: under a new key.
    """
    gone = _node(config, name)
    node = replace(gone, key=key, name=new_name or gone.name, address=address or gone.address)
    return successor_of(config, nodes=tuple(node if x is gone else x for x in config.nodes))


def _writer(config: Configuration, name: str) -> WriterInfo:
    for writer in config.writers:
        if writer.name == name:
            return writer
    raise fault("writers", f"{name[:80]!r} is none of the {len(config.writers)}; to see them: quorumcache admin show")


def _with_writer(config: Configuration, changed: WriterInfo) -> Configuration:
    return successor_of(config, writers=tuple(changed if x.key == changed.key else x for x in config.writers))


def _node(config: Configuration, name: str) -> NodeInfo:
    for node in config.nodes:
        if node.name == name:
            return node
    raise fault("nodes", f"{name[:80]!r} is none of the {len(config.nodes)}; to see them: quorumcache admin show")
