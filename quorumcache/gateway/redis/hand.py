"""One key in hand: commands run on it, by themselves, without a cluster. What EXEC after WATCH is made of.

The handlers are those of the commands; what they ask of the cluster is answered here. It must not know transactions.
"""

from __future__ import annotations

from typing import Any, Final

from quorumcache.client.mixed import ChangeSlot, Operation, ReadSlot
from quorumcache.core.model import DELETE, PUT, SALT_BYTES, encode_header, slot_parts, stamp_of
from quorumcache.core.outcome import Decided, Found, Missed, Outcome, Unchanged, Written
from quorumcache.gateway.redis.exact import Put, Stood
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import ONE_KEY, Call

_NO_SALT: Final = bytes(SALT_BYTES)
_OTHER_KEY: Final = "ERR only the one key that was watched can be touched here"


def fits(call: Call) -> bool:
    """Whether a command is of one key, and in steps."""
    return call.command.kind == "steps" and call.command.keys == ONE_KEY


class Hand:
    """What stands under a key (or nothing), and how commands leave it."""

    def __init__(self, slot: bytes, stood: Stood) -> None:
        self._slot = slot
        self._now_us = stood.now_us
        self._stored = stood.stored if stood.header else None
        self._expires_at_us = stood.expires_at_us
        self._is_changed = False

    @property
    def put(self) -> Put | None:
        """What is to stand there; None for as it was."""
        return Put(self._stored, self._expires_at_us, is_stored=True) if self._is_changed else None

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
        self._stored = None if kind == DELETE else value
        self._expires_at_us = 0 if kind == DELETE else expires_at_us
        self._is_changed = True

    def _entry(self) -> tuple[bytes, bytes]:
        stored, expires_at_us = self._stored, self._expires_at_us
        if stored is None or 0 < expires_at_us <= self._now_us:
            return b"", b""
        stamp = stamp_of(self._now_us, bytes(32), 0)
        header = encode_header(self._slot, stamp, PUT, bytes(32), len(stored), expires_at_us, b"")
        return header, _NO_SALT + stored
