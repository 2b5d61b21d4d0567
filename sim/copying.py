"""Copies and fingerprints of core objects, for search: a state is cloned before a step, and known again when it recurs.

Messages, entries and promises are never changed once made, so copies share them. It must not know what a step is.
"""

from __future__ import annotations

import types
from array import array
from collections import OrderedDict, deque
from hashlib import blake2b
from typing import Any, Final

import msgspec

from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, Group
from quorumcache.core.held import Held
from quorumcache.core.messages import Lock, Locked, Vote
from quorumcache.core.model import Entry

_ATOMS: Final = (bytes, int, str, float, bool, type(None), Configuration, Group, Verifier, msgspec.Struct)
_CODE: Final = (types.BuiltinFunctionType, types.MethodType, type)
#: Counters and heaps that say nothing about what can happen next, or follow from the rest.
_LEFT_OUT: Final = frozenset(
    {
        "_timer_count",
        "_timers",
        "counts",
        "request_counts",
        "refused_counts",
        "evicted_count",
        "reaped_count",
        "dropped_promises_count",
        "memory",
        "_preferred",
        "verifier",
    }
)
#: Of one header there may be several, in different ballots.
_IN_BALLOTS: Final = (Vote, Lock, Locked)
_encode: Final = msgspec.msgpack.Encoder().encode


def _fields(thing: Any) -> list[str]:
    names: list[str] = []
    for kind in type(thing).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    names += list(getattr(thing, "__dict__", ()))
    return [name for name in names if hasattr(thing, name)]


def clone(thing: Any, memo: dict[int, Any] | None = None) -> Any:
    """A copy that shares nothing that changes with the original."""
    return _clone(thing, {} if memo is None else memo)


def _clone(thing: Any, memo: dict[int, Any]) -> Any:
    if isinstance(thing, _ATOMS):
        return thing
    known = memo.get(id(thing))
    if known is not None:
        return known
    copy: Any
    kind = type(thing)
    if kind in (dict, OrderedDict):
        copy = memo[id(thing)] = kind()
        for key, value in thing.items():
            copy[_clone(key, memo)] = _clone(value, memo)
    elif kind is list:
        copy = memo[id(thing)] = []
        copy += [_clone(item, memo) for item in thing]
    elif kind is tuple:
        copy = tuple(_clone(item, memo) for item in thing)
        memo[id(thing)] = copy
    elif kind in (set, frozenset, bytearray):
        copy = memo[id(thing)] = kind(thing)
    elif kind is deque:
        copy = memo[id(thing)] = deque(_clone(item, memo) for item in thing)
    elif kind is array:
        copy = memo[id(thing)] = thing[:]
    elif kind is types.FunctionType:
        copy = _clone_closure(thing, memo)
    elif isinstance(thing, types.MethodType) and not isinstance(thing.__self__, type):
        copy = types.MethodType(thing.__func__, _clone(thing.__self__, memo))
        memo[id(thing)] = copy
    elif isinstance(thing, _CODE):
        copy = thing
    else:
        copy = memo[id(thing)] = object.__new__(kind)
        for name in _fields(thing):
            object.__setattr__(copy, name, _clone(getattr(thing, name), memo))
    return copy


def _clone_closure(function: types.FunctionType, memo: dict[int, Any]) -> Any:
    if not function.__closure__:
        return function
    cells = tuple(types.CellType() for _ in function.__closure__)
    copy = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    memo[id(function)] = copy
    for cell, before in zip(cells, function.__closure__, strict=True):
        cell.cell_contents = _clone(before.cell_contents, memo)
    return copy


def fingerprint(thing: Any) -> bytes:
    """16 bytes that tell states apart by what can happen next: the same for equal states, whatever led to them."""
    parts: list[bytes] = []
    _describe(thing, parts, {})
    return blake2b(b"".join(parts), digest_size=16).digest()


def _describe(thing: Any, parts: list[bytes], seen: dict[int, int]) -> None:
    kind = type(thing)
    if kind is bytes:
        parts.append(b"b%d:" % len(thing))
        parts.append(thing)
    elif kind in (int, bool, float, str) or thing is None:
        parts.append(repr(thing).encode() + b",")
    elif isinstance(thing, msgspec.Struct):
        parts.append(kind.__name__.encode())
        # Held and Promise carry a batch with a certificate: their headers and positions tell them apart.
        if isinstance(thing, _IN_BALLOTS):
            parts.append(_encode(thing))
        else:
            parts.append(getattr(thing, "digest", None) or _encode(getattr(thing, "header", thing)))
            if isinstance(thing, Held):
                parts.append(thing.batch.certificate.ballot)
            elif isinstance(thing, Entry):
                parts.append(thing.certificate.ballot)
    elif isinstance(thing, (Configuration, Group, Verifier, *_CODE)):
        parts.append(kind.__name__.encode())
    elif id(thing) in seen:
        parts.append(b"^%d," % seen[id(thing)])
    else:
        seen[id(thing)] = len(seen)
        if isinstance(thing, dict):
            items = thing.items()
            if all(type(key) in (bytes, int, str) for key in thing):
                items = sorted(items)  # type: ignore[assignment]
            parts.append(b"{")
            for key, value in items:
                _describe(key, parts, seen)
                _describe(value, parts, seen)
            parts.append(b"}")
        elif isinstance(thing, (set, frozenset)):
            parts.append(b"<" + repr(sorted(thing)).encode() + b">")
        elif isinstance(thing, (list, tuple, deque)):
            parts.append(b"[")
            for item in thing:
                _describe(item, parts, seen)
            parts.append(b"]")
        elif isinstance(thing, bytearray):
            parts.append(bytes(thing))
        elif kind is types.FunctionType:
            for cell in thing.__closure__ or ():
                _describe(cell.cell_contents, parts, seen)
        else:
            parts.append(kind.__name__.encode() + b"(")
            for name in _fields(thing):
                if name not in _LEFT_OUT:
                    _describe(getattr(thing, name), parts, seen)
            parts.append(b")")
