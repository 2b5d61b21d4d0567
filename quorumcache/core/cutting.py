"""Large requests, worked on in pieces, so that a node can answer others in between (protocol 3, prepare and commit).

A piece does what handling the whole request at once does for some of its headers or entries, by the rules and at the
time of then: for each of them it is as if it had come in a request of its own, and the reply had been held back until
all were done. What was promised, and not yet told, stays a promise, whatever else happens in between: it is dropped,
settled and forgotten as any other. A request is gone on with only in the epoch that it was begun in; and by whoever
stored, as durably as it has to be, what a piece did, before anything else can be undone. It must not know clocks, nor
how long a piece takes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Header, Malformed

if TYPE_CHECKING:
    from quorumcache.core.node import Node

#: So many headers, or entries, are in a piece; what has no more is not cut.
PIECE_COUNT: Final = 64
#: So many bytes of entries are in a piece, or a single entry.
PIECE_BYTES: Final = 64 << 10

Pieces = Generator[None, int, m.Reply]


class Cut:
    """A request that `node` works on in pieces: `step` does the next one, and returns the reply with the last."""

    __slots__ = ("_pieces", "finished", "node", "request")

    def __init__(self, node: Node, request: m.Prepare | m.Commit, piece_count: int) -> None:
        self.node = node
        self.request = request
        self.finished = False
        if isinstance(request, m.Prepare):
            self._pieces = _preparing(node, request, piece_count)
        else:
            self._pieces = _committing(node, request, piece_count)
        next(self._pieces)

    def step(self, now_us: int) -> m.Reply | None:
        """The next piece, at this time. None: there are more."""
        try:
            self._pieces.send(now_us)
        except StopIteration as end:
            self.finished = True
            reply: m.Reply = end.value
            return reply
        except Malformed as fault:
            self.finished = True
            return m.Reject(self.request.id, now_us, m.BAD_FORM, str(fault))
        return None


def cut(node: Node, request: m.Request, piece_count: int = PIECE_COUNT) -> Cut | None:
    """The request, to be worked on in pieces of so many headers or entries; None where it is small, or of a kind that
    is not cut."""
    if request.configuration != node.configuration.digest:
        return None
    if isinstance(request, m.Prepare):
        is_large = len(request.headers) > piece_count
    elif isinstance(request, m.Commit):
        bundles = request.bundles
        items = bundles[0].items
        is_large = len(bundles) > 1 or len(items) > piece_count or (len(items) > 1 and _size_of(items) > PIECE_BYTES)
    else:
        return None
    if not is_large:
        return None
    assert isinstance(request, m.Prepare | m.Commit)
    name = type(request).__name__
    node.request_counts[name] = node.request_counts.get(name, 0) + 1
    return Cut(node, request, piece_count)


def _preparing(node: Node, request: m.Prepare, piece_count: int) -> Pieces:
    now_us = yield
    group = node.group_asked(request)
    headers: list[Header] = []
    count = len(request.headers)
    for begin in range(0, count, piece_count):
        headers += node.headers_asked(request, group, begin, begin + piece_count)
        now_us = yield
    leaves, root = node.batch_asked(request, group, headers)
    if not root:
        return m.Reject(request.id, now_us, m.BAD_SIGNATURE, "the intent is not signed by the writer it names")
    refusals: list[m.Refusal] = []
    for begin in range(0, count, piece_count):
        now_us = yield
        node.promise(request, group, headers[begin : begin + piece_count], leaves, begin, now_us, refusals)
    return node.granted(request, group, root, refusals, now_us)


def _committing(node: Node, request: m.Commit, piece_count: int) -> Pieces:
    codes, floors = bytearray(), list[int]()
    now_us = yield
    for number, bundle in enumerate(request.bundles):
        if number:
            now_us = yield
        items, batch, begin = bundle.items, None, 0
        while begin < len(items):
            if begin:
                now_us = yield
            end = _end_of_piece(items, begin, piece_count)
            piece = m.Bundle(bundle.certificate, bundle.leaves, items[begin:end])
            batch = node.commit_bundle(piece, now_us, codes, floors, batch)
            begin = end
    return m.CommitReply(request.id, now_us, bytes(codes), floors if any(floors) else [])


def _end_of_piece(items: list[m.Item], begin: int, piece_count: int) -> int:
    size = 0
    for end in range(begin, min(begin + piece_count, len(items))):
        size += len(items[end].salted)
        if size > PIECE_BYTES and end > begin:
            return end
    return min(begin + piece_count, len(items))


def _size_of(items: list[m.Item]) -> int:
    return sum(len(item.salted) for item in items)
