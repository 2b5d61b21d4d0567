"""One loader for a key at a time over all processes: a lock in an exact namespace, taken before a loader runs.

The lock saves work and decides nothing: where it cannot be had (the cluster does not answer, or its holder takes too
long), the loader runs all the same. It must not know how values are made or kept.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, TypeVar

from quorumcache.client.views import namespace_in
from quorumcache.errors import Misuse, OutcomeUnknown, QuorumCacheError, Unavailable

if TYPE_CHECKING:
    from quorumcache.client.client import Client
    from quorumcache.client.exact import Lock

LOCK_TTL_S: Final = 30.0
#: How long a process waits before it looks again for the value that another one makes, at first and at most.
LOOK_S: Final = 0.02
LOOK_S_MAX: Final = 0.25
H = TypeVar("H")


def check_lock(client: Client, namespace: str, ttl: float) -> None:
    """Raise Misuse unless locks of this namespace and time can be had."""
    name = namespace_in(client.configuration, namespace)
    info = client.configuration.namespace(name.encode())
    if info is None or info.type != "exact":
        raise Misuse(f"lock={namespace!r}: locks are in a namespace of type exact, and this one is none")
    if type(ttl) not in (int, float) or not 4 * client.configuration.max_skew_us / 1e6 < ttl < 86_400:
        raise Misuse(f"lock_ttl is {ttl!r}; it is seconds, more than 4 max_skew and less than a day")


async def taken_or_found(
    client: Client, slot: bytes, namespace: str, ttl: float, look: Callable[[], Awaitable[H | None]]
) -> tuple[Lock | None, H | None]:
    """The lock for the making of this slot's value, held, or what `look()` found, which another process made
    meanwhile; neither where no lock is to be had, or its holder did not end within `ttl` seconds."""
    loop = asyncio.get_running_loop()
    end_s, pause_s = loop.time() + ttl, LOOK_S
    key = b"making " + blake2b(slot, digest_size=16).hexdigest().encode()
    while True:
        lock = client.within(namespace).lock(key, ttl, wait=0.0)
        try:
            await lock.acquire()
        except OutcomeUnknown:
            return None, None
        except Unavailable:
            # Held by another, or nobody answers.
            if loop.time() >= end_s:
                return None, None
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))
            pause_s = min(2 * pause_s, LOOK_S_MAX)
            found = await look()
            if found is not None:
                return None, found
            continue
        except QuorumCacheError:
            return None, None
        # It may have been made between the look before and now.
        found = await look()
        if found is None:
            return lock, None
        await given_up(lock)
        return None, found


async def given_up(lock: Lock) -> None:
    """Release it; where that fails, its time ends it."""
    try:
        await lock.release()
    except QuorumCacheError:
        return
