"""What a node takes along from one epoch into the next: entries, promises, floors (protocol 9).

Belongs here: what stays, what goes and under which floor, and where a member that joins has to ask. When a node may
activate is in core/seals.py. Must not know messages, files or signatures.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgspec

from quorumcache.core.certificate import Batch
from quorumcache.core.config_model import Configuration
from quorumcache.core.held import Held, Promise
from quorumcache.core.memory import batch_cost
from quorumcache.core.model import header_writer
from quorumcache.core.slots import KEY_OVERHEAD_BYTES, Slots
from quorumcache.core.types.base import is_base_slot


class Carried(msgspec.Struct, frozen=True):
    """What became of one node's state: entries that it kept, entries that went (their writer is revoked, their epoch
    no longer counts, the node does not serve them any more or lacked room), promises kept, and shards that it joins."""

    kept: int
    gone: int
    promises: int
    joined: tuple[int, ...]


def joins_anew(successor: Configuration, before: Configuration) -> bool:
    """Whether every member joins its groups anew: quorums of both epochs need not meet where f falls, and floors are
    those of other shards where their number changes."""
    return successor.f < before.f or successor.shards != before.shards


def stays_in(successor: Configuration, before: Configuration, shard: int, key: bytes) -> bool:
    """Whether the node of this key served the shard, and goes on with what it has of it."""
    if joins_anew(successor, before):
        return False
    old, new = before.node_by_key(key), successor.node_by_key(key)
    if old is None or new is None:
        return False
    return old.index in before.shard_groups[shard].members and new.index in successor.shard_groups[shard].members


def sources_of(before: Configuration, shard: int, key: bytes) -> tuple[bytes, ...]:
    """The keys of the nodes that the node of `key` asks for what a shard holds that it is recovering when the epoch
    begins: the members of the shard's group in the epoch *before*, those that leave among them.

    q of them have to report, after they sealed, and none that is recovering the shard itself: at most f correct members
    that are not recovering ever lack a complete write, so any q of those name it. In the new group there may be fewer
    than q of those. Only where the number of shards stays.
    """
    members = before.shard_groups[shard].members
    return tuple(before.nodes[member].key for member in members if before.nodes[member].key != key)


def carry(old: Slots, new: Slots, key: bytes, now_us: int, counting: Container[bytes]) -> Carried:
    """Fill the empty slots of the next epoch with what the node of `key` may keep of the last one's.

    `now_us` is its clock once it holds the seals. `counting`: digests of the configurations whose certificates count in
    the next epoch. `new` was made as for a start with stored state: floors at 0, nothing recovering. `old` stays as it
    is, for reports to those that join, and has all values in memory (ValueError).

    1. A shard in which it stays keeps its floor, its open promises, and whether it is recovering.
    2. One that it joins begins with a floor 2 max_skew above its clock of now, and recovering: since it holds the
       seals, all that the last epoch granted is below that.
    3. Entries of revoked writers, and those whose certificates no longer count, go; the floor rises to their stamps. A
       key with fields goes whole where its base goes or a field of it: without a removal, say, what had been removed
       would be back. What finds no room goes as well.
    4. Promises of revoked writers go, and the floor rises to their stamps. All others stay, since certificates that
       they are part of count in the next epoch; but they prove nothing any more (no proof spans two epochs).
    """
    if old.values is not None:
        raise ValueError("values that storage has cannot be carried from memory")
    before, after = old.configuration, new.configuration
    own = after.node_by_key(key)
    kept_in, joined = set(), []
    for shard in new.shards:
        if stays_in(after, before, shard.number, key):
            was = old.shards[shard.number]
            new.put_back_shard(shard.number, was.floor_us, int(was.recovering))
            kept_in.add(shard.number)
        elif own is not None and own.index in after.shard_groups[shard.number].members:
            new.put_back_shard(shard.number, now_us + 2 * after.max_skew_us, int(after.n > 1))
            joined.append(shard.number)
    batches: dict[int, Batch] = {}
    kept = gone = 0
    for slots in _keys_of(old):
        helds = [old.current[slot] for slot in slots]
        if before.shard_of(slots[0]) not in kept_in:
            gone += len(slots)
        elif all(_counts(after, counting, held) for held in helds) and _place(new, slots, helds, batches):
            kept += len(slots)
        else:
            new.raise_floor(new.shard(slots[0]), old.newest_us(slots[0]))
            gone += len(slots)
    promises = 0
    for promise in old.promises:
        header = promise.header
        if before.shard_of(header.slot) not in kept_in:
            continue
        if after.is_revoked(header.writer):
            new.raise_floor(new.shard(header.slot), header.time_us)
        else:
            new.add_promise(Promise(header, promise.recorded_us, promise.group, b"", promise.leaves, promise.position))
            promises += 1
    if new.types:
        # Keys' own barriers are not taken along one by one: this stands for all of them, as after a restart.
        new.key_barrier_us = max(old.key_barrier_us, now_us + 2 * after.max_skew_us)
    return Carried(kept, gone, promises, tuple(joined))


def _keys_of(old: Slots) -> Iterator[list[bytes]]:
    """The slots that stay or go together: that of a plain key; those of a base and its fields, the base first."""
    for slot in old.current:
        key = old.keys.get(slot)
        if key is not None:
            yield [slot, *sorted(key.fields)]
        elif old.type_of(slot) is None or is_base_slot(slot):
            yield [slot]


def _counts(after: Configuration, counting: Container[bytes], held: Held) -> bool:
    return held.batch.certificate.configuration in counting and not after.is_revoked(header_writer(held.header))


def _place(new: Slots, slots: list[bytes], helds: list[Held], batches: dict[int, Batch]) -> bool:
    """Make these entries current, if there is room. Batches are counted anew: each belongs to one epoch's memory."""
    copies = []
    cost = KEY_OVERHEAD_BYTES if new.type_of(slots[0]) is not None else 0
    for held in helds:
        batch = batches.get(id(held.batch))
        if batch is None:
            batch = batches[id(held.batch)] = Batch(held.batch.certificate, held.batch.leaves, held.batch.counts)
        copy = Held(held.digest, held.header, held.salted, batch, held.position, held.path)
        cost += new.cost_of(copy) + (0 if batch.held_count else batch_cost(batch))
        copies.append(copy)
    if not new.memory.fits(slots[0], cost):
        return False
    for slot, copy in zip(slots, copies, strict=True):
        new.put_back(slot, copy)
    return True
