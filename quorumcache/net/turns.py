"""Whose requests are handled next: fair shares of a node's time, by the key that a session proved.

All sessions of one key (and all strangers together) may use so much time in one turn of the event loop; what is left
then waits for a later turn, so that others are served in between, however many sessions somebody has. While keys that
use little ask for something, those that use much rest after each piece of work, so that the first seldom find the node
at it. It must not know sessions or requests.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: How long all of one key's sessions may keep a turn of the event loop.
QUANTUM_NS: Final = 1_000_000
#: After how long a session lets others in, in the middle of a large request too.
SLICE_NS: Final = 400_000
#: A key is heavy once it has used this much more than one part in `LIGHT_PART` of the time.
BURST_NS: Final = 5_000_000
LIGHT_PART: Final = 8
#: No key is taken for heavy longer than it takes to pay this back, at one part in `LIGHT_PART`.
DEBT_NS_MAX: Final = 50_000_000
#: For so long after a light key asked for something, heavy ones rest between pieces of work:
LIGHT_NS: Final = 500_000_000
#: this many times as long as the piece took, but no longer than `REST_NS_MAX`.
REST_FACTOR: Final = 3
REST_NS_MAX: Final = 250_000_000
#: Of so many keys it is known what they used; where there are more, it is forgotten.
KEYS_MAX: Final = 10_000


class Shares:
    """Tells heavy keys from light ones by the time that they used, and how long the heavy have to rest, all together.

    Heavy ones rest only while light ones ask: whoever is alone, or among its like, has all of the time. `now_ns` is
    any clock that never runs backwards.
    """

    def __init__(self) -> None:
        self._debts: dict[bytes, tuple[int, int]] = {}  # key -> what it owes, and when that was so
        self._light_until_ns: dict[bytes, int] = {}  # in the order of time
        self._rest_until_ns = 0

    def asks(self, key: bytes, now_ns: int) -> None:
        """A session of the key has something to do."""
        self._light_until_ns.pop(key, None)
        if not self.is_heavy(key, now_ns):
            self._light_until_ns[key] = now_ns + LIGHT_NS

    def used(self, key: bytes, time_ns: int, now_ns: int) -> None:
        """A session of the key has used so much time, until now."""
        if len(self._debts) >= KEYS_MAX:
            self._debts.clear()
            self._light_until_ns.clear()
        self._debts[key] = (min(self._debt_ns(key, now_ns) + time_ns, DEBT_NS_MAX), now_ns)
        if self.is_heavy(key, now_ns):
            self._light_until_ns.pop(key, None)
            self._rest_until_ns = now_ns + min(REST_FACTOR * time_ns, REST_NS_MAX)

    def is_heavy(self, key: bytes, now_ns: int) -> bool:
        """Whether the key has used more than a light one does."""
        return self._debt_ns(key, now_ns) > BURST_NS

    def rest_ns(self, key: bytes, now_ns: int) -> int:
        """How long the key has to rest from now on; 0: not at all."""
        if self._rest_until_ns <= now_ns or not self.is_heavy(key, now_ns):
            return 0
        light = self._light_until_ns
        while light:
            first = next(iter(light))
            if light[first] > now_ns:
                return self._rest_until_ns - now_ns
            del light[first]
        return 0

    def _debt_ns(self, key: bytes, now_ns: int) -> int:
        debt_ns, then_ns = self._debts.get(key, (0, now_ns))
        return max(0, debt_ns - (now_ns - then_ns) // LIGHT_PART)


class Turns:
    """Counts the time that each key uses, and has it wait once its share of the turn is over, or while it has to rest.

    `is_exempt(key)`: who never rests, and for whom nobody does.
    """

    def __init__(
        self,
        quantum_ns: int = QUANTUM_NS,
        *,
        is_exempt: Callable[[bytes], bool] = lambda _: False,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._quantum_ns = quantum_ns
        self._is_exempt = is_exempt
        self._clock_ns = clock_ns
        self._shares = Shares()
        self._used_ns: dict[bytes, int] = {}
        self._waiting: dict[bytes, deque[asyncio.Future[None]]] = {}
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        #: How often each key that waits, or waited last, had to: of few keys, for people and tests.
        self.waited_counts: dict[bytes, int] = {}

    def wait(self, key: bytes) -> asyncio.Future[None] | None:
        """None where the key's sessions may go on now; else what to wait for."""
        now_ns = self._clock_ns()
        if not self._is_exempt(key):
            self._shares.asks(key, now_ns)
        if (
            key not in self._waiting
            and self._used_ns.get(key, 0) < self._quantum_ns
            and not self._shares.rest_ns(key, now_ns)
        ):
            return None
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        if key in self.waited_counts or len(self.waited_counts) < 1000:
            self.waited_counts[key] = self.waited_counts.get(key, 0) + 1
        self._schedule()
        return turn

    def used(self, key: bytes, time_ns: int) -> None:
        """A session of the key has used so much time."""
        self._used_ns[key] = self._used_ns.get(key, 0) + time_ns
        if not self._is_exempt(key):
            self._shares.used(key, time_ns, self._clock_ns())
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Another turn of the event loop: one session of each key that waits and need not rest goes on, but of all
        heavy keys one: it says how long the others have to rest."""
        self._scheduled = False
        self._used_ns.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ns, rest_ns, heavy_went = self._clock_ns(), 0, False
        for key in list(self._waiting):
            is_heavy = self._shares.is_heavy(key, now_ns)
            if is_heavy and (heavy_went or (rest_ns := self._shares.rest_ns(key, now_ns))):
                continue
            queue = self._waiting.pop(key)
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    heavy_went = heavy_went or is_heavy
                    break
            if queue:
                self._waiting[key] = queue  # Behind the other keys.
        if not self._waiting:
            return
        if rest_ns and all(self._shares.is_heavy(key, now_ns) for key in self._waiting):
            self._timer = asyncio.get_running_loop().call_later(rest_ns / 1e9, self._schedule)
        else:
            self._schedule()
