"""The writes of a client that wait or are on their way: one in flight per slot, and what queues up behind it
(protocol 4).

How a write is proposed is in draft.py, when in coordinator.py. It must not know nodes or messages.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from quorumcache.core.certificate import Sign
from quorumcache.core.config import Configuration
from quorumcache.core.model import DELETE, METADATA_BYTES_MAX, TIME_US_MAX, VALUE_BYTES_MAX
from quorumcache.core.outcome import DENIED, UNAVAILABLE, UNKNOWN, Failed, Outcome
from quorumcache.core.refusal import FieldWrite, PendingWrite
from quorumcache.core.types import FieldType, types_by_prefix
from quorumcache.core.types.base import GENERATION_BYTES, is_base_slot

Token = Any


class WriteQueue:
    """The writes that are ready, on their way, delayed, or behind one on its way; and `done`, what ended."""

    def __init__(self, configuration: Configuration, sign: Sign | None) -> None:
        self.configuration = configuration
        self.sign = sign
        #: A slot's first bytes, with its namespace, for the namespaces whose keys have fields.
        self.types = types_by_prefix(configuration.namespaces)
        #: (token, outcome): operations that ended. The driver takes the list and empties it.
        self.done: list[tuple[Token, Outcome]] = []
        self._timer_count = 0
        self._ready: dict[bytes, PendingWrite] = {}
        self._in_flight: dict[bytes, PendingWrite] = {}
        self._behind: dict[bytes, PendingWrite] = {}
        self._delayed: list[tuple[int, int, PendingWrite]] = []

    def write(
        self,
        slot: bytes,
        kind: int,
        value: bytes,
        expires_at_us: int,
        token: Token,
        metadata: bytes | Callable[[bytes], bytes] = b"",
        base_expires_at_us: int = 0,
        seal: Callable[[bytes, bytes, bytes], bytes] | None = None,
    ) -> None:
        """Queue a write. Behind one in flight on the same slot, all that queue up collapse into the newest.

        In a namespace whose keys have fields, `metadata` is what follows the generation, or a function of the
        generation that gives it; a put in the slot of a base
        gives the key, where it is there, another time to expire; where there is no key, a put in that of a field
        makes one that expires at `base_expires_at_us`.

        `seal(slot, stamp, value)`, where given, makes of a put's value what is sent; it is called for each stamp that
        the write is proposed under.

        Raises ValueError for what no node would accept; it would take the rest of its batch down with it.
        """
        if kind == DELETE and (value or expires_at_us):
            raise ValueError("a delete has neither a value nor a time to expire")
        if len(value) > VALUE_BYTES_MAX:
            raise ValueError(f"a value has at most {VALUE_BYTES_MAX} bytes, not {len(value)}")
        keyed = bool(self.types) and self.is_keyed(slot)
        metadata_bytes_max = METADATA_BYTES_MAX - (GENERATION_BYTES if keyed else 0)
        if not callable(metadata) and len(metadata) > metadata_bytes_max:
            raise ValueError(f"metadata has at most {metadata_bytes_max} bytes here, not {len(metadata)}")
        if not 0 <= expires_at_us <= TIME_US_MAX:
            raise ValueError(f"a time to expire is 0 to {TIME_US_MAX} microseconds, not {expires_at_us}")
        if self.sign is None:
            self.done.append((token, Failed(DENIED, "this client has no writer's key")))
            return
        queue = self._behind if slot in self._in_flight else self._ready
        before = queue.get(slot)
        write: PendingWrite
        if keyed and before is not None and before.kind == DELETE and is_base_slot(slot):
            # A new time to live does not undo the deletion of a key that it was queued behind: it is ordered before.
            before.tokens.append(token)
            return
        if keyed and not (kind == DELETE and is_base_slot(slot)):
            write = FieldWrite(slot, kind, value, expires_at_us, metadata, [token], base_expires_at_us)
        else:
            assert not callable(metadata), "only fields have a generation"
            write = PendingWrite(slot, kind, value, expires_at_us, metadata, [token])
        write.seal = seal if kind != DELETE else None
        if before is not None:
            write.tokens = before.tokens
            write.tokens.append(token)
        queue[slot] = write

    def has_ready(self) -> bool:
        """Whether something became ready that `flush` should send."""
        return bool(self._ready)

    def finish(self, tokens: list[Token], outcome: Outcome) -> None:
        """An operation ended, for all who wait for it."""
        done = self.done
        for token in tokens:
            done.append((token, outcome))

    def retry(self, write: PendingWrite, not_before_us: int, now_us: int) -> None:
        """Propose a refused write again, not before the given time of the own clock."""
        if max(not_before_us, now_us) >= write.deadline_us:
            detail = f"after {write.attempt} attempts: {write.trouble or 'no quorum granted it'}"
            self.finish_write(write, Failed(UNAVAILABLE, detail))
            return
        self._timer_count += 1
        heapq.heappush(self._delayed, (max(not_before_us, now_us), self._timer_count, write))

    def finish_write(self, write: PendingWrite, outcome: Outcome) -> None:
        """A write ended; what collapsed behind it becomes ready."""
        if isinstance(outcome, Failed) and isinstance(write, FieldWrite) and write.committed:
            # Under one generation or another it was sent out for good, and may have been seen, or may yet be.
            outcome = Failed(UNKNOWN, f"it was sent, but not confirmed, and may have taken effect: {outcome.detail}")
        self.finish(write.tokens, outcome)
        del self._in_flight[write.slot]
        if write.on_end is not None:
            write.on_end(write, outcome)
        behind = self._behind.pop(write.slot, None)
        if behind is not None:
            self._ready[write.slot] = behind

    def unwritten(self) -> Iterator[tuple[PendingWrite, bool]]:
        """All writes that have not ended, in the order in which those of a slot were asked for, and whether each is on
        its way."""
        for write in self._in_flight.values():
            yield write, True
        for queue in (self._ready, self._behind):
            for slot, write in queue.items():
                if self._in_flight.get(slot) is not write:
                    yield write, False

    def take_up(self, write: PendingWrite) -> None:
        """Queue a write that was begun elsewhere, behind one of the same slot that is on its way or queued."""
        queue = self._behind if write.slot in self._in_flight else self._ready
        before = queue.get(write.slot)
        if before is not None and not (before.kind == DELETE and self.is_keyed(write.slot)):
            # As in `write`: what queued up later stands for both.
            write.tokens = before.tokens + write.tokens
            if isinstance(write, FieldWrite) and isinstance(before, FieldWrite):
                write.committed = write.committed or before.committed
        elif before is not None:
            before.tokens += write.tokens
            return
        queue[write.slot] = write

    def is_in_flight(self, slot: bytes) -> bool:
        """Whether a write of this slot is on its way, or about to be."""
        return slot in self._in_flight or slot in self._ready

    def take_off(self, write: PendingWrite) -> None:
        """Note a write of the coordinator's own as on its way; nobody else's is."""
        self._in_flight[write.slot] = write

    def make_ready(self, write: PendingWrite) -> None:
        """Send a write that is on its way, but waited, with the next flush."""
        self._ready[write.slot] = write

    def is_keyed(self, slot: bytes) -> bool:
        """Whether the slot is of a key with fields."""
        return slot[: 1 + slot[0]] in self.types

    def type_of(self, slot: bytes) -> FieldType:
        """The type of a key with fields."""
        return self.types[slot[: 1 + slot[0]]]
