"""The client library for asyncio: what applications call.

Keys and values in, values and errors out. How operations run is in engine.py and core.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

from quorumcache.client.collections.methods import Handles
from quorumcache.client.computing import Computing
from quorumcache.client.engine import Engine
from quorumcache.client.envelope import MAGIC, STALE, parse, touched
from quorumcache.client.exact import ExactMethods
from quorumcache.client.listing import Lists
from quorumcache.client.operations import Key, Operations
from quorumcache.client.serializers import Serializer, serializer_of
from quorumcache.client.vault import DataKeysSource
from quorumcache.client.views import namespace_in
from quorumcache.client.watching import Watches
from quorumcache.core.config import SignedConfiguration
from quorumcache.core.model import (
    DELETE,
    PUT,
    Entry,
    header_expires_at,
    slot_of,
)
from quorumcache.core.outcome import Found, Outcome
from quorumcache.errors import (
    ConfigurationError,
    InvalidKey,
    InvalidProof,
    PermissionDenied,
)
from quorumcache.wire.evidence import make_evidence
from quorumcache.wire.founding import read_cluster_file
from quorumcache.wire.keys import SigningKey, read_key_file, verify
from quorumcache.wire.proof import make_proof

T = TypeVar("T")


def load_cluster(cluster: str | os.PathLike[str] | SignedConfiguration) -> SignedConfiguration:
    """A cluster's signed configuration, from its TOML file (or its directory) or as it is; its signatures are checked.

    Raises ConfigurationError where the file cannot be read, is no configuration, or is not signed by enough of its
    administrators.
    """
    if not isinstance(cluster, SignedConfiguration):
        return read_cluster_file(Path(cluster))
    cluster.verify(verify)
    return cluster


class Client(Operations, Handles, Lists, Watches, Computing, ExactMethods):
    """A client of a cluster, for asyncio.

    Open it with `await Client.connect(...)` and close it with `await client.close()`, or use it in `async with`:

        async with await Client.connect("cluster.toml", key="keys/writer-default.key") as client:
            await client.set("greeting", b"hello", ttl=60)
            print(await client.get("greeting"))

    Everything that is asked for in one turn of the event loop travels together. An operation that is cancelled, or
    times out in the caller's hand, leaves nothing behind; a write that was cancelled may or may not take effect.
    """

    @classmethod
    async def connect(
        cls,
        cluster: str | os.PathLike[str] | SignedConfiguration,
        *,
        key: str | os.PathLike[str] | SigningKey | None = None,
        namespace: str | None = None,
        serializer: str | Serializer = "bytes",
        timeout: float = 10.0,
        compress: bool = False,
        data_keys: DataKeysSource | None = None,
    ) -> Self:
        """Connect to a cluster.

        `cluster`: its TOML file, or the signed configuration. `key`: a writer's key file, or the key; without one the
        client only reads. `namespace`: which one; the configuration's first unless named. `serializer`: "bytes", "str",
        "json", "msgpack", "pickle", or an object with `dumps` and `loads`. `timeout`: seconds to wait for enough nodes.
        `compress`: offer compression of large frames. `data_keys`: what values are sealed with in namespaces whose
        encryption is "client": a file, the keys, or a function that gives either for a namespace's name.

        Raises ConfigurationError, KeyFileError, Misuse for wrong arguments; PermissionDenied where the cluster does not
        know the key; Unavailable where too few nodes answer.
        """
        signed = load_cluster(cluster)
        configuration = signed.configuration
        until_s = configuration.valid_until_us // 1_000_000
        if until_s and time.time() >= until_s:
            raise ConfigurationError(
                f"the configuration of epoch {configuration.epoch} of cluster {configuration.cluster_id} was good "
                f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(until_s))} UTC: keys that were its may be "
                "anybody's by now. Get a newer cluster file from its administrators"
            )
        namespace = namespace_in(configuration, namespace)
        if key is not None and not isinstance(key, SigningKey):
            key = read_key_file(Path(key), role="writer")
        if key is not None and not configuration.is_client(key.public):
            # Each node would refuse the session for it.
            raise PermissionDenied(
                f"the key {key.public.hex()} is none of the {len(configuration.writers)} writers' of cluster "
                f"{configuration.cluster_id}, epoch {configuration.epoch}: use a key file that was made for this "
                "cluster, or have its administrators add the key"
            )
        engine = Engine(configuration, key, compress=compress)
        engine.signed[configuration.digest] = signed
        client = cls(engine, signed, namespace, serializer_of(serializer), data_keys)
        try:
            await engine.start(timeout)
        except BaseException:
            if not engine.closed:
                await engine.stop()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all sessions. What is still under way ends with an error that says how it stood."""
        if not self._engine.closed:
            await self._engine.stop()

    def within(self, namespace: str) -> Self:
        """A client for another namespace, over the same sessions: closing one closes both. Raises Misuse where there
        is no such namespace."""
        return self.namespace(namespace)

    @property
    def unreachable(self) -> dict[str, str]:
        """The nodes without a session at the moment: name -> why, in words."""
        return {link.node.name: link.problem for link in self._engine.links.values() if not link.up}

    @property
    def evidence(self) -> list[bytes]:
        """Evidence files (for `quorumcache evidence`) against whom this client came upon proof, one for each key."""
        signed = self._engine.signed
        found = self._engine.core.evidence.values()
        return [make_evidence(x, signed[x.configuration]) for x in found if x.configuration in signed]

    def _signed_under(self, entry: Entry) -> SignedConfiguration:
        signed = self._engine.signed.get(entry.certificate.configuration)
        if signed is None:
            raise InvalidProof(
                "the value was written in an earlier epoch, whose signed configuration this client does not have: "
                "connect with the cluster file of that epoch, and it proves it"
            )
        return signed

    @property
    def writer(self) -> bytes | None:
        """The public key that the client writes with; None where it only reads."""
        return self._engine.core.writer

    @property
    def counts(self) -> dict[str, int]:
        """What happened so far: fast reads, settled reads, misses, write attempts, lies rejected, ..."""
        return dict(self._engine.core.counts)

    @property
    def namespace_name(self) -> str:
        """The namespace that the client's keys are in."""
        return self._namespace

    @property
    def serializer(self) -> Serializer:
        """What turns values into bytes and back."""
        return self._serializer

    @property
    def time_us(self) -> int:
        """Cluster time: the median of the nodes' clocks, in microseconds since the epoch. Never runs backwards."""
        return self._cluster_us()

    def check(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """Raise what `set` would raise before anything is sent: InvalidKey or InvalidValue."""
        self._slot(key)
        self._data(value)
        self._expires_at(ttl)

    def check_key(self, key: Key) -> None:
        """Raise InvalidKey for what is no key."""
        self._slot(key)

    def check_ttl(self, ttl: float | None) -> None:
        """Raise InvalidValue for what is no time to live in this namespace."""
        self._expires_at(ttl)

    # --- reading ---

    @overload
    async def get(
        self, key: Key, default: T, *, strict: bool = False, with_proof: Literal[False] = False
    ) -> Any | T: ...

    @overload
    async def get(
        self, key: Key, default: T, *, strict: bool = False, with_proof: Literal[True]
    ) -> tuple[Any, bytes] | T: ...

    @overload
    async def get(self, key: Key, *, strict: bool = False, with_proof: Literal[False] = False) -> Any | None: ...

    @overload
    async def get(self, key: Key, *, strict: bool = False, with_proof: Literal[True]) -> tuple[Any, bytes] | None: ...

    async def get(self, key: Key, default: Any = None, *, strict: bool = False, with_proof: bool = False) -> Any:
        """The key's value, or `default` where there is none.

        With `strict=True`, a miss that fewer than f+1 nodes vouched for is an error (Unavailable) instead: then the
        value may still be there. With `with_proof=True` it is a pair: the value, and the bytes of a portable proof of
        it (entry, certificate and configuration), which `quorumcache verify FILE` checks anywhere and offline.
        """
        slot = self._slot(key)
        outcome = await self._read(slot, with_proof)
        if type(outcome) is Found:
            data = self._value(slot, outcome)
            value = self._loads(data) if data[:4] != MAGIC else self._unwrapped(data)
            if value is STALE:
                return default
            if not with_proof:
                return value
            assert outcome.entry is not None, "a full read ends with the whole entry"
            return value, make_proof(outcome.entry, self._signed_under(outcome.entry))
        self._check_miss(outcome, strict)
        return default

    async def get_many(self, keys: Iterable[Key], *, strict: bool = False) -> dict[Key, Any]:
        """The values of those keys that have one, by key. One round trip for all."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return {}
        slots = [self._slot(key) for key in wanted]
        outcomes = await self._many(slots, None)
        loads = self._loads
        found = {}
        for key, slot, outcome in zip(wanted, slots, outcomes, strict=True):
            if type(outcome) is Found:
                data = self._value(slot, outcome)
                value = loads(data) if data[:4] != MAGIC else self._unwrapped(data)
                if value is not STALE:
                    found[key] = value
            else:
                self._check_miss(outcome, strict)
        return found

    async def ttl(self, key: Key) -> float | None:
        """Seconds until the key expires; `math.inf` where it never does; None where there is no such key."""
        outcome = await self._read(self._slot(key), False)
        if type(outcome) is not Found:
            self._check_miss(outcome, False)
            return None
        fresh_until_us = parse(self._value(self._slot(key), outcome)).fresh_until_us
        expires_at_us = fresh_until_us or header_expires_at(outcome.header)
        if not expires_at_us:
            return math.inf
        left_s = (expires_at_us - self._cluster_us()) / 1e6
        return None if fresh_until_us and left_s <= 0 else max(0.0, left_s)

    async def read(self, key: Key) -> Outcome:
        """As `get`, but how the read ended, as data: Found (its header has the stamp), Missed or Failed. For audits."""
        return await self._read(self._slot(key), False)

    def data_of(self, key: Key, found: Found) -> bytes:
        """The bytes of the value in what `read` returned, opened where clients seal values. Raises CannotOpen."""
        return parse(self._value(self._slot(key), found)).data or b""

    # --- writing ---

    async def write(self, key: Key, value: Any, *, ttl: float | None = None) -> Outcome:
        """As `set`, but how the write ended, as data: Written (with its stamp) or Failed. For audits."""
        return await self._write(self._slot(key), PUT, self._stored(value), self._expires_at(ttl))

    async def set(self, key: Key, value: Any, *, ttl: float | None = None) -> None:
        """Set the key's value; it is complete, and will be read, when this returns.

        `ttl`: seconds to live. Raises PermissionDenied, Unavailable (nothing happened), OutcomeUnknown (it may have).
        """
        data = self._stored(value)
        self._check_written(await self._write(self._slot(key), PUT, data, self._expires_at(ttl)))

    async def delete(self, key: Key) -> None:
        """Delete the key, whether it is there or not. Raises as `set` does."""
        self._check_written(await self._write(self._slot(key), DELETE, b"", 0))

    async def set_many(self, items: Mapping[Key, Any], *, ttl: float | None = None) -> None:
        """Set many keys: one batch, one signature. Not atomic: each key succeeds or fails for itself.

        Where any fail, raises the gravest of their errors (OutcomeUnknown before others), with `failed`: key -> error.
        """
        if not items:
            return
        expires_at_us = self._expires_at(ttl)
        writes = [(self._slot(key), self._stored(value)) for key, value in items.items()]
        outcomes = await self._many([slot for slot, _ in writes], [(v, PUT, expires_at_us) for _, v in writes])
        self._check_many(list(items), outcomes)

    async def delete_many(self, keys: Iterable[Key]) -> None:
        """Delete many keys; raises as `set_many` does."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return
        outcomes = await self._many([self._slot(key) for key in wanted], [(b"", DELETE, 0)] * len(wanted))
        self._check_many(wanted, outcomes)

    async def touch(self, key: Key, ttl: float | None) -> bool:
        """Give the key a new time to live (None: for ever); False where there is no such key.

        Reads the value and writes it again: a write by another that falls between the two is overwritten.
        """
        slot = self._slot(key)
        outcome = await self._read(slot, False)
        if type(outcome) is not Found:
            self._check_miss(outcome, False)
            return False
        data, expires_at_us = self._value(slot, outcome), self._expires_at(ttl)
        self._check_written(await self._write(slot, PUT, touched(data, expires_at_us), expires_at_us))
        return True


def slot_in(namespace: str, key: Key) -> bytes:
    """The slot of a key in a namespace, as `Client` makes it; raises InvalidKey."""
    data = key.encode() if isinstance(key, str) else key
    try:
        return slot_of(namespace.encode(), data)
    except ValueError as fault:
        raise InvalidKey(str(fault)) from None
