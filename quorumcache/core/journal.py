"""What changed in a node's slots, and what was there before: for storage to write down, or to undo.

A node with storage hangs a `Journal` on its `Slots`; after each frame that it handled, the journal says what to write.
Where nothing could be written, `undo` makes the slots what they were. It must not know files or formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quorumcache.core.certificate import Batch
    from quorumcache.core.slots import Held, Promise, Shard, Slots


class Journal:
    """What changed since the last `clear`.

    `entries` and `promises`: slot -> what was current and what was open there before; what is there now, the slots
    say. `shards`: those whose floor or state changed. `released`: batches that, for a moment at least, no entry shared.
    """

    __slots__ = ("entries", "promises", "released", "shards")

    def __init__(self) -> None:
        self.entries: dict[bytes, Held | None] = {}
        self.promises: dict[bytes, tuple[Promise, ...]] = {}
        self.shards: dict[int, Shard] = {}
        self.released: list[Batch] = []

    def __bool__(self) -> bool:
        return bool(self.entries or self.promises or self.shards)

    def clear(self) -> None:
        """Begin anew: all of it is stored, or undone."""
        self.entries.clear()
        self.promises.clear()
        self.shards.clear()
        self.released.clear()

    def undo(self, slots: Slots) -> None:
        """Put entries and promises back as they were before. Floors stay where they are, and shards active, and are
        still to be written: a floor is a bound, and a higher one is as true."""
        for slot in sorted(self.entries):  # A key's base before its fields.
            slots.put_back(slot, self.entries[slot])
        for slot, promises in self.promises.items():
            slots.put_back_promises(slot, promises)
        self.entries.clear()
        self.promises.clear()
        self.released.clear()
