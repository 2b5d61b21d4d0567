"""A node goes over to its next epoch, with its storage: while it runs, and at a start that finds the epoch before.

Storage moves in one transaction. Where the node ends before that, or it cannot be written, its record of seals says all
the same that the next epoch has begun: the next start finds stored state of the epoch before, and goes over then. It
must not know sockets, or when a node may activate (core/membership.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from quorumcache.core.carrying import Carried, Joining, carry, joined_over, still_joining
from quorumcache.core.certificate import Verifier, Verify
from quorumcache.core.config import Configuration
from quorumcache.core.held import Held
from quorumcache.core.journal import Journal
from quorumcache.core.membership import Carry, MakeNode
from quorumcache.core.node import Node
from quorumcache.core.slots import Slots
from quorumcache.core.succession import counting
from quorumcache.errors import DiskFailed
from quorumcache.storage import Identity, NotStored, Storage


class Resumed(msgspec.Struct, frozen=True):
    """A node with what storage had. `carried`: what came along from the epoch before, where that was of it or of an
    earlier one, else None. The node recovers the shards in `joining` as one that has just gone over."""

    node: Node
    carried: Carried | None = None
    joining: Joining = ()


def carry_with(storage: Storage) -> Carry:
    """How `Membership` has a node carry on whose values this storage may have: `Membership(..., carry=carry_with(x))`.

    What it returns raises DiskFailed where storage cannot go along: the node has to stop, and nothing that it was about
    to answer may be sent.
    """

    def carry_over(old: Node, new: Node, now_us: int) -> Carried:
        if storage.keeps:
            _write(storage, old)  # So that all that it leaves has a row.
        carried = carry(old.slots, new.slots, new.key, now_us, new.verifier.chain)
        if storage.keeps:
            _move(storage, new, list(old.slots.current.values()))
        return carried

    return carry_over


def resume(
    storage: Storage,
    chain: Sequence[Configuration],
    key: bytes,
    make_node: MakeNode,
    verify: Verify,
    now_us: int,
    has_joined: Callable[[Configuration], bool],
) -> Resumed | None:
    """Open storage, and make the node of `key` with what is stored; None where nothing is that counts.

    `chain`: the configurations that led to the node's present one, as its record of seals shows them, and that one:
    `[*known, configuration]`. `make_node` is that of `Membership`, and makes nodes as for a start with stored state.
    `has_joined` is that of the record. State of an earlier configuration of the chain goes over to the present one,
    epoch by epoch, and is written so before this returns. Raises what `Storage.open` raises; DiskFailed, with storage
    closed, where it cannot be written.
    """

    def node_of(place: int) -> Node:
        return make_node(chain[place], Verifier(verify, counting(chain[place], chain[:place])))

    found: list[tuple[int, Node]] = []

    def earlier(digest: bytes) -> Slots | None:
        for place, configuration in enumerate(chain[:-1]):
            if configuration.digest == digest and configuration.node_by_key(key) is not None:
                found.append((place, node_of(place)))
                return found[0][1].slots
        return None

    node = node_of(len(chain) - 1)
    if not storage.open(_identity_of(node), node.slots, earlier):
        return None
    if found:
        _, node = found[0]
    node.slots.journal = Journal()
    _drop_unserved(node)
    if not found:
        if node.slots.journal:
            _or_close(storage, lambda: _write(storage, node))
        node.slots.journal = None
        return Resumed(node, None, joined_over(chain, node.slots.recovering, key, has_joined))
    place, node = found[0]
    if node.slots.types:
        # Keys' own barriers are not stored: this one stands in for all of them.
        node.slots.key_barrier_us = now_us + 2 * node.configuration.max_skew_us
    joining = joined_over(chain[: place + 1], node.slots.recovering, key, has_joined)
    for after in range(place + 1, len(chain)):
        before, node = node, node_of(after)
        carried = carry(before.slots, node.slots, key, now_us, node.verifier.chain)
        joining.append((before.configuration, carried.joined))
    _or_close(storage, lambda: _move(storage, node))
    node.slots.journal = None
    return Resumed(node, carried, still_joining(joining, node.slots))


def _drop_unserved(node: Node) -> None:
    """Drop what an earlier epoch left in storage: entries of shards that the node serves no more."""
    groups, slots = node.configuration.shard_groups, node.slots
    for shard in slots.shards:
        if shard.slots and node.index not in groups[shard.number].members:
            for slot in list(shard.slots):
                slots.leave(slot)


def _move(storage: Storage, node: Node, left: Sequence[Held] = ()) -> None:
    slots = node.slots
    journal = slots.journal
    assert journal is not None, "a node with storage has one"
    _or_fail(node.configuration.epoch, lambda: storage.move(_identity_of(node), journal, slots, left))
    journal.clear()


def _write(storage: Storage, node: Node) -> None:
    journal = node.slots.journal
    assert journal is not None, "a node with storage has one"
    if journal:
        _or_fail(node.configuration.epoch + 1, lambda: storage.write(journal, node.slots))
        journal.clear()


def _or_fail(epoch: int, write: Callable[[], None]) -> None:
    try:
        write()
    except NotStored as fault:
        raise DiskFailed(
            f"{fault}: the next epoch, {epoch}, has begun, and storage cannot go along. Make room and start the node "
            "again: it goes over then"
        ) from None


def _or_close(storage: Storage, write: Callable[[], None]) -> None:
    try:
        write()
    except DiskFailed:
        storage.close()
        raise


def _identity_of(node: Node) -> Identity:
    return Identity(node.configuration.cluster_id, node.configuration.digest, node.key)
