"""What a node holds of compare-and-set beside entries: promised ballots, votes, locks; and for how long (protocol 17).

One `Instance` for each slot of an exact namespace where something is under way. Holds and finds; the rules are in
exact.py. It must not know messages' flow, or signatures.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import msgspec

from quorumcache.core.ballots import SIGNATURE_BYTES
from quorumcache.core.held import Shard
from quorumcache.core.messages import Locked
from quorumcache.core.model import header_stamp, stamp_time

if TYPE_CHECKING:
    from quorumcache.core.slots import Slots

#: What an instance costs beside its lock: the objects, the slot, the digests.
_INSTANCE_BYTES: Final = 900
_LOCK_BYTES: Final = 600
_VOTE_BYTES: Final = 240


class Instance(msgspec.Struct, frozen=True, gc=False):
    """`promised`: no ballot below this gets a vote or a grant (empty: none yet). `voted`: the digest voted for in that
    ballot, empty where none. `locked`: what is locked here, and its ballot with it."""

    promised: bytes = b""
    voted: bytes = b""
    locked: Locked | None = None

    @property
    def lock_ballot(self) -> bytes:
        """The ballot of the lock; empty where there is none."""
        return b"" if self.locked is None else self.locked.ballot


NONE: Final = Instance()


class Instances:
    """All instances of one node. `silent`: numbers of shards where it neither votes nor grants, for it began without
    stored state; `doubtful`: slots where it does not, though their shard recovered. A start with stored state makes
    shards silent that had either."""

    def __init__(self, slots: Slots, prefixes: frozenset[bytes], *, silent: bool) -> None:
        configuration = slots.configuration
        self._slots = slots
        self.prefixes = prefixes
        #: How long a ballot may be voted for, and how much older the last one of what is forgotten is at least.
        self.life_us = configuration.op_time_us
        self.gap_us = 2 * configuration.op_time_us + 4 * configuration.max_skew_us
        self.silent: set[int] = set(range(configuration.shards)) if silent else set()
        self.doubtful: set[bytes] = set()
        # In the order of their last change: what is old comes first.
        self._table: OrderedDict[bytes, Instance] = OrderedDict()
        self.forgotten_count = 0

    def __len__(self) -> int:
        return len(self._table)

    def of(self, slot: bytes) -> bool:
        """Whether the slot is of an exact namespace."""
        return slot[: 1 + slot[0]] in self.prefixes

    def get(self, slot: bytes) -> Instance:
        """What is under way in a slot."""
        return self._table.get(slot, NONE)

    def is_silent(self, slot: bytes) -> bool:
        """Whether this node does not know what it voted for here."""
        return slot in self.doubtful or (bool(self.silent) and self._slots.shard(slot).number in self.silent)

    def is_unsure(self, number: int) -> bool:
        """Whether there is anything in a shard that this node is silent about."""
        shard_of = self._slots.configuration.shard_of
        return number in self.silent or any(shard_of(slot) == number for slot in self.doubtful)

    def recovered(self, shard: Shard, doubtful: list[bytes]) -> None:
        """A shard is silent no more, but for these slots."""
        shard_of = self._slots.configuration.shard_of
        self.doubtful = {slot for slot in self.doubtful if shard_of(slot) != shard.number}.union(doubtful)
        self.silent.discard(shard.number)
        if self._slots.journal is not None:
            self._slots.journal.shards[shard.number] = shard

    def has_room(self, slot: bytes, lock: Locked | None = None) -> bool:
        """Whether there is memory for the instance: that of promises, which entries do not have to give way for."""
        memory = self._slots.memory
        cost = 0 if slot in self._table else _INSTANCE_BYTES + 2 * len(slot)
        if lock is not None:
            before = self.get(slot).locked
            cost += _lock_cost(lock) - (0 if before is None else _lock_cost(before))
        return cost <= 0 or memory.promises_bytes + cost <= memory.promises_bytes_max

    def put(self, slot: bytes, instance: Instance) -> None:
        """Make this the slot's instance; `NONE` takes it away."""
        before = self._table.pop(slot, None)
        journal = self._slots.journal
        if journal is not None:
            journal.instances.setdefault(slot, before)
        if before is not None:
            self._slots.memory.promises_bytes -= _cost(slot, before)
        if instance is not NONE:
            self._table[slot] = instance
            self._slots.memory.promises_bytes += _cost(slot, instance)

    def take_over(self, other: Instances) -> None:
        """Have all that `other` has, which is given up; memory counts it already, or is told by the caller."""
        self._table, self.silent, self.doubtful = other._table, other.silent, other.doubtful
        self.forgotten_count = other.forgotten_count

    def put_back(self, slot: bytes, instance: Instance | None) -> None:
        """As `put`, for storage: it is not noted."""
        before = self._table.pop(slot, None)
        if before is not None:
            self._slots.memory.promises_bytes -= _cost(slot, before)
        if instance is not None:
            self._table[slot] = instance
            self._slots.memory.promises_bytes += _cost(slot, instance)

    def stored(self, slot: bytes, stamp: bytes, ballot: bytes) -> None:
        """An entry with this stamp became current, certified in this ballot: nothing below it is promised any more, and
        a lock of no later ballot, or of no later header, has come to nothing, or to this."""
        before = self._table.get(slot)
        if before is None:
            return  # Ballots up to this one are refused for the entry's sake, or are too old.
        locked = before.locked
        if locked is not None and (locked.ballot <= ballot or header_stamp(locked.header) <= stamp):
            locked = None
        promised = max(before.promised, ballot)
        voted = before.voted if promised == before.promised else b""
        self.put(slot, Instance(promised, voted, locked))

    def due_us(self, slot: bytes) -> int:
        """When all of the slot may be forgotten: `gap + life` after the latest ballot of a lock or an entry, and `life`
        after a vote that came to nothing, for which the floor stands from then on."""
        instance, held = self.get(slot), self._slots.current.get(slot)
        firm = max(instance.lock_ballot, b"" if held is None else held.batch.certificate.ballot)
        due_us = stamp_time(firm) + self.gap_us + self.life_us if firm else 0
        return max(due_us, stamp_time(instance.promised) + self.life_us if instance.promised else 0)

    def may_forget(self, slot: bytes, now_us: int) -> bool:
        """Whether the latest ballot in the slot is old enough for all of it to be forgotten."""
        return self.due_us(slot) < now_us

    def forget(self, slot: bytes, now_us: int) -> None:
        """The slot's instance goes, and the shard's floor stands for what was in it. Its entry is the caller's."""
        self.put(slot, NONE)
        self.forgotten_count += 1
        self._slots.raise_floor(self._slots.shard(slot), now_us - self.life_us)

    def tick(self, now_us: int, count_max: int) -> None:
        """Forget what is old, the oldest first; at most so many looks."""
        table, current = self._table, self._slots.current
        if self._slots.frozen:
            return
        for _ in range(min(count_max, len(table))):
            slot, instance = next(iter(table.items()))
            if stamp_time(instance.promised) + self.life_us >= now_us:
                break  # Later ones changed later, and are of later ballots, or nearly.
            if instance.locked is None:
                self.put(slot, NONE)  # Ballots up to this one are too old to be voted for.
            elif slot not in current and self.may_forget(slot, now_us):
                self.forget(slot, now_us)
            else:
                table.move_to_end(slot)  # Beside a live entry a lock stays; others have time.

    def locked_in(self, shard: Shard) -> list[bytes]:
        """The shard's slots that have a lock."""
        shard_of = self._slots.configuration.shard_of
        return [s for s, i in self._table.items() if i.locked is not None and shard_of(s) == shard.number]

    def items(self) -> list[tuple[bytes, Instance]]:
        """All instances, by their slots."""
        return list(self._table.items())


def _lock_cost(locked: Locked) -> int:
    votes = sum(_VOTE_BYTES + len(vote.signature) - SIGNATURE_BYTES for vote in locked.votes)
    return _LOCK_BYTES + len(locked.header) + len(locked.salted) + votes


def _cost(slot: bytes, instance: Instance) -> int:
    cost = _INSTANCE_BYTES + 2 * len(slot)
    return cost if instance.locked is None else cost + _lock_cost(instance.locked)
