"""Times and numbers as commands give them: seconds or milliseconds, from now or since the epoch. Raises Fault."""

from __future__ import annotations

from typing import Final

from quorumcache.core.model import TIME_US_MAX
from quorumcache.gateway.redis.faults import NOT_AN_INTEGER, Fault

#: Commands that give a key a time to expire: name -> (milliseconds in a unit, whether since the epoch).
DEADLINES: Final = {
    "expire": (1000, False),
    "pexpire": (1, False),
    "expireat": (1000, True),
    "pexpireat": (1, True),
}
#: Options of SET and GETEX: the same.
OPTIONS: Final = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}
_DIGITS_MAX: Final = 20
_INTEGER_MAX: Final = (1 << 63) - 1


def integer(word: bytes) -> int:
    """A 64-bit integer as Redis takes it: no blanks, plus sign or leading zeros."""
    digits = word[1:] if word[:1] == b"-" else word
    if (
        not digits.isdigit()
        or len(digits) > _DIGITS_MAX
        or (digits[:1] == b"0" and word != b"0")
        or not -_INTEGER_MAX - 1 <= int(word) <= _INTEGER_MAX
    ):
        raise Fault(NOT_AN_INTEGER)
    return int(word)


def deadline_ms(command: str, word: bytes, now_ms: int) -> int:
    """When a key expires, in milliseconds since the epoch; in the past where the command says so."""
    return _at_ms(command, word, now_ms, *DEADLINES[command])


def option_ms(command: str, option: bytes, word: bytes, now_ms: int) -> int:
    """The same for an option (EX, PX, EXAT, PXAT), which must be above 0."""
    return lifetime_ms(command, word, now_ms, *OPTIONS[option])


def lifetime_ms(command: str, word: bytes, now_ms: int, unit_ms: int, since_epoch: bool) -> int:
    """The same for a time to live that must be above 0."""
    if integer(word) <= 0:
        raise Fault(f"ERR invalid expire time in '{command}' command")
    return _at_ms(command, word, now_ms, unit_ms, since_epoch)


def _at_ms(command: str, word: bytes, now_ms: int, unit_ms: int, since_epoch: bool) -> int:
    at_ms = integer(word) * unit_ms + (0 if since_epoch else now_ms)
    if at_ms * 1000 > TIME_US_MAX:
        raise Fault(f"ERR invalid expire time in '{command}' command")
    return at_ms
