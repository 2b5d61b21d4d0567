"""One key in hand: commands of strings run on it, by themselves, without a cluster. What EXEC after WATCH is made of.

The handlers are those of the commands; what they ask of the cluster is answered here. It must not know transactions.
"""

from __future__ import annotations

from typing import Any, Final

from quorumcache.client.mixed import ChangeSlot, Operation, ReadSlot
from quorumcache.core.model import DELETE, PUT, SALT_BYTES, encode_header, slot_parts, stamp_of
from quorumcache.core.outcome import Decided, Found, Missed, Outcome, Unchanged, Written
from quorumcache.gateway.redis.database import Database
from quorumcache.gateway.redis.exact import Stood, plain
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import ONE_KEY, Call

_NO_SALT: Final = bytes(SALT_BYTES)
_OTHER_KEY: Final = "ERR only the one key that was watched can be touched here"


def fits(call: Call) -> bool:
    """Whether a command is of one key, and in steps."""
    return call.command.kind == "steps" and call.command.keys == ONE_KEY


class Hand:
    """A string (or nothing) as it stands, and as commands leave it. `value` and `expires_at_us` as in `Stood`."""

    def __init__(self, database: Database, slot: bytes, stood: Stood) -> None:
        self._stored = database.strings._stored
        self._slot = slot
        self._now_us = stood.now_us
        self.value = stood.value
        self.expires_at_us = stood.expires_at_us
        self.is_changed = False

    def run(self, call: Call) -> Any:
        """The reply to a command of this one key, which `fits` said it is. Raises Fault."""
        steps = call.command.run(call)
        outcomes: list[Outcome] | None = None
        try:
            while True:
                outcomes = [self._answer(operation) for operation in steps.send(outcomes)]
        except StopIteration as end:
            return end.value

    def _answer(self, operation: Operation) -> Outcome:
        if operation.slot != self._slot:
            if isinstance(operation, ReadSlot) and slot_parts(operation.slot)[1] == slot_parts(self._slot)[1]:
                return Missed(1)  # Of the key as another type: in hand is the string.
            raise Fault(_OTHER_KEY)
        header, salted = self._entry()
        if isinstance(operation, ReadSlot):
            return Found(header, salted) if header else Missed(1)
        if isinstance(operation, ChangeSlot):
            change = operation.change(header, salted, self._now_us)
            if change is None:
                return Unchanged(header, salted)
            self._put(change.kind, change.value, change.expires_at_us)
            return Decided(*self._entry())
        self._put(operation.kind, operation.value, operation.expires_at_us)
        return Written(b"")

    def _put(self, kind: int, value: bytes, expires_at_us: int) -> None:
        self.value = None if kind == DELETE else plain(value)
        self.expires_at_us = 0 if kind == DELETE else expires_at_us
        self.is_changed = True

    def _entry(self) -> tuple[bytes, bytes]:
        if self.value is None or 0 < self.expires_at_us <= self._now_us:
            return b"", b""
        stamp = stamp_of(self._now_us, bytes(32), 0)
        header = encode_header(self._slot, stamp, PUT, bytes(32), len(self.value), self.expires_at_us, b"")
        return header, _NO_SALT + self._stored(self.value)
