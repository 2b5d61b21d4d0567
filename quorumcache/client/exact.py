"""Compare-and-set for applications: set if absent, compare and set, exact counters, read-modify-write, locks.

For namespaces of type `exact` alone (protocol 17). What it takes of rounds and quorums is in core/exactwrite.py. It
must not know ballots.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from quorumcache.client.bulk import error_of
from quorumcache.client.envelope import escape, parse
from quorumcache.core.exactsum import DIGITS_MAX, Addition
from quorumcache.core.exactwrite import Change, Changer
from quorumcache.core.model import DELETE, PUT, header_expires_at, header_stamp, stamp_time
from quorumcache.core.outcome import UNKNOWN, Decided, Failed, Found, Outcome, Unchanged, Written
from quorumcache.errors import InvalidValue, Misuse, Unavailable

if TYPE_CHECKING:
    from quorumcache.client.client import Client
    from quorumcache.client.operations import Key

T = TypeVar("T")

#: What `cas` takes for "there must be nothing".
ABSENT: Final[Any] = type("Absent", (), {"__repr__": lambda self: "ABSENT", "__slots__": ()})()
#: How often `update` computes anew before it gives up, and how long it pauses at most in between, in seconds.
UPDATE_TRIES: Final = 64
PAUSE_S: Final = 0.005
PAUSE_S_MAX: Final = 0.5
_HOLDER_BYTES: Final = 16
#: How many tries of unknown outcome in a row are enough.
_UNKNOWN_MAX: Final = 3


class ExactMethods:
    """What `Client` offers in exact namespaces. A result that is a fencing token is an integer that rises with each
    change of the key, through expiry, deletion and restarts: give it along with what a holder does elsewhere, and
    refuse lower ones there."""

    async def add(self, key: Key, value: Any, *, ttl: float | None = None) -> int | None:
        """Set the key where it has no value: the fencing token, or None where it has one. Raises as `set` does."""
        client = cast("Client", self)
        slot, data, expires_at_us = self._exact_slot(key), client._stored(value), client._expires_at(ttl)
        outcome = await self._exact(
            slot, lambda header, salted, cluster_us: None if header else Change(PUT, data, expires_at_us)
        )
        return _token(outcome)

    async def cas(self, key: Key, expected: Any, new: Any, *, ttl: float | None = None) -> int | None:
        """Set the key to `new` where its value is `expected` (`ABSENT`: where it has none): the fencing token, or None
        where it is something else. Values are compared as the bytes that the serializer makes of them."""
        client = cast("Client", self)
        slot, data, expires_at_us = self._exact_slot(key), client._stored(new), client._expires_at(ttl)
        wanted = None if expected is ABSENT else client._stored(expected)

        def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
            here = salted[16:] if header else None
            return Change(PUT, data, expires_at_us) if here == wanted else None

        return _token(await self._exact(slot, change))

    async def incr(self, key: Key, by: int = 1, *, ttl: float | None = None) -> int:
        """Add to the integer that the key has as decimal text (none: 0), and return the sum, which nobody else gets.
        A new key expires after `ttl` seconds; one that is there goes on as it was. Those of one client that wait for
        one another go together, and cost no more than one. Raises InvalidValue where the value is no such integer, or
        `by` has more than 40 digits."""
        client = cast("Client", self)
        slot, expires_at_us = self._exact_slot(key), client._expires_at(ttl)
        if abs(by) >= 10**DIGITS_MAX:
            raise InvalidValue(f"what is added to a key has at most {DIGITS_MAX} digits")
        outcome = await self._exact(slot, Addition(by, expires_at_us))
        if isinstance(outcome, Decided) and outcome.number is not None:
            return outcome.number
        if isinstance(outcome, Unchanged):
            raise InvalidValue(f"the value of the key is not an integer: {outcome.salted[16:56]!r}")
        raise error_of(outcome)

    async def append(self, key: Key, data: bytes) -> int:
        """Append bytes to the key's value (none: empty), and return how many it has then. For the serializers "bytes"
        and "str"; the key goes on as long as it did."""
        client = cast("Client", self)
        slot, most = self._exact_slot(key), client._value_bytes_max
        wrong: list[str] = []

        def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
            joined = (salted[16:] if header else b"") + data
            if len(joined) > most:
                wrong.append(f"the value would have {len(joined)} bytes; the namespace takes at most {most}")
                return None
            return Change(PUT, joined, header_expires_at(header) if header else 0)

        outcome = await self._exact(slot, change)
        if isinstance(outcome, Decided):
            return len(outcome.salted) - 16
        if isinstance(outcome, Unchanged):
            raise InvalidValue(wrong[-1])
        raise error_of(outcome)

    async def update(self, key: Key, function: Callable[[Any], T | Awaitable[T]], *, ttl: float | None = None) -> T:
        """Read the key's value (None: none), compute another with `function`, which may be a coroutine function, and
        set that if nobody has changed the key meanwhile; else again, after a pause. Returns what was set. `function`
        may be called many times. Raises Unavailable after 64 times in vain."""
        client = cast("Client", self)
        slot, expires_at_us = self._exact_slot(key), client._expires_at(ttl)
        found = await client._read(slot, True)
        header, salted = (found.header, found.salted) if isinstance(found, Found) else (b"", b"")
        if not isinstance(found, Found):
            client._check_miss(found, False)
        pause_s = PAUSE_S
        for _ in range(UPDATE_TRIES):
            value = client._loads(parse(salted[16:]).data or b"") if header else None
            result = function(value)
            new = cast("T", await result if inspect.isawaitable(result) else result)
            change = _in_place_of(header, Change(PUT, client._stored(new), expires_at_us))
            outcome = await self._exact(slot, change)
            if isinstance(outcome, Decided):
                return new
            if not isinstance(outcome, Unchanged):
                raise error_of(outcome)
            header, salted = outcome.header, outcome.salted
            await asyncio.sleep(random.uniform(0, pause_s))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        raise Unavailable(f"the key was changed by others {UPDATE_TRIES} times while its new value was computed")

    def lock(self, key: Key, ttl: float, *, wait: float | None = None) -> Lock:
        """A lock on the key, to hold for at most `ttl` seconds: `async with client.lock("job", 30) as lock: ...`, where
        `lock.token` is the fencing token. `wait`: seconds to wait for it (None: for ever)."""
        return Lock(cast("Client", self), key, ttl, wait)

    # --- inside ---

    def _exact_slot(self, key: Key) -> bytes:
        client = cast("Client", self)
        if client._type != "exact":
            raise Misuse(
                f"the namespace {client._namespace!r} is of type {client._type}: compare-and-set is for namespaces of "
                'type "exact"'
            )
        return client._slot(key)

    async def _exact(self, slot: bytes, change: Changer) -> Outcome:
        client = cast("Client", self)
        engine = client._engine
        client._check_usable()
        future = await engine.place()
        engine.core.exact(slot, change, future)
        engine.kick()
        return await future


def _token(outcome: Outcome) -> int | None:
    if isinstance(outcome, Decided):
        return stamp_time(header_stamp(outcome.header))
    if isinstance(outcome, Unchanged):
        return None
    raise error_of(outcome)


def _in_place_of(before: bytes, change: Change) -> Changer:
    """The change, where what is settled has this very header (empty: where nothing is)."""
    return lambda header, salted, cluster_us: change if header == before else None


def write_of(kind: int, value: bytes, expires_at_us: int) -> Changer:
    """A plain write, or deletion, as a compare-and-set that takes whatever is there."""

    def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        if kind == DELETE:
            return Change(DELETE) if header else None
        return Change(PUT, value, expires_at_us)

    return change


def written(outcome: Outcome) -> Outcome:
    """How a plain write ended that went as a compare-and-set."""
    if isinstance(outcome, Decided):
        return Written(header_stamp(outcome.header))
    return Written(b"") if isinstance(outcome, Unchanged) else outcome


class Lock:
    """Who holds it is who added the key; it is gone when its time is over, whatever the holder's own clock says.

    `token`: the fencing token, 0 while it is not held. `left`: for how many seconds it is still certainly held.
    """

    def __init__(self, client: Client, key: Key, ttl: float, wait: float | None) -> None:
        """Not for callers: use `Client.lock`."""
        self._client = client
        self._key = key
        self._ttl = ttl
        self._wait = wait
        self._holder = os.urandom(_HOLDER_BYTES)
        self._expires_at_us = 0
        self._is_busy = False
        self.token = 0
        skew_s = 2 * client.configuration.max_skew_us / 1e6
        if ttl <= skew_s:
            raise InvalidValue(
                f"a lock for {ttl:g} s; clocks of this cluster may differ so much that it has to be longer than "
                f"{skew_s:g} s"
            )

    async def acquire(self) -> int:
        """Wait for the lock and take it; returns the token. Raises Unavailable where `wait` is over first, and
        OutcomeUnknown where a try ended so (three in a row, or the last before that): it may be taken then until its
        time is over, and `acquire` takes up what it left. Raises Misuse where this object holds it already."""
        if self._is_busy or self.left:
            raise Misuse("this Lock object is held, or about to be: each task needs one of its own")
        self._is_busy = True
        try:
            return await self._acquire()
        finally:
            self._is_busy = False

    async def _acquire(self) -> int:
        client = self._client
        slot = client._exact_slot(self._key)
        loop = asyncio.get_running_loop()
        end_s = None if self._wait is None else loop.time() + self._wait
        pause_s = PAUSE_S
        unknown: Failed | None = None  # How the tries since others held it ended; the key may be this object's.
        tries = 0
        while True:
            expires_at_us = client._expires_at(self._ttl)
            outcome = await client._exact(slot, _taken(escape(self._holder), expires_at_us))
            if isinstance(outcome, Decided):
                self._expires_at_us = expires_at_us
                self.token = stamp_time(header_stamp(outcome.header))
                if self.left:
                    return self.token
                # It took so long that the lock may be lost again.
            elif isinstance(outcome, Unchanged):
                unknown, tries = None, 0
            else:
                assert isinstance(outcome, Failed)
                if outcome.kind != UNKNOWN or tries + 1 >= _UNKNOWN_MAX:
                    raise error_of(unknown or outcome)
                unknown, tries = outcome, tries + 1
            if end_s is not None and loop.time() + pause_s > end_s:
                if unknown is not None:
                    raise error_of(unknown)
                raise Unavailable(f"the lock was held by others for the {self._wait:g} s that it was waited for")
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def extend(self, ttl: float | None = None) -> int:
        """Hold it for so many seconds more from now on; returns the new token. Raises Misuse where it is lost."""
        client, expires_at_us = self._client, self._client._expires_at(self._ttl if ttl is None else ttl)
        # Until it is known which of the two counts, the earlier end does.
        self._expires_at_us = min(self._expires_at_us, expires_at_us)
        outcome = await client._exact(
            client._exact_slot(self._key), self._if_mine(Change(PUT, escape(self._holder), expires_at_us))
        )
        if isinstance(outcome, Decided):
            self._expires_at_us = expires_at_us
            self.token = stamp_time(header_stamp(outcome.header))
            return self.token
        if isinstance(outcome, Unchanged):
            self.token = 0
            raise Misuse("the lock is not held any more: its time was over, or it was released")
        raise error_of(outcome)

    async def release(self) -> bool:
        """Give it up; False where it was lost before."""
        client, self.token = self._client, 0
        outcome = await client._exact(client._exact_slot(self._key), self._if_mine(Change(DELETE)))
        if isinstance(outcome, Decided | Unchanged):
            return isinstance(outcome, Decided)
        raise error_of(outcome)

    def _if_mine(self, change: Change) -> Changer:
        mine = escape(self._holder)
        return lambda header, salted, cluster_us: change if header and salted[16:] == mine else None

    @property
    def left(self) -> float:
        """For how many seconds it is still certainly held, by every clock in the cluster; 0 where it may be lost."""
        if not self.token:
            return 0.0
        skew_us = 2 * self._client.configuration.max_skew_us
        return max(0.0, (self._expires_at_us - skew_us - self._client.time_us) / 1e6)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()


def _taken(data: bytes, expires_at_us: int) -> Changer:
    """Take it where nobody has it; or where this very try, or an earlier one whose end was unknown, did."""

    def change(header: bytes, salted: bytes, cluster_us: int) -> Change | None:
        return None if header and salted[16:] != data else Change(PUT, data, expires_at_us)

    return change
