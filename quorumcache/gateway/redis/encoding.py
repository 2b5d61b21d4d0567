"""Replies to bytes, in RESP2 or RESP3. It must not know commands.

bytes is a bulk string, str a status, int, float, bool and None what they are called, list an array, dict a map, set a
set, `Push` what nobody asked for, `Several` more than one reply to one request, and a `Fault` an error.
"""

from __future__ import annotations

from typing import Any, Final

from quorumcache.gateway.redis.faults import Fault


class Push(list[Any]):
    """What a subscriber is told."""


class Several(list[Any]):
    """Replies of one request, one after the other."""


OK: Final = "OK"
_SMALL: Final = [b":%d\r\n" % number for number in range(256)]


def encode(out: list[bytes], value: Any, resp3: bool) -> None:
    """Append a reply's bytes to `out`."""
    kind = type(value)
    if kind is bytes:
        out.append(b"$%d\r\n%b\r\n" % (len(value), value))
    elif kind is str:
        out.append(b"+OK\r\n" if value == "OK" else b"+%b\r\n" % _line(value))
    elif value is None:
        out.append(b"_\r\n" if resp3 else b"$-1\r\n")
    elif kind is int:
        out.append(_SMALL[value] if 0 <= value < 256 else b":%d\r\n" % value)
    elif kind is list or kind is tuple:
        out.append(b"*%d\r\n" % len(value))
        for item in value:
            encode(out, item, resp3)
    elif kind is dict:
        out.append(b"%%%d\r\n" % len(value) if resp3 else b"*%d\r\n" % (2 * len(value)))
        for key, item in value.items():
            encode(out, key, resp3)
            encode(out, item, resp3)
    elif kind is set or kind is frozenset:
        out.append(b"~%d\r\n" % len(value) if resp3 else b"*%d\r\n" % len(value))
        for item in sorted(value):
            encode(out, item, resp3)
    elif isinstance(value, Fault):
        out.append(b"-%b\r\n" % _line(str(value)))
    elif kind is Several:
        for item in value:
            encode(out, item, resp3)
    elif kind is Push:
        out.append(b">%d\r\n" % len(value) if resp3 else b"*%d\r\n" % len(value))
        for item in value:
            encode(out, item, resp3)
    elif kind is bool:
        out.append((b"#t\r\n" if value else b"#f\r\n") if resp3 else b":%d\r\n" % value)
    else:
        assert kind is float, f"no reply is a {kind.__name__}"
        out.append(
            b",%b\r\n" % repr(value).encode() if resp3 else b"$%d\r\n%b\r\n" % (len(repr(value)), repr(value).encode())
        )


def _line(text: str) -> bytes:
    """A line's worth of text."""
    return text.replace("\r", " ").replace("\n", " ").encode("utf-8", "backslashreplace")
