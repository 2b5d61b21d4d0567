"""Watches for applications: a stream of changes and gaps, the token to go on from, and what drives it.

There is no task behind a watch: nodes are asked while somebody waits for the next change, so one that is not read costs
nothing, and is told of a gap when it comes back too late. What changed is decided in core/watch.py.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, cast

import msgspec

from quorumcache.client.bulk import error_of
from quorumcache.client.cursor import Key, as_given, listing_name, prefix_bytes
from quorumcache.client.engine import now_us
from quorumcache.client.envelope import MAGIC, STALE
from quorumcache.core.model import slot_parts, stamp_parts
from quorumcache.core.outcome import Failed, Found, Heard, Missed, Outcome
from quorumcache.core.types.base import field_name, is_base_slot
from quorumcache.core.watch import Standing, Subject, Told, Watching
from quorumcache.errors import InvalidValue, Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client

INTERVAL_S: Final = 0.1
_VERSION: Final = 1
_TOKEN_CHARS_MAX: Final = 1 << 16
_Hash = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]


class Change(msgspec.Struct, frozen=True):
    """A key was written or deleted.

    `key` is as the caller of `watch` gave the prefix: str or bytes. `field` is the name in a map, or the element of a
    set; None where the key itself is meant, or its type's fields have no names. `deleted`: by this change it is gone.
    `value`: with `values=True`, what a read found right after. `writer` (public key) and `time_us` (microseconds since
    the epoch) are of its stamp; None where a deletion is known for certain but not which write did it.
    """

    key: Key
    field: Key | None
    deleted: bool
    writer: bytes | None
    time_us: int | None
    value: Any = None


class Gap(msgspec.Struct, frozen=True):
    """Changes may have been missed here: whoever keeps a copy has to read it anew."""

    reason: str


class _Token(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    configuration: _Hash
    subject: _Hash
    standings: Annotated[dict[int, Standing], msgspec.Meta(max_length=4096)]


class Watch:
    """The changes of a key, or of all keys that begin with a prefix: `async for change in watch`.

    Made by `Client.watch`. Entering it (`async with`), or asking for the first change, begins it: what is written from
    then on is told. It ends when it is closed, and is for one task at a time.
    """

    def __init__(
        self, client: Client, prefix: Key, *, whole: bool, resume: str | None, values: bool, interval: float
    ) -> None:
        """Not for callers: see `Client.watch`."""
        if type(interval) not in (int, float) or not 0 < interval <= 3600:
            raise InvalidValue(f"an interval of {interval!r}; it is a number of seconds above 0, at most 3600")
        configuration, namespace = client.configuration, client.namespace_name.encode()
        if whole:
            data = slot_parts(client._base_slot(prefix))[1]
        elif client._vault is not None and client._vault.hides_keys:
            raise Misuse(
                f"clients hide the keys of the namespace {client.namespace_name!r}: nodes know no prefix of them. "
                "Watch single keys: watch(key=...)"
            )
        else:
            data = prefix_bytes(prefix)
        if values and client._type != "register":
            raise Misuse(f"values come with changes of plain keys only; those of this namespace are of {client._type}")
        self._client = client
        self._prefix = prefix
        self._subject = Subject(namespace, data, whole)
        self._values = values
        self._interval_s = interval
        self._ready: deque[Change | Gap] = deque()
        self._watching: Watching | None = None
        self._closed = False
        self._next_s = 0.0
        self._standings: dict[int, Standing] = {}
        self._is_new_configuration = False
        self._resumed: dict[int, Standing] | None = None
        if resume is not None:
            token = _read_token(resume, self._subject)
            self._resumed = token.standings
            self._is_new_configuration = token.configuration != configuration.digest[:8]

    async def __aenter__(self) -> Self:
        if self._watching is None:
            await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the watch: `async for` stops. The token stays good."""
        self._closed = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change | Gap:
        """The next change, or gap, however long it takes.

        Raises PermissionDenied; Unavailable where too few nodes answered within op_time: asking again goes on.
        """
        if self._watching is None and not self._closed:
            await self._begin()
        while not self._ready:
            if self._closed:
                raise StopAsyncIteration
            await self._poll()
        return self._taken()

    async def next(self, timeout: float | None = None) -> Change | Gap | None:
        """The next change, or gap; None where none came within `timeout` seconds, or the watch is closed."""
        try:
            async with asyncio.timeout(timeout):
                return await anext(self)
        except (TimeoutError, StopAsyncIteration):
            return None

    @property
    def token(self) -> str:
        """What `watch(resume=...)` goes on from, also in another process: everything that was told before is behind it;
        of what was told last, some may be told again."""
        if self._watching is None and self._resumed is None:
            raise Misuse("the watch has not begun: there is nothing to go on from yet")
        standings = self._standings or self._resumed or {}
        token = _Token(_VERSION, self._client.configuration.digest[:8], _name_of(self._subject), standings)
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(token)).decode().rstrip("=")

    # --- inside ---

    def _taken(self) -> Change | Gap:
        taken = self._ready.popleft()
        if not self._ready and self._watching is not None:
            self._standings = self._watching.standings_now(now_us())
        return taken

    async def _begin(self) -> None:
        resumed = {} if self._is_new_configuration else self._resumed
        watching = Watching(self._client.configuration, self._subject, now_us(), resumed)
        if self._is_new_configuration:
            # The numbers in the token are those of nodes that may be others now.
            watching.gap = True
        await self._ask(watching)
        self._watching = watching
        self._collect(await self._told(watching))

    async def _poll(self) -> None:
        watching, loop = self._watching, self._client._engine.loop
        assert watching is not None
        if watching.configuration is not self._client.configuration:
            # Other nodes, or the same under other numbers: it begins anew, and what came in between may be missed.
            self._is_new_configuration = True
            await self._begin()
            return
        if not watching.more:
            await asyncio.sleep(max(0.0, self._next_s - loop.time()))
        self._next_s = loop.time() + self._interval_s
        await self._ask(watching)
        doubtful = watching.doubtful()
        for slot, outcome in zip(doubtful, await self._client._many(doubtful, None), strict=True):
            if type(outcome) is not Failed:
                watching.settled(slot, *_seen(slot, outcome, self._client.configuration.f + 1))
        self._collect(await self._told(watching))

    async def _ask(self, watching: Watching) -> None:
        engine, began_us = self._client._engine, now_us()
        self._client._check_usable()
        future = await engine.place()
        engine.core.changes(watching, future, began_us)
        engine.kick()
        outcome = await future
        if type(outcome) is not Heard:
            raise error_of(outcome)
        watching.take(outcome.replies, began_us, now_us())

    async def _told(self, watching: Watching) -> list[Change]:
        """What was found out, as changes; it counts as told once the values are there."""
        changes = [self._change_of(told) for told in watching.told]
        if self._values and changes:
            slots = list(dict.fromkeys(told.slot for told in watching.told))
            outcomes = dict(zip(slots, await self._client._many(slots, None), strict=True))
            for at, told in enumerate(watching.told):
                outcome = outcomes[told.slot]
                if type(outcome) is Failed:
                    raise error_of(outcome)
                if type(outcome) is Found:
                    data = self._client._value(told.slot, outcome)
                    value = self._client._loads(data) if data[:4] != MAGIC else self._client._unwrapped(data)
                    changes[at] = msgspec.structs.replace(changes[at], value=None if value is STALE else value)
        watching.told = []
        return changes

    def _collect(self, changes: list[Change]) -> None:
        watching = cast(Watching, self._watching)
        if watching.gap:
            watching.gap = False
            self._ready.append(Gap("more nodes than can be done without were away, or this watch asked too late"))
        self._ready += changes
        if not self._ready:
            self._standings = watching.standings_now(now_us())

    def _change_of(self, told: Told) -> Change:
        _, key, field = slot_parts(told.slot)
        name: Key | None = None
        if self._client._type in ("map", "set") and not is_base_slot(told.slot):
            data = field_name(field)
            name = data.decode("utf-8", "surrogateescape")
        given = self._prefix if self._subject.whole else as_given(key, self._prefix)
        if told.header is None:
            return Change(given, name, True, None, None)
        time_us, writer, _ = stamp_parts(told.header[3:51])
        return Change(given, name, told.is_delete, writer, time_us)


