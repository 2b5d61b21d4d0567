"""MULTI and EXEC: commands that wait, and then run in order. Each is as exact as by itself; others may see what is
between them. After WATCH of one key they are of that key, and run as one compare-and-set."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.exact import ANY, Put, Stood, edit
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.hand import Hand, fits
from quorumcache.gateway.redis.running import run_calls
from quorumcache.gateway.redis.table import Call, command, find

_ONE_KEY_ONLY: Final = (
    "EXECABORT after WATCH a transaction is of the one key that was watched, and of that alone: there is nothing here "
    "that changes several at once"
)


@command("multi", 1, "fast no_multi", group="transactions", summary="Lets commands wait for EXEC.")
def multi(call: Call) -> object:
    session = call.session
    if session.queue is not None:
        raise Fault("ERR MULTI calls can not be nested")
    session.queue = []
    session.is_spoilt = False
    return OK


@command("exec", 1, "no_multi", group="transactions", summary="Runs the commands that wait, in order.")
async def exec_(call: Call) -> object:
    session = call.session
    queue, is_spoilt, watched = session.queue, session.is_spoilt, session.watched
    session.leave_transaction()
    if queue is None:
        raise Fault("ERR EXEC without MULTI")
    if is_spoilt:
        raise Fault("EXECABORT Transaction discarded because of previous errors.")
    if watched:
        return await _run_if_unchanged(call, queue, watched)
    replies, _ = await session.run(queue, queues=False)
    return replies


async def _run_if_unchanged(
    call: Call, queue: list[list[bytes]], watched: dict[tuple[int, bytes], bytes]
) -> list[object] | None:
    """One compare-and-set of the one key that was watched, whose commands run in it: exact, and alone. None where the
    key is no longer what it was."""
    session, database = call.session, call.database
    calls: list[Call] = []
    for arguments in queue:
        found = find(arguments[0])
        assert found is not None
        calls.append(Call(found, arguments, session, database))
    if len(watched) != 1 or not all(fits(each) for each in calls):
        raise Fault(_ONE_KEY_ONLY)
    (((number, key), header_then),) = watched.items()
    database = database.part_of(key)
    calls = [each._replace(database=database) for each in calls]
    if number != database.number or any(each.arguments[1] != key for each in calls):
        raise Fault(_ONE_KEY_ONLY)
    slot = database.string_slot(key)
    replies: list[object] = []
    is_other = False

    def make(stood: Stood) -> Put | None:
        nonlocal is_other
        is_other = stood.header != header_then
        replies.clear()
        if is_other:
            return None
        hand = Hand(slot, stood)
        for each in calls:
            try:
                replies.append(hand.run(each))
            except Fault as fault:
                replies.append(fault)
        return hand.put

    results: list[object] = [None]
    command_ = replace(call.command, run=lambda inner: edit(inner, key, make, kind=ANY), kind="steps")
    steps = Call(command_, [b"EXEC", key], session, database)
    await run_calls(session.gateway.client, session.gateway.deadlines, [(0, steps)], results)
    if isinstance(results[0], Fault):
        raise results[0]
    return None if is_other else replies


@command("discard", 1, "fast no_multi", group="transactions", summary="Forgets the commands that wait.")
def discard(call: Call) -> object:
    if call.session.queue is None:
        raise Fault("ERR DISCARD without MULTI")
    call.session.leave_transaction()
    return OK
