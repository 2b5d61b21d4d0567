"""Which values of a node with storage are in memory: the others are on its disk only, and are fetched when asked for.

The core touches no files. An answer that would need a value that is not here is made without it, and what it lacks is
noted in `missing`; whoever drives the node fetches that (`warm`) and asks again. Headers, digests and certificates stay
in memory, so most requests lack nothing. A value goes (`cool_one`) only once storage has it: its entry then has a row.

In each pool of memory, values go in the order in which they came, but for those of keys that were used since: these
get another turn for each use ("CLOCK", Corbató 1968). A value that was fetched stays where there is room for it, or
where its key was used before: so a scan of what lies on the disk leaves memory alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from quorumcache.core.model import SALT_BYTES, header_slot

if TYPE_CHECKING:
    from quorumcache.core.memory import Pool
    from quorumcache.core.slots import Held, Slots

#: What a value costs beside its bytes in a node that may let go of it: its place among the others.
HOT_OVERHEAD_BYTES: Final = 140
#: Salt and value of so few bytes never leave: nothing would be won. Bases and tombstones, whose entries prove refusals,
#: are among these: they have no value.
KEPT_BYTES_MAX: Final = 64
#: How many values that stay are looked at in search of one that may go.
LOOKS_MAX: Final = 64
#: Uses of its key that make a fetched value stay where others have to go for it.
_USES_TO_STAY: Final = 2


class Values:
    """The values of one node's entries. `missing`: those that answers lacked; `lacking_bytes`: how many bytes of them
    since that was last set to 0. `stored_bytes`: all entries' headers and values, in memory or not, of which there may
    be `stored_bytes_max`. What has `kept_bytes_max` or less never leaves."""

    __slots__ = (
        "_fetched",
        "_hot",
        "_slots",
        "kept_bytes_max",
        "lacking_bytes",
        "missing",
        "stored_bytes",
        "stored_bytes_max",
    )

    def __init__(self, slots: Slots, stored_bytes_max: int, kept_bytes_max: int = KEPT_BYTES_MAX) -> None:
        assert kept_bytes_max >= SALT_BYTES
        self._slots = slots
        self.kept_bytes_max = kept_bytes_max
        # Oldest first, by pool: an OrderedDict, for a dict's front is slow to find after many deletions.
        self._hot: list[OrderedDict[Held, None]] = [OrderedDict() for _ in slots.memory.pools]
        self._fetched: list[Held] = []
        self.missing: dict[Held, None] = {}
        self.lacking_bytes = 0
        self.stored_bytes = 0
        self.stored_bytes_max = stored_bytes_max

    @property
    def hot_count(self) -> int:
        """How many values are in memory."""
        return sum(map(len, self._hot))

    def lacks(self, held: Held) -> None:
        """An answer needs this value, and it is not here."""
        self.missing[held] = None
        self.lacking_bytes += held.size

    # --- what slots tell ---

    def entered(self, slot: bytes, held: Held) -> None:
        """An entry became current."""
        self.stored_bytes += held.size
        if self.may_leave(held):
            self._hot[self._slots.memory.pool_of(slot).number][held] = None

    def left(self, slot: bytes, held: Held) -> None:
        """An entry is current no more."""
        self.stored_bytes -= held.size
        self._hot[self._slots.memory.pool_of(slot).number].pop(held, None)

    def take_over(self, old: Values) -> None:
        """Have what `old` knows, which is given up: the pools, and all that is in them, are the same."""
        self._hot, self._fetched, self.stored_bytes = old._hot, old._fetched, old.stored_bytes

    # --- what goes, what comes ---

    def may_leave(self, held: Held) -> bool:
        """Whether the value is here, and not too small to go."""
        return len(held.salted) > self.kept_bytes_max

    def cool_one(self, pool: Pool) -> bool:
        """Let go of one of the pool's values; False where none may go, or none was found in a bounded search."""
        hot = self._hot[pool.number]
        slots = self._slots
        find = slots.memory.places.get
        may_any = False
        for looks in range(LOOKS_MAX if hot else 0):
            held = next(iter(hot))
            if held.row:
                may_any = True
                place = find(slots.place_of(header_slot(held.header)))
                if place is None or not place.uses or looks >= LOOKS_MAX // 2:
                    self._cool(held, hot)
                    return True
                place.uses -= 1
            elif looks >= len(hot) and not may_any:
                break
            hot.move_to_end(held)
        return False

    def _cool(self, held: Held, hot: OrderedDict[Held, None]) -> None:
        del hot[held]
        place = self._slots.place_of(header_slot(held.header))
        self._slots.memory.charge(place, -len(held.salted) - HOT_OVERHEAD_BYTES)
        held.salted = b""

    def warm(self, held: Held, salted: bytes) -> None:
        """The value was fetched for answers that are about to be made; `settle` decides whether it stays."""
        self.missing.pop(held, None)
        slot = header_slot(held.header)
        if held.salted or self._slots.current.get(slot) is not held:
            return
        held.salted = salted
        self._hot[self._slots.memory.pool_of(slot).number][held] = None
        self._slots.memory.charge(self._slots.place_of(slot), len(salted) + HOT_OVERHEAD_BYTES)
        self._fetched.append(held)

    def settle(self) -> None:
        """The answers are made: what was fetched stays or goes, and memory is within its bound again."""
        memory = self._slots.memory
        for held in self._fetched:
            slot = header_slot(held.header)
            pool = memory.pool_of(slot)
            hot = self._hot[pool.number]
            if held not in hot:
                continue
            place = self._slots.place_of(slot)
            if not memory.fits(place, 0) and memory.places[place].uses < _USES_TO_STAY:
                self._cool(held, hot)
                continue
            while not memory.fits(place, 0) and any(map(self.cool_one, memory.givers(place, 0))):
                pass
        self._fetched.clear()
