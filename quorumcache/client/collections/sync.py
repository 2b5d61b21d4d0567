"""The handles of `SyncClient`: the same operations, blocking. What each does, the asynchronous handle says."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from quorumcache.client.collections.counter import CounterHandle
from quorumcache.client.collections.handle import Handle, Name, Snapshot
from quorumcache.client.collections.maps import MapHandle
from quorumcache.client.collections.sets import SetHandle
from quorumcache.client.collections.siblings import Context, Found, SiblingsHandle

T = TypeVar("T")


class Run(Protocol):
    """Runs a coroutine to its end on the client's loop."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T:
        """Wait for it."""
        ...


class SyncHandle:
    """One key of a namespace whose keys have fields."""

    def __init__(self, handle: Handle, run: Run) -> None:
        """Not for callers: use the client's method."""
        self._handle: Any = handle
        self._run = run

    def __repr__(self) -> str:
        return f"<Sync{repr(self._handle)[1:]}"

    def exists(self, *, strict: bool = False) -> bool:
        """Whether the key is there."""
        return bool(self._run(self._handle.exists(strict=strict)))

    def delete(self) -> None:
        """Delete the key with all that is in it."""
        self._run(self._handle.delete())

    def ttl(self) -> float | None:
        """Seconds until the key expires; `math.inf` where it never does; None where there is no such key."""
        found: float | None = self._run(self._handle.ttl())
        return found

    def expire(self, ttl: float | None) -> bool:
        """Give the key a new time to live. False where there is no such key."""
        return bool(self._run(self._handle.expire(ttl)))

    def snapshot(self, *, strict: bool = False) -> Snapshot | None:
        """The key's value with its generation; None where there is no such key."""
        found: Snapshot | None = self._run(self._handle.snapshot(strict=strict))
        return found


class SyncCounter(SyncHandle):
    """See `CounterHandle`."""

    def __init__(self, handle: CounterHandle, run: Run) -> None:
        super().__init__(handle, run)
        self._counter = handle

    def add(self, amount: int = 1) -> None:
        """Add an amount (below 0: take away)."""
        self._run(self._counter.add(amount))

    increment = add

    def value(self, default: int = 0, *, strict: bool = False) -> int:
        """The sum; `default` where there is no such key."""
        return self._run(self._counter.value(default, strict=strict))


class SyncSet(SyncHandle):
    """See `SetHandle`."""

    def __init__(self, handle: SetHandle, run: Run) -> None:
        super().__init__(handle, run)
        self._set = handle

    def add(self, *elements: Name) -> None:
        """Add elements."""
        self._run(self._set.add(*elements))

    def remove(self, *elements: Name) -> None:
        """Remove elements."""
        self._run(self._set.remove(*elements))

    def contains(self, element: Name, *, strict: bool = False) -> bool:
        """Whether the element is there."""
        return self._run(self._set.contains(element, strict=strict))

    def members(self, *, strict: bool = False) -> set[str]:
        """All elements."""
        return self._run(self._set.members(strict=strict))

    def size(self, *, strict: bool = False) -> int:
        """How many elements there are."""
        return self._run(self._set.size(strict=strict))


class SyncMap(SyncHandle):
    """See `MapHandle`."""

    def __init__(self, handle: MapHandle, run: Run) -> None:
        super().__init__(handle, run)
        self._map = handle

    def get(self, name: Name, default: Any = None, *, strict: bool = False) -> Any:
        """The value of a name, or `default`."""
        return self._run(self._map.get(name, default, strict=strict))

    def get_many(self, names: Iterable[Name], *, strict: bool = False) -> dict[Name, Any]:
        """The values of those names that are there."""
        return self._run(self._map.get_many(names, strict=strict))

    def contains(self, name: Name, *, strict: bool = False) -> bool:
        """Whether the name is there."""
        return self._run(self._map.contains(name, strict=strict))

    def items(self, *, strict: bool = False) -> dict[str, Any]:
        """All names with their values."""
        return self._run(self._map.items(strict=strict))

    def names(self, *, strict: bool = False) -> list[str]:
        """All names, in order."""
        return self._run(self._map.names(strict=strict))

    def size(self, *, strict: bool = False) -> int:
        """How many names there are."""
        return self._run(self._map.size(strict=strict))

    def set(self, name: Name, value: Any) -> None:
        """Set the value of a name."""
        self._run(self._map.set(name, value))

    def set_many(self, items: Mapping[Name, Any]) -> None:
        """Set many names."""
        self._run(self._map.set_many(items))

    def remove(self, *names: Name) -> None:
        """Remove names."""
        self._run(self._map.remove(*names))


class SyncSiblings(SyncHandle):
    """See `SiblingsHandle`."""

    def __init__(self, handle: SiblingsHandle, run: Run) -> None:
        super().__init__(handle, run)
        self._siblings = handle

    def read(self, *, strict: bool = False) -> Found:
        """All values that nothing has replaced, with the context to write with."""
        return self._run(self._siblings.read(strict=strict))

    def values(self, *, strict: bool = False) -> list[Any]:
        """All values that nothing has replaced."""
        return self._run(self._siblings.values(strict=strict))

    def write(self, value: Any, context: Context | None = None) -> None:
        """Write a value beside what is there, or in the place of what a read showed."""
        self._run(self._siblings.write(value, context))

    def resolve(self, merge: Callable[[list[Any]], Any]) -> Any:
        """Read, merge, write. `merge` runs on the client's own thread: it must not call this client."""
        return self._run(self._siblings.resolve(merge))
