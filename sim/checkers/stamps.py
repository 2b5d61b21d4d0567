"""One value per stamp (protocol 5.2): no two certificates exist for one slot and stamp with different digests.

Judged by what correct nodes accepted as certified, and by what reads returned.
"""

from __future__ import annotations

from quorumcache.core import messages as m
from quorumcache.core.model import digest_of, header_slot
from sim.checkers.base import Checker, View, told
from sim.processes import NodeProcess
from sim.record import OK, Op


class OneValuePerStamp(Checker):
    """Remembers the header, and what was read, under each slot and stamp. Bounded: the oldest leave."""

    name = "one value per stamp"
    remembered_max = 100_000

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.headers: dict[bytes, bytes] = {}
        self.values: dict[bytes, bytes] = {}

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node found these certificates valid."""
        for bundle in request.bundles:
            for item in bundle.items:
                self.see(item.header)

    def see(self, header: bytes) -> None:
        """A certified header."""
        # Stamp and slot as they stand in the header's bytes.
        name = header[3:51] + header_slot(header)
        digest = self.headers.setdefault(name, header)
        if digest is not header and digest != header:
            self.fail(
                f"two headers are certified under one stamp ({header[3:11].hex()}) of slot "
                f"{header_slot(header)[-8:]!r}: "
                f"{digest_of(digest).hex()[:16]} and {digest_of(header).hex()[:16]}"
            )
        if len(self.headers) > self.remembered_max:
            del self.headers[next(iter(self.headers))]

    def ended(self, op: Op) -> None:
        """A read returned a value under a stamp."""
        if op.outcome == OK and op.kind == "read":
            before = self.values.setdefault(op.stamp + op.slot, op.value)
            if len(self.values) > self.remembered_max:
                del self.values[next(iter(self.values))]
            if before != op.value:
                self.fail(f"{told(op)} returned another value than the {before!r} read before under its stamp")
