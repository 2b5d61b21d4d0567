"""What a node has bound itself to: open promises, and the floors that stand for those it dropped (protocol 3 and 7).

When to promise is in node.py. It must not know messages or signatures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quorumcache.core.allowance import Allowances
from quorumcache.core.config import Configuration
from quorumcache.core.held import Promise, Shard
from quorumcache.core.keys import Key
from quorumcache.core.memory import Memory
from quorumcache.core.model import Header
from quorumcache.core.types import FieldType, types_by_prefix
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot, rank_of

if TYPE_CHECKING:
    from quorumcache.core.journal import Journal


class Promises:
    """The shards with their floors, and the open promises of one node; `Slots` adds the entries, and says what the
    arguments are."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        floor_us: int,
        recovering: bool,
        bytes_max: int,
        promises_max: int,
        promises_bytes_max: int,
    ) -> None:
        self.configuration = configuration
        self.memory = Memory(configuration, bytes_max, promises_bytes_max)
        self.promises_max = promises_max
        self.journal: Journal | None = None
        #: What writers with limits have used of them; None where there are none.
        self.allowances: Allowances | None = None
        if any(writer.limits.are_any for writer in configuration.writers):
            self.allowances = Allowances(configuration)
        self.frozen = False
        self.dropped_promises_count = 0
        #: Base slot -> key, for the namespaces whose keys have fields; `current` has their bases and fields too.
        self.keys: dict[bytes, Key] = {}
        #: A slot's first bytes, with its namespace -> that namespace's type, where keys have fields.
        self.types = types_by_prefix(configuration.namespaces)
        self.open: dict[bytes, list[Promise]] = {}
        #: Base slot -> of how many fields writes are promised there, and their bytes.
        self.promised_in_key: dict[bytes, list[int]] = {}
        # In the order they were made: an OrderedDict, for a dict's front is slow to find after many deletions.
        self.promises: OrderedDict[Promise, None] = OrderedDict()
        self.shards = [Shard(i, floor_us, recovering) for i in range(configuration.shards)]
        #: No shard's floor is above this: most stamps are, and then need no shard to be found.
        self.floor_max_us = floor_us
        self.promise_age_us = 2 * configuration.max_skew_us + configuration.op_time_us

    @property
    def recovering(self) -> list[int]:
        """The numbers of the shards that are recovering."""
        return [shard.number for shard in self.shards if shard.recovering]

    def shard(self, slot: bytes) -> Shard:
        """The shard that the slot belongs to."""
        return self.shards[self.configuration.shard_of(slot)]

    def type_of(self, slot: bytes) -> FieldType | None:
        """The type of the slot's namespace, where its keys have fields; None for registers."""
        return self.types.get(slot[: 1 + slot[0]]) if self.types else None

    def raise_floor(self, shard: Shard, time_us: int) -> None:
        """Raise a shard's floor to `time_us`; it never goes down."""
        if time_us > shard.floor_us:
            if self.journal is not None:
                self.journal.shards[shard.number] = shard
                self.journal.floors.setdefault(shard.number, shard.floor_us)
            shard.floor_us = time_us
            if time_us > self.floor_max_us:
                self.floor_max_us = time_us

    def activate(self, shard: Shard) -> None:
        """End a shard's recovery."""
        shard.recovering = False
        if self.journal is not None:
            self.journal.shards[shard.number] = shard

    def add_promise(self, promise: Promise) -> None:
        """Record a promise; the caller has checked the bounds."""
        slot = promise.header.slot
        here = self.open.get(slot)
        if self.journal is not None:
            self.journal.promises.setdefault(slot, tuple(here or ()))
        if here is None:
            self.open[slot] = [promise]
        else:
            here.append(promise)
        self._note_promise(promise)

    def settle_promises(self, slot: bytes, stamp: bytes, rank: bytes = b"") -> None:
        """Forget the slot's promises with stamps up to `stamp`: an entry, or a floor, at least as high stands there.
        For a slot of a key with fields, `rank` is the entry's, and those of ranks up to it are forgotten. Their stamps
        may be higher: then the key's barrier stands for them, or, where there is no key, they are kept."""
        here = self.open.get(slot)
        if here is None:
            return
        if self.journal is not None:
            self.journal.promises.setdefault(slot, tuple(here))
        if not rank and len(here) == 1:
            # By far the most frequent: the promise of what has just been stored.
            if here[0].header.stamp <= stamp:
                self._forget_promise(here[0])
                del self.open[slot]
            return
        key = self.keys.get(base_slot_of(slot)) if rank else None
        kept = []
        for promise in here:
            header = promise.header
            if not rank:
                settled = header.stamp <= stamp
            elif settled := rank_of(header.raw) <= rank:
                if key is not None:
                    if header.stamp > stamp:
                        key.raise_barrier(header.time_us)
                else:
                    settled = header.time_us <= self.shard(slot).floor_us
            if settled:
                self._forget_promise(promise)
            else:
                kept.append(promise)
        if kept:
            self.open[slot] = kept
        else:
            del self.open[slot]

    def drop_promise(self, promise: Promise) -> None:
        """Drop a promise without its entry: raises the floor to its stamp's time (protocol 3)."""
        self._take_promise(promise)
        self.raise_floor(self.shard(promise.header.slot), promise.header.time_us)

    def drop_void_promises(self, slot: bytes) -> bool:
        """Drop the promises of a field that are of generations below its key's: nothing under them can be stored any
        more. The key's barrier stands for their stamps. Whether there were any."""
        key = self.keys.get(base_slot_of(slot))
        if key is None or is_base_slot(slot) or self.frozen:
            return False
        void = [p for p in self.open.get(slot, ()) if generation_of(p.header.raw) < key.generation]
        for promise in void:
            self._take_promise(promise)
            key.raise_barrier(promise.header.time_us)
        return bool(void)

    def _take_promise(self, promise: Promise) -> None:
        slot = promise.header.slot
        here = self.open[slot]
        if self.journal is not None:
            self.journal.promises.setdefault(slot, tuple(here))
        here.remove(promise)
        if not here:
            del self.open[slot]
        self._forget_promise(promise)
        self.dropped_promises_count += 1

    def _note_promise(self, promise: Promise) -> None:
        self.promises[promise] = None
        promise.leaves = self.memory.promised(promise.header.raw, promise.leaves)
        if self.allowances is not None:
            self.allowances.promised(promise.header, 1)
        if promise.header.metadata:  # A field's has its generation.
            self._count_in_key(promise.header, 1)

    def _forget_promise(self, promise: Promise) -> None:
        del self.promises[promise]
        self.memory.unpromised(promise.header.raw, promise.leaves)
        if self.allowances is not None:
            self.allowances.promised(promise.header, -1)
        if promise.header.metadata:
            self._count_in_key(promise.header, -1)

    def _count_in_key(self, header: Header, count: int) -> None:
        if self.type_of(header.slot) is None or is_base_slot(header.slot):
            return
        base_slot = base_slot_of(header.slot)
        promised = self.promised_in_key.setdefault(base_slot, [0, 0])
        promised[0] += count
        promised[1] += count * (len(header.raw) + header.size)
        if not promised[0]:
            del self.promised_in_key[base_slot]

    def drop_old_promises(self, now_us: int, count_max: int) -> int:
        """Drop at most `count_max` promises that are old enough, oldest first; returns how many."""
        dropped = 0
        if self.frozen:
            return 0
        while dropped < count_max and self.promises:
            promise = next(iter(self.promises))
            if promise.recorded_us + self.promise_age_us >= now_us:
                break
            self.drop_promise(promise)
            dropped += 1
        return dropped

    def put_back_promises(self, slot: bytes, promises: Sequence[Promise]) -> None:
        """Make these the slot's open promises."""
        for promise in self.open.pop(slot, ()):
            self._forget_promise(promise)
        if promises:
            self.open[slot] = list(promises)
            for promise in promises:
                self._note_promise(promise)
