"""Caches to compare the node's eviction with: FIFO, LRU, S3-FIFO and W-TinyLFU as their papers have them, Belady.

Each is fed a trace, one request after another, and says how many it had. Sizes are in bytes, and an object larger than
the memory passes by. They must not know the shipped policy but for the adapter at the end.
"""

from __future__ import annotations

import heapq
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final

from quorumcache.core.eviction import Policy

Request = tuple[str, int]
#: Given a trace and the memory's bytes: how many requests were hits.
Simulation = Callable[[Sequence[Request], int], int]


def fifo(requests: Sequence[Request], bytes_max: int) -> int:
    """First in, first out."""
    return _ordered(requests, bytes_max, moves=False)


def lru(requests: Sequence[Request], bytes_max: int) -> int:
    """Least recently used out."""
    return _ordered(requests, bytes_max, moves=True)


def _ordered(requests: Sequence[Request], bytes_max: int, *, moves: bool) -> int:
    held: OrderedDict[str, int] = OrderedDict()
    used = hits = 0
    for key, size in requests:
        if key in held:
            hits += 1
            if moves:
                held.move_to_end(key)
        elif size <= bytes_max:
            held[key] = size
            used += size
            while used > bytes_max:
                used -= held.popitem(last=False)[1]
    return hits


def belady(requests: Sequence[Request], bytes_max: int) -> int:
    """Out goes what is needed again last, known from the future. The best that any policy can do where all sizes are
    equal; where they are not, the best is not computable, and this is a yardstick only."""
    following = [0] * len(requests)
    seen: dict[str, int] = {}
    for at in range(len(requests) - 1, -1, -1):
        key = requests[at][0]
        following[at] = seen.get(key, len(requests))
        seen[key] = at
    held: dict[str, tuple[int, int]] = {}
    order: list[tuple[int, str]] = []
    used = hits = 0
    for at, (key, size) in enumerate(requests):
        if key in held:
            hits += 1
        elif size > bytes_max:
            continue
        else:
            used += size
        held[key] = (following[at], size)
        heapq.heappush(order, (-following[at], key))
        while used > bytes_max:
            negative, last = heapq.heappop(order)
            if last in held and held[last][0] == -negative:
                used -= held.pop(last)[1]
    return hits


def s3_fifo(requests: Sequence[Request], bytes_max: int) -> int:
    """Yang, Zhang, Qiu, Yue, Rashmi: FIFO queues are all you need for cache eviction, SOSP 2023, algorithm 1."""
    small: OrderedDict[str, int] = OrderedDict()
    main: OrderedDict[str, int] = OrderedDict()
    ghost: OrderedDict[str, int] = OrderedDict()
    uses: dict[str, int] = {}
    used = {"small": 0, "main": 0, "ghost": 0}
    hits = 0

    def evict_main() -> None:
        while main:
            key, size = main.popitem(last=False)
            if uses[key]:
                uses[key] -= 1
                main[key] = size
            else:
                used["main"] -= size
                del uses[key]
                return

    def evict_small() -> None:
        while small:
            key, size = small.popitem(last=False)
            used["small"] -= size
            if uses[key] > 1:
                uses[key] = 0
                main[key] = size
                used["main"] += size
                while used["main"] > bytes_max * 9 // 10:
                    evict_main()
            else:
                del uses[key]
                ghost[key] = size
                used["ghost"] += size
                while used["ghost"] > bytes_max * 9 // 10:
                    used["ghost"] -= ghost.popitem(last=False)[1]
                return

    for key, size in requests:
        if key in uses:
            hits += 1
            uses[key] = min(3, uses[key] + 1)
            continue
        if size > bytes_max:
            continue
        while used["small"] + used["main"] + size > bytes_max:
            if used["small"] * 10 >= bytes_max or not main:
                evict_small()
            else:
                evict_main()
        uses[key] = 0
        if key in ghost:
            used["ghost"] -= ghost.pop(key)
            main[key] = size
            used["main"] += size
        else:
            small[key] = size
            used["small"] += size
    return hits


