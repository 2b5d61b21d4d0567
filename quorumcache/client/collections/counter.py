"""Counters: what this client object adds to each, and the writes that carry it.

Increments of one key that come while a write is under way travel together in the next. It must not know quorums.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, ClassVar, Final

from quorumcache.client.bulk import error_of
from quorumcache.client.collections.handle import Handle, Snapshot, generation_text
from quorumcache.core.model import PUT
from quorumcache.core.outcome import Outcome, Written
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_slot
from quorumcache.core.types.counter import Tally
from quorumcache.errors import InvalidValue

if TYPE_CHECKING:
    from quorumcache.client.client import Client

#: So that all increments that can be under way at once stay within a field's totals.
AMOUNT_MAX: Final = 1 << 46
#: Counters whose totals a client remembers; one that was forgotten begins with a fresh field.
ADDERS_MAX: Final = 4096
_COUNTER: Final = FIELD_TYPES["counter"]


class Adder:
    """Carries one client object's increments of one key to the nodes: one write at a time, the newest totals in it.

    After a write that did not end well its field is given up for a fresh one, since what nodes promised for it may not
    be undercut; what it has counted by then stays."""

    def __init__(self, client: Client, base: bytes) -> None:
        self._client = client
        self._base = base
        self._tally = self._fresh()
        self._expires_at_us = 0
        #: What waits for the next write, and what is in the one under way: (amount, who waits for it).
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._sent: list[tuple[int, asyncio.Future[None]]] = []

    def _fresh(self) -> Tally:
        writer = self._client.writer
        return Tally((writer or bytes(32)) + os.urandom(8))

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._sent and not self._waiting

    def add(self, amount: int, expires_at_us: int) -> asyncio.Future[None]:
        """Add an amount (below 0: take away)."""
        future: asyncio.Future[None] = self._client._engine.loop.create_future()
        self._waiting.append((amount, future))
        self._expires_at_us = expires_at_us
        if not self._sent:
            self._send()
        return future

    def _send(self) -> None:
        self._sent, self._waiting = self._waiting, []
        if self._tally.is_worn:
            self._tally = self._fresh()
        self._tally.begin([amount for amount, _ in self._sent])
        engine = self._client._engine
        slot = field_slot(self._base, self._tally.field)
        engine.core.write(slot, PUT, b"", 0, self, self._tally.details, self._expires_at_us)
        engine.kick()

    def done(self) -> bool:
        """Somebody always waits: for the totals, if for nothing else."""
        return False

    def set_result(self, outcome: Outcome) -> None:
        """The write that was under way ended."""
        sent, self._sent = self._sent, []
        engine = self._client._engine
        engine.leave(len(sent) - 1)
        if isinstance(outcome, Written):
            self._tally.confirm(outcome.generation)
        else:
            self._tally = self._fresh()
        for _, future in sent:
            if future.done():
                continue
            if isinstance(outcome, Written):
                future.set_result(None)
            else:
                future.set_exception(error_of(outcome))
        if self._waiting:
            if engine.closed:
                waiting, self._waiting = self._waiting, []
                for _, future in waiting:
                    if not future.done():
                        future.set_exception(error_of(outcome))
            else:
                self._send()


class CounterHandle(Handle):
    """A counter that many writers add to at once; nothing that was acknowledged is lost while the key is there."""

    type: ClassVar[str] = "counter"

    async def add(self, amount: int = 1) -> None:
        """Add an amount (below 0: take away). It is counted, for every reader, when this returns.

        Raises Unavailable where it was certainly not counted, OutcomeUnknown where it may have been.
        """
        if type(amount) is not int or abs(amount) > AMOUNT_MAX:
            raise InvalidValue(f"an amount of {amount!r}; it is a whole number of up to 2^46 either way")
        client = self._client
        client._check_usable()
        expires_at_us = client._expires_at(self._ttl)
        if not amount:
            return
        if not client._engine.admit():
            await client._engine.admitted()
        adders = client._engine.adders
        adder = adders.get(self._base)
        if adder is None:
            if len(adders) >= ADDERS_MAX:
                idle = next((slot for slot, other in adders.items() if other.is_idle), None)
                if idle is not None:
                    del adders[idle]
            adder = adders[self._base] = Adder(client, self._base)
        await adder.add(amount, expires_at_us)

    increment = add

    async def value(self, default: int = 0, *, strict: bool = False) -> int:
        """The sum; `default` where there is no such key."""
        found = await self._found(strict)
        return default if found is None else int(_COUNTER.value_of(found.fields or []))

    async def snapshot(self, *, strict: bool = False) -> Snapshot | None:
        """The sum with the key's generation; None where there is no such key."""
        found = await self._found(strict)
        return None if found is None else Snapshot(_COUNTER.value_of(found.fields or []), generation_text(found))
