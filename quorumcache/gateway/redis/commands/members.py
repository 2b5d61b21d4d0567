"""What hashes and sets do that depends on what is in them: in exact databases, where each is one value and every change
of it compare-and-set. Elsewhere fields are written one by one, and these are refused.
"""

from __future__ import annotations

import random

from quorumcache.gateway.redis.commands.exact import INTEGER_MAX, OVERFLOW, as_float, float_words
from quorumcache.gateway.redis.database import check_name
from quorumcache.gateway.redis.exact import edit_items
from quorumcache.gateway.redis.faults import SYNTAX, Fault
from quorumcache.gateway.redis.table import ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import integer
from quorumcache.gateway.redis.wholes import HASH, SET

Items = dict[bytes, bytes]


@command("hsetnx", 4, "write denyoom fast", ONE_KEY, group="hash", summary="Sets the value of a field that is new.")
def hsetnx(call: Call) -> Steps:
    _, key, name, value = call.arguments
    check_name(name)
    done = yield from edit_items(call, key, HASH, lambda items: None if name in items else {**items, name: value})
    return int(done)


@command("hincrby", 4, "write denyoom fast", ONE_KEY, group="hash", summary="Increments the integer value of a field.")
def hincrby(call: Call) -> Steps:
    _, key, name, word = call.arguments
    by, total = integer(word), [0]
    check_name(name)

    def make(items: Items) -> Items:
        try:
            total[0] = integer(items.get(name, b"0")) + by
        except Fault:
            raise Fault("ERR hash value is not an integer") from None
        if not -INTEGER_MAX - 1 <= total[0] <= INTEGER_MAX:
            raise Fault(OVERFLOW)
        return {**items, name: b"%d" % total[0]}

    yield from edit_items(call, key, HASH, make)
    return total[0]


@command("hincrbyfloat", 4, "write denyoom fast", ONE_KEY, group="hash", summary="Increments a field's decimal value.")
def hincrbyfloat(call: Call) -> Steps:
    _, key, name, word = call.arguments
    by, total = as_float(word), [b""]
    check_name(name)

    def make(items: Items) -> Items:
        try:
            before = as_float(items.get(name, b"0"))
        except Fault:
            raise Fault("ERR hash value is not a float") from None
        total[0] = float_words(before, by)
        return {**items, name: total[0]}

    yield from edit_items(call, key, HASH, make)
    return total[0]


@command("spop", -2, "write fast", ONE_KEY, group="set", summary="Returns random members of a set, and removes them.")
def spop(call: Call) -> Steps:
    _, key, *options = call.arguments
    if len(options) > 1:
        raise Fault(SYNTAX)
    count = integer(options[0]) if options else 1
    if count < 0:
        raise Fault("ERR value is out of range, must be positive")
    gone: list[bytes] = []

    def make(items: Items) -> Items | None:
        gone[:] = random.sample(list(items), min(count, len(items)))
        taken = set(gone)
        return {name: b"" for name in items if name not in taken} if gone else None

    yield from edit_items(call, key, SET, make)
    if options:
        return set(gone)
    return gone[0] if gone else None
