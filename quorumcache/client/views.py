"""Clients over the same sessions as another: for another namespace, with a deadline, with retries, with a trace.

What is wrapped here is the one way of operations to the engine, so that a client without options pays nothing. It must
not know keys or values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from quorumcache.client.backoff import backoff_s
from quorumcache.client.bulk import Part
from quorumcache.client.serializers import Serializer, serializer_of
from quorumcache.client.tracing import Trace
from quorumcache.core.config import Configuration
from quorumcache.core.outcome import UNAVAILABLE, Failed, Found, Outcome, Written
from quorumcache.errors import DeadlineExceeded, Misuse, OutcomeUnknown

if TYPE_CHECKING:
    from quorumcache.client.client import Client

C = TypeVar("C", bound="Client")
Writes = list[tuple[bytes, int, int]] | None

PAUSE_S_MIN: Final = 0.02
PAUSE_S_MAX: Final = 1.0
ATTEMPTS_MAX: Final = 100


class Options(NamedTuple):
    """What a client does beside the operation itself: see `Client.namespace`."""

    ttl: float | None = None
    timeout: float | None = None
    attempts: int = 1
    trace: Trace | None = None


def view(client: C, name: str, serializer: str | Serializer | None, options: Options) -> C:
    """A client like `client`, for the namespace of that name, with these options. Raises Misuse, InvalidValue."""
    if options.timeout is not None and not (type(options.timeout) in (int, float) and options.timeout > 0):
        raise Misuse(f"a timeout of {options.timeout!r}; it is a number of seconds above 0")
    if type(options.attempts) is not int or not 1 <= options.attempts <= ATTEMPTS_MAX:
        raise Misuse(f"attempts is {options.attempts!r}; it is a number from 1 to {ATTEMPTS_MAX}")
    chosen = client.serializer if serializer is None else serializer_of(serializer)
    other = type(client)(client._engine, client._signed, name, chosen, client._data_keys)
    if options.ttl is not None:
        other.check_ttl(options.ttl)
    other._options = options
    other._ttl_default = options.ttl
    if options.timeout is not None or options.attempts > 1:
        patience = _Patience(other, options)
        other._read = patience.read  # type: ignore[method-assign]
        other._put = patience.put  # type: ignore[method-assign]
        other._many = patience.many  # type: ignore[method-assign]
    if options.trace is not None:
        traced = _Traced(other, options.trace)
        other._read = traced.read  # type: ignore[method-assign]
        other._put = traced.put  # type: ignore[method-assign]
        other._many = traced.many  # type: ignore[method-assign]
    return other


def namespace_in(configuration: Configuration, namespace: str | None) -> str:
    """The namespace of that name, or with None the first. Raises Misuse where there is none."""
    names = [info.name for info in configuration.namespaces]
    if namespace is None and names:
        return names[0]
    if namespace is None or namespace not in names:
        raise Misuse(f"the cluster has no namespace {namespace!r}; it has {', '.join(names) or 'none'}")
    return namespace


class _Patience:
    """A deadline for each operation, and further attempts within it where nothing happened."""

    def __init__(self, client: Client, options: Options) -> None:
        self._timeout = options.timeout
        self._attempts = options.attempts
        self._read, self._put, self._many = client._read, client._put, client._many

    async def read(self, slot: bytes, full: bool) -> Outcome:
        return (await self._try([slot], lambda _: _one(self._read(slot, full)), is_write=False))[0]

    async def put(self, slot: bytes, kind: int, value: bytes, expires_at_us: int) -> Outcome:
        return (await self._try([slot], lambda _: _one(self._put(slot, kind, value, expires_at_us)), is_write=True))[0]

    async def many(self, slots: list[bytes], writes: Writes, part: type[Part] = Part) -> list[Outcome]:
        def attempt(places: list[int]) -> Awaitable[list[Outcome]]:
            chosen = None if writes is None else [writes[i] for i in places]
            return self._many([slots[i] for i in places], chosen, part)

        return await self._try(slots, attempt, is_write=writes is not None)

    async def _try(
        self, slots: list[bytes], attempt: Callable[[list[int]], Awaitable[list[Outcome]]], *, is_write: bool
    ) -> list[Outcome]:
        outcomes: list[Any] = [None] * len(slots)
        left, under_way = list(range(len(slots))), False
        try:
            async with asyncio.timeout(self._timeout):
                for number in range(1, self._attempts + 1):
                    under_way = True
                    for place, outcome in zip(left, await attempt(left), strict=True):
                        outcomes[place] = outcome
                    under_way = False
                    left = [i for i in left if type(outcomes[i]) is Failed and outcomes[i].kind == UNAVAILABLE]
                    if not left or number == self._attempts:
                        break
                    await asyncio.sleep(backoff_s(number, PAUSE_S_MIN, PAUSE_S_MAX))
        except TimeoutError:
            if is_write and under_way:
                raise OutcomeUnknown(f"not confirmed within {self._timeout:g} s: it may take effect or not") from None
            why = next((outcomes[i].detail for i in left if outcomes[i] is not None), "too few nodes answered")
            raise DeadlineExceeded(f"no result within {self._timeout:g} s: {why}") from None
        return outcomes


async def _one(outcome: Awaitable[Outcome]) -> list[Outcome]:
    return [await outcome]


class _Traced:
    """Tells a trace of each operation: its name, and how it ended."""

    def __init__(self, client: Client, trace: Trace) -> None:
        self._namespace = client.namespace_name
        self._trace = trace
        self._read, self._put, self._many = client._read, client._put, client._many

    async def read(self, slot: bytes, full: bool) -> Outcome:
        with self._trace.operation("read", self._namespace, 1) as ended:
            outcome = await self._read(slot, full)
            ended(_word(outcome))
            return outcome

    async def put(self, slot: bytes, kind: int, value: bytes, expires_at_us: int) -> Outcome:
        with self._trace.operation("write", self._namespace, 1) as ended:
            outcome = await self._put(slot, kind, value, expires_at_us)
            ended(_word(outcome))
            return outcome

    async def many(self, slots: list[bytes], writes: Writes, part: type[Part] = Part) -> list[Outcome]:
        name = "read_many" if writes is None else "write_many"
        with self._trace.operation(name, self._namespace, len(slots)) as ended:
            outcomes = await self._many(slots, writes, part)
            words = {_word(outcome) for outcome in outcomes}
            ended(words.pop() if len(words) == 1 else "mixed")
            return outcomes


def _word(outcome: Outcome) -> str:
    if isinstance(outcome, Failed):
        return outcome.kind
    return "found" if isinstance(outcome, Found) else "written" if isinstance(outcome, Written) else "missed"
