"""MULTI and EXEC: commands that wait, and then run in order. Each is as exact as by itself; others may see what is
between them."""

from __future__ import annotations

from quorumcache.gateway.redis.encoding import OK
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.table import Call, command


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
    queue, is_spoilt = session.queue, session.is_spoilt
    session.leave_transaction()
    if queue is None:
        raise Fault("ERR EXEC without MULTI")
    if is_spoilt:
        raise Fault("EXECABORT Transaction discarded because of previous errors.")
    replies, _ = await session.run(queue, queues=False)
    return replies


@command("discard", 1, "fast no_multi", group="transactions", summary="Forgets the commands that wait.")
def discard(call: Call) -> object:
    if call.session.queue is None:
        raise Fault("ERR DISCARD without MULTI")
    call.session.leave_transaction()
    return OK
