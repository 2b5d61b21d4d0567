"""What a run leaves behind: operations, messages, faults and states in plain lists, and the digest over all of it.

Rows are tuples of numbers, strings and bytes, so that whoever wants tables or plots can make them from here. The lists
are bounded: on long runs the oldest messages and operations leave once they are digested. It must not know the
protocol's rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from quorumcache.core import messages as m

KINDS: Final = (
    "Prepare",
    "PrepareReply",
    "Commit",
    "CommitReply",
    "Read",
    "ReadReply",
    "ReadFull",
    "ReadFullReply",
    "Report",
    "ReportReply",
    "Reject",
    "Ping",
    "Pong",
    "Outline",
    "OutlineReply",
    "Fields",
    "FieldsReply",
    "Scan",
    "ScanReply",
    "ShardSums",
    "ShardSumsReply",
    "ShardList",
    "ShardListReply",
    "Changes",
    "ChangesReply",
    "Put",
    "PutReply",
    "Forward",
    "ForwardReply",
    "Get",
    "GetReply",
    "Evidence",
    "EvidenceReply",
    "Witness",
    "WitnessReply",
    "Vote",
    "Lock",
    "BallotReply",
    "ExactReport",
    "ExactReportReply",
    "Follow",
    "FollowReply",
    "SealEpoch",
    "SealReply",
)
KIND_OF: Final[dict[type, int]] = {getattr(m, name): number for number, name in enumerate(KINDS)}
MESSAGE_COLUMNS: Final = ("sent_us", "arrived_us", "source", "target", "kind", "id")
FAULT_COLUMNS: Final = ("time_us", "kind", "target", "detail")
_CHUNK: Final = 1 << 16

# How operations end, as a column of the table of operations.
OK, MISS, FAILED, UNKNOWN, PENDING = "ok", "miss", "failed", "unknown", "pending"


class Op:
    """One operation of a client. Times are true microseconds; `end_us` is None while it lasts, and for ever where its
    client crashed. `bound` is the highest stamp that was complete in its slot when it began."""

    __slots__ = (
        "amount",
        "base",
        "base_header",
        "bound",
        "client",
        "detail",
        "direct",
        "end_us",
        "expires_at_us",
        "fields",
        "generation",
        "id",
        "kind",
        "known",
        "lane",
        "outcome",
        "overtaken",
        "phase",
        "proven",
        "slot",
        "stamp",
        "start_us",
        "type",
        "value",
        "writer",
    )

    def __init__(self, number: int, client: int, lane: int, kind: str, slot: bytes, value: bytes, phase: str) -> None:
        self.id = number
        self.client = client
        self.lane = lane
        self.kind = kind  # "read", "write" or "delete"; of keys with fields also "touch" (a new time to live)
        self.slot = slot
        self.value = value  # what is written, or was found
        self.phase = phase  # "faults", "healing" or "final"
        self.writer = b""
        self.expires_at_us = 0
        self.start_us = 0
        self.end_us: int | None = None
        self.outcome = PENDING
        self.stamp = b""
        self.bound = b""
        self.overtaken = False
        #: For a miss: nothing happened yet that would excuse one (protocol 5.4).
        self.proven = False
        self.detail = ""
        #: Of a namespace in mode primary.
        self.direct = False
        #: Of a key with fields: its type, and the slot of its base; empty for registers.
        self.type = ""
        self.base = b""
        #: What was written, or found, belongs to this generation.
        self.generation = b""
        #: A read's base, and fields as (header, salted value); a write's own header and salt.
        self.base_header = b""
        self.fields: list[tuple[bytes, bytes]] = []
        #: By how much a counter changes.
        self.amount = 0
        #: What checkers noted when it began: checker's name -> note.
        self.known: dict[str, Any] = {}

    def row(self) -> tuple[Any, ...]:
        """The operation as a tuple: OP_COLUMNS, and where its key has fields what was found in them."""
        columns = tuple(getattr(self, name) for name in OP_COLUMNS)
        return (*columns, self.generation, self.base_header, self.fields) if self.type else columns


OP_COLUMNS: Final = (
    "id",
    "client",
    "lane",
    "kind",
    "slot",
    "value",
    "phase",
    "writer",
    "start_us",
    "end_us",
    "outcome",
    "stamp",
    "overtaken",
    "proven",
    "detail",
)


class Violation(msgspec.Struct, frozen=True):
    """A property that did not hold: which checker says so, when (true microseconds), and what happened."""

    checker: str
    time_us: int
    text: str


class Record:
    """Collects what happens in a run. `messages_max` bounds the rows of messages that are kept; `ops` has those
    operations that were not forgotten, of `op_count` in all."""

    def __init__(self, *, messages_max: int = 1_000_000) -> None:
        self.ops: list[Op] = []
        self.op_count = 0
        self.messages: list[tuple[int, int, int, int, int, int]] = []
        self.faults: list[tuple[int, str, int, str]] = []
        #: (time_us, node, state): up, down, recovering, active ...
        self.states: list[tuple[int, int, str]] = []
        self.violations: list[Violation] = []
        self.message_count = 0
        self._messages_max = messages_max
        self._digested = 0
        self._hash = blake2b(digest_size=16)

    def add(self, op: Op) -> None:
        """An operation begins; its number is `op_count` until then."""
        self.ops.append(op)
        self.op_count += 1

    def forget(self, leaving: Iterable[Op]) -> None:
        """Take operations into the digest, and keep them no longer."""
        gone = {op.id for op in leaving}
        self._hash.update(msgspec.msgpack.encode([op.row() for op in self.ops if op.id in gone]))
        self.ops[:] = [op for op in self.ops if op.id not in gone]

    def message(self, sent_us: int, arrived_us: int, source: int, target: int, kind: int, request_id: int) -> None:
        """Note a message: when it left and arrives (0: never)."""
        messages = self.messages
        messages.append((sent_us, arrived_us, source, target, kind, request_id))
        if len(messages) - self._digested >= _CHUNK:
            self._digest_messages()

    def _digest_messages(self) -> None:
        fresh = self.messages[self._digested :]
        self._hash.update(msgspec.msgpack.encode(fresh))
        self.message_count += len(fresh)
        if len(self.messages) > self._messages_max:
            del self.messages[: len(self.messages) - self._messages_max // 2]
        self._digested = len(self.messages)

    def digest(self, final: Sequence[Any]) -> str:
        """The digest over the whole trace: messages, faults, states, operations, and what the caller adds."""
        self._digest_messages()
        total = self._hash.copy()
        rows = [op.row() for op in self.ops]
        total.update(msgspec.msgpack.encode([self.faults, self.states, rows, self.violations, final]))
        return total.hexdigest()
