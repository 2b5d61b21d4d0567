"""Sets: sets of the cluster. Each member is added and removed by itself."""

from __future__ import annotations

from collections.abc import Callable

from quorumcache.gateway.redis.commands.hashes import (
    check_collections,
    chosen,
    put_names,
    read_all,
    read_names,
    remove_names,
)
from quorumcache.gateway.redis.faults import SYNTAX, Fault
from quorumcache.gateway.redis.table import ALL_FIELDS, ALL_KEYS, ONE_FIELD, ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import integer
from quorumcache.gateway.redis.wholes import SET


@command("sadd", -3, "write denyoom fast", ONE_KEY, group="set", summary="Adds members.", fields=ALL_FIELDS)
def sadd(call: Call) -> Steps:
    members = dict.fromkeys(call.arguments[2:], b"")
    return (yield from put_names(call, SET, members))


@command("srem", -3, "write fast", ONE_KEY, group="set", summary="Removes members.", fields=ALL_FIELDS)
def srem(call: Call) -> Steps:
    return (yield from remove_names(call, SET, call.arguments[2:]))


@command("smembers", 2, "readonly", ONE_KEY, group="set", summary="Returns all members.")
def smembers(call: Call) -> Steps:
    return set((yield from read_all(call.database, SET, call.arguments[1])))


@command("scard", 2, "readonly fast", ONE_KEY, group="set", summary="Returns the number of members.")
def scard(call: Call) -> Steps:
    return len((yield from read_all(call.database, SET, call.arguments[1])))


@command("sismember", 3, "readonly fast", ONE_KEY, group="set", summary="Whether a member is there.", fields=ONE_FIELD)
def sismember(call: Call) -> Steps:
    (entry,) = yield from read_names(call.database, SET, call.arguments[1], call.arguments[2:])
    return int(entry is not None)


@command(
    "smismember", -3, "readonly fast", ONE_KEY, group="set", summary="Whether members are there.", fields=ALL_FIELDS
)
def smismember(call: Call) -> Steps:
    entries = yield from read_names(call.database, SET, call.arguments[1], call.arguments[2:])
    return [int(entry is not None) for entry in entries]


@command("srandmember", -2, "readonly", ONE_KEY, group="set", summary="Returns random members.")
def srandmember(call: Call) -> Steps:
    options = call.arguments[2:]
    if len(options) > 1:
        raise Fault(SYNTAX)
    count = integer(options[0]) if options else 1
    members = chosen(list((yield from read_all(call.database, SET, call.arguments[1]))), count)
    return members if options else members[0] if members else None


def _combined(call: Call, combine: Callable[[list[set[bytes]]], set[bytes]]) -> Steps:
    check_collections(call.database, SET)
    sets = []
    for key in call.arguments[1:]:
        sets.append(set((yield from read_all(call.database, SET, key))))
    return combine(sets)


@command("sunion", -2, "readonly", ALL_KEYS, group="set", summary="Returns the union of sets.")
def sunion(call: Call) -> Steps:
    return (yield from _combined(call, lambda sets: set().union(*sets)))


@command("sinter", -2, "readonly", ALL_KEYS, group="set", summary="Returns the intersection of sets.")
def sinter(call: Call) -> Steps:
    return (yield from _combined(call, lambda sets: sets[0].intersection(*sets[1:])))


@command("sdiff", -2, "readonly", ALL_KEYS, group="set", summary="Returns what is in the first set and in no other.")
def sdiff(call: Call) -> Steps:
    return (yield from _combined(call, lambda sets: sets[0].difference(*sets[1:])))
