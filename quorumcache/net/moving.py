"""Bringing a running cluster to its next epoch: what `quorumcache admin apply` does, without the words.

Nodes do the rest themselves once one of them has the signed successor; this asks all of them at once, hands seals
around so that the pause is short, and tells how far they are. It may end at any time, and be done again. Knows
sessions; must not know how it is shown.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.epochmessages import signed_of
from quorumcache.core.following import Following
from quorumcache.core.seals import Seal, Seals, check_movable
from quorumcache.core.succession import check_link
from quorumcache.net.peers import Peers
from quorumcache.wire.keys import verify

_CONNECT_S_MAX = 5.0
_AGAIN_S = 0.05
#: Once the next epoch has begun somewhere, how long the others are waited for: they follow without us.
_REST_S_MAX = 3.0


@dataclass(slots=True)
class Progress:
    """How far the nodes of the epoch that ends are, by their indices. `refused`: why one will not seal. `unreachable`:
    why one cannot be reached. `lacking`: how many groups have too few seals. `paused_s`: from the first request to
    seal until the next epoch began somewhere, as seen from here; 0 before."""

    sealed: set[int] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)
    refused: dict[int, str] = field(default_factory=dict)
    unreachable: dict[int, str] = field(default_factory=dict)
    lacking: int = 0
    paused_s: float = 0.0

    def is_done(self, configuration: Configuration) -> bool:
        """Whether every node that can be reached and does not refuse is in the next epoch."""
        others = {*self.begun, *self.refused, *self.unreachable}
        return bool(self.begun) and len(others) == len(configuration.nodes)


def cannot_seal(configuration: Configuration, away: set[int]) -> int:
    """How many groups have fewer than q members without these nodes: then the epoch cannot end."""
    groups = configuration.groups.values()
    return sum(len(set(group.members) - away) < configuration.q for group in groups)


async def move(
    before: Configuration,
    signed: SignedConfiguration,
    *,
    timeout_s: float,
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Have the nodes of `before` go over to the successor; returns once all that can have, or after `timeout_s`.

    Raises ConfigurationError, and no node was asked, where it may not follow or cannot while nodes run. Where too few
    nodes can be reached for the epoch to end, no node is asked either: then nothing is in `sealed`.
    """
    check_link(signed, before, verify)
    check_movable(signed.configuration, before)
    progress = Progress()
    seals = Seals(before, signed.configuration.digest, verify)
    successor = signed_of(signed)
    next_id = int.from_bytes(os.urandom(7), "big")
    asked: dict[int, int] = {}
    began_s = 0.0

    def receive(node: int, reply: m.Reply) -> None:
        if asked.get(reply.id) != node:
            return
        if isinstance(reply, m.SealReply):
            progress.sealed.add(node)
            progress.refused.pop(node, None)
            for seal in reply.seals:
                seals.add(Seal(seal.node, seal.signature))
            if reply.begun and seals.complete:  # Who is there has them, and has just shown them.
                progress.begun.add(node)
                progress.paused_s = progress.paused_s or time.monotonic() - began_s
        elif isinstance(reply, m.Reject):
            progress.refused[node] = "".join(c if c.isprintable() else "?" for c in reply.detail)

    async with Peers(before, [info.index for info in before.nodes], None) as peers:
        peers.on_reply = receive
        end_s = time.monotonic() + timeout_s
        # Who is down holds nobody up for longer, but where too few are there without it.
        up = await peers.up(len(before.nodes), wait_s_max=1.0)
        if up < len(before.nodes) and cannot_seal(before, {i for i, link in peers.links.items() if not link.up}):
            await peers.up(len(before.nodes), wait_s_max=min(_CONNECT_S_MAX, timeout_s))
        again_s = 0.0
        known = -1
        while True:
            down = {index: link for index, link in peers.links.items() if not link.up}
            progress.unreachable = {i: link.problem for i, link in down.items() if i not in progress.sealed}
            if not progress.sealed and cannot_seal(before, set(down)):
                progress.lacking = cannot_seal(before, set(down))
                return progress
            now_s = time.monotonic()
            began_s = began_s or now_s
            if now_s >= again_s or len(seals.found) > known:
                again_s, known = now_s + _AGAIN_S, len(seals.found)
                asked.clear()
                for info in before.nodes:
                    if info.index in progress.begun:
                        continue
                    next_id += 1
                    asked[next_id] = info.index
                    request = m.SealEpoch(next_id, before.digest, successor, list(seals.found))
                    peers.send([((info.index,), request)])
            progress.lacking = len(seals.lacking)
            on_progress(progress)
            if progress.begun:
                end_s = min(end_s, began_s + progress.paused_s + _REST_S_MAX)
            if progress.is_done(before) or now_s >= end_s:
                return progress
            await peers.heard(min(_AGAIN_S, max(0.001, end_s - now_s)))


async def chain_from(trusted: Configuration, *, timeout_s: float) -> tuple[Configuration, ...]:
    """The configurations that nodes show to have followed a trusted one, with seals; none where it is the last, or no
    node that knows more answers in time."""
    first_id = int.from_bytes(os.urandom(7), "big")
    ids = itertools.count(first_id)
    following = Following(trusted, verify, lambda: next(ids), 0, history=False)
    async with Peers(trusted, [info.index for info in trusted.nodes], None) as peers:

        def receive(node: int, reply: m.Reply) -> None:
            following.receive(node, reply)

        peers.on_reply = receive
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s and not following.steps:
            following.wake(time.monotonic_ns() // 1000)
            peers.send(following.outbox)
            following.outbox.clear()
            await peers.heard(0.05)
            if following.is_answered:
                break
    return following.chain
