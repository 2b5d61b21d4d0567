"""Which part of a database a command is for, where prefixes of keys have namespaces of their own.

A command whose keys are in several parts runs in each, if what it gives can be put together. It must not know slots.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from quorumcache.gateway.redis.database import Database
from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import Call, Command, Steps

_COUNTING: Final = frozenset(("del", "unlink", "exists", "touch"))


def routed(call: Call) -> Call:
    """The call as it is for the parts that its keys are in. Raises Fault where these cannot be put together."""
    database, command = call.database, call.command
    keys = command.keys_of(call.arguments)
    if not keys:
        return call
    parts = [database.part_of(key) for key in keys]
    if all(part is parts[0] for part in parts):
        return call if parts[0] is database else call._replace(database=parts[0])
    if command.name not in (*_COUNTING, "mget", "mset"):
        raise Fault(
            f"ERR the keys of one {command.name.upper()} have to be in one namespace: the gateway keeps these in "
            "several, by their prefixes"
        )
    return call._replace(command=replace(command, run=lambda whole: _in_parts(whole, command, parts)))


def _in_parts(call: Call, own: Command, parts: list[Database]) -> Steps:
    """Run it in each part, one after the other, and put the replies together."""
    name, *words = call.arguments
    step = call.command.keys[2]
    places: dict[int, list[int]] = {}
    for place, part in enumerate(parts):
        places.setdefault(id(part), []).append(place)
    total, values = 0, list[Any]([None] * len(parts))
    for some in places.values():
        arguments = [name]
        for place in some:
            arguments += words[step * place : step * place + step]
        reply = yield from own.run(call._replace(command=own, arguments=arguments, database=parts[some[0]]))
        if call.command.name in _COUNTING:
            total += reply
        elif call.command.name == "mget":
            for place, value in zip(some, reply, strict=True):
                values[place] = value
    if call.command.name in _COUNTING:
        return total
    return values if call.command.name == "mget" else OK
