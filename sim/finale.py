"""The end of a run, when the network has healed: operations one by one, all of which must succeed, and then a race.

It must not know what is made of their outcomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.direct import end_of
from sim.listing import list_all
from sim.record import OK

if TYPE_CHECKING:
    from sim.clients import ClientProcess
    from sim.engine import Engine


def play(engine: Engine) -> None:
    """Slot by slot: a write, then reads by two clients; and two more writes by others, one of them a race."""
    engine.phase = "final"
    if engine.epochs is not None:
        # Who was away begins in the epoch that there is; in mode primary, what is sent as that turns out is in doubt.
        engine.wait_for_all([client.start("read", engine.slots[0], phase="healing") for client in engine.clients])
    barred = engine.barred.union(engine.revoked)
    able = [c for c in engine.clients if c.key is not None and c.key.public not in barred]
    for number, slot in enumerate(engine.slots[:8]):
        if engine.plan.entries_max:
            # A node full of what was written just now has no room, and nobody promised that it has.
            engine.world.run_until(engine.world.now_us + 3 * engine.plan.max_skew_us)
        reader = engine.clients[number % len(engine.clients)]
        engine.wait_for_all([reader.start("read", slot, phase="final", full=True)])
        for turn in range(2 if able else 0):
            writer = able[(number + turn) % len(able)]
            engine.wait_for_all([writer.start("write", slot, phase="final")])
            readers = {(number + turn + step) % len(engine.clients) for step in (1, 2)}
            engine.wait_for_all([engine.clients[r].start("read", slot, phase="final") for r in sorted(readers)])
    end_of(engine, able)
    list_all(engine)
    # A write that begins a key anew takes eight messages one after another: too many for who is far.
    near = [c for c in able if c.number or "far" not in engine.plan.features]
    for number in range(len(engine.keys)):
        _key(engine, number, near)
    roomy = not engine.plan.entries_max and not engine.plan.promises_max
    if engine.keeps_state and roomy and able and not engine.plan.byzantine:
        # Where nobody forgot, nothing is in doubt, and where all answer, one that lags is in nobody's way: whoever
        # comes alone gets through, whatever was left behind.
        gap_us = 4 * engine.plan.op_time_us + 8 * engine.plan.max_skew_us
        for number, slot in enumerate(engine.exact_slots):
            first = able[(number + 1) % len(able)].start_exact("set", slot, phase="healing")
            engine.wait_for_all([first])
            if first.outcome != OK:
                # What is dead may be forgotten by some: until the others do so too, which was promised.
                engine.world.run_until(engine.world.now_us + gap_us)
            for turn, word in enumerate(("set", "swap", "drop", "add")):
                client = able[(number + turn) % len(able)]
                engine.wait_for_all([client.start_exact("read", slot, phase="final")])
                engine.wait_for_all([client.start_exact(word, slot, phase="final")])
    if len(able) > 1 and not engine.plan.promises_max:
        # All at once on one slot: everyone has to get through.
        engine.phase = "race"
        engine.wait_for_all([c.start("write", engine.slots[0], phase="race") for c in able])
        for kind, base in engine.keys:
            what = {"counter": "add 1", "siblings": "blind"}.get(kind, "put ")
            texts = [f"{what}{i}" if what == "put " else what for i in range(len(near))]
            engine.wait_for_all(
                [c.start_keyed(text, kind, base, phase="race") for c, text in zip(near, texts, strict=True)]
            )


def _key(engine: Engine, number: int, able: list[ClientProcess]) -> None:
    """A key: writes, a new time to live, its deletion, a write that begins it anew; and reads after each."""
    kind, base = engine.keys[number]
    clients, count = engine.clients, len(engine.clients)
    engine.wait_for_all([clients[number % count].start_keyed("read", kind, base, phase="final")])
    first = {"counter": "add 2", "siblings": "blind"}.get(kind, "put 1")
    second = {"counter": "add -1", "siblings": "resolve"}.get(kind, "remove 1")
    for turn, what in enumerate((first, second, "touch", "drop", first) if able else ()):
        if engine.plan.entries_max:
            engine.world.run_until(engine.world.now_us + 3 * engine.plan.max_skew_us)
        writer = able[(number + turn) % len(able)]
        if what == "resolve":
            engine.wait_for_all([writer.start_keyed("read", kind, base, phase="final")])
        engine.wait_for_all([writer.start_keyed(what, kind, base, phase="final")])
        looks = ["read", "get 1" if kind in ("set", "map") else "read"]
        readers = [clients[(number + turn + step) % count] for step in (1, 2)]
        engine.wait_for_all(
            [r.start_keyed(look, kind, base, phase="final") for r, look in zip(readers, looks, strict=True)]
        )
