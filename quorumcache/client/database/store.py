"""What a database looks like to the caching patterns: load some keys, save some changes, and how that can fail.

It must not know any database, nor the cache. A store of one's own is a class with `load` and `save`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from quorumcache.errors import InvalidKey, Misuse

Key = str | bytes

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)?")


class Change(NamedTuple):
    """One write on its way to a database.

    `version`: microseconds of cluster time; a later write of the same process always has a higher one, and between
    processes clocks decide. A store that keeps versions can refuse what is older than what it has.
    """

    key: Key
    value: Any
    deleted: bool
    version: int


class Store(ABC):
    """A database, as the caching patterns use it. Methods are called in one event loop, `save` never twice at a time
    for the same key.

    How errors of `save` are understood: InvalidKey and InvalidValue are refusals of these changes, for good. Other
    errors of quorumcache (StoreFailed first of all) and OSError (so also TimeoutError) are an outage, of no change's
    making. Anything else may be either, and whether the changes were made is unknown.
    """

    @abstractmethod
    async def load(self, keys: Sequence[Key]) -> Mapping[Key, Any]:
        """The values of those keys that have one, by key as asked for."""

    @abstractmethod
    async def save(self, changes: Sequence[Change]) -> Collection[Key] | None:
        """Make the changes, in their order, all or none where possible. The same changes may come again: after a crash,
        or where it was unknown whether they were made.

        Returns the keys that were left as they are because the database holds something newer; None is none.
        """

    def check(self, change: Change) -> None:  # noqa: B027 - to check nothing is a fair choice
        """Raise InvalidKey or InvalidValue for a change that `save` would refuse: asked before it is acknowledged."""

    async def close(self) -> None:  # noqa: B027 - a store may have nothing to close
        """Let go of connections."""


def key_bytes(key: Key) -> bytes:
    """A key as the cluster sees it: str and its UTF-8 bytes are the same key. Raises InvalidKey."""
    if isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise InvalidKey(f"a key of type {type(key).__name__}; keys are str or bytes")
    try:
        return key.encode()
    except UnicodeEncodeError as fault:
        raise InvalidKey(f"a key that UTF-8 cannot encode: {fault}") from None


def key_text(key: Key) -> str:
    """A key for a column of text. Raises InvalidKey where it is not text, or has a NUL."""
    try:
        text = key if isinstance(key, str) else key.decode()
        text.encode()
    except UnicodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidKey(
            f"the key {key!r} cannot be kept as text: use keys of text without NUL, or a table with "
            "a key column of bytes"
        )
    return text


def latest(changes: Iterable[Change]) -> dict[bytes, Change]:
    """The last change of each key, by the key's bytes and in their order: two processes that save the same keys then
    take the rows' locks in the same order."""
    last = {key_bytes(change.key): change for change in changes}
    return dict(sorted(last.items()))


def checked_name(name: str, what: str) -> str:
    """A table's or column's name that needs no quoting. Raises Misuse."""
    if not _NAME.fullmatch(name):
        raise Misuse(f"{what} {name!r}: a name of ASCII letters, digits and underscores, with a schema if need be")
    return name
