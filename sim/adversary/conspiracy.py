"""What the adversary's processes share: their keys, the valid entries they saw, the values they learned.

Bounded in all. It must not know how any of it is used.
"""

from __future__ import annotations

from collections.abc import Callable

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string, intent_string
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.model import (
    Certificate,
    Entry,
    Grant,
    Malformed,
    digest_of,
    encode_header,
    header_slot,
    stamp_of,
    value_hash_of,
)
from quorumcache.core.quorum import full_bitmap
from sim.crypto import Key

_ENTRIES_MAX = 40
_VALUES_MAX = 64


#: How many votes are remembered of a slot.
_ASKED_MAX = 16


class Proposal:
    """A batch that an adversary's writer signed, and the grants it gathers for it."""

    def __init__(self, configuration: Configuration, key: Key, headers: list[bytes], salted: list[bytes]) -> None:
        self.configuration = configuration
        self.headers = headers
        self.salted = salted
        self.leaves = b"".join(digest_of(header) for header in headers)
        self.root = merkle.root_of(self.leaves)
        self.group = configuration.group_of(header_slot(headers[0]))
        self.writer = key.public
        self.signature = key.sign(intent_string(configuration.digest, self.group.id, self.root))
        self.grants: dict[int, Grant] = {}

    def prepare(self, request_id: int) -> m.Prepare:
        """The message that asks for promises."""
        return m.Prepare(
            request_id, self.configuration.digest, self.group.id, self.writer, self.signature, self.headers
        )

    def take(self, node: int, reply: m.Reply) -> None:
        """Take a node's answer: its grant, if it has one."""
        if isinstance(reply, m.PrepareReply) and reply.signature and node in self.group.members:
            self.grants[node] = Grant(node, reply.bitmap, reply.signature)

    def certificate(self) -> Certificate:
        """The certificate that the grants make, whether they suffice or not."""
        grants = tuple(self.grants[node] for node in sorted(self.grants))
        return Certificate(
            self.configuration.digest,
            self.group.id,
            self.root,
            len(self.headers),
            self.writer,
            self.signature,
            grants,
        )

    def entry(self, position: int = 0) -> Entry:
        """One of its writes as an entry."""
        path = merkle.path_of(self.leaves, position)
        return Entry(self.headers[position], self.salted[position], self.certificate(), position, path)

    def commit(self, request_id: int, configuration: Configuration) -> m.Commit:
        """The message that commits the whole batch at nodes that work under `configuration`, now."""
        items = [m.Item(i, header, self.salted[i]) for i, header in enumerate(self.headers)]
        bundle = m.Bundle(self.certificate(), self.leaves, items)
        return m.Commit(request_id, configuration.digest, [bundle])


def header_for(slot: bytes, time_us: int, writer: bytes, nonce: int, kind: int, salted: bytes) -> bytes:
    """A header's bytes for a salted value."""
    return encode_header(slot, stamp_of(time_us, writer, nonce), kind, value_hash_of(salted), len(salted) - 16, 0)


class Conspiracy:
    """All that the adversary knows and owns."""

    def __init__(self, configuration: Configuration, verify: Callable[[bytes, bytes, bytes], bool]) -> None:
        self.configuration = configuration
        self.chain = [configuration]
        self._verify = verify
        self.verifier = Verifier(verify, self.chain)
        self.node_keys: dict[bytes, Key] = {}
        self.entries: dict[bytes, list[Entry]] = {}
        self.values: dict[bytes, None] = {}
        #: Slot -> locks of compare-and-set that it has seen or made.
        self.locks: dict[bytes, list[m.Locked]] = {}
        #: Slot -> what others proposed there, as its nodes were asked to vote for it.
        self.asked: dict[bytes, list[m.Vote]] = {}
        #: What administrators signed, by the digest of the configuration that it follows.
        self.successors: dict[bytes, SignedConfiguration] = {}
        #: Headers that its writers signed: checkers take values read from these for theirs.
        self.signed: set[bytes] = set()

    def hear_of(self, successor: SignedConfiguration) -> None:
        """A successor was signed: what is certified under it can be told from what is not."""
        after = successor.configuration
        self.successors[after.previous or b""] = successor
        self.verifier.chain[after.digest] = after

    def adopt(self, configuration: Configuration) -> None:
        """A new epoch was published."""
        self.configuration = configuration
        self.chain.append(configuration)
        self.verifier.chain[configuration.digest] = configuration

    def grants_for(self, proposal: Proposal) -> None:
        """All its nodes of the group grant a proposal, whatever they granted before."""
        configuration = proposal.configuration
        bitmap = full_bitmap(len(proposal.headers))
        message = grant_string(configuration.digest, proposal.group.id, proposal.root, bitmap)
        for node in proposal.group.members:
            key = self.node_keys.get(configuration.nodes[node].key)
            if key is not None:
                proposal.grants[node] = Grant(node, bitmap, key.sign(message))

    def saw_vote(self, request: m.Vote) -> None:
        """Remember what somebody proposed."""
        known = self.asked.setdefault(header_slot(request.header), [])
        known.append(request)
        del known[:-_ASKED_MAX]

    def saw_commit(self, request: m.Commit) -> None:
        """Remember the valid entries of a commit."""
        for bundle in request.bundles:
            for item in bundle.items:
                path = item.path
                if bundle.leaves:
                    if 32 * (item.position + 1) > len(bundle.leaves):
                        continue
                    path = merkle.path_of(bundle.leaves, item.position)
                self.saw_entry(Entry(item.header, item.salted, bundle.certificate, item.position, path))

    def saw_entry(self, entry: Entry) -> None:
        """Remember an entry, if it is valid and new."""
        try:
            slot = header_slot(entry.header)
        except Malformed:
            return
        known = self.entries.get(slot, [])
        if any(other.header == entry.header for other in known):
            return
        try:
            self.verifier.check_entry(entry)
        except Malformed:
            return
        if len(known) >= _ENTRIES_MAX:
            del known[0]
        known.append(entry)
        self.entries[slot] = known
        self.learn(entry.salted[16:])

    def learn(self, value: bytes) -> None:
        """Remember a value that somebody wrote."""
        if len(self.values) >= _VALUES_MAX:
            del self.values[next(iter(self.values))]
        self.values[value] = None
