"""Strings: what is read, and what is written whatever was there before. What depends on it is in exact.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from quorumcache.client.mixed import ReadSlot, WriteSlot
from quorumcache.core.model import DELETE
from quorumcache.core.outcome import Outcome
from quorumcache.gateway.redis.database import Database, check_written, is_there
from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.exact import ANY, Put, Stood, edit, kept, refuse
from quorumcache.gateway.redis.faults import SYNTAX, WRONG_TYPE, Fault, wrong_arguments
from quorumcache.gateway.redis.table import ALL_KEYS, ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import OPTIONS, integer, lifetime_ms, option_ms

#: What the reply to one command may hold.
REPLY_BYTES_MAX: Final = 64 << 20
_READ_AT_ONCE: Final = 64


def read_string(database: Database, key: bytes) -> Steps:
    """The string under a key, or None. Raises Fault WRONGTYPE where it is of another type."""
    slot = database.string_slot(key)
    (outcome,) = yield [ReadSlot(slot)]
    value = database.string_in(slot, outcome)
    if value is None and database.whole_in(outcome) is not None:
        raise Fault(WRONG_TYPE)
    if value is None and database.collections:
        (seen,) = yield from database.look([key])
        if seen.kind is not None:
            raise Fault(WRONG_TYPE)
    return value


def write_strings(call: Call, items: dict[bytes, bytes], at_ms: int | None) -> Steps:
    """Set keys, whatever they were. `at_ms`: when they expire; None for never."""
    database, deadlines = call.database, call.deadlines or {}
    parts: list[ReadSlot | WriteSlot] = []
    for key, value in items.items():
        when_ms = deadlines.get(key, at_ms)
        if when_ms is None:
            expires_at_us = database.lasting()
        elif when_ms <= database.now_ms:
            parts.append(WriteSlot(database.strings, database.string_slot(key), DELETE))
            continue
        else:
            expires_at_us = database.expires_at_us(when_ms)
        parts.append(database.put_string(key, value, expires_at_us))
    parts += [probe for key in items for probe in database.probes(key)]
    outcomes = yield parts
    check_written(outcomes[: len(items)])
    try:
        yield from _remove_others(database, list(items), outcomes[len(items) :])
    except Fault as fault:
        # Not as it is: it would say that nothing was written.
        raise Fault(f"OUTCOMEUNKNOWN written, but what was there of another type may come back: {fault}") from None
    return OK


def _remove_others(database: Database, keys: list[bytes], probed: Sequence[Outcome]) -> Steps:
    """What else is under keys that are strings now goes, by the outcomes of their probes."""
    kinds = list(database.collections)
    found = iter(probed)
    rest = [
        WriteSlot(database.collections[kind], database.base_slot(kind, key), DELETE)
        for key in keys
        for kind in kinds
        if is_there(next(found))
    ]
    if rest:
        check_written((yield rest))


@command("get", 2, "readonly fast", ONE_KEY, group="string", summary="Returns the string value of a key.")
def get(call: Call) -> Steps:
    return (yield from read_string(call.database, call.arguments[1]))


@command("mget", -2, "readonly fast", ALL_KEYS, group="string", summary="Returns the string values of keys.")
def mget(call: Call) -> Steps:
    database, keys = call.database, call.arguments[1:]
    values: list[bytes | None] = []
    size = 0
    for at in range(0, len(keys), _READ_AT_ONCE):
        slots = [database.string_slot(key) for key in keys[at : at + _READ_AT_ONCE]]
        outcomes = yield [ReadSlot(slot) for slot in slots]
        for slot, outcome in zip(slots, outcomes, strict=True):
            value = database.string_in(slot, outcome)
            values.append(value)
            size += len(value or b"")
        if size > REPLY_BYTES_MAX:
            raise Fault(f"ERR these values have more than {REPLY_BYTES_MAX} bytes together: ask for fewer keys")
    return values


@command("strlen", 2, "readonly fast", ONE_KEY, group="string", summary="Returns the length of a string value.")
def strlen(call: Call) -> Steps:
    return len((yield from read_string(call.database, call.arguments[1])) or b"")


def _range(call: Call) -> Steps:
    start, end = integer(call.arguments[2]), integer(call.arguments[3])
    value = (yield from read_string(call.database, call.arguments[1])) or b""
    if start < 0 and end < 0 and start > end:
        return b""
    start = max(0, start + len(value)) if start < 0 else start
    end = max(0, end + len(value)) if end < 0 else end
    return value[start : end + 1] if value and start <= end else b""


@command("getrange", 4, "readonly", ONE_KEY, group="string", summary="Returns a substring of the value of a key.")
def getrange(call: Call) -> Steps:
    return (yield from _range(call))


@command("substr", 4, "readonly", ONE_KEY, group="string", summary="Returns a substring: the old name of GETRANGE.")
def substr(call: Call) -> Steps:
    return (yield from _range(call))


@command(
    "getex", -2, "write fast", ONE_KEY, group="string", summary="Returns the string value of a key, and its expiry."
)
def getex(call: Call) -> Steps:
    if len(call.arguments) > 2:
        if call.arguments[2].upper() not in (*OPTIONS, b"PERSIST"):
            raise Fault(SYNTAX)
        return (yield from _get_and_expire(call))
    return (yield from read_string(call.database, call.arguments[1]))


def _get_and_expire(call: Call) -> Steps:
    database, (_, key, word, *rest) = call.database, call.arguments
    option, at_ms = word.upper(), 0
    if len(rest) != (option != b"PERSIST"):
        raise Fault(SYNTAX)
    if rest:
        at_ms = option_ms("getex", option, rest[0], database.now_ms)
    before: list[bytes | None] = [None]

    def make(stood: Stood) -> Put | None:
        before[0] = stood.value
        if stood.value is None:
            return None
        if at_ms and at_ms * 1000 <= stood.now_us:
            return Put(None)
        return kept(stood, database.expires_at_us(at_ms) if at_ms else database.lasting())

    yield from edit(call, key, make)
    return before[0]


@command("set", -3, "write denyoom", ONE_KEY, group="string", summary="Sets the string value of a key.")
def set_(call: Call) -> Steps:
    _, key, value, *options = call.arguments
    at_ms: int | None = None
    conditions: list[str] = []
    expiries = 0
    words = iter(options)
    for word in words:
        option = word.upper()
        if option in OPTIONS:
            given = next(words, None)
            if given is None:
                raise Fault(SYNTAX)
            at_ms = option_ms("set", option, given, call.database.now_ms)
            expiries += 1
        elif option in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            expiries += option == b"KEEPTTL"
            conditions.append(option.decode())
        else:
            raise Fault(SYNTAX)
    if expiries > 1 or ("NX" in conditions and "XX" in conditions):
        raise Fault(SYNTAX)
    if conditions:
        return (yield from _set_if(call, conditions, at_ms))
    return (yield from write_strings(call, {key: value}, at_ms))


def _set_if(call: Call, conditions: list[str], at_ms: int | None) -> Steps:
    """SET where it matters what was there."""
    database, (_, key, value, *_) = call.database, call.arguments
    if not database.is_exact:
        raise refuse(f"SET with {conditions[0]}")
    before: list[bytes | None] = [None]

    def make(stood: Stood) -> Put | None:
        if stood.kind is not None and "GET" in conditions:
            raise Fault(WRONG_TYPE)
        before[0] = stood.value
        if ("NX" in conditions and stood.value is not None) or ("XX" in conditions and stood.value is None):
            return None
        if at_ms is not None and at_ms * 1000 <= stood.now_us:
            return Put(None)
        if "KEEPTTL" in conditions and stood.value is not None:
            return Put(value, stood.expires_at_us)
        return Put(value, database.lasting() if at_ms is None else database.expires_at_us(at_ms))

    done = yield from edit(call, key, make, kind=ANY)
    if "GET" in conditions:
        return before[0]
    return OK if done or (at_ms is not None and at_ms <= database.now_ms and before[0] is None) else None


@command("setex", 4, "write denyoom", ONE_KEY, group="string", summary="Sets a string value that expires in seconds.")
def setex(call: Call) -> Steps:
    _, key, word, value = call.arguments
    at_ms = lifetime_ms("setex", word, call.database.now_ms, 1000, False)
    return (yield from write_strings(call, {key: value}, at_ms))


@command(
    "psetex", 4, "write denyoom", ONE_KEY, group="string", summary="Sets a string value that expires in milliseconds."
)
def psetex(call: Call) -> Steps:
    _, key, word, value = call.arguments
    at_ms = lifetime_ms("psetex", word, call.database.now_ms, 1, False)
    return (yield from write_strings(call, {key: value}, at_ms))


@command(
    "mset",
    -3,
    "write denyoom",
    (1, -1, 2),
    group="string",
    summary="Sets the string values of keys: each by itself, not all or none.",
)
def mset(call: Call) -> Steps:
    words = call.arguments[1:]
    if len(words) % 2:
        raise wrong_arguments("mset")
    return (yield from write_strings(call, dict(zip(words[::2], words[1::2], strict=True)), None))
