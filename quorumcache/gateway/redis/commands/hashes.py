"""Hashes: maps of the cluster. Each field is written by itself, so none is lost where several write; what only counts
if nothing changed is in exact.py."""

from __future__ import annotations

import random

from quorumcache.client.mixed import ReadSlot, WriteSlot
from quorumcache.core.model import DELETE
from quorumcache.gateway.redis.database import Database, Entry, check_name, check_written, names_in
from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.exact import edit_items
from quorumcache.gateway.redis.faults import SYNTAX, Fault, wrong_arguments
from quorumcache.gateway.redis.table import ALL_FIELDS, ONE_FIELD, ONE_KEY, PAIRS, Call, Steps, command
from quorumcache.gateway.redis.times import integer
from quorumcache.gateway.redis.wholes import HASH

#: What HRANDFIELD and SRANDMEMBER give at most, with repetitions.
RANDOM_MAX = 65_536


def check_collections(database: Database, kind: str) -> None:
    """Raise Fault where a database has none of that type."""
    if kind not in database.collections and not database.is_exact:
        what = "hashes" if kind == HASH else "sets"
        raise Fault(f"ERR database {database.number} has no {what}: none of its namespaces is for them")


def read_names(database: Database, kind: str, key: bytes, names: list[bytes]) -> Steps:
    """Fields or members by name: each one's entry or None. Raises Fault WRONGTYPE."""
    check_collections(database, kind)
    if database.is_exact:
        (outcome,) = yield [ReadSlot(database.string_slot(key))]
        items = database.items_in(kind, outcome)
        return [(b"", items[name]) if name in items else None for name in names]
    wanted = list(dict.fromkeys(names))
    probes = database.probes(key, but=kind)
    outcomes = yield [
        ReadSlot(database.string_slot(key)),
        *probes,
        *(ReadSlot(database.name_slot(kind, key, name)) for name in wanted),
    ]
    others = 1 + len(probes)
    yield from database.refuse_others(key, kind, outcomes[0], outcomes[1:others])
    found = {name: database.entry_in(outcome) for name, outcome in zip(wanted, outcomes[others:], strict=True)}
    return [found[name] for name in names]


def read_all(database: Database, kind: str, key: bytes) -> Steps:
    """All fields or members, by name. Raises Fault WRONGTYPE."""
    check_collections(database, kind)
    if database.is_exact:
        (outcome,) = yield [ReadSlot(database.string_slot(key))]
        return {name: (b"", value) for name, value in database.items_in(kind, outcome).items()}
    probes = database.probes(key, but=kind)
    string, *others, whole = yield [
        ReadSlot(database.string_slot(key)),
        *probes,
        ReadSlot(database.base_slot(kind, key)),
    ]
    yield from database.refuse_others(key, kind, string, others)
    found = names_in(whole)
    return {name: found[name] for name in sorted(found)}


def put_names(call: Call, kind: str, items: dict[bytes, bytes]) -> Steps:
    """Write fields or members of the key; how many were not there when they were looked at."""
    database, key = call.database, call.arguments[1]
    check_collections(database, kind)
    if database.is_exact:
        return (yield from _put_exactly(call, kind, items))
    writes = [database.put_name(kind, key, name, value) for name, value in items.items()]
    before = yield from read_names(database, kind, key, list(items))
    check_written((yield writes))
    return before.count(None)


