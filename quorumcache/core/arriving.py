"""Entries that come one by one, each with a certificate and a path of its own: from reports, and from peers asked for
single entries.

What is here of their batches is used again: a certificate that an entry here proves was verified when that came, and
the entries of a batch share one object for it, as if they had come together. Else a node that recovered would keep
most of a certificate, several times the entry itself, for every single one. It must not know who sent them, or why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorumcache.core.held import Held
from quorumcache.core.model import Certificate, Entry, Header

if TYPE_CHECKING:
    from quorumcache.core.node import Node


def check_entry(node: Node, entry: Entry) -> Header:
    """`Verifier.check_entry`, without verifying again what entries here prove. Raises Malformed."""
    return node.verifier.check_entry(entry, known=node.slots.memory.batch_with(entry.certificate))


def held_of(node: Node, header: Header, entry: Entry) -> Held:
    """The entry, which `check_entry` found valid, as nodes keep it."""
    batch = node.slots.memory.batch_with(entry.certificate) or node.verifier.batch_of(entry)
    return Held(header.digest, header.raw, entry.salted, batch, entry.position, None if batch.leaves else entry.path)


class Certificates:
    """Has entries that wait for others share their certificates. Bounded by them: `clear` it when they are gone."""

    __slots__ = ("_known", "_node")

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: dict[Certificate, Certificate] = {}

    def shared(self, entry: Entry) -> Entry:
        """The entry, with the certificate that others like it have."""
        certificate = entry.certificate
        batch = self._node.slots.memory.batch_with(certificate)
        same = self._known.setdefault(certificate, certificate) if batch is None else batch.certificate
        return Entry(entry.header, entry.salted, same, entry.position, entry.path)

    def clear(self) -> None:
        """Nothing waits any more."""
        self._known.clear()
