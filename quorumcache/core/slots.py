"""What a node holds: current entries, open promises, floors; and what it may drop (protocol 3 and 7).

Holds and finds; the rules of prepare and commit are in node.py. It must not know messages or signatures.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final

from quorumcache.core.config import Configuration
from quorumcache.core.feed import Feed
from quorumcache.core.held import Held, Promise, Shard
from quorumcache.core.instances import Instances
from quorumcache.core.keys import Key
from quorumcache.core.memory import ENTRY_OVERHEAD_BYTES, PATH_OVERHEAD_BYTES, REAP_OVERHEAD_BYTES, Pool
from quorumcache.core.model import (
    ABSENT,
    DELETE,
    Entry,
    header_expires_at,
    header_is_delete,
    header_slot,
)
from quorumcache.core.promises import Promises
from quorumcache.core.types.base import base_slot_of, generation_of, is_base_slot
from quorumcache.core.values import HOT_OVERHEAD_BYTES, Values

__all__ = ["Held", "Promise", "Shard", "Slots"]

#: What a key with fields costs beside the entries of its base and fields.
KEY_OVERHEAD_BYTES: Final = 700
_REAP_SLACK: Final = 1024
_NEVER: Final = bytes(8)
#: How many keys that may not go are looked at in search of one that may, and how long after that nobody looks again.
_EVICT_LOOKS_MAX: Final = 64
_EVICT_PAUSE_US: Final = 10_000


class Slots(Promises):
    """All slots of one node.

    `memory` has what entries cost (their bytes and a constant each) and bounds it; `promises_max` bounds the open
    promises. `promise_age_us` is when a promise may be dropped: 2 max_skew + op_time. Where there is a `journal`, every
    change is noted in it. While `frozen` is true storage takes nothing: no entry comes or goes, no promise is made or
    dropped.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        floor_us: int,
        recovering: bool,
        bytes_max: int,
        promises_max: int,
        promises_bytes_max: int = 64 << 20,
    ) -> None:
        super().__init__(
            configuration,
            floor_us=floor_us,
            recovering=recovering,
            bytes_max=bytes_max,
            promises_max=promises_max,
            promises_bytes_max=promises_bytes_max,
        )
        #: Where storage keeps values, which of them are here; None where all are.
        self.values: Values | None = None
        #: What is under way of compare-and-set; None where no namespace is exact.
        self.instances: Instances | None = None
        if configuration.exact_prefixes:
            self.instances = Instances(self, configuration.exact_prefixes, silent=recovering)
        self.evicted_count = 0
        self.reaped_count = 0
        self.current: dict[bytes, Held] = {}
        #: Below this time nothing is promised in a key with fields: a start with stored state sets it to now
        #: + 2 max_skew, for keys' own barriers are not stored.
        self.key_barrier_us = 0
        self.feed = Feed()
        self._reap: list[tuple[int, bytes, bytes]] = []
        self._reap_max = _REAP_SLACK
        self.age_us = 2 * configuration.max_skew_us

    def place_of(self, slot: bytes) -> bytes:
        """The slot that stands for its key in shards and in memory: that of the base, where the key has fields."""
        return slot if self.type_of(slot) is None else base_slot_of(slot)

    def digest_at(self, slot: bytes) -> bytes:
        """What a read of this slot reports: the digest of its entry, of a whole key, or of one field and its base;
        zeros where nothing is there."""
        if self.types and (key := self.keys.get(base_slot_of(slot))) is not None:
            return key.digest() if is_base_slot(slot) else key.digest_of(slot)
        held = self.current.get(slot)
        return ABSENT if held is None else held.digest

    def value_of(self, held: Held) -> bytes:
        """Salt and value, for an answer; where they are not in memory, that is noted, and the answer will not do."""
        if not held.salted and self.values is not None:
            self.values.lacks(held)
        return held.salted

    def entry_of(self, held: Held) -> Entry:
        """The whole entry, for an answer, as `value_of`."""
        self.value_of(held)
        return held.entry()

    @property
    def lacking_bytes(self) -> int:
        """How many bytes of values the answer that is being made lacks so far."""
        return 0 if self.values is None else self.values.lacking_bytes

    # --- entries ---

    def store(self, slot: bytes, held: Held, now_us: int) -> bool:
        """Make `held` current. False where the node is full and nothing in it is old enough to go."""
        if self.frozen:
            return False
        if self.values is not None or (self.types and self.type_of(slot) is not None):
            return self._store_any(slot, held, now_us)
        return self.store_plain(slot, held, now_us)

    def store_plain(self, slot: bytes, held: Held, now_us: int) -> bool:
        """As `store`, of a key without fields where all values are in memory. It is `_store_any` in fewer steps, for
        many entries come through here; more go through together.py."""
        if self.frozen:
            return False
        memory = self.memory
        before = self.current.get(slot)
        cost = self.cost_of(held) - (0 if before is None else self.cost_of(before))
        memory.hold(held.batch, slot)  # Before making room, which might let go of the last entry that shares it.
        if not memory.fits(slot, cost) and not self.make_room(slot, cost, now_us):
            memory.release(held.batch, slot)
            return False
        if self.journal is not None:
            self.journal.entries.setdefault(slot, before)
        shard = self.shard(slot)
        shard.sum = b""
        if before is None:
            memory.charge(slot, cost)
            shard.slots[slot] = None
        else:
            memory.written_again(slot, cost)
            self._release(before, slot)
        self.current[slot] = held
        if self.allowances is not None:
            self.allowances.entered(slot, held.header, 1)
        if is_mortal(held.header):
            self.schedule_reap(slot, held.stamp, max(header_expires_at(held.header), held.time_us))
        self.feed.note(held.header)
        return True

    def _store_any(self, slot: bytes, held: Held, now_us: int) -> bool:
        """As `store`, of any key, with or without values on disk."""
        before = self.current.get(slot)
        cost = self.cost_of(held) - (0 if before is None else self.cost_of(before))
        keyed = self.type_of(slot) is not None
        place = base_slot_of(slot) if keyed else slot
        if keyed and place not in self.keys:
            cost += KEY_OVERHEAD_BYTES
        memory = self.memory
        memory.hold(held.batch, slot)  # Before making room, which might let go of the last entry that shares it.
        needed = cost - (self.freed_by(slot, held.header) if keyed else 0)
        if (not memory.fits(place, needed) and not self.make_room(place, needed, now_us)) or (
            self.values is not None and not self.make_stored_room(place, held.size, now_us)
        ):
            memory.release(held.batch, slot)
            return False
        if self.values is not None and before is not None:
            # The value that goes may have left memory to make room.
            cost = self.cost_of(held) - self.cost_of(before)
        memory.charge(place, cost)
        if self.journal is not None:
            self.journal.entries.setdefault(slot, before)
        if before is not None:
            memory.touched((place,))
            self._release(before, slot)
        elif not keyed:
            self.shard(slot).slots[slot] = None
        if keyed:
            self._place_in_key(slot, place, held)
        self._place(slot, held)
        self.feed.note(held.header)
        return True

    def freed_by(self, slot: bytes, header: bytes) -> int:
        """How many bytes go where this header's entry comes: those of the fields that a base of a new generation takes
        away. So a full node takes the deletion of a large key."""
        key = self.keys.get(slot)
        if key is None or generation_of(header) == key.generation:
            return 0
        return sum(map(self.cost_of, key.fields.values()))

    def _place(self, slot: bytes, held: Held) -> None:
        self._enter(slot, held)
        if is_mortal(held.header) and (self.type_of(slot) is None or is_base_slot(slot)):
            self.schedule_reap(slot, held.stamp, max(header_expires_at(held.header), held.time_us))

    def _place_in_key(self, slot: bytes, base_slot: bytes, held: Held) -> None:
        """Make `held` its key's base, or one of its fields; what a new generation takes away leaves `current`."""
        key = self.keys.get(base_slot)
        if slot != base_slot:
            assert key is not None, "fields come after their base"
            key.put(slot, held)
        elif key is None:
            self.keys[slot] = Key(held)
            self.shard(slot).slots[slot] = None
        else:
            for gone in key.rebase(held):
                self._forget_field(gone, base_slot)

    def _forget_field(self, held: Held, base_slot: bytes) -> None:
        slot = header_slot(held.header)
        if self.journal is not None:
            self.journal.entries.setdefault(slot, held)
        del self.current[slot]
        self.shard(slot).sum = b""
        self.memory.charge(base_slot, -self.cost_of(held))
        self._release(held, slot)

    def replace_field(self, slot: bytes) -> None:
        """Let go of a field that another field of its key replaces: that one stands for it."""
        base_slot = base_slot_of(slot)
        self._forget_field(self.keys[base_slot].remove(slot), base_slot)

    def drop(self, slot: bytes, *, evicted: bool = False) -> None:
        """Drop a current entry, as eviction and reaping do: raises the shard's floor to its stamp's time. A key with
        fields goes as a whole (`slot` is that of its base), and raises the floor to the highest stamp among them."""
        time_us = self.newest_us(slot)
        self.leave(slot, evicted=evicted)
        self.raise_floor(self.shard(slot), time_us)

    def leave(self, slot: bytes, *, evicted: bool = False) -> None:
        """As `drop`, of a shard that the node no longer serves: no floor stands for it."""
        if self.journal is not None:
            note = self.journal.entries.setdefault
            note(slot, self.current[slot])
            key = self.keys.get(slot)
            for field_slot, held in key.fields.items() if key is not None else ():
                note(field_slot, held)
        self._remove(slot, evicted=evicted)

    def newest_us(self, slot: bytes) -> int:
        """The time of the latest stamp that goes where this slot is dropped: its entry's, or the highest in its key."""
        key = self.keys.get(slot) if self.types else None
        return self.current[slot].time_us if key is None else max(key.newest_us, key.barrier_us)

    def _remove(self, slot: bytes, *, evicted: bool = False) -> None:
        held = self.current.pop(slot)
        self.memory.forget(slot, evicted=evicted)
        self._release(held, slot)
        shard = self.shard(slot)
        shard.sum = b""
        del shard.slots[slot]
        key = self.keys.pop(slot, None) if self.types else None
        if key is not None:
            for field_slot, field in key.fields.items():
                del self.current[field_slot]
                self._release(field, field_slot)

    # --- what storage does: it loads what it has, and puts back what it could not write (none of it is noted) ---

    def put_back(self, slot: bytes, held: Held | None) -> None:
        """Make `held` current, or nothing, whatever is there, however full the node is, and without raising a floor.
        Of a key with fields, the base comes before the fields: in the order of the slots' bytes."""
        keyed = self.type_of(slot) is not None
        if keyed and not is_base_slot(slot):
            self._put_field_back(slot, base_slot_of(slot), held)
            return
        key = self.keys.get(slot)
        goes_on = held is not None and not header_is_delete(held.header)
        if key is not None and held is not None and goes_on and generation_of(held.header) == key.generation:
            self.memory.hold(held.batch, slot)
            self.memory.charge(slot, self.cost_of(held) - self.cost_of(key.base))
            self._release(key.base, slot)
            key.rebase(held)
            self._place(slot, held)
            return
        barrier_us = 0 if key is None else self.newest_us(slot)
        if slot in self.current:
            self._remove(slot)
        if held is not None:
            self.memory.hold(held.batch, slot)
            self.memory.charge(slot, self.cost_of(held) + (KEY_OVERHEAD_BYTES if keyed else 0))
            self.shard(slot).slots[slot] = None
            if keyed:
                self.keys[slot] = key = Key(held)
                key.barrier_us = barrier_us
            self._place(slot, held)

    def _put_field_back(self, slot: bytes, base_slot: bytes, held: Held | None) -> None:
        key = self.keys.get(base_slot)
        if key is None:
            return  # A field without its base counts for nothing.
        self.shard(slot).sum = b""
        if slot in key.fields:
            before = key.remove(slot)
            del self.current[slot]
            self.memory.charge(base_slot, -self.cost_of(before))
            self._release(before, slot)
        if held is not None:
            self.memory.hold(held.batch, slot)
            self.memory.charge(base_slot, self.cost_of(held))
            key.put(slot, held)
            self._enter(slot, held)

    def state_of(self, shard: Shard) -> int:
        """What storage keeps of a shard beside its floor: 1 where it is recovering, and 2 more where the node is silent
        about compare-and-set."""
        is_unsure = self.instances is not None and self.instances.is_unsure(shard.number)
        return shard.recovering + 2 * is_unsure

    def take_over(self, old: Slots) -> None:
        """Have all that `old` has, which is given up: entries, promises, uses and the order of eviction, the journal.
        These are the same objects, so that it takes the longer the more is another for memory, not the more there is.
        Shards, and what is under way of compare-and-set, are the caller's to bring. Before anything is here."""
        assert (self.values is None) == (old.values is None), "both have their values in the same place"
        self.current, self.keys, self.journal, self.frozen = old.current, old.keys, old.journal, old.frozen
        self.open, self.promises, self.promised_in_key = old.open, old.promises, old.promised_in_key
        self._reap, self._reap_max, self.key_barrier_us = old._reap, old._reap_max, old.key_barrier_us
        self.evicted_count, self.reaped_count = old.evicted_count, old.reaped_count
        self.dropped_promises_count = old.dropped_promises_count
        is_same = self.memory.take_over(old.memory)
        if self.values is not None and old.values is not None and is_same:
            self.values.take_over(old.values)
        if not is_same:
            for held in self.current.values():
                held.batch.held_count = 0
            for slot, held in self.current.items():
                self.memory.hold(held.batch, slot)
                if self.values is not None:
                    self.values.entered(slot, held)
        if self.allowances is not None:
            self.allowances.take_over(old.allowances)
            for slot, held in self.current.items():
                self.allowances.entered(slot, held.header, 1)
            for promise in self.promises:
                self.allowances.promised(promise.header, 1)

    def put_back_shard(self, number: int, floor_us: int, state: int) -> None:
        """Set a shard's floor, where that raises it, and its state, as `state_of` has it."""
        shard = self.shards[number]
        shard.floor_us = max(shard.floor_us, floor_us)
        shard.recovering = bool(state & 1)
        if state & 2 and self.instances is not None:
            self.instances.silent.add(number)
        self.floor_max_us = max(self.floor_max_us, floor_us)

    def _release(self, held: Held, slot: bytes) -> None:
        """An entry leaves `current`."""
        if self.allowances is not None:
            self.allowances.entered(slot, held.header, -1)
        if self.values is not None:
            self.values.left(slot, held)
        if self.memory.release(held.batch, slot) and self.journal is not None:
            self.journal.released.append(held.batch)

    def _enter(self, slot: bytes, held: Held) -> None:
        """An entry becomes current."""
        self.shard(slot).sum = b""
        self.current[slot] = held
        if self.allowances is not None:
            self.allowances.entered(slot, held.header, 1)
        if self.values is not None:
            self.values.entered(slot, held)

    def make_room(self, slot: bytes, cost: int, now_us: int) -> bool:
        """Evict until the slot may cost `cost` more bytes; only what is older than 2 max_skew goes, nothing of a
        recovering shard, and not the slot itself. False where that is not enough."""
        memory = self.memory
        if self.frozen or not memory.could_fit(slot, cost):
            return False
        values = self.values
        while not memory.fits(slot, cost):
            if values is not None and any(values.cool_one(pool) for pool in memory.givers(slot, cost)):
                continue  # On the disk there is room yet.
            if not any(self._evict_one(pool, now_us, slot) for pool in memory.givers(slot, cost)):
                return False
        return True

    def make_stored_room(self, slot: bytes, size: int, now_us: int) -> bool:
        """As `make_room`, for the bytes of header and value where storage keeps them."""
        values = self.values
        assert values is not None
        while values.stored_bytes + size > values.stored_bytes_max:
            if not any(self._evict_one(pool, now_us, slot) for pool in self.memory.givers(slot, 0)):
                return False
        return True

    def _evict_one(self, pool: Pool, now_us: int, keep: bytes) -> bool:
        if now_us < pool.look_again_us:
            return False
        for looks, victim in enumerate(pool.policy.victims(), 1):
            if victim != keep and self._may_go(victim, now_us):
                self.drop(victim, evicted=True)
                self.evicted_count += 1
                return True
            if looks == _EVICT_LOOKS_MAX:
                break
        # That was a search for nothing: not for each header of a batch again.
        pool.look_again_us = now_us + _EVICT_PAUSE_US
        return False

    def _may_go(self, slot: bytes, now_us: int) -> bool:
        """Whether the age rule of protocol 7 and the slot's shard let it go, should there be a reason."""
        if self.instances is not None and self.instances.of(slot):
            return False
        return self.newest_us(slot) < now_us - self.age_us and not self.shard(slot).recovering

    def schedule_reap(self, slot: bytes, stamp: bytes, ends_us: int) -> None:
        """Have the entry with this stamp, which ends at that time, go when nothing older can come any more."""
        if len(self._reap) >= self._reap_max:
            # Overwritten entries left theirs behind: keep only those that still stand, and look again when half as
            # many have come.
            current = self.current
            self._reap = [r for r in self._reap if r[1] in current and current[r[1]].stamp == r[2]]
            heapq.heapify(self._reap)
            self._reap_max = len(self._reap) * 3 // 2 + _REAP_SLACK
        heapq.heappush(self._reap, (ends_us + self.age_us, slot, stamp))

    def reap(self, now_us: int, count_max: int) -> int:
        """Drop at most `count_max` expired entries and tombstones whose time has come; returns how many."""
        reaped = looks = 0
        waiting: list[tuple[int, bytes, bytes]] = []
        if self.frozen:
            return 0
        while reaped < count_max and looks < 4 * count_max and self._reap and self._reap[0][0] < now_us:
            _, slot, stamp = heapq.heappop(self._reap)
            looks += 1
            held = self.current.get(slot)
            if held is None or held.stamp != stamp:
                continue
            if self.shard(slot).recovering:
                waiting.append((now_us + self.age_us, slot, stamp))
                if len(waiting) >= count_max:
                    break
                continue
            if self.types and self.newest_us(slot) + self.age_us >= now_us:
                waiting.append((self.newest_us(slot) + self.age_us + 1, slot, stamp))  # It has younger fields.
                continue
            if self.instances is not None and self.instances.of(slot):
                if not self.instances.may_forget(slot, now_us):
                    waiting.append((self.instances.due_us(slot) + 1, slot, stamp))
                    continue
                self.drop(slot)
                self.instances.forget(slot, now_us)
            else:
                self.drop(slot)
            self.reaped_count += 1
            reaped += 1
        for late in waiting:
            heapq.heappush(self._reap, late)
        return reaped

    def __iter__(self) -> Iterator[tuple[bytes, Held]]:
        return iter(self.current.items())

    def held_in(self, shard: Shard) -> Iterator[Held]:
        """All entries of a shard, fields among them."""
        for slot in shard.slots:
            yield self.current[slot]
            key = self.keys.get(slot)
            if key is not None:
                yield from key.fields.values()

    def cost_of(self, held: Held) -> int:
        """What the entry costs by itself, its value as long as that is in memory: `memory.entry_cost`, without a call,
        for each entry that is stored needs it twice."""
        header, salted = held.header, held.salted
        cost = ENTRY_OVERHEAD_BYTES + 2 * len(header) + len(salted)
        if path := held.path:
            cost += PATH_OVERHEAD_BYTES + len(path)
        if header[2] == DELETE or header[87:95] != _NEVER:
            cost += REAP_OVERHEAD_BYTES
        return cost + HOT_OVERHEAD_BYTES if self.values is not None and self.values.may_leave(held) else cost


def is_mortal(header: bytes) -> bool:
    """Whether an entry with this header has to go at a time: a tombstone, or one that expires."""
    return header[2] == DELETE or header[87:95] != _NEVER
