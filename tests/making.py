"""Batches, certificates and requests made by hand: what a correct writer would send, or one that cheats.

`Draft` holds the headers of one batch and makes from them whatever a test wants to send. No network, no machines.
"""

from __future__ import annotations

from collections.abc import Sequence

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string, intent_string
from quorumcache.core.config import Configuration
from quorumcache.core.model import (
    PUT,
    Certificate,
    Entry,
    Grant,
    digest_of,
    encode_header,
    header_slot,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.quorum import full_bitmap
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of, slot

SECOND_US = 1_000_000


class Draft:
    """One writer's batch. `put` adds a header (and returns the draft); the rest makes messages of it."""

    def __init__(self, configuration: Configuration, writer: str = "w1", *, nonce: int = 0) -> None:
        self.configuration = configuration
        self.key = key_of(writer)
        self.nonce = nonce
        self.headers: list[bytes] = []
        self.salted: list[bytes] = []

    def put(
        self,
        key: str = "k",
        value: bytes = b"v",
        *,
        at_us: int = START_US,
        kind: int = PUT,
        expires_at_us: int = 0,
        metadata: bytes = b"",
        slot_bytes: bytes | None = None,
    ) -> Draft:
        """Add a header for a key of the namespace "test" (or for any slot)."""
        where = slot(key) if slot_bytes is None else slot_bytes
        salted = b"salt of sixteen." + value
        stamp = stamp_of(at_us, self.key.public, self.nonce)
        self.headers.append(
            encode_header(where, stamp, kind, value_hash_of(salted), len(value), expires_at_us, metadata)
        )
        self.salted.append(salted)
        return self

    @property
    def group(self) -> bytes:
        """The id of the group of the first header's slot."""
        return self.configuration.group_of(header_slot(self.headers[0])).id

    @property
    def leaves(self) -> bytes:
        return b"".join(digest_of(header) for header in self.headers)

    @property
    def root(self) -> bytes:
        return merkle.root_of(self.leaves)

    @property
    def intent(self) -> bytes:
        """The writer's signature over the batch."""
        return self.key.sign(intent_string(self.configuration.digest, self.group, self.root))

    def grant(self, node: int, bitmap: bytes | None = None) -> Grant:
        """A node's grant, as its key would sign it."""
        bits = full_bitmap(len(self.headers)) if bitmap is None else bitmap
        string = grant_string(self.configuration.digest, self.group, self.root, bits)
        return Grant(node, bits, key_of(f"node {node}").sign(string))

    def certificate(self, nodes: Sequence[int] | None = None) -> Certificate:
        """The certificate with the grants of these nodes (the first q members)."""
        members = self.configuration.groups[self.group].members
        granted = members[: self.configuration.q] if nodes is None else nodes
        return Certificate(
            self.configuration.digest,
            self.group,
            self.root,
            len(self.headers),
            self.key.public,
            self.intent,
            tuple(self.grant(node) for node in granted),
        )

    def entry(self, position: int = 0, nodes: Sequence[int] | None = None) -> Entry:
        """A certified entry, with its path."""
        path = merkle.path_of(self.leaves, position)
        return Entry(self.headers[position], self.salted[position], self.certificate(nodes), position, path)

    def entry_of(self, position: int, bitmaps: dict[int, int], liars: Sequence[int]) -> Entry:
        """A certified entry with the grants that these nodes gave, as bitmaps, and those of liars, who grant all."""
        size = (len(self.headers) + 7) // 8
        granted = {node: bits.to_bytes(size, "little") for node, bits in bitmaps.items()}
        granted.update((node, full_bitmap(len(self.headers))) for node in liars)
        grants = tuple(self.grant(node, granted[node]) for node in sorted(granted))
        certificate = Certificate(
            self.configuration.digest, self.group, self.root, len(self.headers), self.key.public, self.intent, grants
        )
        path = merkle.path_of(self.leaves, position)
        return Entry(self.headers[position], self.salted[position], certificate, position, path)

    def prepare(self, request_id: int = 1) -> m.Prepare:
        """The request for grants."""
        return m.Prepare(
            request_id, self.configuration.digest, self.group, self.key.public, self.intent, list(self.headers)
        )

    def commit(self, request_id: int = 2, nodes: Sequence[int] | None = None) -> m.Commit:
        """The commit of the whole batch, as its writer sends it."""
        items = [m.Item(i, self.headers[i], self.salted[i]) for i in range(len(self.headers))]
        bundle = m.Bundle(self.certificate(nodes), self.leaves, items)
        return m.Commit(request_id, self.configuration.digest, [bundle])


def passed_on(entry: Entry, configuration: Configuration, request_id: int = 3) -> m.Commit:
    """The commit with which anyone passes an entry on."""
    item = m.Item(entry.position, entry.header, entry.salted, entry.path)
    return m.Commit(request_id, configuration.digest, [m.Bundle(entry.certificate, b"", [item])])


class Alone:
    """One node by itself, at a time that the test sets."""

    def __init__(
        self,
        configuration: Configuration | None = None,
        *,
        index: int = 0,
        fresh: bool = False,
        limits: NodeLimits | None = None,
        chain: Sequence[Configuration] = (),
    ) -> None:
        self.configuration = configuration or configuration_of()
        self.now_us = START_US
        self.node = Node(
            self.configuration,
            index,
            key_of(f"node {index}").sign,
            Verifier(verify, [self.configuration, *chain]),
            started_us=self.now_us if fresh else None,
            limits=limits,
        )

    def draft(self, writer: str = "w1", *, nonce: int = 0) -> Draft:
        return Draft(self.configuration, writer, nonce=nonce)

    def prepare(self, draft: Draft) -> m.PrepareReply:
        """The node's grants and refusals; the request must not be rejected."""
        reply = self.node.handle(draft.prepare(), self.now_us)
        assert isinstance(reply, m.PrepareReply), reply
        return reply

    def refusal(self, draft: Draft) -> m.Refusal:
        """The refusal of a batch of one."""
        reply = self.prepare(draft)
        assert (reply.bitmap, reply.signature) == (b"\0", b""), "what is refused is not granted"
        assert len(reply.refusals) == 1
        return reply.refusals[0]

    def grants(self, draft: Draft) -> bool:
        """Whether the node grants a batch of one."""
        return self.prepare(draft).bitmap == b"\1"

    def commit(self, draft: Draft) -> list[str]:
        """The codes of a commit, by name."""
        return self.codes(draft.commit())

    def codes(self, request: m.Commit) -> list[str]:
        reply = self.node.handle(request, self.now_us)
        assert isinstance(reply, m.CommitReply), reply
        return [m.COMMIT_CODES[code] for code in reply.codes]

    def rejected(self, request: m.Request) -> m.Reject:
        """How the node rejects a whole request."""
        reply = self.node.handle(request, self.now_us)
        assert isinstance(reply, m.Reject), reply
        assert reply.detail, "a rejection says why"
        return reply

    def full(self, key: str = "k") -> m.FullAnswer:
        """What the node reports for a key."""
        reply = self.node.handle(m.ReadFull(9, self.configuration.digest, [slot(key)]), self.now_us)
        assert isinstance(reply, m.ReadFullReply), reply
        return reply.answers[0]

    def value(self, key: str = "k") -> bytes | None:
        """The value that the node holds for a key, or None."""
        entry = self.full(key).entry
        return None if entry is None else entry.value

    def floor(self, key: str = "k") -> int:
        """The floor of the key's shard."""
        return self.node.slots.shard(slot(key)).floor_us

    def promises(self, key: str = "k") -> int:
        """How many promises are open on a key."""
        return len(self.node.slots.open.get(slot(key), ()))
