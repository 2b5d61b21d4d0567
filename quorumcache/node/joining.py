"""Before a node is a member: waiting until the cluster that it is to join begins an epoch that names its key.

It must not know what a node does once it is one.
"""

from __future__ import annotations

import asyncio
import itertools
import time

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.following import Following
from quorumcache.errors import ConfigurationError
from quorumcache.net.peers import Peers
from quorumcache.wire.keys import verify
from quorumcache.wire.sealrecord import SealRecord


def is_member(configuration: Configuration, key: bytes, record: SealRecord) -> bool:
    """Whether the key is that of a node, in this configuration or the last that its record leads to. Raises
    ConfigurationError where it was one, and is one no more."""
    known = [configuration, *(step.successor.configuration for step in record.steps_from(configuration))]
    if known[-1].node_by_key(key) is not None:
        return True
    was = [each.epoch for each in known if each.node_by_key(key) is not None]
    if was:
        raise ConfigurationError(
            f"this node left cluster {configuration.cluster_id} after epoch {was[-1]}: the key {key.hex()[:16]} is "
            f"none of the nodes' keys in epoch {known[-1].epoch}. To come back, it needs a new key, and administrators "
            "who add it"
        )
    return False


async def wait_to_join(configuration: Configuration, key: bytes, record: SealRecord) -> None:
    """Ask the cluster's nodes, as a stranger, until a later epoch names the key; its record then leads there.

    Never ends where none does. Raises ConfigurationError where the record cannot be written.
    """
    current = configuration
    for step in record.steps_from(configuration):
        current = step.successor.configuration
    ids = itertools.count(time.time_ns() >> 8)
    while current.node_by_key(key) is None:
        record.know(current)
        following = Following(current, verify, lambda: next(ids), 0, history=True)
        async with Peers(current, [info.index for info in current.nodes], None) as peers:

            def receive(peer: int, reply: m.Reply, following: Following = following) -> None:
                following.receive(peer, reply)

            peers.on_reply = receive
            while not following.steps:
                following.wake(time.monotonic_ns() // 1000)
                peers.send(following.outbox)
                following.outbox.clear()
                following.sealed.clear()
                await peers.heard(0.05)
        for earlier in following.before:
            record.know(earlier)
        for step in following.steps:
            # As if it had sealed: it serves no epoch before its first.
            record.remember(current, step.successor)
            record.began(current, step)
            current = step.successor.configuration
            if current.node_by_key(key) is not None:
                break


async def patient(waiting: asyncio.Task[None], end: asyncio.Event) -> bool:
    """Wait for one or the other; whether it was the former."""
    ending = asyncio.ensure_future(end.wait())
    try:
        await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return False
        waiting.result()
        return True
    finally:
        for task in (waiting, ending):
            task.cancel()
        await asyncio.gather(waiting, ending, return_exceptions=True)
