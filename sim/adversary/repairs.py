"""What the adversary's nodes say to peers that compare shards with them (protocol 8): digests of shards, names of what
is in them, and the entries themselves.

Drawn from a stream of its own, for each request anew. Powers: any digests and names; entries that were certified once,
however old; and what it makes up, which no certificate covers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.entropy import SUM_BYTES
from quorumcache.core.model import Entry
from sim.adversary.conspiracy import Conspiracy

_FAR_US: Final = 1 << 61
_SUMS: Final = ("honest", "all differ", "all differ", "all differ", "short", "long", "odd", "silent")
_NAMES: Final = ("honest", "all", "all", "all", "hide", "old times", "disorder", "for ever", "silent")
_ENTRIES: Final = ("honest", "older", "older", "made up", "other slot", "fewer", "silent")
Fabricate = Callable[[bytes], Entry]


def lie_of(
    draw: random.Random,
    conspiracy: Conspiracy,
    configuration: Configuration,
    request: m.Request,
    reply: m.Reply,
    fabricate: Fabricate,
) -> m.Reply | None:
    """The reply that a peer gets in place of the honest one; None is silence."""
    if isinstance(reply, m.ShardSumsReply):
        how = draw.choice(_SUMS)
        sums = {
            "all differ": draw.randbytes(len(reply.sums)),
            "short": reply.sums[:SUM_BYTES],
            "long": draw.randbytes(len(reply.sums) + SUM_BYTES),
            "odd": reply.sums[:-1],
        }.get(how, reply.sums)
        return None if how == "silent" else replace(reply, sums=sums)
    if isinstance(request, m.ShardList) and isinstance(reply, m.ShardListReply):
        return _names(draw, conspiracy, configuration, request, reply)
    if isinstance(request, m.ReadFull) and isinstance(reply, m.ReadFullReply):
        return _entries(draw, conspiracy, request, reply, fabricate)
    return reply


def _names(
    draw: random.Random,
    conspiracy: Conspiracy,
    configuration: Configuration,
    request: m.ShardList,
    reply: m.ShardListReply,
) -> m.ShardListReply | None:
    how = draw.choice(_NAMES)
    if how == "silent":
        return None
    if how == "hide":
        return replace(reply, items=[], more=False)
    if how == "old times":
        return replace(reply, items=[m.Named(i.slot, draw.randbytes(32), 0) for i in reply.items])
    if how == "disorder":
        return replace(reply, items=[*reply.items[::-1], *reply.items])
    if how in ("all", "for ever"):
        # Whatever it ever saw of the shard, as if it were new.
        known = [s for s in sorted(conspiracy.entries) if s > request.after]
        here = [s for s in known if configuration.shard_of(s) == request.shard]
        items = [m.Named(slot, draw.randbytes(32), _FAR_US) for slot in here]
        return replace(reply, items=items, more=how == "for ever")
    return reply


def _entries(
    draw: random.Random, conspiracy: Conspiracy, request: m.ReadFull, reply: m.ReadFullReply, fabricate: Fabricate
) -> m.ReadFullReply | None:
    how = draw.choice(_ENTRIES)
    if how == "silent":
        return None
    answers = list(reply.answers)
    if how == "fewer":
        answers = answers[1:]
    elif how != "honest":
        for i, slot in enumerate(request.slots):
            if how == "made up":
                answers[i] = m.FullAnswer(fabricate(slot), 0)
                continue
            known = conspiracy.entries.get(draw.choice(list(conspiracy.entries)) if how == "other slot" else slot)
            if known:
                answers[i] = m.FullAnswer(draw.choice(known), 0)
    return replace(reply, answers=answers)
