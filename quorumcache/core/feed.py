"""What changed in a node, as it happened: the headers of the entries that it stored, for clients that watch.

A ring, bounded in headers and bytes: whoever asks later than it reaches back is told that something is lost, and so is
whoever knew it before the node started anew. It must not know who asks, or what a client makes of the answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Malformed, slot_of

if TYPE_CHECKING:
    from quorumcache.core.node import Node

#: A power of two: how many headers are kept.
KEPT_MAX: Final = 1 << 14
KEPT_BYTES_MAX: Final = 8 << 20
#: Headers that one request looks at, whether it wants them or not.
LOOKS_MAX: Final = 8192
_MASK: Final = KEPT_MAX - 1
#: Where the slot begins in a header.
_SLOT_AT: Final = 95


class Feed:
    """The latest changes of one node, numbered from 0. `head` is the number of the next, `tail` of the oldest kept."""

    __slots__ = ("_bytes", "_ring", "head", "id", "tail")

    def __init__(self) -> None:
        self._ring: list[bytes] = []
        self._bytes = 0
        self.head = 0
        self.tail = 0
        #: Which life of the node the numbers are of: the time of the first question. 0 until then.
        self.id = 0

    def note(self, header: bytes) -> None:
        """An entry with this header was stored."""
        ring = self._ring
        self._bytes += len(header)
        if self.head < KEPT_MAX:
            ring.append(header)
        else:
            place = self.head & _MASK
            self._bytes -= len(ring[place])
            ring[place] = header
            if self.head - self.tail == KEPT_MAX:
                self.tail += 1
        self.head += 1
        while self._bytes > KEPT_BYTES_MAX:
            self._bytes -= len(ring[self.tail & _MASK])
            ring[self.tail & _MASK] = b""
            self.tail += 1

    def since(self, after: int) -> list[bytes]:
        """The headers from number `after` on: as many as one request looks at. `after` is within the ring."""
        return [self._ring[number & _MASK] for number in range(after, min(self.head, after + LOOKS_MAX))]


def changes(node: Node, request: m.Changes, now_us: int) -> m.ChangesReply:
    """Answer a client that watches: what was stored since it last asked, of the keys that it watches."""
    feed = node.slots.feed
    feed.id = feed.id or now_us
    if not request.feed:
        return m.ChangesReply(request.id, now_us, feed.id, feed.head, [], False, False)
    if request.feed != feed.id or not feed.tail <= request.after <= feed.head:
        return m.ChangesReply(request.id, now_us, feed.id, feed.head, [], True, False)
    head = bytes((len(request.namespace),)) + request.namespace
    if request.whole:
        if not request.prefix:
            raise Malformed("no key is empty")
        begin, length_min = slot_of(request.namespace, request.prefix)[:-2], 0
    else:
        begin, length_min = head, len(request.prefix)
    key_at = _SLOT_AT + len(head) + 2
    found: list[bytes] = []
    size, following = 0, request.after
    for header in feed.since(request.after):
        following += 1
        if header.startswith(begin, _SLOT_AT) and (
            not length_min
            or (
                header.startswith(request.prefix, key_at)
                and (header[key_at - 2] << 8 | header[key_at - 1]) >= length_min
            )
        ):
            found.append(header)
            size += len(header)
            if len(found) == m.CHANGES_MAX or size >= m.CHANGES_BYTES_MAX:
                break
    return m.ChangesReply(request.id, now_us, feed.id, following, found, False, following < feed.head)
