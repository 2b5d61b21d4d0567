"""A database: one space of keys of several types, over namespaces of one type each.

A key is in the namespace of its type. Where a race between commands of different types left it in more than one, it is
what comes first of: string, hash, set. This knows slots and outcomes; it must not know commands' words or connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from quorumcache.client import Client
from quorumcache.client.bulk import error_of
from quorumcache.client.envelope import MAGIC, parse
from quorumcache.client.mixed import ReadSlot, WriteSlot
from quorumcache.core.model import DELETE, KEY_BYTES_MAX, PUT, SALT_BYTES, header_expires_at, header_slot
from quorumcache.core.outcome import Failed, Found, Outcome, Written
from quorumcache.core.types.base import NAME_BYTES_MAX, field_name, field_of, field_slot, name_field
from quorumcache.errors import QuorumCacheError
from quorumcache.gateway.redis.faults import WRONG_TYPE, Fault, fault_of
from quorumcache.gateway.redis.table import Steps
from quorumcache.gateway.redis.wholes import HASH, SET, kind_of, unpack

STRING: Final = "string"
#: To ask for one name, whichever, tells whether the key is there, and costs little.
_PROBE_NAME: Final = b"\0?"

Entry = tuple[bytes, bytes]


class Seen(NamedTuple):
    """What there was under a key: its type (None: nothing), what was found of it, and the slots of all there is."""

    kind: str | None
    found: Found | None
    slots: list[tuple[Client, bytes]]


class Database:
    """One of the gateway's databases. `prefix`: what its keys begin with in namespaces that it shares; the first of
    those that share them has none, and marks keys of its own that could be taken for another's."""

    def __init__(
        self, number: int, strings: Client, hashes: Client | None, sets: Client | None, *, shared: bool
    ) -> None:
        self.number = number
        self.strings = strings
        self.hashes = hashes
        self.sets = sets
        self._prefix = bytes((0, number)) if shared and number else b""
        self._marks = shared and not number
        #: The collections there are: type -> client of its namespace, in the order in which they count.
        self.collections = {kind: client for kind, client in ((HASH, hashes), (SET, sets)) if client is not None}
        self._string_slot = strings._slot
        #: Keys that begin so are in namespaces of their own: prefix, and the part that they are in; long ones first.
        self.routes: tuple[tuple[bytes, Database], ...] = ()
        self._root = self
        #: Whether what is done to strings may depend on what they are: compare-and-set (docs/redis.md).
        self.is_exact = strings._type == "exact"

    # --- parts ---

    def route(self, routes: Mapping[bytes, Database]) -> None:
        """Have keys that begin so in these, which are parts of this one from now on."""
        self.routes = tuple(sorted(routes.items(), key=lambda item: -len(item[0])))
        for _, part in self.routes:
            part._root = self

    def part_of(self, key: bytes) -> Database:
        """The part that a key is in: this one unless its prefix says otherwise."""
        for prefix, part in self.routes:
            if key.startswith(prefix):
                return part
        return self

    def holds(self, key: bytes) -> bool:
        """Whether a key is in this part of its database."""
        return self._root.part_of(key) is self

    @property
    def parts(self) -> list[tuple[bytes, Database]]:
        """All parts, each with what its keys begin with."""
        return [(b"", self), *self.routes]

    # --- keys ---

    def stored_key(self, key: bytes) -> bytes:
        """A key as it is in the namespace."""
        if self._prefix or (self._marks and key[:1] == b"\0"):
            key = (self._prefix or b"\0\0") + key
        return key

    def key_of(self, stored: bytes) -> bytes | None:
        """The inverse; None for a key of another database."""
        if self._prefix:
            return stored[2:] if stored.startswith(self._prefix) else None
        if self._marks and stored[:1] == b"\0":
            return stored[2:] if stored[1:2] == b"\0" else None
        return stored

    def stored_prefix(self, prefix: bytes) -> bytes:
        """What the stored forms of all keys that begin with `prefix` begin with."""
        return self._prefix + prefix if self._prefix or not prefix else self.stored_key(prefix)

    def string_slot(self, key: bytes) -> bytes:
        """The slot of a string. Raises Fault for what is no key."""
        return self._string_slot(self._checked(key))

    def base_slot(self, kind: str, key: bytes) -> bytes:
        """The slot of a collection's base. Raises Fault."""
        return self.collections[kind]._base_slot(self._checked(key))

    def name_slot(self, kind: str, key: bytes, name: bytes) -> bytes:
        """The slot of a hash's field or a set's member. Raises Fault."""
        check_name(name)
        return field_slot(self.base_slot(kind, key), name_field(name))

    def probe_slot(self, kind: str, key: bytes) -> bytes:
        """A slot whose read tells whether a collection is there, without what is in it."""
        return field_slot(self.base_slot(kind, key), _PROBE_NAME)

    def _checked(self, key: bytes) -> bytes:
        if not key:
            raise Fault("ERR an empty key: keys have at least one byte here")
        stored = self.stored_key(key)
        if len(stored) > KEY_BYTES_MAX:
            raise Fault(f"ERR a key of {len(key)} bytes: keys have at most {KEY_BYTES_MAX - len(stored) + len(key)}")
        return stored

    # --- values ---

    def string_in(self, slot: bytes, outcome: Outcome) -> bytes | None:
        """A string that was read, or None. Raises Fault where the read failed."""
        if type(outcome) is not Found:
            check_missed(outcome)
            return None
        client = self.strings
        data = client._value(slot, outcome)
        if self.is_exact and kind_of(data) is not None:
            return None
        if data[:4] != MAGIC:
            return data
        # A loader's value (docs/client.md), with when it was made and until when it is fresh.
        envelope = parse(data)
        if envelope.fresh_until_us and client.time_us >= envelope.fresh_until_us:
            return None
        return envelope.data or b""

    def whole_in(self, outcome: Outcome) -> str | None:
        """The type of what was read in the place of a string, in an exact database; None for a string or nothing."""
        return kind_of(outcome.salted[SALT_BYTES:]) if self.is_exact and type(outcome) is Found else None

    def items_in(self, kind: str, outcome: Outcome) -> dict[bytes, bytes]:
        """The fields or members of what was read in an exact database; empty where nothing is there. Raises Fault
        where it is of another type, or the read failed."""
        if type(outcome) is not Found:
            check_missed(outcome)
            return {}
        stored = outcome.salted[SALT_BYTES:]
        if kind_of(stored) != kind:
            raise Fault(WRONG_TYPE)
        return unpack(kind, stored)

    def entry_in(self, outcome: Outcome) -> Entry | None:
        """The field that was read, or None. Raises Fault."""
        if type(outcome) is Found:
            return next((entry for entry in outcome.fields or () if entry[0][2] != DELETE), None)
        check_missed(outcome)
        return None

    def value_of(self, kind: str, entry: Entry) -> bytes:
        """The value of a field."""
        if self.is_exact:
            return entry[1]
        return self.collections[kind]._opened(header_slot(entry[0]), *entry)

    def expires_at_us(self, at_ms: int) -> int:
        """A time since the epoch in milliseconds as the cluster has it. Raises Fault where the namespace does not take
        it."""
        left_s = at_ms / 1000 - self.strings.time_us / 1e6
        try:
            self.strings.check_ttl(max(left_s, 0.001))
        except QuorumCacheError as error:
            raise fault_of(error) from None
        return at_ms * 1000

    @property
    def now_ms(self) -> int:
        """Cluster time, in milliseconds since the epoch."""
        return self.strings.time_us // 1000

    def lasting(self) -> int:
        """The time to expire of what has none. Raises Fault where the namespace wants one."""
        try:
            return self.strings._expires_at(None)
        except QuorumCacheError as error:
            raise fault_of(error) from None

    def put_string(self, key: bytes, value: bytes, expires_at_us: int) -> WriteSlot:
        """The write of a string. Raises Fault."""
        try:
            data = self.strings._stored(value)
        except QuorumCacheError as error:
            raise fault_of(error) from None
        return WriteSlot(self.strings, self.string_slot(key), PUT, data, expires_at_us)

    def put_name(self, kind: str, key: bytes, name: bytes, value: bytes) -> WriteSlot:
        """The write of a field or member. Raises Fault."""
        client = self.collections[kind]
        try:
            data = client._data(value)
            begins = client._expires_at(None)
        except QuorumCacheError as error:
            raise fault_of(error) from None
        return WriteSlot(client, self.name_slot(kind, key, name), PUT, data, 0, begins)

    # --- what there is under a key ---

    def probes(self, key: bytes, but: str | None = None) -> list[ReadSlot]:
        """Reads that tell which collections are there."""
        return [ReadSlot(self.probe_slot(kind, key)) for kind in self.collections if kind != but]

    def look(self, keys: Sequence[bytes], *, strings_only: bool = False) -> Steps:
        """What there is under each key, as `Seen`. `strings_only`: where a string is found nothing else is looked for;
        what is left of a collection beside it goes unseen."""
        slots = [self.string_slot(key) for key in keys]
        outcomes = yield [ReadSlot(slot) for slot in slots]
        found: list[tuple[str | None, Found | None, list[tuple[Client, bytes]]]] = []
        for slot, outcome in zip(slots, outcomes, strict=True):
            kind = STRING if self.string_in(slot, outcome) is not None else self.whole_in(outcome)
            if kind is None:
                found.append((None, None, []))
            else:
                assert isinstance(outcome, Found)
                found.append((kind, outcome, [(self.strings, slot)]))
        places = [i for i, (kind, _, _) in enumerate(found) if kind is None or not strings_only]
        if places and self.collections:
            kinds = list(self.collections)
            outcomes = yield [read for i in places for read in self.probes(keys[i])]
            bases = []
            for at, i in enumerate(places):
                for offset, kind in enumerate(kinds):
                    if is_there(outcomes[at * len(kinds) + offset]):
                        base = self.base_slot(kind, keys[i])
                        found[i][2].append((self.collections[kind], base))
                        if found[i][0] is None:
                            bases.append((i, kind, base))
            if bases:
                # One whose members are all gone is none, and only the whole tells.
                outcomes = yield [ReadSlot(base) for _, _, base in bases]
                for (i, kind, _), outcome in zip(bases, outcomes, strict=True):
                    if found[i][0] is None and names_in(outcome):
                        assert isinstance(outcome, Found)
                        found[i] = (kind, outcome, found[i][2])
        return [Seen(*each) for each in found]

    def refuse_others(self, key: bytes, kind: str, string: Outcome, others: Sequence[Outcome]) -> Steps:
        """Raise WRONGTYPE where the key is another type than the collection `kind`, by the outcomes of a read of its
        string and of `probes(key, but=kind)`."""
        if self.string_in(self.string_slot(key), string) is not None:
            raise Fault(WRONG_TYPE)
        rivals = [other for other in self.collections if other != kind]
        there = [other for other, outcome in zip(rivals, others, strict=True) if is_there(outcome)]
        if there:
            outcomes = yield [ReadSlot(self.base_slot(other, key)) for other in there]
            if any(names_in(outcome) for outcome in outcomes):
                raise Fault(WRONG_TYPE)


