"""Commands that depend on what is there: right only with compare-and-set (gateway/redis/exact.py), in databases whose
strings are in a namespace of type exact. The others are refused, each by its name."""

from __future__ import annotations

from decimal import Context, Decimal, InvalidOperation
from typing import Final

from quorumcache.client.mixed import ReadSlot
from quorumcache.core.outcome import Found
from quorumcache.gateway.redis.database import check_missed
from quorumcache.gateway.redis.exact import ANY, Put, Stood, edit, kept, refuse
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import ALL_KEYS, ONE_KEY, Call, Steps, command
from quorumcache.gateway.redis.times import integer

INTEGER_MAX: Final = (1 << 63) - 1
OVERFLOW: Final = "ERR increment or decrement would overflow"
_NOT_A_FLOAT: Final = "ERR value is not a valid float"
#: Redis counts in long doubles, and shows 17 digits.
_FLOATS: Final = Context(prec=17)
_FLOAT_BYTES_MAX: Final = 64
_WATCHED_MAX: Final = 64


# --- counting ---


def _count(call: Call, by: int) -> Steps:
    totals: list[int] = [0]

    def make(stood: Stood) -> Put:
        totals[0] = integer(stood.value if stood.value is not None else b"0") + by
        if not -INTEGER_MAX - 1 <= totals[0] <= INTEGER_MAX:
            raise Fault(OVERFLOW)
        return Put(b"%d" % totals[0], _expiry(call, stood))

    yield from edit(call, call.arguments[1], make)
    return totals[0]


def _expiry(call: Call, stood: Stood) -> int:
    """As it is; of what is new, what the namespace wants."""
    return stood.expires_at_us if stood.value is not None else call.database.lasting()


@command("incr", 2, "write denyoom fast", ONE_KEY, group="string", summary="Increments the integer value by one.")
def incr(call: Call) -> Steps:
    return (yield from _count(call, 1))


@command("decr", 2, "write denyoom fast", ONE_KEY, group="string", summary="Decrements the integer value by one.")
def decr(call: Call) -> Steps:
    return (yield from _count(call, -1))


@command("incrby", 3, "write denyoom fast", ONE_KEY, group="string", summary="Increments the integer value of a key.")
def incrby(call: Call) -> Steps:
    return (yield from _count(call, integer(call.arguments[2])))


@command("decrby", 3, "write denyoom fast", ONE_KEY, group="string", summary="Decrements the integer value of a key.")
def decrby(call: Call) -> Steps:
    return (yield from _count(call, -integer(call.arguments[2])))


def as_float(word: bytes) -> Decimal:
    """A finite number. Raises Fault."""
    try:
        if not word or len(word) > _FLOAT_BYTES_MAX or word != word.strip() or b"_" in word:
            raise Fault(_NOT_A_FLOAT)
        number = Decimal(word.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError):
        raise Fault(_NOT_A_FLOAT) from None
    if not number.is_finite():
        raise Fault(_NOT_A_FLOAT if number.is_nan() else "ERR increment would produce NaN or Infinity")
    if abs(number.adjusted()) > 4 * _FLOAT_BYTES_MAX:
        raise Fault(_NOT_A_FLOAT)
    return number


def float_words(before: Decimal, by: Decimal) -> bytes:
    """The sum as Redis shows it."""
    text = format(_FLOATS.add(before, by), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return b"0" if text in ("-0", "") else text.encode()


@command(
    "incrbyfloat", 3, "write denyoom fast", ONE_KEY, group="string", summary="Increments the floating point value."
)
def incrbyfloat(call: Call) -> Steps:
    by = as_float(call.arguments[2])
    texts: list[bytes] = [b""]

    def make(stood: Stood) -> Put:
        texts[0] = float_words(as_float(stood.value if stood.value is not None else b"0"), by)
        return Put(texts[0], _expiry(call, stood))

    yield from edit(call, call.arguments[1], make)
    return texts[0]


# --- what was there, and something else ---


@command(
    "setnx", 3, "write denyoom fast", ONE_KEY, group="string", summary="Sets the value of a key that is not there."
)
def setnx(call: Call) -> Steps:
    _, key, value = call.arguments
    done = yield from edit(
        call, key, lambda stood: Put(value, call.database.lasting()) if stood.value is None else None, kind=ANY
    )
    return int(done)


@command("getset", 3, "write denyoom fast", ONE_KEY, group="string", summary="Returns the value, and sets another.")
def getset(call: Call) -> Steps:
    _, key, value = call.arguments
    before: list[bytes | None] = [None]

    def make(stood: Stood) -> Put:
        before[0] = stood.value
        return Put(value, call.database.lasting())

    yield from edit(call, key, make)
    return before[0]


@command("getdel", 2, "write fast", ONE_KEY, group="string", summary="Returns the value of a key, and deletes it.")
def getdel(call: Call) -> Steps:
    before: list[bytes | None] = [None]

    def make(stood: Stood) -> Put:
        before[0] = stood.value
        return Put(None)

    yield from edit(call, call.arguments[1], make)
    return before[0]


@command("append", 3, "write denyoom fast", ONE_KEY, group="string", summary="Appends to the value of a key.")
def append(call: Call) -> Steps:
    _, key, more = call.arguments
    length = [0]

    def make(stood: Stood) -> Put:
        value = (stood.value or b"") + more
        length[0] = len(value)
        return Put(value, _expiry(call, stood))

    yield from edit(call, key, make)
    return length[0]


@command("setrange", 4, "write denyoom", ONE_KEY, group="string", summary="Overwrites a part of a value.")
def setrange(call: Call) -> Steps:
    _, key, word, part = call.arguments
    offset, most = integer(word), call.database.strings._value_bytes_max
    if offset < 0:
        raise Fault("ERR offset is out of range")
    length = [0]

    def make(stood: Stood) -> Put | None:
        value = stood.value or b""
        length[0] = len(value)
        if not part:
            return None
        if offset + len(part) > most:
            raise Fault(f"ERR string exceeds maximum allowed size: values have at most {most} bytes here")
        value = value[:offset].ljust(offset, b"\0") + part + value[offset + len(part) :]
        length[0] = len(value)
        return Put(value, _expiry(call, stood))

    yield from edit(call, key, make)
    return length[0]


@command("persist", 2, "write fast", ONE_KEY, group="generic", summary="Removes the expiry of a key.")
def persist(call: Call) -> Steps:
    def make(stood: Stood) -> Put | None:
        if stood.value is None or not stood.expires_at_us:
            return None
        return kept(stood, call.database.lasting())

    return int((yield from edit(call, call.arguments[1], make, kind=ANY)))


# --- what stays refused ---


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
def watch(call: Call) -> Steps:
    session, database = call.session, call.database
    if session.queue is not None:
        raise Fault("ERR WATCH inside MULTI is not allowed")
    if not database.is_exact:
        raise refuse("WATCH")
    keys = [key for key in dict.fromkeys(call.arguments[1:]) if (database.number, key) not in session.watched]
    if len(session.watched) + len(keys) > _WATCHED_MAX:
        raise Fault(f"ERR at most {_WATCHED_MAX} keys can be watched")
    outcomes = yield [ReadSlot(database.string_slot(key)) for key in keys]
    for key, outcome in zip(keys, outcomes, strict=True):
        if not isinstance(outcome, Found):
            check_missed(outcome)
        session.watched[database.number, key] = outcome.header if isinstance(outcome, Found) else b""
    return "OK"


@command("unwatch", 1, "fast", group="transactions", summary="Forgets what was watched.")
def unwatch(call: Call) -> object:
    call.session.watched.clear()
    return "OK"
