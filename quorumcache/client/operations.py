"""One client's way from keys and values to the engine and back: slots, stored bytes, times to expire, outcomes.

It must not know what applications call: that is in client.py, and built on this.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from quorumcache.client.bulk import Many, Part, error_of
from quorumcache.client.engine import Engine, now_us
from quorumcache.client.envelope import escape
from quorumcache.client.exact import write_of, written
from quorumcache.client.serializers import Serializer
from quorumcache.client.vault import DataKeysSource, Vault, vault_for
from quorumcache.client.views import Options
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.config_model import EXACT
from quorumcache.core.model import (
    KEY_BYTES_MAX,
    TIME_US_MAX,
    VALUE_BYTES_MAX,
    header_stamp,
)
from quorumcache.core.outcome import Found, Missed, Outcome, Written
from quorumcache.errors import (
    InvalidKey,
    InvalidValue,
    Misuse,
    OutcomeUnknown,
    Unavailable,
)

Key = str | bytes

MANY_MAX: Final = 100_000


class Operations:
    """What `Client` is made of."""

    _options = Options()
    _ttl_default: float | None = None

    def __init__(
        self,
        engine: Engine,
        signed: SignedConfiguration,
        namespace: str,
        serializer: Serializer,
        data_keys: DataKeysSource | None = None,
    ) -> None:
        """Not for callers: use `connect`."""
        self._data_keys = data_keys
        self._vault = vault_for(engine.configuration, namespace, data_keys)
        self._seal = self._vault.seal if self._vault is not None else None
        self._engine = engine
        self._signed = signed
        self._namespace = namespace
        info = engine.configuration.namespace(namespace.encode())
        # A limit of 0 is no limit of the namespace's own; what a header can name stays one.
        limit = info.value_bytes_max if info is not None else 0
        more = Vault.bytes_more if self._vault is not None else 0
        self._value_bytes_max = min(limit or VALUE_BYTES_MAX, VALUE_BYTES_MAX) - more
        self._type = info.type if info is not None else "register"
        self._is_exact = self._type == EXACT
        if self._type not in ("register", EXACT):
            self._slot = self._no_slot  # type: ignore[method-assign, attr-defined]
        self._ttl_s_max = info.ttl_s_max if info is not None else 0
        self._serializer = serializer
        self._dumps = serializer.dumps
        self._loads = serializer.loads
        self._prefix = bytes((len(namespace.encode()),)) + namespace.encode()

    @property
    def configuration(self) -> Configuration:
        """The configuration that the client works under."""
        return self._engine.configuration

    async def _read(self, slot: bytes, full: bool) -> Outcome:
        engine = self._engine
        self._check_usable()
        if not engine.admit():
            await engine.admitted()
        future: asyncio.Future[Outcome] = engine.loop.create_future()
        engine.core.read(slot, future, full=full)
        engine.kick()
        return await future

    async def _write(self, slot: bytes, kind: int, value: bytes, expires_at_us: int) -> Outcome:
        if len(self._engine.flights):
            self._engine.flights.overtake(slot)
        return await self._put(slot, kind, value, expires_at_us)

    async def _put(self, slot: bytes, kind: int, value: bytes, expires_at_us: int) -> Outcome:
        engine = self._engine
        self._check_usable()
        if not engine.admit():
            await engine.admitted()
        future: asyncio.Future[Outcome] = engine.loop.create_future()
        if self._is_exact:
            engine.core.exact(slot, write_of(kind, value, expires_at_us), future)
        else:
            engine.core.write(slot, kind, value, expires_at_us, future, seal=self._seal)
        engine.kick()
        return written(await future) if self._is_exact else await future

    async def _many(
        self, slots: list[bytes], writes: list[tuple[bytes, int, int]] | None, part: type[Part] = Part
    ) -> list[Outcome]:
        if len(slots) > MANY_MAX:
            raise Misuse(f"{len(slots)} keys in one call; at most {MANY_MAX} are allowed: split it")
        if not slots:
            return []
        engine = self._engine
        self._check_usable()
        core = engine.core
        if writes is not None and len(engine.flights):
            for slot in slots:
                engine.flights.overtake(slot)
        future: asyncio.Future[list[Outcome]] = engine.loop.create_future()
        many = Many(future, len(slots))
        try:
            for i, slot in enumerate(slots):
                if not engine.admit():
                    engine.kick()
                    await engine.admitted()
                    core = engine.core  # The cluster may have moved on meanwhile.
                if writes is None:
                    core.read(slot, part(many, i))
                elif self._is_exact:
                    value, kind, expires_at_us = writes[i]
                    core.exact(slot, write_of(kind, value, expires_at_us), part(many, i))
                else:
                    value, kind, expires_at_us = writes[i]
                    core.write(slot, kind, value, expires_at_us, Part(many, i), seal=self._seal)
        finally:
            engine.kick()
        outcomes = await future
        return list(map(written, outcomes)) if self._is_exact and writes is not None else outcomes

    def _base_slot(self, key: Key) -> bytes:
        return Operations._slot(self, key)

    def _slot(self, key: Key) -> bytes:
        if type(key) is str:
            try:
                data = key.encode()
            except UnicodeEncodeError as fault:
                raise InvalidKey(f"a key that UTF-8 cannot encode: {fault}") from None
        elif type(key) is bytes:
            data = key
        else:
            raise InvalidKey(f"a key of type {type(key).__name__}; keys are str or bytes")
        length = len(data)
        if not 0 < length <= KEY_BYTES_MAX:
            raise InvalidKey(f"a key of {length} bytes; keys have 1 to {KEY_BYTES_MAX} bytes")
        if self._vault is not None:
            data = self._vault.name_of(data)
            length = len(data)
        return b"%b%b%b\0\0" % (self._prefix, length.to_bytes(2, "big"), data)

    def _value(self, slot: bytes, found: Found) -> bytes:
        return self._opened(slot, found.header, found.salted)

    def _opened(self, slot: bytes, header: bytes, salted: bytes) -> bytes:
        value = salted[16:]
        return value if self._vault is None else self._vault.open(slot, header_stamp(header), value)

    def _stored(self, value: Any) -> bytes:
        return escape(self._data(value))

    def _data(self, value: Any, more: int = 0) -> bytes:
        data = self._dumps(value)
        if len(data) + more > self._value_bytes_max:
            raise InvalidValue(
                f"a value of {len(data)} bytes; the namespace {self._namespace!r} takes at most {self._value_bytes_max}"
            )
        return data

    def _expires_at(self, ttl: float | None) -> int:
        limit = self._ttl_s_max
        if ttl is None:
            ttl = self._ttl_default
        if ttl is None:
            if limit:
                raise InvalidValue(
                    f"the namespace {self._namespace!r} takes only values with a ttl of at most {limit} s"
                )
            return 0
        if type(ttl) not in (int, float) or not 0 < ttl < math.inf:
            raise InvalidValue(f"a ttl of {ttl!r}; it is a number of seconds above 0, or None for no end")
        if limit and ttl > limit:
            raise InvalidValue(f"a ttl of {ttl:g} s; the namespace {self._namespace!r} takes at most {limit} s")
        expires_at_us = self._cluster_us() + math.ceil(ttl * 1e6)
        if expires_at_us > TIME_US_MAX:
            raise InvalidValue(f"a ttl of {ttl:g} s is beyond what can be written; None means no end")
        return expires_at_us

    def _cluster_us(self) -> int:
        return self._engine.core.clock.time_us(now_us())

    def _check_usable(self) -> None:
        engine = self._engine
        if engine.closed:
            raise Misuse("this client is closed")
        if engine.is_copied:
            # A copy would share nonce and sessions with its parent; stamps must be unique (protocol 2).
            raise Misuse("this client was made before a fork: connect a new one in each process")

    def _check_miss(self, outcome: Outcome, strict: bool) -> None:
        if type(outcome) is Missed:
            needed = self.configuration.f + 1
            if strict and outcome.vouchers < needed:
                raise Unavailable(
                    f"only {outcome.vouchers} nodes vouch for the miss, {needed} would make it certain: the key may "
                    "have a value that too few nodes could confirm in time. Try again"
                )
            return
        raise error_of(outcome)

    def _check_written(self, outcome: Outcome) -> None:
        if type(outcome) is not Written:
            raise error_of(outcome)

    def _check_many(self, keys: list[Key], outcomes: list[Outcome]) -> None:
        failed = {
            key: error_of(outcome) for key, outcome in zip(keys, outcomes, strict=True) if type(outcome) is not Written
        }
        if not failed:
            return
        gravest = max(failed.values(), key=lambda error: isinstance(error, OutcomeUnknown))
        error = type(gravest)(f"{len(failed)} of {len(keys)} writes failed, one of them so: {gravest}")
        error.failed = dict(failed)
        raise error