def check_name(name: bytes) -> None:
    """Raise Fault for what is no field's or member's name."""
    if len(name) > NAME_BYTES_MAX:
        raise Fault(f"ERR a field or member has at most {NAME_BYTES_MAX} bytes, not {len(name)}")


def check_missed(outcome: Outcome) -> None:
    """Raise Fault where an outcome is a failure."""
    if type(outcome) is Failed:
        raise fault_of(error_of(outcome))


def check_written(outcomes: Iterable[Outcome]) -> None:
    """Raise Fault where any write failed: the gravest, and how many. Where others did not fail, it is not one that says
    that nothing was written."""
    outcomes = list(outcomes)
    failed = [error_of(outcome) for outcome in outcomes if type(outcome) is not Written]
    if failed:
        fault = min((fault_of(error) for error in failed), key=lambda fault: not str(fault).startswith("OUTCOME"))
        if len(outcomes) == 1:
            raise fault
        word, _, text = str(fault).partition(" ")
        if len(failed) < len(outcomes):
            word = "OUTCOMEUNKNOWN"
        raise Fault(f"{word} {len(failed)} of {len(outcomes)} writes failed, one of them so: {text}")


def is_there(outcome: Outcome) -> bool:
    """Whether a probe, or a read of a base, found the key. Raises Fault where it failed."""
    if type(outcome) is Found:
        return True
    check_missed(outcome)
    return False


def names_in(outcome: Outcome) -> dict[bytes, Entry]:
    """The fields or members in a whole key that was read, by name; empty where it is not there. Raises Fault."""
    if type(outcome) is not Found:
        check_missed(outcome)
        return {}
    return {
        field_name(field_of(header_slot(entry[0]))): entry for entry in outcome.fields or () if entry[0][2] != DELETE
    }


def left_ms(found: Found, now_ms: int) -> int:
    """Milliseconds until what was found expires; -1 where it does not."""
    expires_at_us = header_expires_at(found.header)
    return max(0, expires_at_us // 1000 - now_ms) if expires_at_us else -1
