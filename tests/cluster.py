"""A cluster in a test's hand: real core nodes and coordinators, and a network that does only what the test says.

Time stands still unless a test moves it. Signatures are real, keys and randomness are fixed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, WriterInfo
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.model import DELETE, PUT, slot_of
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.outcome import Outcome
from quorumcache.wire.keys import SigningKey, verify

START_US = 1_700_000_000_000_000
NODE_NAMES = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def key_of(name: str) -> SigningKey:
    """A fixed key for a name."""
    return SigningKey(random.Random(f"key of {name}").randbytes(32))


def configuration_of(
    f: int = 1,
    *,
    nodes: int | None = None,
    writers: tuple[str, ...] = ("w1", "w2", "w3"),
    revoked: tuple[str, ...] = (),
    epoch: int = 1,
    shards: int = 8,
    **changes: object,
) -> Configuration:
    """A configuration for 3f+1 (or more) nodes and some writers, with a register namespace "test"."""
    count = nodes if nodes is not None else 3 * f + 1
    fields: dict[str, object] = {
        "cluster_id": "test",
        "epoch": epoch,
        "previous": None if epoch == 1 else bytes(32),
        "f": f,
        "shards": shards,
        "max_skew_us": 1_000_000,
        "op_time_us": 5_000_000,
        "grace_us": 200_000,
        "valid_until_us": 0,
        "oldest_epoch": 1,
        "admins": (key_of("admin").public,),
        "admins_needed": 1,
        "nodes": tuple(
            NodeInfo(i, f"n{i}", key_of(f"node {i}").public, f"127.0.0.1:{7000 + i}", "", 1) for i in range(count)
        ),
        "namespaces": (NamespaceInfo("test", "register", "quorum", ("*",), 1 << 20, 0),),
        "writers": tuple(WriterInfo(w, key_of(w).public, "revoked" if w in revoked else "active") for w in writers),
    }
    fields.update(changes)
    return Configuration(**fields)  # type: ignore[arg-type]


def slot(key: str) -> bytes:
    """The slot of a key in the namespace "test"."""
    return slot_of(b"test", key.encode())


class Cluster:
    """Nodes, clients, and messages under way.

    `nodes[i]` answers when `deliver` brings it a message. `lies[i]`, where set, replaces node i's answers: a function
    of (request, honest reply or None) that returns a reply, or None for silence.
    """

    def __init__(self, f: int = 1, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or configuration_of(f)
        self.now_us = START_US
        self.nodes: dict[int, Node] = {}
        self.down: set[int] = set()
        self.lies: dict[int, Callable[[m.Request, m.Reply], m.Reply | None]] = {}
        self.clients: list[Client] = []
        for info in self.configuration.nodes:
            self.start(info.index, floor_us=0)

    def start(self, index: int, *, floor_us: int | None = None, limits: NodeLimits | None = None) -> Node:
        """(Re)start a node without stored state; with `floor_us=0`, as if it had always been there, empty."""
        node = Node(
            self.configuration,
            index,
            key_of(f"node {index}").sign,
            Verifier(verify, [self.configuration]),
            started_us=None if floor_us == 0 else self.now_us,
            limits=limits,
        )
        self.nodes[index] = node
        return node

    def client(self, writer: str | None = "w1") -> Client:
        """A client of the cluster, with the key of a writer or, with None, to read only."""
        client = Client(self, writer, len(self.clients))
        self.clients.append(client)
        return client

    def answer(self, node: int, request: m.Request) -> m.Reply | None:
        """What a node says to a request, lies included."""
        if node in self.down:
            return None
        reply = self.nodes[node].handle(request, self.now_us)
        lie = self.lies.get(node)
        return lie(request, reply) if lie is not None else reply

    def advance(self, by_us: int) -> None:
        """Let time pass: clients wake when they asked to, messages arrive at once."""
        end_us = self.now_us + by_us
        while True:
            for client in self.clients:
                client.run()
            due = [c.core.deadline_us for c in self.clients if c.core.deadline_us is not None]
            next_us = min(due, default=end_us)
            if next_us > end_us:
                break
            self.now_us = max(self.now_us, next_us)
            for client in self.clients:
                client.core.wake(self.now_us)
            if self.now_us >= end_us:
                break
        self.now_us = end_us
        for client in self.clients:
            client.core.wake(self.now_us)
            client.run()


class Client:
    """A coordinator with its messages in the test's hand: `run` delivers all, `take` hands them out."""

    def __init__(self, cluster: Cluster, writer: str | None, number: int) -> None:
        self.cluster = cluster
        randomness = random.Random(f"client {number}")
        key = key_of(writer) if writer is not None else None
        self.core = Coordinator(
            cluster.configuration,
            Verifier(verify, [cluster.configuration]),
            writer=key.public if key else None,
            sign=key.sign if key else None,
            nonce=number,
            random_bytes=randomness.randbytes,
            first_id=number << 32,
            guess_us=0,
        )
        self.outcomes: dict[object, Outcome] = {}
        self._tokens = itertools.count()

    def write(self, key: str, value: bytes, *, expires_at_us: int = 0) -> object:
        """Queue a write; `outcomes[token]` will tell how it ended."""
        token = ("write", next(self._tokens))
        self.core.write(slot(key), PUT, value, expires_at_us, token)
        return token

    def delete(self, key: str) -> object:
        """Queue a delete."""
        token = ("delete", next(self._tokens))
        self.core.write(slot(key), DELETE, b"", 0, token)
        return token

    def read(self, key: str, *, full: bool = False) -> object:
        """Queue a read."""
        token = ("read", next(self._tokens))
        self.core.read(slot(key), token, full=full)
        return token

    def scan(self, prefix: bytes = b"", start: m.Position | None = None, count: int = 100) -> object:
        """Queue a part of the listing of the namespace "test"."""
        token = ("scan", next(self._tokens))
        self.core.scan(b"test", prefix, start or m.Position(0), count, token)
        return token

    def take(self) -> list[tuple[int, m.Request]]:
        """Flush, and take what is to be sent: (node, request) pairs."""
        self.core.flush(self.cluster.now_us)
        out = [(node, request) for nodes, request in self.core.outbox for node in nodes]
        self.core.outbox.clear()
        self._collect()
        return out

    def deliver(self, node: int, request: m.Request) -> m.Reply | None:
        """Bring one request to its node and the answer back."""
        reply = self.cluster.answer(node, request)
        if reply is not None:
            self.core.receive(node, reply, self.cluster.now_us)
        self._collect()
        return reply

    def run(self) -> None:
        """Deliver everything until nothing is left to send."""
        for _ in range(1000):
            sent = self.take()
            if not sent and not self.core.has_ready():
                return
            for node, request in sent:
                self.deliver(node, request)
        raise AssertionError("the client never stops sending")

    def get(self, key: str, *, full: bool = False) -> Outcome | None:
        """Read at once; None where it has not ended."""
        token = self.read(key, full=full)
        self.run()
        return self.outcomes.get(token)

    def set(self, key: str, value: bytes) -> Outcome | None:
        """Write at once; None where it has not ended."""
        token = self.write(key, value)
        self.run()
        return self.outcomes.get(token)

    def _collect(self) -> None:
        for token, outcome in self.core.done:
            assert token not in self.outcomes, "an operation ended twice"
            self.outcomes[token] = outcome
        self.core.done.clear()
