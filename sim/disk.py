"""A node's disk: what its journals said, written after each event, and loaded by the same doors as real storage has.

Where the power goes, the last writes may be lost: then what is left is no stored state (protocol 7). It must not know
when that happens.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from quorumcache.core.instances import NONE, Instance
from quorumcache.core.journal import Journal
from quorumcache.core.slots import Held, Promise, Slots

#: So many of the last writes can be lost.
LOST_MAX: Final = 32
_VALUES_SLACK: Final = 1024
_Before = tuple[
    dict[bytes, Held | None],
    dict[bytes, tuple[Promise, ...]],
    dict[int, tuple[int, int]],
    dict[bytes, Instance | None],
]


class Disk:
    """What of one node's state is written, from new slots on."""

    def __init__(self, slots: Slots) -> None:
        self.entries: dict[bytes, Held | None] = {}
        #: What is written of values, which may leave memory then.
        self.values: dict[Held, bytes] = {}
        self._rows = 0
        self.promises: dict[bytes, tuple[Promise, ...]] = {}
        self.instances: dict[bytes, Instance | None] = {}
        self.shards = {shard.number: (shard.floor_us, slots.state_of(shard)) for shard in slots.shards}
        self._before: deque[_Before] = deque(maxlen=LOST_MAX)

    def fill(self, slots: Slots) -> None:
        """Write all that there is, as of a node that goes on with something else than it had stored."""
        self.entries.update(slots.current)
        self.promises.update((slot, tuple(promises)) for slot, promises in slots.open.items())
        if slots.instances is not None:
            self.instances.update(slots.instances.items())

    def write(self, journal: Journal, slots: Slots) -> None:
        """Write what the journal names, and begin it anew."""
        shards, current, open_ = self.shards, slots.current, slots.open
        before_shards = {n: shards[n] for n in journal.shards}
        self._before.append((journal.entries.copy(), journal.promises.copy(), before_shards, journal.instances.copy()))
        for slot in journal.entries:
            held = self.entries[slot] = current.get(slot)
            if held is not None and not held.row and slots.values is not None:
                self._rows += 1
                held.row = self._rows
                self.values[held] = held.salted
        if len(self.values) > 2 * len(self.entries) + _VALUES_SLACK:
            before = {held for entries, *_ in self._before for held in entries.values() if held is not None}
            kept = before.union(held for held in self.entries.values() if held is not None)
            self.values = {held: salted for held, salted in self.values.items() if held in kept}
        for slot in journal.promises:
            self.promises[slot] = tuple(open_.get(slot, ()))
        for number, shard in journal.shards.items():
            shards[number] = (shard.floor_us, slots.state_of(shard))
        for slot in journal.instances:
            instance = NONE if slots.instances is None else slots.instances.get(slot)
            self.instances[slot] = None if instance is NONE else instance
        journal.clear()

    def lose(self, count: int) -> None:
        """The power goes: at most so many of the last writes were never written."""
        for _ in range(min(count, len(self._before))):
            entries, promises, shards, instances = self._before.pop()
            self.instances.update(instances)
            self.entries.update(entries)
            self.promises.update(promises)
            self.shards.update(shards)

    def load(self, slots: Slots) -> None:
        """Put all of it into new slots."""
        for slot in sorted(self.entries):
            slots.put_back(slot, self.entries[slot])
        open_ = [promise for promises in self.promises.values() for promise in promises]
        for slot in dict.fromkeys(promise.header.slot for promise in open_):
            slots.put_back_promises(slot, self.promises[slot])
        # As they were made: the oldest are dropped first.
        slots.promises = OrderedDict.fromkeys(sorted(slots.promises, key=lambda promise: promise.recorded_us))
        for number, (floor_us, state) in self.shards.items():
            slots.put_back_shard(number, floor_us, state)
        for slot, instance in self.instances.items():
            if slots.instances is not None:
                slots.instances.put_back(slot, instance)
