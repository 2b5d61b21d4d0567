"""Values that a loader makes where the cache has none: once per key at a time, anew before they end, and where the
loader fails, the last one for a while.

It must not know what values mean, nor how functions become keys: that is in cached.py. The lock between processes is in
alone.py.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from quorumcache.client import envelope
from quorumcache.client.alone import LOCK_TTL_S, check_lock, given_up, taken_or_found
from quorumcache.client.envelope import STALE
from quorumcache.client.flight import Flight
from quorumcache.core.model import PUT, header_expires_at
from quorumcache.core.outcome import Found, Missed
from quorumcache.errors import (
    CannotOpen,
    DeadlineExceeded,
    InvalidValue,
    Misuse,
    OutcomeUnknown,
    Unavailable,
)

if TYPE_CHECKING:
    from quorumcache.client.client import Client

Key = str | bytes
Loader = Callable[[], Awaitable[Any]] | Callable[[], Any]

CACHE_TIMEOUT_S: Final = 2.0


class Policy(NamedTuple):
    """How values are made and kept: see `Client.get_or_set`."""

    ttl: float | None = None
    eagerness: float = 1.0
    stale: float = 0.0
    timeout: float | None = None
    cache_timeout: float = CACHE_TIMEOUT_S
    on_unavailable: Literal["load", "raise"] = "load"
    #: Whether a value that is made anew before its end is made while its asker has the old one already.
    in_background: bool = True
    #: The exact namespace in which one process at a time takes the lock for a key; None: each process loads for itself.
    lock: str | None = None
    lock_ttl: float = LOCK_TTL_S

    def checked(self, client: Client) -> Policy:
        """The policy itself. Raises Misuse or InvalidValue for what makes no sense."""
        for name in ("eagerness", "stale", "timeout", "cache_timeout"):
            given = getattr(self, name)
            if given is None and name == "timeout":
                continue
            least = "0 or more" if name in ("eagerness", "stale") else "above 0"
            if type(given) not in (int, float) or not (given > 0 or (given == 0 and least == "0 or more")):
                raise Misuse(f"{name} is {given!r}; it is a number, {least}")
        if self.on_unavailable not in ("load", "raise"):
            raise Misuse(f"on_unavailable is {self.on_unavailable!r}; it is 'load' or 'raise'")
        ttl = client._ttl_default if self.ttl is None else self.ttl
        if self.stale and ttl is None:
            raise Misuse("a value without a ttl never grows stale: give a ttl with stale")
        client.check_ttl(ttl)
        client.check_ttl(None if ttl is None else ttl + self.stale)
        if self.lock is not None:
            check_lock(client, self.lock, self.lock_ttl)
        if client.writer is None:
            raise Misuse("this client has no writer's key, so nothing that is loaded could be put into the cache")
        return self._replace(ttl=ttl)


class Held(NamedTuple):
    """What the cache has: the value (or STALE, where only `last` may serve), and whether it is time to make it anew."""

    value: Any
    is_due: bool
    last: Any


async def get_or_set(client: Client, key: Key, loader: Loader, policy: Policy) -> Any:
    """See `Client.get_or_set`; `policy` is checked."""
    slot = client._slot(key)
    held: Held | None = None
    try:
        async with asyncio.timeout(policy.timeout) as deadline:
            held = await _held(client, key, slot, policy)
            if held is not None and held.value is not STALE and not held.is_due:
                return held.value
            work = partial(_make if policy.lock is None else _make_alone, client, key, slot, loader, policy)
            flights = client._engine.flights
            if held is not None and (held.value is not STALE and policy.in_background):
                flights.start(slot, work)
                return held.value
            if held is None:
                return await flights.run(slot, work)
            flights.start(slot, work)  # Goes on when this caller has waited long enough.
            try:
                return await flights.run(slot, work)
            except Misuse:
                raise
            except Exception:  # noqa: BLE001 - whatever the loader raises: to serve on is what `stale` asks for
                return held.last
    except TimeoutError:
        if not deadline.expired():
            raise  # The loader's own.
        if held is not None:
            return held.last
        raise DeadlineExceeded(f"no value of {key!r} within {policy.timeout:g} s: the loader takes longer") from None


async def _held(client: Client, key: Key, slot: bytes, policy: Policy) -> Held | None:
    """What the cache has for the key; None where it has nothing, or cannot say."""
    try:
        async with asyncio.timeout(policy.cache_timeout):
            outcome = await client._read(slot, False)
        if type(outcome) is not Found:
            if type(outcome) is not Missed:
                client._check_miss(outcome, False)
            return None
        stored = envelope.parse(client._value(slot, outcome))
        value = None if stored.data is None else client._loads(stored.data)
    except (CannotOpen, InvalidValue):
        return None  # What cannot be understood is made anew, and replaced.
    except (Unavailable, TimeoutError) as fault:
        if policy.on_unavailable == "raise":
            if isinstance(fault, TimeoutError):
                raise DeadlineExceeded(f"the cache did not answer within {policy.cache_timeout:g} s") from None
            raise
        return None
    now_us = client.time_us
    until_us = stored.fresh_until_us or header_expires_at(outcome.header)
    if until_us and now_us >= until_us:
        return Held(STALE, True, value) if policy.stale else None
    is_due = envelope.is_due(now_us, until_us, stored.compute_us, policy.eagerness, random.random())
    return Held(value, is_due, value)


async def _load(loader: Loader) -> Any:
    value = loader()
    return await value if inspect.isawaitable(value) else value


async def _make_alone(
    client: Client, key: Key, slot: bytes, loader: Loader, policy: Policy, flight: Flight[Any]
) -> Any:
    """As `_make`, while no other process does; or give all who wait what another one has made."""
    assert policy.lock is not None

    async def look() -> Held | None:
        held = await _held(client, key, slot, policy)
        return None if held is None or held.value is STALE or held.is_due else held

    lock, found = await taken_or_found(client, slot, policy.lock, policy.lock_ttl, look)
    if found is not None:
        flight.answer(found.value)
        return found.value
    try:
        return await _make(client, key, slot, loader, policy, flight)
    finally:
        if lock is not None:
            await given_up(lock)


async def _make(client: Client, key: Key, slot: bytes, loader: Loader, policy: Policy, flight: Flight[Any]) -> Any:
    """Run the loader, give its value to all who wait, and put it into the cache."""
    start_s = time.monotonic()
    trace = client._options.trace
    if trace is None:
        value = await _load(loader)
    else:
        with trace.operation("load", client.namespace_name, 1) as ended:
            value = await _load(loader)
            ended("loaded")
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise Misuse("the loader gave a generator: it can be used once only, so let it return a list")
    compute_us = round((time.monotonic() - start_s) * 1e6)
    fresh_until_us = client._expires_at(policy.ttl)
    # Before the answer: a value that no cache can hold is the loader's fault, and everybody should hear of it.
    data = envelope.wrap(None if value is None else client._data(value, envelope.BYTES), compute_us, fresh_until_us)
    if flight.is_overtaken:
        return value
    expires_at_us = 0 if policy.ttl is None else client._expires_at(policy.ttl + policy.stale)
    await flight.answer_when(value, _keep(client, slot, data, expires_at_us, policy))
    return value


async def _keep(client: Client, slot: bytes, data: bytes, expires_at_us: int, policy: Policy) -> None:
    try:
        async with asyncio.timeout(policy.cache_timeout):
            client._check_written(await client._put(slot, PUT, data, expires_at_us))
    except (Unavailable, OutcomeUnknown, TimeoutError):
        pass  # The value is served; whoever asks next tries again.
