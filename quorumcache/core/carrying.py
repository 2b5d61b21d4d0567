"""What a node takes along from one epoch into the next: entries, promises, floors (protocol 9).

Belongs here: what stays, what goes and under which floor, and where a member that joins has to ask. When a node may
activate is in core/seals.py. Must not know messages, files or signatures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from itertools import islice
from typing import Final

import msgspec

from quorumcache.core.config_model import Configuration
from quorumcache.core.held import Held, Promise, Shard
from quorumcache.core.instances import Instance
from quorumcache.core.keys import Key
from quorumcache.core.memory import Memory, Pool
from quorumcache.core.model import header_time, header_writer, stamp_time
from quorumcache.core.slots import Slots
from quorumcache.core.values import Values

#: Of its bound of memory, what a node spends on values of shards that it left, as they are read for reports, is one
#: part in so many.
LEFT_PART: Final = 4


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


#: Shards that a node joined, each with the epoch before that with which it did: whose members it asks.
Joining = Sequence[tuple[Configuration, Collection[int]]]


def still_joining(joining: Joining, now: Slots) -> Joining:
    """What the node knows nothing of yet, of what it joined with one epoch after the other, the oldest first. It goes
    on asking until q of those members have reported: what a restart leaves recovering becomes active with less. And
    always those of the epoch before it joined: of the next one's members who left is none, and a joiner itself, and
    the others may be q no more where one is silent. What it learns so is what it could have learnt before that epoch
    ended, when it had not answered for what was written since either."""
    latest: dict[int, Configuration] = {}
    for before, numbers in joining:
        latest.update(dict.fromkeys(numbers, before))
    found: dict[bytes, tuple[Configuration, list[int]]] = {}
    for number, before in latest.items():
        if number < len(now.shards) and now.shards[number].recovering:
            found.setdefault(before.digest, (before, []))[1].append(number)
    return [(before, tuple(sorted(numbers))) for before, numbers in found.values()]


def joined_over(
    chain: Sequence[Configuration],
    recovering: Collection[int],
    key: bytes,
    has_joined: Callable[[Configuration], bool],
) -> list[tuple[Configuration, Collection[int]]]:
    """Of the shards that the node of `key` is recovering in the last epoch of `chain` when it starts, those that it
    joined with that epoch or an earlier one and never recovered since, each with the epoch before it did: as
    `still_joining` takes them, the oldest first. The rest it lost. `has_joined` knows whether it was noted that the
    node recovered what it joined with the epoch after a configuration.
    """
    after = chain[-1]
    own = after.node_by_key(key)
    found: dict[int, list[int]] = {}
    for number in recovering:
        if own is None or own.index not in after.shard_groups[number].members:
            continue
        for place in range(len(chain) - 1, 0, -1):
            if not stays_in(chain[place], chain[place - 1], number, key):
                if not has_joined(chain[place - 1]):
                    found.setdefault(place - 1, []).append(number)
                break
    return [(chain[place], tuple(sorted(numbers))) for place, numbers in sorted(found.items())]


def to_ask(joining: Joining, before: Configuration | None) -> list[tuple[Configuration, Collection[int]]]:
    """Whose members the node asks for the shards in `joining`: those of the epoch before it joined each, and those of
    the epoch `before` its present one too. Some who were asked may have left since, and some who left before that may
    be gone. Either's q reports will do."""
    asked = [(each, numbers) for each, numbers in joining if numbers]
    if before is not None:
        latest = {number for each, numbers in asked if each.digest == before.digest for number in numbers}
        if others := {number for _, numbers in asked for number in numbers} - latest:
            asked.append((before, tuple(sorted(others))))
    return asked


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
    the next epoch. `new` was made as for a start with stored state: floors at 0, nothing recovering, and values where
    `old` has them.

    What stays is not copied but handed over, so that most of it costs nothing: `old` is left with the entries of those
    shards that the node leaves, for reports to those that join (core/ended.py), and with its floors. Of values that
    storage has too, none of theirs stays in memory. Its journal is handed over as well: it then names all that is
    another than what storage has, but for the configuration itself.

    1. A shard in which it stays keeps its floor, its entries, its open promises, and whether it is recovering.
    2. One that it joins begins with a floor 2 max_skew above its clock of now, and recovering: since it holds the
       seals, all that the last epoch granted is below that.
    3. Entries of revoked writers, and those whose certificates no longer count, go; the floor rises to their stamps. A
       key with fields goes whole where its base goes or a field of it: without a removal, say, what had been removed
       would be back. What finds no room goes as well.
    4. Promises of revoked writers go, and the floor rises to their stamps. All others stay, since certificates that
       they are part of count in the next epoch; but they prove nothing any more (no proof spans two epochs).
    """
    before, after = old.configuration, new.configuration
    own = after.node_by_key(key)
    stays = {shard.number for shard in old.shards if stays_in(after, before, shard.number, key)}
    joined = [
        shard.number
        for shard in new.shards
        if own is not None and shard.number not in stays and own.index in after.shard_groups[shard.number].members
    ]
    left = _Left(old, stays)
    gone = len(left.current)
    for slot in _uncounted(old, after, counting):
        gone += _drop(old, slot)
    _renew_promises(old, after, stays)
    if old.instances is not None:
        _drop_locks(old, after)
        if new.instances is not None:
            new.instances.take_over(old.instances)
    new.take_over(old)
    for number in stays:
        new.shards[number] = old.shards[number]
    for number in joined:
        new.put_back_shard(number, now_us + 2 * after.max_skew_us, int(after.n > 1))
    new.floor_max_us = max(shard.floor_us for shard in new.shards)
    if new.journal is not None:
        for number in range(max(len(old.shards), len(new.shards))):
            if number not in stays:
                new.journal.shards.pop(number, None)
                new.journal.floors.pop(number, None)
        new.journal.shards.update((shard.number, shard) for shard in new.shards if shard.number not in stays)
    left.put_back(stays)
    gone += _make_fit(new)
    return Carried(len(new.current), gone, len(new.promises), tuple(joined))


class _Left:
    """What is in the shards that the node leaves: taken from among the rest, and put back when the rest is gone."""

    def __init__(self, old: Slots, stays: Collection[int]) -> None:
        self.current: dict[bytes, Held] = {}
        self._old = old
        self._keys: dict[bytes, Key] = {}
        self._slots: dict[int, dict[bytes, None]] = {}
        for shard in old.shards:
            if shard.slots and shard.number not in stays:
                self._slots[shard.number] = shard.slots.copy()
                for slot in self._slots[shard.number]:
                    self._take(slot)

    def _take(self, slot: bytes) -> None:
        old = self._old
        self.current[slot] = old.current[slot]
        key = old.keys.get(slot)
        if key is not None:
            self._keys[slot] = key
            self.current.update(key.fields)
        old.leave(slot)

    def put_back(self, stays: Collection[int]) -> None:
        """Leave `old` with these, and of the rest with what is known of its shards."""
        old = self._old
        old.current, old.keys, old.open, old.promises = self.current, self._keys, {}, OrderedDict()
        old.journal = None
        old.memory = Memory(old.configuration, old.memory.bytes_max // LEFT_PART, 0)
        if old.values is not None:
            old.values = values = Values(old, old.values.stored_bytes_max, old.values.kept_bytes_max)
            for held in self.current.values():
                if held.row and values.may_leave(held):
                    held.salted = b""
        for number, shard in enumerate(old.shards):
            if number in stays:
                old.shards[number] = Shard(number, shard.floor_us, shard.recovering)
            else:
                shard.slots = self._slots.get(number, {})


def _uncounted(old: Slots, after: Configuration, counting: Container[bytes]) -> Iterable[bytes]:
    """The keys, by the slots that stand for them, of which an entry does not count in the next epoch."""
    current = old.current
    # Each entry is looked at: in as few steps as can be.
    found = [slot for slot, held in current.items() if held.batch.certificate.configuration not in counting]
    revoked = {writer.key for writer in after.writers if writer.status == "revoked"}
    if revoked:
        found += [slot for slot, held in current.items() if header_writer(held.header) in revoked]
    return dict.fromkeys(map(old.place_of, found))


def _drop(slots: Slots, slot: bytes, *, evicted: bool = False) -> int:
    """Drop a key, under its floor; how many entries went."""
    key, held = slots.keys.get(slot), slots.current.get(slot)
    if held is not None and held.batch.certificate.ballot:
        # Of an exact namespace: no ballot up to its own is left to be voted for either.
        slots.raise_floor(slots.shard(slot), stamp_time(held.batch.certificate.ballot))
    slots.drop(slot, evicted=evicted)
    return 1 if key is None else 1 + len(key.fields)


def _drop_locks(old: Slots, after: Configuration) -> None:
    """Drop what revoked writers have locked by compare-and-set: nobody may finish it, and the floor stands for it, as
    for what is forgotten (protocol 17). All else stays: groups are the same where there are exact namespaces."""
    assert old.instances is not None
    for slot, instance in old.instances.items():
        locked = instance.locked
        if locked is not None and after.is_revoked(header_writer(locked.header)):
            old.raise_floor(old.shard(slot), max(header_time(locked.header), stamp_time(locked.ballot)))
            old.instances.put(slot, Instance(instance.promised, instance.voted))


def _renew_promises(old: Slots, after: Configuration, stays: Collection[int]) -> None:
    """Drop the promises that go, and take the intents off the others."""
    journal, open_ = old.journal, dict(old.open)
    for slot, promises in open_.items():
        if journal is not None:
            journal.promises.setdefault(slot, tuple(promises))
        shard = old.shard(slot)
        kept = []
        for x in promises if shard.number in stays else ():
            if after.is_revoked(x.header.writer):
                old.raise_floor(shard, x.header.time_us)
            else:
                kept.append(Promise(x.header, x.recorded_us, x.group, b"", x.leaves, x.position))
        old.put_back_promises(slot, kept)
    # As they were made: the oldest are dropped first.
    old.promises = OrderedDict.fromkeys(sorted(old.promises, key=lambda promise: promise.recorded_us))


def _make_fit(new: Slots) -> int:
    """Have everything within the bounds of memory, which may be others than before; how many entries went. They are
    exempt from the rule that only what is old may go, but not from the one that recovering shards keep what they
    have: there may be too much of that."""
    gone = 0
    while (pool := _over(new.memory)) is not None:
        if new.values is not None and new.values.cool_one(pool):
            continue
        looks = islice(pool.policy.victims(), pool.policy.count)
        victim = next((slot for slot in looks if not new.shard(slot).recovering), None)
        if victim is None:
            break
        gone += _drop(new, victim, evicted=True)
    return gone


def _over(memory: Memory) -> Pool | None:
    """A pool that has to give way; None where all is within its bounds."""
    for pool in memory.pools:
        if pool.bytes_max and pool.bytes_used > pool.bytes_max:
            return pool
    if memory.bytes_used <= memory.bytes_max:
        return None
    return max(memory.pools, key=lambda pool: pool.bytes_used)
