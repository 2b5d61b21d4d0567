"""Requests out of a connection's bytes: arrays of bulk strings, or lines as people type them.

hiredis's reader is made for what a server says: it takes any type at the top, knows no lines, and makes a list as long
as a header of a few bytes says. So requests are parsed here, with a bound on everything (docs/decisions/0020). It must
not know commands.
"""

from __future__ import annotations

from typing import Final

ARGUMENTS_MAX: Final = 131_072
#: One argument: a value of 1 MiB, and more than that can only be refused.
ARGUMENT_BYTES_MAX: Final = 2 << 20
COMMAND_BYTES_MAX: Final = 16 << 20
LINE_BYTES_MAX: Final = 64 << 10
_HEADER_BYTES_MAX: Final = 32
#: What a list costs per argument beside its bytes, roughly.
_ARGUMENT_BYTES: Final = 64

_ESCAPES: Final = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}


class ProtocolFault(Exception):
    """Bytes that are no request. The connection cannot go on after it; the text is for the other side."""


class Requests:
    """The requests of one connection. `feed` bytes, then take `next` until it gives None."""

    __slots__ = ("_arguments", "_at", "_chunks", "_data", "_left", "_needed", "_size", "_waiting")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0
        #: Bytes that came since, kept apart until there are enough of them for a step to succeed.
        self._chunks: list[bytes] = []
        self._waiting = 0
        self._needed = 0
        #: The request under way: what it has, how many arguments it still needs, and what it costs so far.
        self._arguments: list[bytes] = []
        self._left = 0
        self._size = 0

    @property
    def held_bytes(self) -> int:
        """What requests that are not complete, or not taken yet, hold in memory."""
        return len(self._data) - self._at + self._waiting + self._size

    def feed(self, data: bytes) -> None:
        """Take bytes in."""
        self._chunks.append(data)
        self._waiting += len(data)

    def next(self) -> list[bytes] | None:
        """The next request, at least one argument; None where more bytes are needed. Raises ProtocolFault."""
        if self._chunks and len(self._data) - self._at + self._waiting >= self._needed:
            rest = self._data[self._at :]
            self._data = b"".join((rest, *self._chunks)) if rest or len(self._chunks) > 1 else self._chunks[0]
            self._at, self._waiting = 0, 0
            self._chunks.clear()
        while True:
            if not self._left:
                if self._at >= len(self._data):
                    self._data, self._at, self._needed = b"", 0, 1
                    return None
                if self._data[self._at] != 0x2A:
                    line = self._line()
                    if line is None:
                        return None
                    if line:
                        return line
                    continue
                count = self._number("invalid multibulk length")
                if count is None:
                    return None
                if count > ARGUMENTS_MAX:
                    raise ProtocolFault("Protocol error: invalid multibulk length")
                if count <= 0:
                    continue
                self._left = count
            if not self._fill():
                return None
            arguments, self._arguments, self._size = self._arguments, [], 0
            return arguments

    def _fill(self) -> bool:
        """Take arguments until the request is complete; False where more bytes are needed."""
        arguments = self._arguments
        while self._left:
            before = self._at
            if before < len(self._data) and self._data[before] != 0x24:
                raise ProtocolFault(f"Protocol error: expected '$', got '{_shown(self._data[before])}'")
            length = self._number("invalid bulk length")
            if length is None:
                return False
            if not 0 <= length <= ARGUMENT_BYTES_MAX:
                raise ProtocolFault("Protocol error: invalid bulk length")
            start = self._at
            end = start + length
            data = self._data
            if end + 2 > len(data):
                self._at = before
                self._needed = end + 2 - before
                return False
            if data[end] != 13 or data[end + 1] != 10:
                raise ProtocolFault("Protocol error: an argument is longer than its length says")
            arguments.append(data[start:end])
            self._at = end + 2
            self._left -= 1
            self._size += length + _ARGUMENT_BYTES
            if self._size > COMMAND_BYTES_MAX:
                raise ProtocolFault(f"Protocol error: a command of more than {COMMAND_BYTES_MAX} bytes")
        return True

    def _number(self, fault: str) -> int | None:
        """The number in the header that begins here, and past it; None where more bytes are needed."""
        data, at = self._data, self._at
        end = data.find(b"\r\n", at, at + _HEADER_BYTES_MAX)
        if end < 0:
            if len(data) - at >= _HEADER_BYTES_MAX:
                raise ProtocolFault(f"Protocol error: {fault}")
            self._needed = len(data) - at + 1
            return None
        digits = data[at + 1 : end]
        if not digits.isdigit() and not (digits[:1] == b"-" and digits[1:].isdigit()):
            raise ProtocolFault(f"Protocol error: {fault}")
        self._at = end + 2
        return int(digits)

    def _line(self) -> list[bytes] | None:
        """A request typed as a line; empty for a blank one, None where it has not ended."""
        data, at = self._data, self._at
        end = data.find(b"\n", at, at + LINE_BYTES_MAX)
        if end < 0:
            if len(data) - at >= LINE_BYTES_MAX:
                raise ProtocolFault("Protocol error: too big inline request")
            self._needed = len(data) - at + 1
            return None
        self._at = end + 1
        return split_line(data[at:end].removesuffix(b"\r"))


def split_line(line: bytes) -> list[bytes]:
    """The words of a line: between blanks, or in quotes: "..." with escapes, '...' as it is. Raises ProtocolFault."""
    words: list[bytes] = []
    at, end = 0, len(line)
    while True:
        while at < end and line[at] in b" \t\r\n\v\f\0":
            at += 1
        if at >= end:
            return words
        word = bytearray()
        while at < end and line[at] not in b" \t\r\n\v\f\0":
            if line[at] in b"\"'":
                at = _quoted(line, at, word)
                if at < end and line[at] not in b" \t\r\n\v\f\0":
                    raise ProtocolFault("Protocol error: unbalanced quotes in request")
                break
            word.append(line[at])
            at += 1
        words.append(bytes(word))


def _quoted(line: bytes, at: int, word: bytearray) -> int:
    """Take what is in quotes into the word; the place after them."""
    quote = line[at]
    at += 1
    while at < len(line):
        byte = line[at]
        at += 1
        if byte == quote:
            return at
        if byte == 0x5C and quote == 0x22 and at < len(line):
            following = line[at]
            at += 1
            pair = line[at : at + 2]
            if (
                following == ord("x")
                and len(pair) == 2
                and all(chr(digit) in "0123456789abcdefABCDEF" for digit in pair)
            ):
                word.append(int(pair, 16))
                at += 2
            else:
                word.append(_ESCAPES.get(following, following))
        elif byte == 0x5C and quote == 0x27 and line[at : at + 1] == b"'":
            word.append(quote)
            at += 1
        else:
            word.append(byte)
    raise ProtocolFault("Protocol error: unbalanced quotes in request")


def _shown(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"
