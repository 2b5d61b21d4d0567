"""No proof is possible (protocol 5.7 and 16): no two signatures of a correct party contradict each other.

Whether anybody holds both does not matter. Of nodes also what they would sign of their slots, if they were asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from quorumcache.core import messages as m
from quorumcache.core.evidence import Witnessed, may_witness, retracts
from quorumcache.core.model import header_slot
from quorumcache.core.noticing import statement_of
from quorumcache.core.types.base import is_base_slot
from sim.checkers.base import Checker, View
from sim.processes import NodeProcess


class NoProofPossible(Checker):
    """Remembers what was signed under each slot and stamp, and what each node held last. Bounded: the oldest leave."""

    name = "no proof possible"
    remembered_max = 100_000

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.intents: dict[bytes, bytes] = {}
        self.grants: dict[tuple[int, bytes], bytes] = {}
        self.held: dict[tuple[int, int, bytes], Witnessed] = {}

    def asked(self, request: m.Prepare) -> None:
        """A correct client signed these headers."""
        for header in request.headers:
            # Stamp and slot as they stand in the header's bytes.
            before = self.intents.setdefault(header[3:51] + header_slot(header), header)
            if before is not header and before != header:
                self.fail(f"correct writer {header[11:19].hex()} signed two headers under {_told(header)}")
        _bound(self.intents, self.remembered_max)

    def promised(self, node: NodeProcess, request: m.Prepare, reply: m.PrepareReply) -> None:
        """A correct node signed for the headers in the bitmap."""
        for i, header in enumerate(request.headers):
            if reply.bitmap[i >> 3] >> (i & 7) & 1:
                before = self.grants.setdefault((node.number, header[3:51] + header_slot(header)), header)
                if before is not header and before != header:
                    self.fail(f"correct node {node.number} promised two headers under {_told(header)}")
        _bound(self.grants, self.remembered_max)
        self._witness(node, (header_slot(header) for header in request.headers))

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node may hold something else than before."""
        self._witness(node, (header_slot(item.header) for bundle in request.bundles for item in bundle.items))

    def _witness(self, node: NodeProcess, slots: Iterable[bytes]) -> None:
        # A node that was started anew speaks for itself alone.
        incarnation = node.life
        for slot in slots:
            if is_base_slot(slot) and may_witness(node.configuration, slot):
                now = statement_of(node.node, slot, b"", 0)
                name = (node.number, incarnation, slot)
                before = self.held.get(name)
                self.held[name] = now
                if before is not None and (how := retracts(before, now)):
                    self.fail(f"correct node {node.number} would take back what it signed of {slot[-8:]!r}: {how}")
        _bound(self.held, self.remembered_max)


def _told(header: bytes) -> str:
    return f"stamp {header[3:11].hex()} of slot {header_slot(header)[-8:]!r}"


def _bound(remembered: dict[Any, Any], count_max: int) -> None:
    while len(remembered) > count_max:
        del remembered[next(iter(remembered))]