def _put_exactly(call: Call, kind: str, items: dict[bytes, bytes]) -> Steps:
    for name in items:
        check_name(name)
    new = [0]

    def make(found: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
        new[0] = sum(name not in found for name in items)
        after = {**found, **items}
        return after if after != found else None

    yield from edit_items(call, call.arguments[1], kind, make)
    return new[0]


def _remove_exactly(call: Call, kind: str, names: list[bytes]) -> Steps:
    gone = [0]

    def make(found: dict[bytes, bytes]) -> dict[bytes, bytes] | None:
        left = {name: value for name, value in found.items() if name not in names}
        gone[0] = len(found) - len(left)
        return left if gone[0] else None

    yield from edit_items(call, call.arguments[1], kind, make)
    return gone[0]


def remove_names(call: Call, kind: str, names: list[bytes]) -> Steps:
    """Remove fields or members of the key; how many were there when they were looked at."""
    database, key = call.database, call.arguments[1]
    wanted = list(dict.fromkeys(names))
    if database.is_exact:
        return (yield from _remove_exactly(call, kind, wanted))
    before = yield from read_names(database, kind, key, wanted)
    client = database.collections[kind]
    outcomes = yield [
        WriteSlot(client, database.name_slot(kind, key, name), DELETE)
        for name, entry in zip(wanted, before, strict=True)
        if entry is not None
    ]
    check_written(outcomes)
    return len(wanted) - before.count(None)


def chosen(names: list[bytes], count: int) -> list[bytes]:
    """Some at random: so many different ones, or, below 0, so many with repetitions. Raises Fault."""
    if count >= 0:
        return random.sample(names, min(count, len(names)))
    if count < -RANDOM_MAX:
        raise Fault(f"ERR value is out of range: at most {RANDOM_MAX} are given with repetitions")
    return random.choices(names, k=-count) if names else []


def _pairs(call: Call) -> dict[bytes, bytes]:
    words = call.arguments[2:]
    if len(words) % 2:
        raise wrong_arguments(call.command.name)
    return dict(zip(words[::2], words[1::2], strict=True))


def _value(database: Database, entry: Entry | None) -> bytes | None:
    return None if entry is None else database.value_of(HASH, entry)


@command("hset", -4, "write denyoom fast", ONE_KEY, group="hash", summary="Sets the values of fields.", fields=PAIRS)
def hset(call: Call) -> Steps:
    return (yield from put_names(call, HASH, _pairs(call)))


@command("hmset", -4, "write denyoom fast", ONE_KEY, group="hash", summary="Sets the values of fields.", fields=PAIRS)
def hmset(call: Call) -> Steps:
    yield from put_names(call, HASH, _pairs(call))
    return OK


@command("hget", 3, "readonly fast", ONE_KEY, group="hash", summary="Returns the value of a field.", fields=ONE_FIELD)
def hget(call: Call) -> Steps:
    (entry,) = yield from read_names(call.database, HASH, call.arguments[1], call.arguments[2:])
    return _value(call.database, entry)


@command(
    "hmget", -3, "readonly fast", ONE_KEY, group="hash", summary="Returns the values of fields.", fields=ALL_FIELDS
)
def hmget(call: Call) -> Steps:
    entries = yield from read_names(call.database, HASH, call.arguments[1], call.arguments[2:])
    return [_value(call.database, entry) for entry in entries]


@command("hgetall", 2, "readonly", ONE_KEY, group="hash", summary="Returns all fields and values.")
def hgetall(call: Call) -> Steps:
    found = yield from read_all(call.database, HASH, call.arguments[1])
    return {name: _value(call.database, entry) for name, entry in found.items()}


@command("hkeys", 2, "readonly", ONE_KEY, group="hash", summary="Returns all fields.")
def hkeys(call: Call) -> Steps:
    return list((yield from read_all(call.database, HASH, call.arguments[1])))


@command("hvals", 2, "readonly", ONE_KEY, group="hash", summary="Returns all values.")
def hvals(call: Call) -> Steps:
    found = yield from read_all(call.database, HASH, call.arguments[1])
    return [_value(call.database, entry) for entry in found.values()]


@command("hlen", 2, "readonly fast", ONE_KEY, group="hash", summary="Returns the number of fields.")
def hlen(call: Call) -> Steps:
    return len((yield from read_all(call.database, HASH, call.arguments[1])))


@command("hexists", 3, "readonly fast", ONE_KEY, group="hash", summary="Whether a field is there.", fields=ONE_FIELD)
def hexists(call: Call) -> Steps:
    (entry,) = yield from read_names(call.database, HASH, call.arguments[1], call.arguments[2:])
    return int(entry is not None)


@command(
    "hstrlen",
    3,
    "readonly fast",
    ONE_KEY,
    group="hash",
    summary="Returns the length of a field's value.",
    fields=ONE_FIELD,
)
def hstrlen(call: Call) -> Steps:
    (entry,) = yield from read_names(call.database, HASH, call.arguments[1], call.arguments[2:])
    return len(_value(call.database, entry) or b"")


@command("hdel", -3, "write fast", ONE_KEY, group="hash", summary="Removes fields.", fields=ALL_FIELDS)
def hdel(call: Call) -> Steps:
    return (yield from remove_names(call, HASH, call.arguments[2:]))


@command("hrandfield", -2, "readonly", ONE_KEY, group="hash", summary="Returns random fields.")
def hrandfield(call: Call) -> Steps:
    options = call.arguments[2:]
    if len(options) > 2 or (len(options) == 2 and options[1].upper() != b"WITHVALUES"):
        raise Fault(SYNTAX)
    count = integer(options[0]) if options else 1
    found = yield from read_all(call.database, HASH, call.arguments[1])
    names = chosen(list(found), count)
    if not options:
        return names[0] if names else None
    if len(options) == 1:
        return names
    pairs = [[name, _value(call.database, found[name])] for name in names]
    return pairs if call.session.resp3 else [word for pair in pairs for word in pair]
