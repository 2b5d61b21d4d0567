"""Workloads drawn from published figures of production caches, for the demonstration and for tests.

Figures and randomness only: it must not know clients.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from typing import Final


@dataclass(frozen=True)
class Figures:
    """Mean figures of one production cluster: sizes in bytes, shares of requests, TTLs in seconds with their shares."""

    source: str
    key_bytes: int
    value_bytes: int
    get_share: float
    set_share: float
    zipf_alpha: float
    ttls: tuple[tuple[float, float], ...]


#: twitter/cache-trace (https://github.com/twitter/cache-trace), CC BY 4.0; Juncheng Yang, Yao Yue, K. V. Rashmi,
#: "A large scale analysis of hundreds of in-memory cache clusters at Twitter", OSDI 2020. The row of cluster29, March
#: 2020: a middling one in size and skew, with more writes than most. Gets and sets only; the rest is one percent.
TWITTER_29: Final = Figures(
    source="Twitter cluster29, March 2020",
    key_bytes=36,
    value_bytes=799,
    get_share=0.86,
    set_share=0.13,
    zipf_alpha=1.2323,
    ttls=((3600.0, 0.67), (7200.0, 0.33)),
)


class Workload:
    """Draws keys, values and TTLs by `figures`, over `keys_count` keys. The same seed draws the same."""

    def __init__(self, figures: Figures, keys_count: int, seed: int) -> None:
        self.figures = figures
        self.keys = [f"page:{i:06d}:".ljust(figures.key_bytes, "x") for i in range(keys_count)]
        self._random = random.Random(seed)
        weights = (1 / (rank + 1) ** figures.zipf_alpha for rank in range(keys_count))
        self._cumulative = list(accumulate(weights))
        self._padding = self._random.randbytes(figures.value_bytes)

    def key(self) -> str:
        """A key, the popular ones more often: Zipf."""
        return self.keys[bisect_left(self._cumulative, self._random.random() * self._cumulative[-1])]

    def value(self, author: str, number: int) -> bytes:
        """A value that says who wrote it, of the size that the figures name."""
        mark = f"{author}:{number}|".encode()
        return mark + self._padding[len(mark) :]

    def ttl(self) -> float:
        """A time to live, in seconds."""
        draw = self._random.random()
        for ttl, share in self.figures.ttls:
            draw -= share
            if draw < 0:
                return ttl
        return self.figures.ttls[-1][0]
