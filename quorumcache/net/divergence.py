"""Ask all nodes what their shards amount to, and find those that are out of step.

Digests only, which any reader may ask for. Nodes that were written to in between differ for a moment: so whoever wants
to be sure looks twice. Must not know how it is shown.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.entropy import SUM_BYTES
from quorumcache.net.peers import Peers

#: Between the two looks.
PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Divergence:
    """`odd`: node -> shards in which it differs from what most of its group say; `undecided`: shards without such a
    majority; `missing`: nodes that did not answer; `compared`: how many shards were compared."""

    odd: dict[int, set[int]] = field(default_factory=dict)
    undecided: set[int] = field(default_factory=set)
    missing: set[int] = field(default_factory=set)
    compared: int = 0


async def diverging(configuration: Configuration, *, timeout_s: float, looks: int = 2) -> Divergence:
    """What differs in each of several looks, a second apart, where the earlier one found anything."""
    found = await _look(configuration, timeout_s)
    for _ in range(looks - 1):
        if not found.odd and not found.undecided:
            break
        await asyncio.sleep(PAUSE_S)
        again = await _look(configuration, timeout_s)
        odd = {node: shards & again.odd.get(node, set()) for node, shards in found.odd.items()}
        found = Divergence(
            {node: shards for node, shards in odd.items() if shards},
            found.undecided & again.undecided,
            again.missing,
            again.compared,
        )
    return found


async def _look(configuration: Configuration, timeout_s: float) -> Divergence:
    nodes = list(range(len(configuration.nodes)))
    sums: dict[int, list[bytes]] = {node: [] for node in nodes}
    ids = itertools.count(int.from_bytes(os.urandom(6), "big"))
    asked: dict[int, int] = {}

    def ask(node: int) -> tuple[tuple[int, ...], m.Request] | None:
        first = len(sums[node])
        if first >= configuration.shards:
            return None
        asked[node] = next(ids)
        count = min(m.SHARD_SUMS_MAX, configuration.shards - first)
        return (node,), m.ShardSums(asked[node], configuration.digest, first, count)

    done: set[int] = set()
    async with Peers(configuration, nodes, None) as peers:

        def receive(node: int, reply: m.Reply) -> None:
            if node in done or reply.id != asked.get(node):
                return
            if not isinstance(reply, m.ShardSumsReply) or not reply.sums or len(reply.sums) % SUM_BYTES:
                sums[node].clear()
                done.add(node)
                return
            told = [reply.sums[at : at + SUM_BYTES] for at in range(0, len(reply.sums), SUM_BYTES)]
            sums[node] += told
            following = ask(node)
            if following is None:
                done.add(node)
            else:
                peers.send([following])

        peers.on_reply = receive
        peers.send([request for request in map(ask, nodes) if request is not None])
        loop = asyncio.get_running_loop()
        end_s = loop.time() + timeout_s
        while len(done) < len(nodes) and loop.time() < end_s:
            await peers.heard(end_s - loop.time())
    whole = {node for node in nodes if len(sums[node]) == configuration.shards}
    return _judge(configuration, {node: sums[node] for node in whole}, set(nodes) - whole)


def _judge(configuration: Configuration, sums: dict[int, list[bytes]], missing: set[int]) -> Divergence:
    found = Divergence(missing=missing, compared=configuration.shards)
    for shard, group in enumerate(configuration.shard_groups):
        here = {node: sums[node][shard] for node in group.members if node in sums}
        if not here:
            continue
        (most, votes), *_ = Counter(here.values()).most_common(1)
        if votes <= configuration.f:
            found.undecided.add(shard)
            continue
        for node, told in here.items():
            if told != most:
                found.odd.setdefault(node, set()).add(shard)
    return found
