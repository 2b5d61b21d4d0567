"""Scripts of one key: run on what stands there, and written by compare-and-set. Either all of it takes effect, or
nothing. What Lua may do is in gateway/redis/scripting.py."""

from __future__ import annotations

from functools import partial
from typing import Any

from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.exact import ANY, Put, Stood, edit
from quorumcache.gateway.redis.faults import NOT_AN_INTEGER, Fault, unknown_subcommand, wrong_arguments
from quorumcache.gateway.redis.hand import Hand
from quorumcache.gateway.redis.scripting import run
from quorumcache.gateway.redis.table import Call, Steps, command, find

_ONE_KEY_ONLY = (
    "ERR a script here is of one key: there is nothing that changes several at once. Name it as KEYS[1], and no other"
)
_THIRD = (3, 3, 1)


@command("eval", -3, "write no_script", _THIRD, group="scripting", summary="Runs a script on one key.")
def eval_(call: Call) -> Steps:
    call.session.gateway.scripts.load(call.arguments[1])
    return (yield from _run(call, call.arguments[1]))


@command("evalsha", -3, "write no_script", _THIRD, group="scripting", summary="Runs a script that was loaded.")
def evalsha(call: Call) -> Steps:
    return (yield from _run(call, call.session.gateway.scripts.get(call.arguments[1])))


@command("script", -2, "no_script", group="scripting", summary="LOAD, EXISTS and FLUSH: scripts to run by their SHA-1.")
def script(call: Call) -> object:
    scripts, words = call.session.gateway.scripts, call.arguments[2:]
    what = call.arguments[1].upper()
    if what == b"LOAD":
        if len(words) != 1:
            raise wrong_arguments("script|load")
        return scripts.load(words[0])
    if what == b"EXISTS":
        if not words:
            raise wrong_arguments("script|exists")
        return [int(word in scripts) for word in words]
    if what == b"FLUSH":
        if [word.upper() for word in words] not in ([], [b"ASYNC"], [b"SYNC"]):
            raise Fault("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
        scripts.clear()
        return OK
    raise unknown_subcommand("SCRIPT", call.arguments[1])


def _run(call: Call, source: bytes) -> Steps:
    try:
        count = int(call.arguments[2])
    except ValueError:
        raise Fault(NOT_AN_INTEGER) from None
    if count < 0:
        raise Fault("ERR Number of keys can't be negative")
    if count > len(call.arguments) - 3:
        raise Fault("ERR Number of keys can't be greater than number of args")
    if count > 1:
        raise Fault(_ONE_KEY_ONLY)
    keys, argv = call.arguments[3 : 3 + count], call.arguments[3 + count :]
    if not keys:
        return run(source, keys, argv, partial(_answer, call, None, b""))
    replies: list[Any] = []
    slot = call.database.string_slot(keys[0])

    def make(stood: Stood) -> Put | None:
        hand = Hand(slot, stood)
        replies[:] = [run(source, keys, argv, partial(_answer, call, hand, keys[0]))]
        return hand.put

    yield from edit(call, keys[0], make, kind=ANY)
    return replies[0]


def _answer(call: Call, hand: Hand | None, key: bytes, words: list[bytes]) -> Any:
    """The reply to a command of the script. Raises Fault."""
    if not words:
        raise Fault("ERR Please specify at least one argument for this redis.call() call")
    found = find(words[0])
    if found is None:
        raise Fault("ERR Unknown Redis command called from script")
    if fault := found.check(words):
        raise fault
    if found.kind != "steps" or "no_script" in found.flags or not (named := found.keys_of(words)):
        raise Fault("ERR This Redis command is not allowed from script")
    if hand is None or any(each != key for each in named):
        raise Fault(_ONE_KEY_ONLY)
    return hand.run(Call(found, words, call.session, call.database))