class SyncWatch:
    """A `Watch` without asyncio: an iterator that blocks until something changes."""

    def __init__(self, watch: Watch, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Not for callers: see `SyncClient.watch`."""
        self._watch = watch
        self._run = run

    def __enter__(self) -> Self:
        self._run(self._watch.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change | Gap:
        """See `Watch.__anext__`."""
        taken = self._run(self._watch.next())
        if taken is None:
            raise StopIteration
        return cast("Change | Gap", taken)

    def next(self, timeout: float | None = None) -> Change | Gap | None:
        """See `Watch.next`."""
        return cast("Change | Gap | None", self._run(self._watch.next(timeout)))

    def close(self) -> None:
        """See `Watch.close`."""
        self._watch.close()

    @property
    def token(self) -> str:
        """See `Watch.token`."""
        return self._watch.token


class Watches:
    """Mixed into `Client`: watching keys (docs/client.md, "Watching")."""

    def watch(
        self,
        prefix: Key = "",
        *,
        key: Key | None = None,
        resume: str | None = None,
        values: bool = False,
        interval: float = INTERVAL_S,
    ) -> Watch:
        """The changes of all keys that begin with `prefix`, or of `key` alone, from now on or from the token `resume`.

        `async with client.watch("user:") as watch: async for change in watch: ...` gives `Change`s, and a `Gap` where
        some may have been missed. Each write that is complete is told at least once, or a newer one of the same key, or
        a gap. `values`: read each changed key and say its value (plain keys only). `interval`: seconds between two
        questions to the nodes. Raises Misuse for a token of another watch.
        """
        if key is not None and prefix:
            raise Misuse("a prefix or a key, not both")
        client = cast("Client", self)
        whole = key is not None
        return Watch(
            client, prefix if key is None else key, whole=whole, resume=resume, values=values, interval=interval
        )


def _seen(slot: bytes, outcome: Outcome, needed: int) -> tuple[bytes | None, bool]:
    """The header that a read found in the slot, or None, and whether enough nodes vouch for that."""
    if type(outcome) is Found:
        if outcome.fields is None or is_base_slot(slot):
            return outcome.header, True
        return (outcome.fields[0][0] if outcome.fields else None), True
    assert type(outcome) is Missed
    return None, outcome.vouchers >= needed


def _name_of(subject: Subject) -> bytes:
    return listing_name(subject.namespace + bytes((subject.whole,)), subject.prefix)


def _read_token(text: object, subject: Subject) -> _Token:
    if not isinstance(text, str) or not 0 < len(text) <= _TOKEN_CHARS_MAX:
        raise Misuse("this is no token: give back what `token` of a watch was, as it is, or None to begin")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        token = msgspec.msgpack.decode(data, type=_Token)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise Misuse(
            f"the token {text[:40]!r} cannot be read: give back what `token` of a watch was, as it is"
        ) from None
    if token.version != _VERSION:
        raise Misuse("the token is of another version of quorumcache: begin the watch again, without one")
    if token.subject != _name_of(subject):
        raise Misuse("the token is of a watch of other keys: it goes on with the one that it came from only")
    return token
