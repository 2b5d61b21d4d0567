"""Signed things made by hand: headers, batches, certificates, entries, with any content and any signers.

For tests that speak to one node, or lie to a client. What clients and nodes do by themselves is in tests/cluster.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string, intent_string
from quorumcache.core.config import Configuration
from quorumcache.core.model import (
    DELETE,
    PUT,
    Certificate,
    Entry,
    Grant,
    digest_of,
    encode_header,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.quorum import full_bitmap
from tests.cluster import key_of, slot


class Crafted:
    """One header with what its writer knows of it."""

    def __init__(self, raw: bytes, salted: bytes, writer: str) -> None:
        self.raw = raw
        self.salted = salted
        self.writer = writer
        self.digest = digest_of(raw)

    @property
    def stamp(self) -> bytes:
        """The header's stamp."""
        return self.raw[3:51]

    @property
    def time_us(self) -> int:
        """The stamp's time."""
        return int.from_bytes(self.raw[3:11], "big")


def craft(
    key: str | bytes,
    time_us: int,
    value: bytes | None = b"value",
    *,
    writer: str = "w1",
    nonce: int = 7,
    salt: bytes = b"s" * 16,
    expires_at_us: int = 0,
    metadata: bytes = b"",
) -> Crafted:
    """A header for a key of the namespace "test" (or a slot's bytes); without a value, a delete."""
    place = slot(key) if isinstance(key, str) else key
    salted = salt + (value or b"")
    raw = encode_header(
        place,
        stamp_of(time_us, key_of(writer).public, nonce),
        DELETE if value is None else PUT,
        value_hash_of(salted),
        len(value or b""),
        expires_at_us,
        metadata,
    )
    return Crafted(raw, salted, writer)


def root_of(batch: Iterable[Crafted]) -> bytes:
    """The root over the headers of a batch."""
    return merkle.root_of(b"".join(c.digest for c in batch))


def prepare(configuration: Configuration, batch: list[Crafted], *, id: int = 1, writer: str = "") -> m.Prepare:
    """The prepare request of a batch, signed by its writer."""
    group = configuration.group_of(slot("a"))
    key = key_of(writer or batch[0].writer)
    signature = key.sign(intent_string(configuration.digest, group.id, root_of(batch)))
    return m.Prepare(id, configuration.digest, group.id, key.public, signature, [c.raw for c in batch])


def certificate(
    configuration: Configuration,
    batch: list[Crafted],
    nodes: Iterable[int] | None = None,
    bitmaps: dict[int, bytes] | None = None,
) -> Certificate:
    """A certificate with grants of the given nodes (the first q unless told), all bits set unless told."""
    group = configuration.group_of(slot("a"))
    root = root_of(batch)
    writer = key_of(batch[0].writer)
    grants = []
    for node in nodes if nodes is not None else range(configuration.q):
        bitmap = (bitmaps or {}).get(node, full_bitmap(len(batch)))
        message = grant_string(configuration.digest, group.id, root, bitmap)
        grants.append(Grant(node, bitmap, key_of(f"node {node}").sign(message)))
    return Certificate(
        configuration.digest,
        group.id,
        root,
        len(batch),
        writer.public,
        writer.sign(intent_string(configuration.digest, group.id, root)),
        tuple(grants),
    )


def entry(
    configuration: Configuration,
    crafted: Crafted,
    batch: list[Crafted] | None = None,
    certified: Certificate | None = None,
) -> Entry:
    """The entry of one header of a batch (alone, unless told)."""
    batch = batch or [crafted]
    position = batch.index(crafted)
    leaves = b"".join(c.digest for c in batch)
    return Entry(
        crafted.raw,
        crafted.salted,
        certified or certificate(configuration, batch),
        position,
        merkle.path_of(leaves, position),
    )


def commit(configuration: Configuration, *entries: Entry, id: int = 2) -> m.Commit:
    """A commit that passes entries on, each with its path."""
    bundles = [m.Bundle(e.certificate, b"", [m.Item(e.position, e.header, e.salted, e.path)]) for e in entries]
    return m.Commit(id, configuration.digest, bundles)


def commit_batch(configuration: Configuration, batch: list[Crafted], *, id: int = 2) -> m.Commit:
    """A commit as its writer sends it: one bundle with all leaves."""
    items = [m.Item(i, c.raw, c.salted) for i, c in enumerate(batch)]
    leaves = b"".join(c.digest for c in batch)
    return m.Commit(id, configuration.digest, [m.Bundle(certificate(configuration, batch), leaves, items)])
