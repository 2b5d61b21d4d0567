"""What changed in a node, as it happened: the headers of the entries that it stored, for clients that watch.

A ring, bounded in headers and bytes: whoever asks later than it reaches back is told that something is lost, and so is
whoever knew it before the node started anew. It must not know who asks, or what a client makes of the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Malformed, slot_of

if TYPE_CHECKING:
    from quorumcache.core.node import Node

#: How many headers are kept, and their bytes.
KEPT_MAX: Final = 1 << 14
KEPT_BYTES_MAX: Final = 8 << 20
#: Headers that one request looks at, whether it wants them or not.
LOOKS_MAX: Final = 8192
#: Where the slot begins in a header.
_SLOT_AT: Final = 95


class Feed:
    """The latest changes of one node, numbered from 0. `head` is the number of the next."""

    __slots__ = ("_bytes", "_kept", "head", "id")

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque()
        self._bytes = 0
        self.head = 0
        #: Which life of the node the numbers are of: the time of the first question. 0 until then.
        self.id = 0

    @property
    def tail(self) -> int:
        """The number of the oldest that is kept."""
        return self.head - len(self._kept)

    def note(self, header: bytes) -> None:
        """An entry with this header was stored."""
        kept = self._kept
        kept.append(header)
        self._bytes += len(header)
        self.head += 1
        if len(kept) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
            while len(kept) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
                self._bytes -= len(kept.popleft())

    def note_all(self, headers: Sequence[bytes]) -> None:
        """Entries with these headers were stored, in this order."""
        kept = self._kept
        kept.extend(headers)
        self._bytes += sum(map(len, headers))
        self.head += len(headers)
        while len(kept) > KEPT_MAX or self._bytes > KEPT_BYTES_MAX:
            self._bytes -= len(kept.popleft())

    def since(self, after: int) -> list[bytes]:
        """The headers from number `after` on: as many as one request looks at. `after` is not below `tail`."""
        first = after - self.tail
        return list(islice(self._kept, first, first + LOOKS_MAX))


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
