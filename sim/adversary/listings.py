"""What the adversary's nodes say when they are asked which keys they have (protocol 4, scan).

Drawn from a stream of its own, for each request anew: who hides a key now may make one up next.
"""

from __future__ import annotations

import random
from typing import Final

from msgspec.structs import replace

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import slot_of

_HOW: Final = ("honest", "hides", "hides some", "plants", "plants all", "digests", "ends", "again", "silent")


def lie_of(
    draw: random.Random, configuration: Configuration, request: m.Scan, reply: m.ScanReply
) -> m.ScanReply | None:
    """The reply that is sent in place of the honest one; None is silence."""
    how = draw.choice(_HOW)
    if how == "silent":
        return None
    if how == "honest":
        return reply
    if how == "ends":
        return replace(reply, stop=None)
    if how == "digests":
        return replace(reply, digests=draw.randbytes(len(reply.digests)))
    keys, stop = reply.keys, reply.stop
    if how == "hides":
        keys, stop = [], None
    elif how == "hides some":
        keys, stop = keys[1:], None
    elif how == "again":
        keys = keys + keys
    else:
        keys = _made_up(configuration, request, request.count if how == "plants all" else 1)
        stop = m.Position(request.start.shard, keys[-1]) if len(keys) == request.count else None
    return m.ScanReply(request.id, reply.clock_us, keys, draw.randbytes(32 * len(keys)), stop)


def _made_up(configuration: Configuration, request: m.Scan, count: int) -> list[bytes]:
    """Keys that nobody wrote, in order, right where the listing is: only a read can tell."""
    made: list[bytes] = []
    start = (len(request.start.after), request.start.after)
    for number in range(1 << 12):
        key = request.prefix + number.to_bytes(2, "big")
        if (len(key), key) > start and configuration.shard_of(slot_of(request.namespace, key)) == request.start.shard:
            made.append(key)
            if len(made) == count:
                break
    return made
