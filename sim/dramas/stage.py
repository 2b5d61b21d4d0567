"""What a drama's script can do to the world, and the parts that it hands out: a stage for one slot of its own.

Everything on it is within the model: at most f liars, an asynchronous network, crashes, clocks within their bounds. It
must not know mutants or checkers.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Entry
from sim.adversary.nodes import ByzantineNode
from sim.adversary.roles import Role
from sim.clients import ClientProcess
from sim.processes import NodeProcess
from sim.record import OK, PENDING, Op

if TYPE_CHECKING:
    from sim.adversary.conspiracy import Proposal
    from sim.engine import Engine

#: No plan's steps use this lane of a client.
LANE: Final = 1000
_LOOK_US: Final = 500

Process = NodeProcess | ClientProcess


class Stage:
    """One drama of one run.

    Its parts, dealt out by the seed: `forgetful`, a correct node that will lose all; `keepers`, f correct ones that
    hold what matters; `behind`, f that miss it; `liars`, f that follow `role`; the clients `writer` and `reader`; and
    `villain`, the adversary's writer. `slot` is the drama's alone: no other operation is about it.
    """

    def __init__(self, engine: Engine, slot: bytes) -> None:
        self.engine = engine
        self.slot = slot
        self.draw: random.Random = engine.world.random("drama")
        self.op_time_us = engine.plan.op_time_us
        self.skew_us = engine.plan.max_skew_us
        f = engine.config.f
        correct = [node for node in engine.nodes[: engine.config.nodes] if not node.is_byzantine]
        self.draw.shuffle(correct)
        self.forgetful = correct[0]
        self.keepers = correct[1 : f + 1]
        self.behind = correct[f + 1 :]
        self.liars = [node for node in engine.nodes if isinstance(node, ByzantineNode)]
        self.writer, self.reader = self.draw.sample(engine.clients, 2)
        self.villain = engine.writers[0]
        self.role = Role(slot)
        for liar in self.liars:
            liar.role = self.role
        self.over = False
        #: What a drama about compare-and-set begins with: the header of an entry.
        self.scene = b""
        self._cuts: list[list[tuple[int, int]]] = []
        self._holds: list[tuple[int, int]] = []

    # --- its course ---

    def begin(self, script: Iterator[int]) -> None:
        """Have the script play, from some time soon on."""
        self.engine.world.at(self.engine.now_us + self.between(5_000, 50_000), self._go, script)

    def _go(self, script: Iterator[int], _second: object) -> None:
        if self.over:
            return
        wait_us = next(script, None)
        if wait_us is None:
            self.end()
        else:
            self.engine.world.at(self.engine.now_us + wait_us, self._go, script)

    def end(self) -> None:
        """It is over: what it cut is mended, what it held arrives, and the liars are themselves again."""
        if self.over:
            return
        self.over = True
        self.engine.network.release(self._holds)
        for pairs in self._cuts:
            self.engine.network.mend(pairs)
        for liar in self.liars:
            liar.role = None
        self.forgetful.restart(wipe=self.forgetful.wiped)

    def between(self, low_us: int, high_us: int) -> int:
        """A time of the seed's choice."""
        return self.draw.randint(low_us, max(low_us, high_us))

    def chance(self, share: float) -> bool:
        """True in so many cases."""
        return self.draw.random() < share

    def tell(self, kind: str, target: int, detail: str) -> None:
        """Note an act where a run's faults are."""
        self.engine.record.faults.append((self.engine.now_us, kind, target, detail))

    # --- operations ---

    def start(self, client: ClientProcess, kind: str) -> Op:
        """A client starts an operation on the drama's slot."""
        return client.start(kind, self.slot, phase="faults", lane=LANE)

    @property
    def key(self) -> tuple[str, bytes]:
        """Type and base of the key that a drama with fields plays on."""
        return self.engine.keys[-1]

    def start_keyed(self, client: ClientProcess, what: str, *, ttl_us: int = 0) -> Op:
        """A client starts an operation on that key: a word of sim/keyed.py."""
        kind, base = self.key
        return client.start_keyed(what, kind, base, phase="faults", lane=LANE, ttl_us=ttl_us)

    @property
    def exact_slot(self) -> bytes:
        """The slot of a drama about compare-and-set."""
        return self.engine.exact_slots[-1]

    def start_exact(self, client: ClientProcess, word: str, *, ttl_us: int = 0) -> Op:
        """A client starts an operation on that slot: a word of sim/exact.py."""
        return client.start_exact(word, self.exact_slot, phase="faults", lane=LANE, ttl_us=ttl_us)

    def ended(self, *ops: Op) -> Iterator[int]:
        """Wait until these ended, or their client crashed."""
        while any(op.outcome == PENDING and not op.detail for op in ops):
            yield _LOOK_US

    def established(self) -> Iterator[int]:
        """Something old is complete, and everybody has it: the liars show it from now on."""
        for _ in range(self.draw.choice((1, 1, 2))):
            op = self.start(self.writer, "write")
            yield from self.ended(op)
            yield self.between(5_000, 30_000)
        old = self.entry(op.stamp) if op.outcome == OK else None
        self.role.shown = self.role.reported = old

    def asked_by_others(self) -> Iterator[int]:
        """Does anybody see what is old? The keepers cannot be heard, so a reader has the others' answers only."""
        for _ in range(self.draw.choice((1, 2))):
            self.cut(self.keepers, [self.reader])
            yield self.between(0, 20_000)
            op = self.start(self.reader, "read")
            yield from self.ended(op)
            self.mend()

    def entry(self, stamp: bytes) -> Entry | None:
        """The entry of this stamp, if the adversary saw it."""
        known = self.engine.conspiracy.entries.get(self.slot, [])
        return next((entry for entry in known if entry.stamp == stamp), None)

    def promised(self, nodes: Iterable[NodeProcess], time_us: int | None = None) -> Iterator[int]:
        """The villain has these nodes, and the liars, promise a write; what it got is `proposal` then."""
        self.proposal: Proposal = self.villain.propose(slot=self.slot, time_us=time_us)
        self.villain.prepare(self.proposal, [node.index for node in nodes])
        yield self.between(4_000, 10_000)

    def spread(self, proposal: Proposal, nodes: Iterable[NodeProcess]) -> None:
        """The villain commits at these nodes."""
        self.villain.commit(proposal, [node.index for node in nodes])

    # --- faults ---

    def forgets(self) -> Iterator[int]:
        """The forgetful node crashes, and comes back with nothing."""
        node = self.forgetful
        down_us = self.draw.choice((0, 200, self.between(200, 5_000)))
        self.tell("wipe", node.number, f"for {down_us / 1000:.1f} ms")
        node.crash()
        node.wiped = True
        if down_us:
            yield down_us
        node.restart(wipe=True)

    def recovery_asks(self) -> Iterator[int]:
        """Wait until the forgetful node has asked for reports and may have heard of them."""
        yield 2 * self.op_time_us + self.between(60_000, 120_000)

    def cut(self, here: Iterable[Process], there: Iterable[Process]) -> None:
        """Nothing gets through between these, in either direction."""
        pairs = _edges(here, there)
        pairs += [(b, a) for a, b in pairs]
        self._cuts.append(pairs)
        self.engine.network.cut(pairs)
        self.tell("cut", -1, _told(pairs))

    def mend(self) -> None:
        """Open all that was cut."""
        for pairs in self._cuts:
            self.engine.network.mend(pairs)
            self.tell("mend", -1, _told(pairs))
        self._cuts.clear()

    def hold(
        self,
        kind: type[m.Request] | type[m.Reply],
        here: Iterable[Process],
        there: Iterable[Process],
        *more: type[m.Request] | type[m.Reply],
    ) -> None:
        """Messages of a kind, or of `more`, from here to there stay on their way."""
        pairs = _edges(here, there)
        self._holds += pairs
        self.engine.network.hold(pairs, (kind, *more))
        self.tell("hold", -1, f"each {' and '.join(k.__name__ for k in (kind, *more))}: {_told(pairs)}")

    def release(self, here: Iterable[Process], there: Iterable[Process]) -> None:
        """What is held from here to there arrives."""
        pairs = _edges(here, there)
        self.engine.network.release(pairs)
        self.tell("release", -1, _told(pairs))


def _address(process: Process) -> int:
    return process.number if isinstance(process, NodeProcess) else process.address


def _edges(here: Iterable[Process], there: Iterable[Process]) -> list[tuple[int, int]]:
    ends = [_address(process) for process in there]
    return [(_address(process), end) for process in here for end in ends]


def _told(pairs: list[tuple[int, int]]) -> str:
    return ", ".join(f"{a} to {b}" for a, b in pairs)
