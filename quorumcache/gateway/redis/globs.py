"""Patterns as KEYS, SCAN and PSUBSCRIBE take them: * ? [a-z] [^a] and a backslash before what is meant as it is.

Matched in time that grows with pattern times text at most, whatever is asked for.
"""

from __future__ import annotations

from typing import Final

from quorumcache.gateway.redis.faults import Fault

PATTERN_BYTES_MAX: Final = 4096
_ANY: Final = None
_EVERY: Final = frozenset(range(256))


class Glob:
    """One pattern. Raises Fault for one that is too long."""

    def __init__(self, pattern: bytes) -> None:
        if len(pattern) > PATTERN_BYTES_MAX:
            raise Fault(f"ERR a pattern of {len(pattern)} bytes: at most {PATTERN_BYTES_MAX} are taken")
        #: One set of bytes for each place, or None for any number of places.
        self._parts: list[frozenset[int] | None] = []
        at = 0
        while at < len(pattern):
            byte = pattern[at]
            at += 1
            if byte == 0x2A:
                if not self._parts or self._parts[-1] is not _ANY:
                    self._parts.append(_ANY)
            elif byte == 0x3F:
                self._parts.append(_EVERY)
            elif byte == 0x5B:
                at = self._class(pattern, at)
            else:
                if byte == 0x5C and at < len(pattern):
                    byte = pattern[at]
                    at += 1
                self._parts.append(frozenset((byte,)))
        #: What all that it fits begins with.
        self.prefix = b""
        for part in self._parts:
            if part is None or len(part) != 1:
                break
            self.prefix += bytes(part)
        self._is_prefix = len(self._parts) == len(self.prefix) + 1 and self._parts[-1:] == [None]

    def _class(self, pattern: bytes, at: int) -> int:
        negated = pattern[at : at + 1] == b"^"
        at += negated
        members: set[int] = set()
        while at < len(pattern) and pattern[at] != 0x5D:
            if pattern[at] == 0x5C and at + 1 < len(pattern):
                at += 1
                members.add(pattern[at])
                at += 1
            elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
                low, high = sorted((pattern[at], pattern[at + 2]))
                members.update(range(low, high + 1))
                at += 3
            else:
                members.add(pattern[at])
                at += 1
        self._parts.append(_EVERY - members if negated else frozenset(members))
        return at + 1

    def fits(self, text: bytes) -> bool:
        """Whether the pattern fits the whole text."""
        if self._is_prefix:
            return text.startswith(self.prefix)
        parts, count = self._parts, len(self._parts)
        part = at = 0
        star = -1
        star_at = 0
        # After a star only the last one is ever taken back: the earlier ones can stand as they are.
        while at < len(text):
            here = parts[part] if part < count else frozenset()
            if part < count and here is None:
                star, star_at = part, at
                part += 1
            elif here and text[at] in here:
                part += 1
                at += 1
            elif star >= 0:
                star_at += 1
                part, at = star + 1, star_at
            else:
                return False
        return all(left is None for left in parts[part:])
