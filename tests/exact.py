"""Compare-and-set in a test's hand: a cluster with an exact namespace, the usual changes, proposals made by hand."""

from __future__ import annotations

import itertools
import random

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, exact_grant_string, intent_string, vote_string
from quorumcache.core.config import Configuration, NamespaceInfo
from quorumcache.core.exactrecovery import ExactRecovery
from quorumcache.core.exactwrite import Change, Changer
from quorumcache.core.lineage import successor_of
from quorumcache.core.model import (
    DELETE,
    PUT,
    Certificate,
    Entry,
    Grant,
    digest_of,
    encode_header,
    slot_of,
    stamp_of,
    value_hash_of,
)
from quorumcache.wire.keys import verify
from tests.cluster import Client, Cluster, configuration_of, key_of

LIFE_US = 5_000_000
GAP_US = 14_000_000


def exact_configuration(f: int = 1, **changes: object) -> Configuration:
    """As usual, with an exact namespace "locks" beside "test"."""
    spaces = (NamespaceInfo("test"), NamespaceInfo("locks", "exact"))
    return configuration_of(f, namespaces=spaces, shards=1, **changes)


def lock_slot(key: str = "k") -> bytes:
    """The slot of a key in the namespace "locks"."""
    return slot_of(b"locks", key.encode())


def plus(by: int = 1) -> Changer:
    """Add to a number; nothing there is 0."""
    return lambda header, salted, _now_us: Change(PUT, str(int(salted[16:] or b"0") + by).encode())


def put(value: bytes, ttl_us: int = 0) -> Changer:
    """Write, whatever is there."""
    return lambda header, salted, now_us: Change(PUT, value, now_us + ttl_us if ttl_us else 0)


def add(value: bytes, ttl_us: int = 0) -> Changer:
    """Write where nothing is."""
    return lambda header, salted, now_us: None if header else Change(PUT, value, now_us + ttl_us if ttl_us else 0)


def swap(expected: bytes, value: bytes) -> Changer:
    """Write where just this value is."""
    return lambda header, salted, _now_us: Change(PUT, value) if header and salted[16:] == expected else None


def delete() -> Changer:
    """Delete what is there."""
    return lambda header, salted, _now_us: Change(DELETE) if header else None


_tokens = itertools.count()


def ask(client: Client, change: Changer, key: str = "k") -> object:
    """Queue a compare-and-set; `outcomes[token]` will tell how it ended."""
    token = ("exact", next(_tokens))
    client.core.exact(lock_slot(key), change, token)
    return token


class Hand:
    """One header, proposed by hand by writer `name`, with votes and grants of whatever nodes a test likes."""

    def __init__(
        self,
        configuration: Configuration,
        at_us: int,
        *,
        after: bytes = b"",
        name: str = "w1",
        value: bytes = b"v",
        key: str = "k",
        metadata: bytes | None = None,
        expires_at_us: int = 0,
        kind: int = PUT,
    ) -> None:
        self.configuration = configuration
        writer = key_of(name)
        self.stamp = stamp_of(at_us, writer.public, 7)
        self.salted = b"salt of sixteen." + value
        slot = lock_slot(key)
        self.header = encode_header(
            slot,
            self.stamp,
            kind,
            value_hash_of(self.salted),
            len(value),
            expires_at_us,
            successor_of(after) if metadata is None else metadata,
        )
        self.digest = digest_of(self.header)
        self.root = merkle.root_of(self.digest)
        self.group = configuration.group_of(slot)
        self.writer = writer.public
        self.signature = writer.sign(intent_string(configuration.digest, self.group.id, self.root))

    def ballot(self, at_us: int, name: str = "w1") -> bytes:
        """A ballot of this time."""
        return stamp_of(at_us, key_of(name).public, 7)

    def signed(self, ballot: bytes, nodes: tuple[int, ...], *, grant: bool = False) -> tuple[Grant, ...]:
        """These nodes' votes, or grants."""
        string = (exact_grant_string if grant else vote_string)(
            self.configuration.digest, self.group.id, self.root, ballot
        )
        return tuple(Grant(node, b"\x01", key_of(f"node {node}").sign(string)) for node in nodes)

    def vote(self, ballot: bytes = b"", lock_ballot: bytes = b"", nodes: tuple[int, ...] = (0, 1, 2)) -> m.Vote:
        """The request for a vote; with `lock_ballot`, with a lock of that ballot."""
        votes = self.signed(lock_ballot, nodes) if lock_ballot else ()
        head = (1, self.configuration.digest, self.group.id, self.header, self.salted, self.signature)
        return m.Vote(*head, ballot or self.stamp, lock_ballot, votes)

    def lock(self, ballot: bytes = b"", nodes: tuple[int, ...] = (0, 1, 2)) -> m.Lock:
        """The request for a grant."""
        head = (2, self.configuration.digest, self.group.id, self.header, self.salted, self.signature)
        return m.Lock(*head, ballot or self.stamp, self.signed(ballot or self.stamp, nodes))

    def entry(self, ballot: bytes = b"", nodes: tuple[int, ...] = (0, 1, 2)) -> Entry:
        """The entry, with its certificate of this ballot."""
        ballot = ballot or self.stamp
        grants = self.signed(ballot, nodes, grant=True)
        certificate = Certificate(
            self.configuration.digest, self.group.id, self.root, 1, self.writer, self.signature, grants, ballot
        )
        return Entry(self.header, self.salted, certificate, 0, b"")

    def commit(self, ballot: bytes = b"", nodes: tuple[int, ...] = (0, 1, 2)) -> m.Commit:
        """The commit of the entry."""
        entry = self.entry(ballot, nodes)
        bundle = m.Bundle(entry.certificate, b"", [m.Item(0, entry.header, entry.salted)])
        return m.Commit(3, self.configuration.digest, [bundle])


