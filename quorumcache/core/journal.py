"""What changed in a node's slots, and what was there before: for storage to write down, or to undo.

A node with storage hangs a `Journal` on its `Slots`; after each frame that it handled, the journal says what to write.
Where nothing could be written, `undo` makes the slots what they were. It must not know files or formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quorumcache.core.certificate import Batch
    from quorumcache.core.instances import Instance
    from quorumcache.core.slots import Held, Promise, Shard, Slots


class Journal:
    """What changed since the last `clear`.

    `entries` and `promises`: slot -> what was current and what was open there before; what is there now, the slots
    say. `shards`: those whose floor or state changed; `floors`: what their floors were before. `released`: batches
    that, for a moment at least, no entry shared. `instances`: slot -> what of compare-and-set was under way there.
    """

    __slots__ = ("entries", "floors", "instances", "promises", "released", "shards")

    def __init__(self) -> None:
        self.entries: dict[bytes, Held | None] = {}
        self.promises: dict[bytes, tuple[Promise, ...]] = {}
        self.instances: dict[bytes, Instance | None] = {}
        self.shards: dict[int, Shard] = {}
        self.floors: dict[int, int] = {}
        self.released: list[Batch] = []

    def __bool__(self) -> bool:
        return bool(self.entries or self.promises or self.shards or self.instances)

    def clear(self) -> None:
        """Begin anew: all of it is stored, or undone."""
        self.entries.clear()
        self.promises.clear()
        self.instances.clear()
        self.shards.clear()
        self.floors.clear()
        self.released.clear()

    def undo(self, slots: Slots) -> None:
        """Put entries, promises and floors back as they were before. A floor may go down here, and only here: nobody
        has heard of the higher one, and what is answered under it would be forgotten by a restart. Shards stay active,
        which is still to be written: to recover again is never wrong."""
        for slot in sorted(self.entries):  # A key's base before its fields.
            slots.put_back(slot, self.entries[slot])
        for slot, promises in self.promises.items():
            slots.put_back_promises(slot, promises)
        for slot, instance in self.instances.items():
            if slots.instances is not None:
                slots.instances.put_back(slot, instance)
        for number, floor_us in self.floors.items():
            # Keys that went and came back have lost their own barriers, which are no higher than the floor they raised.
            slots.key_barrier_us = max(slots.key_barrier_us, slots.shards[number].floor_us if slots.types else 0)
            slots.shards[number].floor_us = floor_us
        self.entries.clear()
        self.promises.clear()
        self.instances.clear()
        self.floors.clear()
        self.released.clear()
