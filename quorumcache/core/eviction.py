"""Which keys go first when memory is short: S3-FIFO (Yang et al., SOSP 2023), weighed in bytes, with a veto.

Belongs here: the order among keys of one pool of memory, and nothing but bookkeeping. Must not know entries, floors,
ages or namespaces: the caller says what a key costs, drops what `victims` offers or leaves it, and keeps the sums.

A new key enters a small FIFO queue. At its head, one that was used at least twice since moves to the main queue; any
other is the victim, and a fingerprint of it stays behind as a ghost. A key that comes back while its ghost is
remembered enters main at once. In main, a key at the head goes back to the tail once for each use that it had, three
at most. So a scan of keys that are used once passes through the small queue and leaves main alone.

An attacker who may read can keep a key in memory by reading it, and that is all: uses are counted up to three, so no
flood of reads outlives the reads. One who may write can fill the small queue and the ghosts, both of which are
bounded; there is no sketch whose counters could be made to collide. A ghost is the first 64 bits of a hash: two keys
that share them gain nothing by it but a place in main. Same calls, same order, on every machine.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

#: A use more than this is not counted.
USES_MAX: Final = 3
#: Uses that take a key from the small queue into main.
USES_TO_STAY: Final = 2
#: The small queue's part of the pool's bytes: one in so many.
SMALL_PART: Final = 10
GHOSTS_MIN: Final = 64
#: How many used keys a search for a victim passes over: after that, the one at the head goes, used or not.
LOOKS_MAX: Final = 512
_STALE_SLACK: Final = 256


class Place:
    """A key's place in the queues. `uses` since it was last looked at, up to USES_MAX: the caller may count them up
    itself, which is cheaper than a call for each. `is_here` is False once the key was removed."""

    __slots__ = ("cost", "in_main", "is_here", "key", "uses")

    def __init__(self, key: bytes, cost: int, in_main: bool) -> None:
        self.key = key
        self.cost = cost
        self.uses = 0
        self.in_main = in_main
        self.is_here = True


class Ghosts:
    """Fingerprints of keys that were evicted lately: 8 bytes each, in a table that grows with the keys held.

    A new one takes the place of whatever hashes there, so a ghost lasts for about as many evictions as the table has
    places.
    """

    __slots__ = ("_mask", "_table")

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 * GHOSTS_MIN))
        self._mask = GHOSTS_MIN - 1

    def __len__(self) -> int:
        return len(self._table)

    @property
    def bytes_used(self) -> int:
        """What the table takes."""
        return 8 * len(self._table)

    def add(self, key: bytes) -> None:
        """Remember that the key was evicted."""
        print_ = _fingerprint(key)
        self._table[print_ & self._mask] = print_

    def take(self, key: bytes) -> bool:
        """Whether the key is remembered; it is not any more."""
        print_ = _fingerprint(key)
        at = print_ & self._mask
        if self._table[at] != print_:
            return False
        self._table[at] = 0
        return True

    def fit(self, count: int) -> None:
        """Have room for about `count`: at least so many places, and at most four times as many."""
        size = len(self._table)
        if size < count or size > max(GHOSTS_MIN, 4 * count):
            size = max(GHOSTS_MIN, 1 << (count - 1).bit_length())
            old, self._table, self._mask = self._table, array("Q", bytes(8 * size)), size - 1
            for print_ in old:
                if print_:
                    self._table[print_ & self._mask] = print_


def _fingerprint(key: bytes) -> int:
    # Not hash(): that differs between processes, and a run has to be repeatable.
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") or 1


class Policy:
    """The order in which the keys of one pool are evicted.

    `places` maps keys to their places; it may be shared by several policies whose keys are distinct.
    """

    __slots__ = ("_ghosts", "_main", "_main_bytes", "_small", "_small_bytes", "_stale", "count", "places")

    def __init__(self, places: dict[bytes, Place] | None = None) -> None:
        self.places: dict[bytes, Place] = {} if places is None else places
        self.count = 0
        self._small: deque[Place] = deque()
        self._main: deque[Place] = deque()
        self._small_bytes = 0
        self._main_bytes = 0
        self._stale = 0
        self._ghosts = Ghosts()

    def __len__(self) -> int:
        return self.count

    @property
    def keys_bytes(self) -> int:
        """The sum of what its keys cost, as `added` and `resized` were told."""
        return self._small_bytes + self._main_bytes

    @property
    def ghosts_bytes(self) -> int:
        """What the memory of evicted keys takes: it is not part of any key's cost."""
        return self._ghosts.bytes_used

    def touched(self, key: bytes) -> None:
        """The key was used: read, or written again."""
        place = self.places.get(key)
        if place is not None and place.uses < USES_MAX:
            place.uses += 1

    def added(self, key: bytes, cost: int) -> None:
        """A key that was not here is, and costs so many bytes."""
        in_main = self._ghosts.take(key)
        self.places[key] = place = Place(key, cost, in_main)
        self.count += 1
        if in_main:
            self._main.append(place)
            self._main_bytes += cost
        else:
            self._small.append(place)
            self._small_bytes += cost

    def resized(self, key: bytes, change: int) -> None:
        """A key that is here costs so many bytes more, or less."""
        place = self.places[key]
        place.cost += change
        if place.in_main:
            self._main_bytes += change
        else:
            self._small_bytes += change

    def removed(self, key: bytes) -> None:
        """A key is here no more, for another reason than want of memory: expired, or deleted."""
        place = self.places.pop(key)
        place.is_here = False
        self.count -= 1
        if place.in_main:
            self._main_bytes -= place.cost
        else:
            self._small_bytes -= place.cost
        # Its place in a queue is left for the head to pass over: but not more of those than of others.
        self._stale += 1
        if self._stale > self.count + _STALE_SLACK:
            self._small = deque(place for place in self._small if place.is_here)
            self._main = deque(place for place in self._main if place.is_here)
            self._stale = 0

    def evicted(self, key: bytes) -> None:
        """A key is here no more, for want of memory: should it come back soon, it was worth keeping."""
        self.removed(key)
        self._ghosts.fit(self.count)
        self._ghosts.add(key)

    def victims(self) -> Iterator[bytes]:
        """Keys in the order in which they should go, without end while there are any.

        Who takes one calls `evicted` before asking for the next. One that is left goes to its queue's tail, and the
        next comes from the other queue: what is too young to go at the head of one says much about that one.
        """
        vetoed_in_main: bool | None = None
        while self.count:
            main = self._main_bytes * SMALL_PART >= self.keys_bytes * (SMALL_PART - 1)
            if vetoed_in_main is not None:
                main = not vetoed_in_main
            place = (self._main_head() or self._small_head()) if main else (self._small_head() or self._main_head())
            if place is None:
                return
            yield place.key
            if place.is_here:
                vetoed_in_main = place.in_main
                queue = self._main if place.in_main else self._small
                if queue and queue[0] is place:
                    queue.rotate(-1)
            else:
                vetoed_in_main = None

    def _small_head(self) -> Place | None:
        """The next victim of the small queue, after those that stay have moved on."""
        small = self._small
        looks = 0
        while small:
            place = small[0]
            looks += 1
            if not place.is_here:
                self._stale -= 1
            elif place.uses < USES_TO_STAY or looks > LOOKS_MAX:
                return place
            else:
                place.uses = 0
                place.in_main = True
                self._main.append(place)
                self._small_bytes -= place.cost
                self._main_bytes += place.cost
            small.popleft()
        return None

    def _main_head(self) -> Place | None:
        """The next victim of the main queue."""
        main = self._main
        looks = 0
        while main:
            place = main[0]
            looks += 1
            if not place.is_here:
                self._stale -= 1
                main.popleft()
            elif place.uses and looks <= LOOKS_MAX:
                place.uses -= 1
                main.rotate(-1)
            else:
                return place
        return None