def restart(cluster: Cluster, index: int) -> ExactRecovery:
    """Start a node anew without state; drive what is returned with `recover`."""
    started_us = cluster.now_us
    node = cluster.start(index)
    for shard in node.slots.shards:
        node.slots.activate(shard)
    return ExactRecovery(node, started_us, first_id=1 << 40)


def recover(cluster: Cluster, recovery: ExactRecovery, rounds: int = 10) -> bool:
    """Let it ask and be answered, without time passing; whether it finished."""
    for _ in range(rounds):
        recovery.wake(cluster.now_us)
        sent, recovery.outbox[:] = list(recovery.outbox), []
        for nodes, request in sent:
            for node in nodes:
                reply = cluster.answer(node, request)
                if reply is not None:
                    recovery.receive(node, reply, cluster.now_us)
    return recovery.finished


class Race:
    """Clients whose messages arrive in an order of chance, late, twice, or never."""

    def __init__(self, cluster: Cluster, seed: int, *, loss: float = 0.0) -> None:
        self.cluster = cluster
        self.draw = random.Random(seed)
        self.loss = loss
        self._under_way: list[tuple[Client, int, m.Request]] = []
        self._replies: list[tuple[Client, int, m.Reply]] = []

    def run(self, steps_max: int = 100_000) -> None:
        """Until every client is idle."""
        cluster, draw = self.cluster, self.draw
        for _ in range(steps_max):
            for client in cluster.clients:
                self._under_way += [(client, node, request) for node, request in client.take()]
            if self._under_way and draw.random() < 0.6:
                at = draw.randrange(len(self._under_way))
                client, node, request = self._under_way[at]
                if draw.random() > 0.1:
                    self._under_way.pop(at)
                if draw.random() < self.loss:
                    continue
                reply = cluster.answer(node, request)
                if reply is not None:
                    self._replies.append((client, node, reply))
            elif self._replies:
                client, node, reply = self._replies.pop(draw.randrange(len(self._replies)))
                client.core.receive(node, reply, cluster.now_us)
                client._collect()
            elif all(client.core.is_idle for client in cluster.clients):
                return
            elif not self._under_way or draw.random() < 0.03:
                due = [c.core.deadline_us for c in cluster.clients if c.core.deadline_us is not None]
                cluster.now_us = max(cluster.now_us + 1, min(due))
                for client in cluster.clients:
                    client.core.wake(cluster.now_us)
                    client._collect()
                for node in cluster.nodes.values():
                    node.tick(cluster.now_us)
        raise AssertionError("the race does not end")


__all__ = ["GAP_US", "LIFE_US", "Hand", "Race", "Verifier", "verify"]
