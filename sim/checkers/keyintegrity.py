"""Integrity of keys with fields (protocol 5.1 and 6): a read shows only headers that correct clients signed, or the
adversary's writers; all of one generation, of this key, each field once; nothing of a writer that was revoked before it
began; no key that had expired.

And what follows from what clients are told: nothing of a write that failed for certain is ever seen; a write takes
effect once in a generation. Excused is a write that, while it was under way, was written again because the key's
generation had changed: it may be seen once in each (protocol 6, "an add that races with the deletion of its key").
"""

from __future__ import annotations

from quorumcache.core.model import header_expires_at, header_slot, header_writer, value_hash_of
from quorumcache.core.types.base import base_slot_of, generation_of
from sim.checkers.base import Checker, View, told
from sim.keyed import named
from sim.record import FAILED, OK, Op


class WholeKeys(Checker):
    """Knows who signed what."""

    name = "integrity of keys"
    about = "keys"

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self.seen: dict[tuple[int, bytes], tuple[bytes, Op]] = {}
        self.failed: dict[int, Op] = {}

    def ended(self, op: Op) -> None:
        """Compare a read with who signed; a failed write with who read."""
        if op.kind != "read":
            if op.outcome == FAILED:
                self.failed[op.id] = op
                for (number, _), (_, reader) in self.seen.items():
                    if number == op.id:
                        self.fail(f"{told(op)} failed for certain, but {told(reader)} found what it wrote")
                        return
            return
        if op.outcome != OK:
            return
        late_us = 2 * self.view.max_skew_us + self.view.op_time_us
        expires_at_us = header_expires_at(op.base_header)
        if expires_at_us and expires_at_us + late_us < op.start_us:
            self.fail(f"{told(op)} found a key that had expired at {expires_at_us}")
        slots = [header_slot(raw) for raw, _ in op.fields]
        if header_slot(op.base_header) != op.base or len(set(slots)) != len(slots):
            self.fail(f"{told(op)} found another key's base, or a field twice")
        for raw, salted in [(op.base_header, None), *op.fields]:
            slot = header_slot(raw)
            if base_slot_of(slot) != op.base or (salted is not None and slot == op.base):
                self.fail(f"{told(op)} found a field of another key: {named(slot)}")
            elif generation_of(raw) != op.generation:
                self.fail(f"{told(op)} found field {named(slot)} of another generation")
            elif salted is not None and value_hash_of(salted) != raw[51:83]:
                self.fail(f"{told(op)} found field {named(slot)} with another value than was signed")
            else:
                self._check_author(op, raw)

    def _check_author(self, op: Op, raw: bytes) -> None:
        writer = header_writer(raw)
        since_us = self.view.revoked.get(writer)
        if since_us is not None and op.start_us > since_us:
            self.fail(f"{told(op)} found an entry of a writer that was revoked at {since_us % 10**9 / 1000:.3f} ms")
        authors = self.view.authentic.get(raw)
        if authors is None:
            if raw not in self.view.evil_headers:
                self.fail(f"{told(op)} found a header of {named(header_slot(raw))} that its writer never signed")
            return
        for author in authors[-1:]:
            before, reader = self.seen.setdefault((author.id, generation_of(raw)), (raw, op))
            if author.id in self.failed:
                self.fail(f"{told(op)} found what a write that failed for certain wrote: {told(author)}")
            elif before != raw:
                self.fail(f"{told(op)} found a write that took effect twice: {told(author)}; {told(reader)}")
