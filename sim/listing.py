"""At the end of a run, when nothing is asked any more: one client lists all keys (protocol 5.8).

Each key that the reads before found has to be listed, once, and none that nobody ever wrote. It does what the client
library does with the parts of a listing; it must not know how nodes answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import slot_of
from quorumcache.core.outcome import Failed, Listed, Outcome
from sim.record import OK

if TYPE_CHECKING:
    from sim.clients import ClientProcess
    from sim.engine import Engine

NAME: Final = "listing"
_NAMESPACE: Final = b"sim"
_PARTS_MAX: Final = 200
_MOVES_MAX: Final = 3
#: Keys asked for at a time. With many, what is in doubt is judged at once; with few, everybody is waited for.
_COUNTS: Final = (1, 2, 100, 100, 100, 100)


class Part:
    """One part of a listing that a client waits for: no operation of the history, but a token like one."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None


def list_all(engine: Engine) -> None:
    """List all keys of the registers, again and again, in parts of few and of many keys."""
    for number, count in enumerate(_COUNTS):
        if not engine.world.stopped:
            _list_once(engine, engine.clients[number % len(engine.clients)], count)


def _list_once(engine: Engine, client: ClientProcess, count: int) -> None:
    """List all keys, and have the run fail where the listing breaks its promise."""
    reads = [op for op in engine.ops if op.phase == "final" and op.kind == "read"]
    found = {op.slot: op for op in reads if not op.type and not op.direct}
    wanted = {slot for slot, op in found.items() if op.outcome == OK and not op.expires_at_us}
    configuration = engine.configuration
    listed: list[bytes] = []
    starts = [m.Position(shards[0]) for shards in configuration.shards_of_groups.values()]
    moves = 0
    for _ in range(_PARTS_MAX):
        if not starts or engine.world.stopped:
            break
        part = Part()
        client.list_part(_NAMESPACE, starts[0], count, part)
        engine.wait_for(lambda part=part: part.outcome is not None)  # type: ignore[misc]
        outcome = part.outcome
        if isinstance(outcome, Failed) and "list again" in outcome.detail and moves < _MOVES_MAX:
            # The client went over to another epoch meanwhile.
            moves += 1
            listed.clear()
            starts = [m.Position(shards[0]) for shards in configuration.shards_of_groups.values()]
            continue
        if not isinstance(outcome, Listed):
            detail = outcome.detail if isinstance(outcome, Failed) else "it never ended"
            engine.fail(NAME, f"a part of a listing failed in peace: {detail}")
            return
        doubtful = [slot_of(_NAMESPACE, outcome.keys[place]) for place in outcome.doubtful]
        reads = [client.start("read", slot, phase="listing") for slot in doubtful]
        engine.wait_for(lambda reads=reads: all(op.end_us is not None for op in reads))  # type: ignore[misc]
        gone = {op.slot for op in reads if op.outcome != OK}
        listed += [slot for slot in (slot_of(_NAMESPACE, key) for key in outcome.keys) if slot not in gone]
        if outcome.stop is None:
            del starts[0]
        else:
            starts[0] = outcome.stop
    else:
        engine.fail(NAME, f"a listing of {len(engine.slots)} keys went on for {_PARTS_MAX} parts")
    if engine.world.stopped:
        return
    if len(set(listed)) < len(listed):
        engine.fail(NAME, f"keys were listed twice: {sorted(slot for slot in listed if listed.count(slot) > 1)}")
    elif strange := set(listed) - set(engine.slots):
        engine.fail(NAME, f"keys were listed that nobody wrote: {sorted(strange)}")
    elif not engine.plan.entries_max and (missing := wanted - set(listed)):
        engine.fail(NAME, f"keys that reads had found were not listed: {sorted(missing)}")
