"""What a client object does with keys that have fields: the natural operations of their types, on the core's machine.

It remembers what such a client has to: the context of what it read of siblings, and the tally of its own field of each
counter; after a write of that which failed it takes a fresh field. Operations of plans are words: "read", "get N",
"put N", "remove N", "add N", "resolve", "blind", "touch", "drop". It must not know checkers or faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final

from quorumcache.core.coordinator import Coordinator
from quorumcache.core.model import DELETE, PUT, header_slot, header_stamp, header_writer
from quorumcache.core.outcome import Found, Written
from quorumcache.core.types import FIELD_TYPES
from quorumcache.core.types.base import field_of, field_slot, generation_of, is_base_slot, name_field
from quorumcache.core.types.counter import Tally
from quorumcache.core.types.siblings import Seen, Siblings, encode_seen
from sim.record import Op

#: Headers that one client object signed and remembers, to tell what a write that ended has written.
_SIGNED_MAX: Final = 4096


class KeyedClient:
    """The keyed side of one client object; gone when that is."""

    def __init__(self, core: Coordinator, draw: random.Random, writer: bytes) -> None:
        self._core = core
        self._draw = draw
        self._writer = writer
        self._contexts: dict[bytes, Seen] = {}
        self._tallies: dict[bytes, Tally] = {}
        self._writing: set[bytes] = set()
        self._signed: dict[bytes, bytes] = {}  # slot and stamp -> header

    def go_on(self, core: Coordinator) -> None:
        """The client's core is another one from now on, which goes on with all that is under way."""
        self._core = core

    # --- beginning ---

    def plan(self, what: str, kind: str, base: bytes, number: int, client: int) -> tuple[str, bytes, bytes, int]:
        """(kind, slot, value, amount) of an operation of a plan on a key of a type."""
        word, _, text = what.partition(" ")
        n = int(text or 0)
        if base in self._writing and word in ("add", "resolve", "blind"):
            # One write of it is in flight per client object: this client looks instead.
            word = "read"
        if word in ("get", "put", "remove"):
            slot = field_slot(base, name_field(b"%d" % n))
            if word == "get":
                return "read", slot, b"", 0
            value = b"%d by %d" % (number, client) if kind == "map" and word == "put" else b""
            return ("write" if word == "put" else "delete"), slot, value, 0
        if word == "add":
            tally = self._tallies.get(base)
            if tally is None:
                tally = self._tallies[base] = Tally(self._writer + self._draw.randbytes(8))
            return "write", field_slot(base, tally.field), b"", n
        if word in ("resolve", "blind"):
            return "write", field_slot(base, self._writer + self._draw.randbytes(8)), b"%d by %d" % (number, client), 0
        return {"touch": "touch", "drop": "delete"}.get(word, "read"), base, b"", 0

    def start(self, op: Op, what: str) -> None:
        """Queue the operation."""
        core = self._core
        if op.kind == "read":
            core.read(op.slot, op)
        elif op.kind == "touch":
            core.write(op.base, PUT, b"", op.expires_at_us, op)
        elif op.kind == "delete":
            core.write(op.slot, DELETE, b"", 0, op)
        else:
            details: bytes | Callable[[bytes], bytes] = b""
            if op.type == "counter":
                self._writing.add(op.base)
                tally = self._tallies[op.base]
                tally.begin((op.amount,))
                details = tally.details
            elif op.type == "siblings":
                self._writing.add(op.base)
                if what == "resolve":
                    details = encode_seen(self._contexts.get(op.base, {}))
            core.write(op.slot, PUT, op.value, 0, op, details, op.expires_at_us)

    # --- what was signed on the way ---

    def signed(self, headers: Iterable[bytes]) -> list[tuple[bytes, list[Op]]]:
        """Note the headers that a prepare of this client signs: those of keys with fields, with the operations that
        each is for, the one whose value it has last (none: a base that the core makes by itself). One that is sent
        again was signed before, and says nothing of what the slot's next write asks for."""
        noted = []
        core = self._core
        for raw in headers:
            slot = header_slot(raw)
            if not core.is_keyed(slot) or self._signed.get(slot + raw[3:51]) == raw:
                continue
            if len(self._signed) >= _SIGNED_MAX:
                del self._signed[next(iter(self._signed))]
            self._signed[slot + raw[3:51]] = raw
            write = core._in_flight.get(slot)
            noted.append((raw, list(write.tokens) if write is not None else []))
        return noted

    # --- ending ---

    def ended(self, op: Op, outcome: Any) -> None:
        """Take what an operation found or wrote, into `op` and into memory."""
        if isinstance(outcome, Found):
            self._found(op, outcome)
        elif isinstance(outcome, Written):
            raw = self._signed.get(op.slot + outcome.stamp, b"")
            op.generation = outcome.generation or generation_of(raw)
            op.fields = [(raw, b"")]
        if op.kind != "write":
            return
        self._writing.discard(op.base)
        if op.type == "counter":
            if isinstance(outcome, Written):
                self._tallies[op.base].confirm(outcome.generation)
            else:
                del self._tallies[op.base]  # It may have taken effect, or may yet: a fresh field.

    def _found(self, op: Op, outcome: Found) -> None:
        assert outcome.fields is not None
        op.base_header = outcome.header
        op.generation = generation_of(outcome.header)
        op.fields = outcome.fields
        op.stamp = header_stamp(outcome.header)
        if is_base_slot(op.slot):
            kind = FIELD_TYPES[op.type]
            value = kind.value_of(outcome.fields)
            # A set's order, as it prints, depends on the interpreter's hash seed.
            op.value = repr(sorted(value) if isinstance(value, set | frozenset) else value).encode()
            op.writer = header_writer(outcome.header)
            if isinstance(kind, Siblings):
                self._contexts[op.base] = kind.seen_in(outcome.fields)
        elif outcome.fields:
            raw, salted = outcome.fields[0]
            op.stamp = header_stamp(raw)
            op.writer = header_writer(raw)
            op.value = b"" if raw[2] == DELETE else salted[16:]


def named(slot: bytes) -> str:
    """A field in few words."""
    field = field_of(slot)
    return repr(field[1:]) if field[:1] == b"=" else field.hex()[-16:] or "the base"
