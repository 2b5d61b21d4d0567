"""Bytes, times and numbers as people read them. It must not know any command."""

from __future__ import annotations

import datetime


def as_text(data: bytes, bytes_max: int = 1024) -> str:
    """Bytes as text where they are printable UTF-8, else as hex; cut after `bytes_max`."""
    cut = data[:bytes_max]
    more = "..." if len(data) > bytes_max else ""
    try:
        text = cut.decode()
    except UnicodeDecodeError:
        return f"0x{cut.hex()}{more}"
    return f"{text}{more}" if text.isprintable() else f"{text!r}{more}"


def time_text(time_us: int) -> str:
    """A time in microseconds since 1970, in UTC."""
    try:
        time = datetime.datetime.fromtimestamp(time_us / 1_000_000, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return f"{time_us} us after 1970, beyond any calendar"
    return time.strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def bytes_text(count: float) -> str:
    """A number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def latency_text(seconds: float) -> str:
    """A latency: microseconds below a millisecond, then milliseconds, then seconds."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s"


def count_text(count: float) -> str:
    """A count with thousands apart."""
    return f"{count:,.0f}"
