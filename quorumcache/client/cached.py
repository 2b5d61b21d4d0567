"""Functions whose results the cache keeps: what their keys are, and how they are called.

How values are made and kept is in computed.py. It must not know the network.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import inspect
import string
from collections.abc import Callable, Coroutine, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, overload
from uuid import UUID

import msgspec

from quorumcache.client.computed import Policy, get_or_set
from quorumcache.errors import InvalidKey, Misuse

if TYPE_CHECKING:
    from quorumcache.client.client import Client

P = ParamSpec("P")
R = TypeVar("R")
KeyMaker = str | Callable[..., str | bytes]

_AS_TEXT: Final = (UUID, Decimal, PurePath)
_AS_ISO: Final = (datetime, date, time)
_DEPTH_MAX: Final = 32


class Keys:
    """From a call's arguments to its key. `maker`: a format string over the parameters, a function of the arguments,
    or None: the function's name and a hash of all arguments."""

    def __init__(self, function: Callable[..., Any], maker: KeyMaker | None) -> None:
        """Raises Misuse where the format names what is no parameter."""
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._signature = inspect.signature(function)
        self._maker = maker
        if isinstance(maker, str):
            names = {name for _, name, _, _ in string.Formatter().parse(maker) if name is not None}
            for name in names:
                if name.split(".")[0].split("[")[0] not in self._signature.parameters:
                    raise Misuse(f"the key {maker!r} of {self.name} names {name!r}, which is no parameter of it")
            if not names and self._signature.parameters:
                raise Misuse(f"the key {maker!r} of {self.name} is the same for all arguments: name some in braces")

    def key_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | bytes:
        """The key of a call; two ways to write the same call have one. Raises Misuse, and TypeError as the call
        itself would."""
        if callable(self._maker):
            key = self._maker(*args, **kwargs)
            if not isinstance(key, (str, bytes)):
                raise InvalidKey(f"the key function of {self.name} returned a {type(key).__name__}: str or bytes")
            return key
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        if self._maker is not None:
            return self._maker.format(**bound.arguments)
        if not bound.arguments:
            return self.name
        plain = []
        for name, value in bound.arguments.items():
            try:
                plain.append(_plain(value, _DEPTH_MAX))
            except TypeError as fault:
                raise Misuse(
                    f"the argument {name} of {self.name} cannot be part of a key ({fault}): give cached(...) a key, as "
                    f'key="name:{{{name}...}}" or a function of the arguments'
                ) from None
        return f"{self.name}:{blake2b(msgspec.msgpack.encode(plain), digest_size=16).hexdigest()}"


def _plain(value: Any, depth: int) -> Any:
    """The same for equal values of one type, and different for others, in every process. Raises TypeError where that
    cannot be."""
    if value is None or type(value) in (bool, float, str, bytes):
        return value
    if depth == 0:
        raise TypeError("it is nested too deeply")
    kind = type(value)
    if kind is int:
        return value if -(1 << 63) <= value < 1 << 64 else ["int", str(value)]
    if kind in (list, tuple):
        return ["list", [_plain(one, depth - 1) for one in value]]
    if kind in (dict, set, frozenset):
        pairs = value.items() if kind is dict else ((one, None) for one in value)
        plain = [[_plain(key, depth - 1), _plain(one, depth - 1)] for key, one in pairs]
        return ["dict" if kind is dict else "set", sorted(plain, key=msgspec.msgpack.encode)]
    if isinstance(value, enum.Enum):
        return ["enum", kind.__module__, kind.__qualname__, value.name]
    if isinstance(value, _AS_ISO):
        return [kind.__name__, value.isoformat()]
    if isinstance(value, timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if isinstance(value, _AS_TEXT):
        return [kind.__name__, str(value)]
    if isinstance(value, type):
        return ["type", value.__module__, value.__qualname__]
    raise TypeError(f"a {kind.__name__} has no bytes that are the same in every process")


def check_function(function: object) -> None:
    """Raise Misuse for what has no results to keep."""
    if isinstance(function, (classmethod, staticmethod, property)):
        raise Misuse(f"cached(...) is to stand below @{type(function).__name__}, next to the function")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise Misuse(
            f"{function.__qualname__} is a generator: what it yields can be had only once, so nothing could be kept. "
            "Let it return a list"
        )
    if not callable(function):
        raise Misuse(f"cached(...) is for functions, not for a {type(function).__name__}")


class CachedFunction(Generic[P, R]):
    """A function whose results the cache keeps. Call it as the function itself, and await the result."""

    def __init__(
        self,
        client: Client,
        function: Callable[..., Any],
        policy: Policy,
        keys: Keys,
        bound: tuple[Any, ...] = (),
    ) -> None:
        self._client = client
        self._function = function
        self._policy = policy
        self._keys = keys
        self._bound = bound
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> CachedFunction[..., R]:
        """As a method: bound to its object."""
        if instance is None:
            return self
        return CachedFunction(self._client, self._function, self._policy, self._keys, (*self._bound, instance))

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The result, from the cache or else of the function. Raises as `Client.get_or_set` does."""
        key = self._keys.key_of((*self._bound, *args), kwargs)
        value: R = await get_or_set(self._client, key, self._loader(args, kwargs), self._policy)
        return value

    def key_of(self, *args: P.args, **kwargs: P.kwargs) -> str | bytes:
        """The key of the result for these arguments."""
        return self._keys.key_of((*self._bound, *args), kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result for these arguments. Raises as `Client.delete` does."""
        await self._client.delete(self.key_of(*args, **kwargs))

    def _loader(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
        call = functools.partial(self._function, *self._bound, *args, **kwargs)
        # A function that blocks must not hold up the loop.
        return call if inspect.iscoroutinefunction(self._function) else functools.partial(asyncio.to_thread, call)


class Decorator:
    """What `cached(...)` gives: to be put before a function."""

    def __init__(self, client: Client, policy: Policy, key: KeyMaker | None) -> None:
        if key is not None and not isinstance(key, str) and not callable(key):
            raise Misuse(f"a key of type {type(key).__name__}: it is a format string or a function of the arguments")
        self._client = client
        self._policy = policy.checked(client)
        self._key = key

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> CachedFunction[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R]) -> CachedFunction[P, R]: ...

    def __call__(self, function: Callable[..., Any]) -> CachedFunction[..., Any]:
        """The function, with a cache before it. Raises Misuse."""
        check_function(function)
        return CachedFunction(self._client, function, self._policy, Keys(function, self._key))
