"""What a correct node is said to have voted for and granted, it did, and in just this form (protocol 17).

A proof is of one vote or grant, of one node, in one tree; whoever takes another for one takes what nobody signed.
"""

from __future__ import annotations

from collections.abc import Iterable

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import Grant, digest_of, header_slot
from sim.checkers.base import Checker, View
from sim.processes import NodeProcess


class NoForgedBallots(Checker):
    """Remembers what correct nodes signed, and compares what correct nodes take for that. `together` counts signatures
    that stand for several votes and grants."""

    name = "no forged ballots"
    about = "exact"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._given: set[tuple[bytes, bool, bytes, bytes, bytes]] = set()
        self._liars: set[bytes] | None = None
        self.alone = self.together = 0

    def balloted(self, node: NodeProcess, request: m.Vote | m.Lock, reply: m.BallotReply) -> None:
        """A correct node answered, after it had checked the votes that it was shown."""
        root = merkle.root_of(digest_of(request.header))
        if not reply.code:
            is_grant = isinstance(request, m.Lock)
            self._given.add((node.key.public, is_grant, root, request.ballot, reply.signature))
            if len(reply.signature) > 64:
                self.together += 1
            else:
                self.alone += 1
        if isinstance(request, m.Lock):
            self._check(node, False, root, request.ballot, request.votes, request.header)
        elif request.votes:
            self._check(node, False, root, request.lock_ballot, request.votes, request.header)

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node found certificates valid."""
        for bundle in request.bundles:
            certificate = bundle.certificate
            if certificate.ballot:
                header = bundle.items[0].header
                self._check(node, True, certificate.root, certificate.ballot, certificate.grants, header)

    def _check(
        self, node: NodeProcess, is_grant: bool, root: bytes, ballot: bytes, signed: Iterable[Grant], header: bytes
    ) -> None:
        if self._liars is None:
            self._liars = {other.key.public for other in self.view.nodes if other.is_byzantine}
        # Who holds which place stays the same over all epochs that exact namespaces live through.
        configuration: Configuration = node.configuration
        for one in signed:
            key = configuration.nodes[one.node].key
            if key not in self._liars and (key, is_grant, root, ballot, one.signature) not in self._given:
                what = "granted" if is_grant else "voted for"
                self.fail(
                    f"node {node.number} took it that node {one.node} {what} a header of {header_slot(header)[-8:]!r} "
                    f"in a ballot, which it did not, or not so"
                )
