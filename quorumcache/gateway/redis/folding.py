"""SET and then EXPIRE of the same key, of one connection and in one go, as what they come to: one write that expires.

EXPIRE by itself changes what is there only if it is still that, which needs compare-and-set. Right behind a write by
the same connection there is nothing to read: both take effect at one moment, in their order, as they may.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.times import DEADLINES, deadline_ms

if TYPE_CHECKING:
    from quorumcache.gateway.redis.table import Call

#: Commands that write their keys whatever was there, and whose handlers look at `Call.deadlines`.
_PLAIN: Final = frozenset(("set", "setex", "psetex", "mset"))
#: With these SET is no plain write.
_CONDITIONS: Final = frozenset((b"NX", b"XX", b"GET", b"KEEPTTL"))


def fold(calls: list[tuple[int, Call]]) -> tuple[list[tuple[int, Call]], list[tuple[int, int]]]:
    """The calls that remain, and those that went into another: (number, number of the other)."""
    if not any(call.command.name in DEADLINES for _, call in calls):
        return calls, []
    kept: list[tuple[int, Call]] = []
    followers: list[tuple[int, int]] = []
    #: Key -> place in `kept` of the last command that touched it.
    last: dict[tuple[int, bytes], int] = {}
    for number, call in calls:
        command, database = call.command, call.database
        if command.name in DEADLINES and len(call.arguments) == 3:
            key = call.arguments[1]
            place = last.get((database.number, key))
            if place is not None and _is_plain(kept[place][1]):
                leader, write = kept[place]
                try:
                    at_ms = deadline_ms(command.name, call.arguments[2], database.now_ms)
                except Fault:
                    at_ms = 0
                if at_ms > database.now_ms:
                    kept[place] = (leader, write._replace(deadlines={**(write.deadlines or {}), key: at_ms}))
                    followers.append((number, leader))
                    continue
        for key in command.keys_of(call.arguments):
            last[database.number, key] = len(kept)
        kept.append((number, call))
    return kept, followers


def _is_plain(call: Call) -> bool:
    return call.command.name in _PLAIN and not (
        call.command.name == "set" and any(word.upper() in _CONDITIONS for word in call.arguments[3:])
    )
