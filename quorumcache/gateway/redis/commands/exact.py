"""Commands that are right only with compare-and-set (gateway/redis/exact.py): refused, each by its name."""

from __future__ import annotations

from typing import Final

from quorumcache.gateway.redis.exact import refuse
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import ALL_KEYS, ONE_KEY, Call, command

# name, arity, keys, group, summary
_REFUSED: Final[tuple[tuple[str, int, tuple[int, int, int], str, str], ...]] = (
    ("append", 3, ONE_KEY, "string", "Appends to the string value of a key."),
    ("decr", 2, ONE_KEY, "string", "Decrements the integer value of a key by one."),
    ("decrby", 3, ONE_KEY, "string", "Decrements the integer value of a key."),
    ("getdel", 2, ONE_KEY, "string", "Returns the string value of a key, and deletes it."),
    ("getset", 3, ONE_KEY, "string", "Returns the string value of a key, and sets another."),
    ("incr", 2, ONE_KEY, "string", "Increments the integer value of a key by one."),
    ("incrby", 3, ONE_KEY, "string", "Increments the integer value of a key."),
    ("incrbyfloat", 3, ONE_KEY, "string", "Increments the floating point value of a key."),
    ("setnx", 3, ONE_KEY, "string", "Sets the string value of a key that is not there."),
    ("setrange", 4, ONE_KEY, "string", "Overwrites a part of a string value."),
    ("persist", 2, ONE_KEY, "generic", "Removes the expiry of a key."),
    ("rename", 3, (1, 2, 1), "generic", "Renames a key."),
    ("renamenx", 3, (1, 2, 1), "generic", "Renames a key where the new name is free."),
    ("hincrby", 4, ONE_KEY, "hash", "Increments the integer value of a field."),
    ("hincrbyfloat", 4, ONE_KEY, "hash", "Increments the floating point value of a field."),
    ("hsetnx", 4, ONE_KEY, "hash", "Sets the value of a field that is not there."),
    ("spop", -2, ONE_KEY, "set", "Returns random members of a set, and removes them."),
)


def _run(call: Call) -> object:
    raise refuse(call.command.name.upper())


for _name, _arity, _keys, _group, _summary in _REFUSED:
    command(_name, _arity, "write", _keys, group=_group, summary=_summary)(_run)


@command(
    "msetnx", -3, "write denyoom", (1, -1, 2), group="string", summary="Sets keys if none of them is there: refused."
)
def msetnx(call: Call) -> object:
    raise Fault("ERR MSETNX is all or nothing across keys, which a cluster without transactions over keys cannot be")


@command(
    "watch",
    -2,
    "fast no_multi",
    ALL_KEYS,
    group="transactions",
    summary="Lets EXEC do nothing where keys have changed.",
)
def watch(call: Call) -> object:
    if call.session.queue is not None:
        raise Fault("ERR WATCH inside MULTI is not allowed")
    raise refuse("WATCH")


@command("unwatch", 1, "fast", group="transactions", summary="Forgets what was watched.")
def unwatch(call: Call) -> object:
    return "OK"