class _Sketch:
    """A count-min sketch of four rows with counters up to 15, halved every ten times its width."""

    def __init__(self, width: int) -> None:
        self._width = 1 << max(6, (width - 1).bit_length())
        self._rows = [array("B", bytes(self._width)) for _ in range(4)]
        self._added = 0
        self._places: dict[str, tuple[int, int, int, int]] = {}

    def _at(self, key: str) -> tuple[int, int, int, int]:
        at = self._places.get(key)
        if at is None:
            data = blake2b(key.encode(), digest_size=16).digest()
            a, b, c, d = (int.from_bytes(data[i : i + 4], "big") % self._width for i in (0, 4, 8, 12))
            at = self._places[key] = (a, b, c, d)
        return at

    def add(self, key: str) -> None:
        places = self._at(key)
        low = min(row[at] for row, at in zip(self._rows, places, strict=True))
        if low < 15:
            for row, at in zip(self._rows, places, strict=True):
                if row[at] == low:
                    row[at] += 1
        self._added += 1
        if self._added >= 10 * self._width:
            self._added //= 2
            self._rows = [array("B", [count >> 1 for count in row]) for row in self._rows]

    def count(self, key: str) -> int:
        return min(row[at] for row, at in zip(self._rows, self._at(key), strict=True))


def w_tiny_lfu(requests: Sequence[Request], bytes_max: int) -> int:
    """Einziger, Friedman, Manes: TinyLFU, a highly efficient cache admission policy, ACM ToS 2017: a window of 1 %,
    then a segmented LRU with 80 % protected; a candidate enters if it is wanted more often than the victims."""
    mean = max(1, sum(size for _, size in requests) // len(requests))
    sketch = _Sketch(bytes_max // mean + 1)
    window: OrderedDict[str, int] = OrderedDict()
    probation: OrderedDict[str, int] = OrderedDict()
    protected: OrderedDict[str, int] = OrderedDict()
    used = {"window": 0, "main": 0, "protected": 0}
    window_max = max(bytes_max // 100, min(bytes_max, mean))
    main_max = bytes_max - window_max
    hits = 0

    def admit(key: str, size: int) -> None:
        if size > main_max:
            return
        # Against all that would have to go for it: sizes differ.
        victims: list[tuple[str, int, bool]] = []
        freed = wanted = 0
        frequency = sketch.count(key)
        for segment, is_protected in ((probation, False), (protected, True)):
            for other, bytes_ in segment.items():
                if used["main"] - freed + size <= main_max:
                    break
                victims.append((other, bytes_, is_protected))
                freed += bytes_
                wanted += sketch.count(other)
                if wanted >= frequency:
                    return
        for other, bytes_, is_protected in victims:
            used["main"] -= bytes_
            if is_protected:
                used["protected"] -= bytes_
                del protected[other]
            else:
                del probation[other]
        probation[key] = size
        used["main"] += size

    for key, size in requests:
        sketch.add(key)
        if key in window:
            hits += 1
            window.move_to_end(key)
        elif key in protected:
            hits += 1
            protected.move_to_end(key)
        elif key in probation:
            hits += 1
            protected[key] = probation.pop(key)
            used["protected"] += size
            while used["protected"] > main_max * 8 // 10:
                other, bytes_ = protected.popitem(last=False)
                used["protected"] -= bytes_
                probation[other] = bytes_
        elif size <= bytes_max:
            window[key] = size
            used["window"] += size
            while used["window"] > window_max:
                other, bytes_ = window.popitem(last=False)
                used["window"] -= bytes_
                admit(other, bytes_)
    return hits


def shipped(requests: Sequence[Request], bytes_max: int) -> int:
    """The policy that nodes use, on its own: quorumcache.core.eviction."""
    policy = Policy()
    sizes: dict[bytes, int] = {}
    used = hits = 0
    for name, size in requests:
        key = name.encode()
        if key in sizes:
            hits += 1
            policy.touched(key)
            continue
        if size > bytes_max:
            continue
        if used + size > bytes_max:
            for victim in policy.victims():
                used -= sizes.pop(victim)
                policy.evicted(victim)
                if used + size <= bytes_max:
                    break
        sizes[key] = size
        used += size
        policy.added(key, size)
    return hits


SIMULATIONS: Final[dict[str, Simulation]] = {
    "FIFO": fifo,
    "LRU": lru,
    "W-TinyLFU": w_tiny_lfu,
    "S3-FIFO": s3_fifo,
    "quorumcache": shipped,
    "Belady": belady,
}
