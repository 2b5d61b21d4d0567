"""Whole listings, page by page, of clusters of the core's nodes, and what nodes may lie about what they have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from quorumcache.client.listing import Key, Listing, Page
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import slot_of, slot_parts
from quorumcache.core.outcome import Failed, Found, Listed, Written
from tests.cluster import Client, Cluster
from tests.steps import finish

Lie = Callable[[m.Scan, m.ScanReply], m.Reply | None]


class Walk:
    """Listings by one client of a cluster, with what they cost."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client(None)
        self.parts = 0
        self.listing = Listing(cluster.configuration, b"test", self._part, self._are_there)

    @property
    def doubted(self) -> int:
        return self.client.core.counts["keys_doubted"]

    async def _part(self, prefix: bytes, start: m.Position, count: int) -> Listed:
        self.parts += 1
        outcome = finish(self.client, self.client.scan(prefix, start, count))
        assert isinstance(outcome, Listed), outcome
        return outcome

    async def _are_there(self, slots: list[bytes]) -> list[bool]:
        tokens = [self.client.read(slot_parts(s)[1].decode("latin-1")) for s in slots]
        outcomes = [finish(self.client, token) for token in tokens]
        assert not any(isinstance(outcome, Failed) for outcome in outcomes)
        return [isinstance(outcome, Found) for outcome in outcomes]

    def page(self, prefix: Key = b"", limit: int = 1000, cursor: str | None = None) -> Page:
        return asyncio.run(self.listing.page(prefix, limit, cursor))

    def all(self, prefix: Key = b"", limit: int = 1000, between: Callable[[], None] = lambda: None) -> list[Key]:
        """All pages' keys; `between` happens between two of them."""
        keys: list[Key] = []
        cursor = None
        for _ in range(500):
            page = self.page(prefix, limit, cursor)
            assert len(page.keys) <= limit
            keys += page.keys
            cursor = page.cursor
            if cursor is None:
                return keys
            between()
        raise AssertionError("the listing never ends")


def filled(keys: list[str], configuration: Configuration | None = None, f: int = 1) -> tuple[Cluster, Client]:
    cluster = Cluster(f, configuration)
    client = cluster.client()
    written(client, keys)
    return cluster, client


def written(client: Client, keys: list[str]) -> None:
    tokens = [client.write(key, b"v") for key in keys]
    client.run()
    assert all(isinstance(client.outcomes[t], Written) for t in tokens)


def place_of(cluster: Cluster, key: bytes) -> tuple[int, int, bytes]:
    return (cluster.configuration.shard_of(slot_of(b"test", key)), len(key), key)


def in_order(cluster: Cluster, keys: list[str]) -> list[Key]:
    """By group, shard and slot."""
    configuration = cluster.configuration
    groups = list(configuration.shards_of_groups)

    def place(key: bytes) -> tuple[int, tuple[int, int, bytes]]:
        at = place_of(cluster, key)
        return groups.index(configuration.shard_groups[at[0]].id), at

    return sorted((key.encode() for key in keys), key=place)


def listed(request: m.Scan, reply: m.ScanReply, keys: list[bytes], stop: m.Position | None) -> m.ScanReply:
    return m.ScanReply(request.id, reply.clock_us, keys, b"\x01" * 32 * len(keys), stop)


class Lies:
    """What a node can say instead of what it has."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.planted = 0

    def _first(self, request: m.Scan, count: int) -> list[bytes]:
        """Keys that nobody wrote, which come before all that somebody did: endless ones, shorter than any other."""
        made: list[bytes] = []
        low = place_of_position(request.start)
        number = 0
        while len(made) < count and number < 1 << 16:
            key = request.prefix + number.to_bytes(2, "big")
            place = place_of(self.cluster, key)
            if place > low and place[0] == request.start.shard:
                made.append(key)
            number += 1
        self.planted += len(made)
        return sorted(made, key=lambda key: place_of(self.cluster, key))

    def hides_all(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [], None)

    def hides_half(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        digests = b"".join(reply.digests[at : at + 32] for at in range(0, len(reply.digests), 64))
        stop = reply.stop if reply.stop is None or not reply.stop.after else None
        return msgspec.structs.replace(reply, keys=reply.keys[::2], digests=digests, stop=stop)

    def plants(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        keys = self._first(request, 3)
        return listed(request, reply, keys, None)

    def plants_without_end(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        keys = self._first(request, request.count)
        if len(keys) < request.count:
            return reply
        return listed(request, reply, keys, m.Position(request.start.shard, keys[-1]))

    def other_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, reply.stop)

    def absent_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, digests=bytes(len(reply.digests)))

    def twice(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, (reply.keys[:1] * 2 + reply.keys[1:])[: request.count], reply.stop)

    def backwards(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys[::-1], reply.stop)

    def in_one_shard(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, sorted(reply.keys, key=lambda key: (len(key), key)), reply.stop)

    def stands_still(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [], request.start)

    def crawls(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys[:1], m.Position(request.start.shard, (reply.keys or [b"k"])[0]))

    def a_shard_at_a_time(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        following = request.start.shard + 1
        return listed(request, reply, [], m.Position(following) if following < 8 else None)

    def goes_back(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, m.Position(0))

    def ends_early(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, stop=None)

    def begins_again(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        """Everything there is, whatever was asked for: what came before, other groups' keys, other prefixes."""
        keys = {slot_parts(s)[1] for node in self.cluster.nodes.values() for s in node.slots.current}
        return listed(request, reply, sorted(keys, key=lambda key: place_of(self.cluster, key))[: request.count], None)

    def goes_astray(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        """In order and from the start that was asked for, but also from shards of other groups."""
        keys = {slot_parts(s)[1] for node in self.cluster.nodes.values() for s in node.slots.current}
        places = sorted(place_of(self.cluster, key) for key in keys if key.startswith(request.prefix))
        keys_after = [place[2] for place in places if place > place_of_position(request.start)]
        return listed(request, reply, keys_after[: request.count], None)

    def beyond_the_end(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, reply.keys, m.Position(60_000))

    def too_many(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, self._first(request, request.count + 1), None)

    def few_digests(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return msgspec.structs.replace(reply, digests=reply.digests[:-1] or b"\x01")

    def no_key(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [b"", *reply.keys][: request.count], reply.stop)

    def other_prefix(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return listed(request, reply, [b"\xffother"], None)

    def rejects(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return m.Reject(request.id, reply.clock_us, m.OVERLOADED, "not today")

    def silent(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return None

    def another_reply(self, request: m.Scan, reply: m.ScanReply) -> m.Reply | None:
        return m.Pong(request.id, reply.clock_us)


LIES: Final = sorted(name for name in vars(Lies) if not name.startswith("_"))


def place_of_position(position: m.Position) -> tuple[int, int, bytes]:
    return position.shard, len(position.after), position.after


def lying(lie: Lie) -> Callable[[m.Request, m.Reply], m.Reply | None]:
    def twist(request: m.Request, reply: m.Reply) -> m.Reply | None:
        return lie(request, reply) if isinstance(request, m.Scan) and isinstance(reply, m.ScanReply) else reply

    return twist


KEYS: Final = [f"key {i}" for i in range(60)]
#: What no correct node sends: it counts for nothing, and against the node.
NONSENSE: Final = (
    "absent_digests",
    "backwards",
    "begins_again",
    "beyond_the_end",
    "crawls",
    "few_digests",
    "goes_back",
    "no_key",
    "other_prefix",
    "stands_still",
    "too_many",
    "twice",
)
