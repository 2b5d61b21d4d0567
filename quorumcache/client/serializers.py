"""Values that are not bytes, to bytes and back. It must not know the network.

`pickle` is only there for who asks for it by name: whoever may write can then run code in whoever reads.
"""

from __future__ import annotations

import json
import pickle
from typing import Any, Final, Protocol

import msgspec

from quorumcache.errors import InvalidValue, Misuse


class Serializer(Protocol):
    """Turns values into bytes and back. Both raise InvalidValue for what they cannot turn."""

    def dumps(self, value: Any) -> bytes:
        """Value to bytes."""

    def loads(self, data: bytes) -> Any:
        """Bytes to value."""


class BytesSerializer:
    """Values are bytes (or bytearray, memoryview) already."""

    def dumps(self, value: Any) -> bytes:
        """The value itself, as bytes."""
        if type(value) is bytes:
            return value
        if isinstance(value, (bytes, bytearray, memoryview)):
            return bytes(value)
        raise InvalidValue(
            f"a value of type {type(value).__name__}, where bytes are expected: encode it, or open the client with "
            'serializer="str", "json" or "msgpack"'
        )

    def loads(self, data: bytes) -> bytes:
        """The data itself."""
        return data


class StrSerializer:
    """Values are str, stored as UTF-8."""

    def dumps(self, value: Any) -> bytes:
        """UTF-8."""
        if not isinstance(value, str):
            raise InvalidValue(f"a value of type {type(value).__name__}, where str is expected")
        try:
            return value.encode()
        except UnicodeEncodeError as fault:
            raise InvalidValue(f"a str that UTF-8 cannot encode: {fault}") from None

    def loads(self, data: bytes) -> str:
        """From UTF-8."""
        try:
            return data.decode()
        except UnicodeDecodeError as fault:
            raise InvalidValue(f"the stored value is not UTF-8: another serializer wrote it? ({fault})") from None


class JsonSerializer:
    """Values are what JSON can hold."""

    def dumps(self, value: Any) -> bytes:
        """Compact JSON in UTF-8."""
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as fault:
            raise InvalidValue(f"a value that JSON cannot hold: {fault}") from None

    def loads(self, data: bytes) -> Any:
        """From JSON."""
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as fault:
            raise InvalidValue(f"the stored value is not JSON: another serializer wrote it? ({fault})") from None


class MsgpackSerializer:
    """Values are what msgpack can hold."""

    def dumps(self, value: Any) -> bytes:
        """Msgpack."""
        try:
            return msgspec.msgpack.encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as fault:
            raise InvalidValue(f"a value that msgpack cannot hold: {fault}") from None

    def loads(self, data: bytes) -> Any:
        """From msgpack."""
        try:
            return msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise InvalidValue(f"the stored value is not msgpack: another serializer wrote it? ({fault})") from None


class PickleSerializer:
    """Values are what pickle can hold. Reading runs code that the writer chose: only among writers who trust each
    other fully."""

    def dumps(self, value: Any) -> bytes:
        """Pickle, protocol 5."""
        try:
            return pickle.dumps(value, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as fault:
            raise InvalidValue(f"a value that cannot be pickled: {fault}") from None

    def loads(self, data: bytes) -> Any:
        """From pickle."""
        try:
            return pickle.loads(data)
        except Exception as fault:  # noqa: BLE001 - unpickling may raise anything at all
            raise InvalidValue(f"the stored value cannot be unpickled: {fault}") from None


SERIALIZERS: Final[dict[str, type[Serializer]]] = {
    "bytes": BytesSerializer,
    "str": StrSerializer,
    "json": JsonSerializer,
    "msgpack": MsgpackSerializer,
    "pickle": PickleSerializer,
}


def serializer_of(name: str | Serializer) -> Serializer:
    """The serializer of that name, or the one given. Raises Misuse for an unknown name."""
    if not isinstance(name, str):
        return name
    kind = SERIALIZERS.get(name)
    if kind is None:
        raise Misuse(f"no serializer is called {name!r}; there are {', '.join(SERIALIZERS)}")
    return kind()
