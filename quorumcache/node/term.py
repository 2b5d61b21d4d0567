"""What a running node does in the background for as long as it is in one epoch: recovery, anti-entropy, forwarding.

It must not know the protocol's rules (core has them), requests, or how the node gets into its next epoch.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final, Protocol

from quorumcache.core import messages as m
from quorumcache.core.carrying import Joining, still_joining, to_ask
from quorumcache.core.config import Configuration
from quorumcache.core.entropy import AntiEntropy
from quorumcache.core.exactrecovery import ExactRecovery
from quorumcache.core.node import Node
from quorumcache.core.repair import Recovery
from quorumcache.net.peers import Peers
from quorumcache.wire.keys import SigningKey

#: How long what is written in mode primary waits for more, before it is forwarded.
FORWARD_S: Final = 0.005
#: Until which time a recovery looks at its answers again, whatever comes.
_LOOK_US: Final = 50_000


class Host(Protocol):
    """The running node, as its background work sees it."""

    def clock_us(self) -> int:
        """The node's clock."""

    def stored(self) -> object:
        """Write what changed."""

    def heard(self, reply: m.Reply) -> None:
        """Another node answered."""


class Term:
    """The background work of `node`, which begins with `start`. `joining`: the shards that it joined and has not
    recovered, with the epoch before it joined each; `before`, the epoch before its present one (`to_ask`)."""

    def __init__(
        self,
        host: Host,
        node: Node,
        key: SigningKey,
        started_us: int,
        *,
        joining: Joining = (),
        before: Configuration | None = None,
    ) -> None:
        self.node = node
        self.tasks: list[asyncio.Task[None]] = []
        self._host = host
        self._key = key
        self._joining = [(before, numbers) for before, numbers in joining if numbers]
        joined = {number for _, numbers in self._joining for number in numbers}
        self.recoveries = [Recovery(node, started_us, first_id=_first_id(), joined=joined)]
        self._asked = to_ask(self._joining, before)
        for asked, numbers in self._asked:
            self.recoveries.append(Recovery(node, started_us, first_id=_first_id(), joined=numbers, before=asked))
        self._exact = ExactRecovery(node, started_us, first_id=_first_id())
        self.entropy = AntiEntropy(node, first_id=_first_id(), now_us=host.clock_us())

    def start(self) -> None:
        """Begin."""
        create = asyncio.get_running_loop().create_task
        configuration = self.node.configuration
        self.tasks = [
            create(self._recover(self.recoveries[0], configuration), name="recovery"),
            create(self._recover(self._exact, configuration), name="recovery of votes"),
            create(self._repair(), name="anti-entropy"),
            create(self._forward(), name="forwarding"),
        ]
        for recovery, (before, _) in zip(self.recoveries[1:], self._asked, strict=True):
            self.tasks.append(create(self._recover(recovery, before), name="recovery of what it joined"))

    def cancel(self) -> None:
        """End it; `ended` waits until that is so."""
        for task in self.tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait until what was cancelled has ended. What it failed with, `check` has raised."""
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what any of it failed with."""
        for task in self.tasks:
            if task.done() and not task.cancelled():
                task.result()

    @property
    def joining(self) -> Joining:
        """The shards that it joined, with this epoch or one before, and has not recovered yet."""
        return still_joining(self._joining, self.node.slots)

    @property
    def has_joined(self) -> bool:
        """Whether it has recovered the shards that it joined with the epoch."""
        return all(recovery.finished for recovery in self.recoveries[1:])

    @property
    def recovered_count(self) -> int:
        """How many entries and keys came back by recovery."""
        return sum(recovery.recovered_count for recovery in self.recoveries)

    # --- inside ---

    def _peers(self, configuration: Configuration) -> list[int]:
        """The nodes of this configuration that serve a shard which this one is recovering."""
        slots, own = self.node.slots, self.node.key
        members = {
            configuration.nodes[peer].key: peer
            for shard in slots.shards
            if slots.state_of(shard)
            for peer in configuration.shard_groups[shard.number].members
        }
        return sorted(peer for key, peer in members.items() if key != own)

    async def _recover(self, recovery: Recovery | ExactRecovery, configuration: Configuration) -> None:
        if recovery.finished:
            return
        host = self._host
        await asyncio.sleep(max(0.0, (recovery.deadline_us - host.clock_us()) / 1e6))
        members = self._peers(configuration)
        async with Peers(configuration, members, self._key) as peers:

            def receive(peer: int, reply: m.Reply) -> None:
                recovery.receive(peer, reply, host.clock_us())
                host.heard(reply)
                host.stored()

            peers.on_reply = receive
            await peers.up(len(members), wait_s_max=5.0)
            while not recovery.finished:
                recovery.wake(host.clock_us())
                host.stored()
                peers.send(recovery.outbox)
                recovery.outbox.clear()
                wait_us = min(recovery.deadline_us - host.clock_us(), _LOOK_US)
                await peers.heard(max(0.001, wait_us / 1e6))

    async def _repair(self) -> None:
        """Anti-entropy."""
        repair, host = self.entropy, self._host
        if not repair.peers:
            return
        await asyncio.sleep(max(0.0, (repair.deadline_us - host.clock_us()) / 1e6))
        async with Peers(self.node.configuration, repair.peers, self._key) as peers:

            def receive(peer: int, reply: m.Reply) -> None:
                repair.receive(peer, reply, host.clock_us())
                host.heard(reply)
                host.stored()
                peers.send(repair.outbox)
                repair.outbox.clear()

            peers.on_reply = receive
            while True:
                repair.wake(host.clock_us())
                peers.send(repair.outbox)
                repair.outbox.clear()
                await asyncio.sleep(max(0.001, (repair.deadline_us - host.clock_us()) / 1e6))

    async def _forward(self) -> None:
        """Mode primary: pass on what clients wrote here."""
        configuration, host = self.node.configuration, self._host
        if not any(info.mode == "primary" for info in configuration.namespaces) or not self.entropy.peers:
            return
        forwarding = self.node.forwarding
        async with Peers(configuration, self.entropy.peers, self._key) as peers:

            def send() -> None:
                peers.send(forwarding.outbox)
                forwarding.outbox.clear()

            def receive(peer: int, reply: m.Reply) -> None:
                forwarding.receive(peer, reply, host.clock_us())
                host.heard(reply)
                send()

            peers.on_reply = receive
            work = asyncio.Event()
            forwarding.on_work = work.set
            while True:
                forwarding.wake(host.clock_us())
                send()
                if forwarding.rests():
                    work.clear()
                    await work.wait()
                else:
                    await asyncio.sleep(FORWARD_S)


async def talk(
    configuration: Configuration,
    key: SigningKey,
    own: int,
    exchange: Callable[[Peers], bool],
    receive: Callable[[int, m.Reply], None],
) -> None:
    """Sessions with all other nodes of a configuration for as long as `exchange(peers)`, which sends, is true."""
    others = [info.index for info in configuration.nodes if info.index != own]
    async with Peers(configuration, others, key) as peers:
        peers.on_reply = receive
        while exchange(peers):
            await peers.heard(0.01)


def _first_id() -> int:
    return int.from_bytes(os.urandom(7), "big")
