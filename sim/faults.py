"""Carries out a plan's faults, and ends them all when the world heals. Adversaries are elsewhere (adversary/)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from quorumcache.core.model import stamp_time
from sim.record import OK, Op
from sim.revoking import revoke

if TYPE_CHECKING:
    from sim.engine import Engine

ROLLING_LOOK_US: Final = 50_000
ROLLING_DOWN_US: Final = 100_000
Pairs = list[tuple[int, int]]


class Faults:
    """The faults of one run."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._over = False
        self._ambushes: list[int] = []

    def schedule(self) -> None:
        """Have each fault of the plan happen in its time."""
        world = self._engine.world
        for number, fault in enumerate(self._engine.plan.faults):
            world.at(world.now_us + fault[0], self._begin, number)

    def end(self) -> None:
        """The world heals: everybody is up and quick again. (The network is the engine's to calm.)"""
        self._over = True
        for node in self._engine.nodes:
            node.slow_us = 0
            node.restart(wipe=node.wiped)

    def _begin(self, number: int, _second: object) -> None:
        if self._over:
            return
        engine = self._engine
        _, kind, target, duration_us, choice = engine.plan.faults[number]
        world, network = engine.world, engine.network
        if engine.epochs is not None and kind in ("crash", "wipe", "slow", "clock_step"):
            target = choice % len(engine.nodes)  # Of those that joined, too.
        draw = random.Random(choice)
        end_us = world.now_us + duration_us
        detail = f"for {duration_us / 1000:.1f} ms"
        if kind in ("partition", "one_way"):
            pairs = self._pairs(draw, one_way=kind == "one_way")
            network.cut(pairs)
            world.at(end_us, self._mend, pairs)
            detail += f", {len(pairs)} edges"
        elif kind in ("crash", "wipe"):
            node = engine.nodes[target]
            if node.down:
                return
            if kind == "wipe":
                node.wipe(choice)
                detail += f", of what it stored the last {node.torn} writes" if node.torn else ""
            else:
                node.crash()
            world.at(end_us, self._restart, target, node.restart_count)
        elif kind == "ambush":
            self._ambushes.append(choice)
            return
        elif kind == "slow":
            node = engine.nodes[target]
            node.slow_us = draw.choice((5_000, 30_000, engine.plan.op_time_us))
            world.at(end_us, self._quicken, target)
            detail += f", up to {node.slow_us / 1000:.0f} ms"
        elif kind == "clock_step":
            half_us = engine.plan.max_skew_us // 2
            node = engine.nodes[target]
            offset_us = draw.randint(-half_us, half_us)
            if node.is_byzantine:
                offset_us = draw.choice((-1, 1)) * draw.choice((1, 60, 3600)) * 1_000_000
            node.clock.step(offset_us)
            detail = f"to {offset_us / 1000:+.1f} ms"
        elif kind == "client_crash":
            engine.clients[target].crash()
            detail = ""
        elif kind == "rolling":
            order = list(range(len(engine.nodes)))
            draw.shuffle(order)
            self._roll(order, 0)
            detail = "of " + ", ".join(map(str, order))
        elif kind == "revoke":
            revoke(engine, choice)
            detail = ""
        elif kind == "epoch":
            if engine.epochs is None:
                return
            detail = engine.epochs.order(choice)
        engine.record.faults.append((world.now_us, kind, target, detail))

    def ended(self, op: Op) -> None:
        """An operation ended well: where an ambush waits for one, nodes that may have answered for it lose all."""
        if self._over or not self._ambushes or op.outcome != OK:
            return
        engine = self._engine
        draw = random.Random(choice := self._ambushes[0])
        if draw.random() < 0.7 and stamp_time(op.stamp) < engine.now_us:
            return  # This one waits for a stamp that is ahead of true time.
        del self._ambushes[0]
        for target in draw.sample(range(len(engine.nodes)), draw.randint(1, len(engine.nodes))):
            node = engine.nodes[target]
            if not node.down:
                node.wipe(choice + target)
                engine.world.at(engine.now_us + draw.choice((0, 200, 5_000)), self._restart, target, node.restart_count)
                engine.record.faults.append((engine.now_us, "ambush", target, f"as operation {op.id} ended"))

    def _pairs(self, draw: random.Random, *, one_way: bool) -> Pairs:
        """Directed edges to cut: between two sides, or a few at random."""
        processes = list(self._engine.graph.nodes)
        nodes = len(self._engine.nodes)
        if one_way:
            count = draw.choice((1, 2, len(processes)))
            return [(draw.choice(processes), draw.choice(processes)) for _ in range(count)]
        here = set(draw.sample(processes, draw.randint(1, len(processes) - 1)))
        if draw.random() < 0.5:
            # Between nodes and some clients only: nodes still hear each other's writers.
            return [
                pair
                for a in processes[:nodes]
                for b in processes[nodes:]
                if (a in here) != (b in here)
                for pair in ((a, b), (b, a))
            ]
        return [(a, b) for a in processes for b in processes if (a in here) != (b in here)]

    def _mend(self, pairs: Pairs, _second: object) -> None:
        if not self._over:
            self._engine.network.mend(pairs)

    def _restart(self, target: int, count: int) -> None:
        node = self._engine.nodes[target]
        if node.down and node.restart_count == count:
            node.restart(wipe=node.wiped)

    def _roll(self, order: list[int], turn: int) -> None:
        """Restart the next of these nodes without its memory, once the one before is whole again."""
        engine = self._engine
        if self._over or turn == len(order):
            return
        if any(node.down or node.recovery is not None for node in engine.nodes):
            engine.world.at(engine.now_us + ROLLING_LOOK_US, self._roll, order, turn)
            return
        node = engine.nodes[order[turn]]
        node.forget()
        engine.world.at(engine.now_us + ROLLING_DOWN_US, self._restart, node.number, node.restart_count)
        engine.world.at(engine.now_us + ROLLING_DOWN_US + ROLLING_LOOK_US, self._roll, order, turn + 1)

    def _quicken(self, target: int, _second: object) -> None:
        self._engine.nodes[target].slow_us = 0
