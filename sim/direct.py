"""Mode primary in the simulated world (protocol 10): how nodes pass on what they took, and a run's end.

As the running node does (quorumcache/node/running.py), on virtual time. It must not know checkers or faults.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.primary import SILENCE_US_MAX, Forwarding

if TYPE_CHECKING:
    from sim.clients import ClientProcess
    from sim.engine import Engine
    from sim.processes import NodeProcess

#: The namespace in mode primary.
NAMESPACE: Final = b"primary"
#: How long what is written waits for more, before it is forwarded.
FORWARD_US: Final = 5_000
#: After the healing: what a peer did not confirm goes out again by then, and is confirmed.
QUIET_US: Final = SILENCE_US_MAX + 1_000_000
_KEYS_MAX: Final = 4


class Forwards:
    """A node's forwarding, for as long as one life of it lasts."""

    def __init__(self, process: NodeProcess, draw: random.Random, send: Callable[[int, m.Request], None]) -> None:
        self._process = process
        self._send = send
        self._due = False
        self.machine = process.node.forwarding = Forwarding(process.node, first_id=draw.getrandbits(62))

    def soon(self) -> None:
        """Something may have come that others lack."""
        if not self._due and not self.machine.is_idle:
            self._due = True
            world = self._process.world
            world.at(world.now_us + FORWARD_US, self._wake)

    def _wake(self, _first: object, _second: object) -> None:
        self._due = False
        if self._process.forwards is self and not self._process.sealed:
            self.wake()

    def wake(self) -> None:
        """Time has passed."""
        if not self.machine.is_idle:
            self.machine.wake(self._process.clock.read_us())
            self._pump()

    def receive(self, peer: int, reply: m.Reply) -> None:
        """A peer may have confirmed."""
        self.machine.receive(peer, reply, self._process.clock.read_us())
        self._pump()

    def _pump(self) -> None:
        outbox, self.machine.outbox = self.machine.outbox, []
        for nodes, request in outbox:
            for node in nodes:
                self._send(node, request)


def end_of(engine: Engine, able: list[ClientProcess]) -> None:
    """The final phase of some keys: reads of what there is, then writes one by one, and reads by others after each."""
    clients = engine.clients
    for number, slot in enumerate(engine.direct[:_KEYS_MAX]):
        if engine.plan.entries_max:
            engine.world.run_until(engine.world.now_us + 3 * engine.plan.max_skew_us)
        waiting = [clients[number % len(clients)].start("read", slot, phase="final", full=True)]
        engine.wait_for_all(waiting)
        for turn in range(2 if able else 0):
            waiting = [able[(number + turn) % len(able)].start("write", slot, phase="final")]
            engine.wait_for_all(waiting)
            readers = sorted({(number + turn + step) % len(clients) for step in (1, 2)})
            engine.wait_for_all([clients[reader].start("read", slot, phase="final") for reader in readers])
