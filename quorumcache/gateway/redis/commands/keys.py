"""Keys whatever their type: whether they are there, what they are, how long they live, and that they go."""

from __future__ import annotations

from collections.abc import Sequence

from quorumcache.client import Client
from quorumcache.client.mixed import WriteSlot
from quorumcache.core.model import DELETE, PUT, header_expires_at
from quorumcache.core.outcome import Missed, Outcome
from quorumcache.gateway.redis.database import STRING, Database, check_written, left_ms
from quorumcache.gateway.redis.exact import ANY, Put, Stood, edit, kept, refuse
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import ALL_KEYS, ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import deadline_ms

_CONDITIONS = (b"NX", b"XX", b"GT", b"LT")


def delete_keys(database: Database, keys: Sequence[bytes]) -> Steps:
    """Delete keys; how many were there when they were looked at."""
    wanted = list(dict.fromkeys(keys))
    seen = yield from database.look(wanted)
    outcomes = yield [WriteSlot(client, slot, DELETE) for each in seen for client, slot in each.slots]
    check_written(outcomes)
    return sum(each.kind is not None for each in seen)


@command("del", -2, "write", ALL_KEYS, group="generic", summary="Deletes keys.")
def del_(call: Call) -> Steps:
    return (yield from delete_keys(call.database, call.arguments[1:]))


@command("unlink", -2, "write fast", ALL_KEYS, group="generic", summary="Deletes keys: the same as DEL here.")
def unlink(call: Call) -> Steps:
    return (yield from delete_keys(call.database, call.arguments[1:]))


def _count(call: Call) -> Steps:
    keys = call.arguments[1:]
    wanted = list(dict.fromkeys(keys))
    seen = yield from call.database.look(wanted, strings_only=True)
    there = {key for key, each in zip(wanted, seen, strict=True) if each.kind is not None}
    return sum(key in there for key in keys)


@command("exists", -2, "readonly fast", ALL_KEYS, group="generic", summary="Counts those keys that are there.")
def exists(call: Call) -> Steps:
    return (yield from _count(call))


@command("touch", -2, "readonly fast", ALL_KEYS, group="generic", summary="Counts those keys that are there, as a use.")
def touch(call: Call) -> Steps:
    return (yield from _count(call))


@command("type", 2, "readonly fast", ONE_KEY, group="generic", summary="Returns the type of a key.")
def type_(call: Call) -> Steps:
    (seen,) = yield from call.database.look([call.arguments[1]], strings_only=True)
    return seen.kind or "none"


def _left(call: Call) -> Steps:
    """Milliseconds left; -1 for no end, -2 for no key."""
    (seen,) = yield from call.database.look([call.arguments[1]], strings_only=True)
    return -2 if seen.found is None else left_ms(seen.found, call.database.now_ms)


@command("ttl", 2, "readonly fast", ONE_KEY, group="generic", summary="Returns the seconds that a key has left.")
def ttl(call: Call) -> Steps:
    left = yield from _left(call)
    return left if left < 0 else (left + 500) // 1000


@command("pttl", 2, "readonly fast", ONE_KEY, group="generic", summary="Returns the milliseconds that a key has left.")
def pttl(call: Call) -> Steps:
    return (yield from _left(call))


def _end(call: Call) -> Steps:
    """Milliseconds since the epoch at which a key expires; -1 for never, -2 for no key."""
    (seen,) = yield from call.database.look([call.arguments[1]], strings_only=True)
    if seen.found is None:
        return -2
    return header_expires_at(seen.found.header) // 1000 or -1


@command("expiretime", 2, "readonly fast", ONE_KEY, group="generic", summary="Returns when a key expires, in seconds.")
def expiretime(call: Call) -> Steps:
    end = yield from _end(call)
    return end if end < 0 else (end + 500) // 1000


@command(
    "pexpiretime", 2, "readonly fast", ONE_KEY, group="generic", summary="Returns when a key expires, in milliseconds."
)
def pexpiretime(call: Call) -> Steps:
    return (yield from _end(call))


def _expire(call: Call) -> Steps:
    name, key, word, *conditions = call.arguments
    database = call.database
    at_ms = deadline_ms(name.decode().lower(), word, database.now_ms)
    for condition in conditions:
        if condition.upper() not in _CONDITIONS:
            raise Fault(f"ERR Unsupported option {condition[:64].decode('ascii', 'backslashreplace')}")
    if database.is_exact:
        return (yield from _expire_exactly(call, key, at_ms, {condition.upper() for condition in conditions}))
    (seen,) = yield from database.look([key])
    if seen.kind is None:
        return 0
    if conditions:
        raise refuse(f"{call.command.name.upper()} with a condition")
    if at_ms <= database.now_ms:
        # Whatever it is by now, it goes: that is no question of what it was.
        return min(1, (yield from delete_keys(database, [key])))
    if seen.kind == STRING:
        raise refuse(f"{call.command.name.upper()} of a string that is there already")
    return (yield from _expire_collection(database, seen.slots, at_ms))


def _expire_exactly(call: Call, key: bytes, at_ms: int, conditions: set[bytes]) -> Steps:
    database = call.database
    if b"NX" in conditions and len(conditions) > 1:
        raise Fault("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= conditions:
        raise Fault("ERR GT and LT options at the same time are not compatible")

    def make(stood: Stood) -> Put | None:
        until_us = stood.expires_at_us
        if (
            stood.value is None
            or (b"NX" in conditions and until_us)
            or (b"XX" in conditions and not until_us)
            or (b"GT" in conditions and (not until_us or at_ms * 1000 <= until_us))
            or (b"LT" in conditions and until_us and at_ms * 1000 >= until_us)
        ):
            return None
        if at_ms * 1000 <= stood.now_us:
            return Put(None)
        return kept(stood, database.expires_at_us(at_ms))

    return int((yield from edit(call, key, make, kind=ANY)))


def _expire_collection(database: Database, slots: Sequence[tuple[Client, bytes]], at_ms: int) -> Steps:
    """Nodes take another time to expire for a key with fields only where it is still there: exact by itself."""
    expires_at_us = database.expires_at_us(at_ms)
    outcomes: list[Outcome] = yield [WriteSlot(client, slot, PUT, b"", expires_at_us) for client, slot in slots]
    written = [outcome for outcome in outcomes if not isinstance(outcome, Missed)]
    check_written(written)
    return min(1, len(written))


for _name, _unit in (("expire", "seconds"), ("pexpire", "milliseconds")):
    command(_name, -3, "write fast", ONE_KEY, group="generic", summary=f"Gives a key some {_unit} to live.")(_expire)
    command(f"{_name}at", -3, "write fast", ONE_KEY, group="generic", summary=f"Sets when a key expires, in {_unit}.")(
        _expire
    )
