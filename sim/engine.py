"""One run: builds the world that a plan describes, lets it happen, heals it, and has the checkers judge.

Phases: "faults" (operations under faults and attack), "healing" (nothing is asked; recoveries end, promises age out),
"final" (operations one by one, all of which must succeed) and "race" (writes at once, which must succeed too). It must
not know how plans are drawn or shrunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.memory import BATCH_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES, GRANT_OVERHEAD_BYTES
from quorumcache.core.model import DELETE, header_slot, slot_of
from quorumcache.core.node import NodeLimits
from sim import finale
from sim.adversary.conspiracy import Conspiracy
from sim.adversary.direct import DirectLiar, DirectWriter
from sim.adversary.moving import MovingLiar
from sim.adversary.nodes import ByzantineNode
from sim.adversary.writers import ByzantineWriter
from sim.bounds import large_keys
from sim.checkers import ALL, Checker
from sim.checkers.linearizability import Linearizability
from sim.clients import ClientProcess
from sim.cluster import configuration_of, graph_for
from sim.crypto import Suite
from sim.direct import NAMESPACE, QUIET_US
from sim.dramas import DRAMAS, Stage
from sim.epochs import Epochs
from sim.exact import EXACT as EXACT_TYPE
from sim.faults import Faults
from sim.moving import MovingNode
from sim.network import REGIONS, Network
from sim.plan import DIRECT, EXACT, KEYED, Plan, Step, calm, compares, further, keeps_state, lossless, reachable
from sim.processes import NodeProcess
from sim.record import MISS, OK, PENDING, Op, Record, Violation
from sim.settings import SimConfig
from sim.upkeep import INTERVAL_US, PATIENCE_US
from sim.world import Clock, World

# An entry with the batch that it may not share with any other: header, value, a few leaves, and so much per grant.
_ENTRY_BYTES = ENTRY_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES + 400
_GRANT_BYTES = GRANT_OVERHEAD_BYTES + 2
# Room for so many more where keys have fields.
_KEYED_ENTRIES = 16
# And for so many more for each key that is written by compare-and-set, of which nothing is evicted.
_EXACT_ENTRIES = 3
#: Whose operations checkers hear of.
ABOUT = ("registers", "keys", "exact", "primary")
# After the healing, each node has so many rounds with each of the others.
REPAIR_ROUNDS = 2


class Engine:
    """A run in the making. `run` does it; afterwards `record` has what happened and `digest` sums it up."""

    def __init__(self, config: SimConfig, seed: int, plan: Plan, *, checkers: tuple[type[Checker], ...] = ALL) -> None:
        self.config = config
        self.seed = seed
        self.plan = plan
        self.world = World(seed)
        self.record = Record(messages_max=config.messages_max)
        self.op_time_us = plan.op_time_us
        self.max_skew_us = plan.max_skew_us
        self.calm = calm(plan)
        self.reachable = reachable(plan)
        self.compares = compares(plan)
        self.lossless = lossless(plan)
        self.keeps_state = keeps_state(plan)
        self.features = plan.features
        self.phase = "faults"
        self.healed_us = 0
        self.digest = ""
        draw = self.world.random("world")
        suite = Suite(config.crypto)
        evil = [f"evil {i}" for i in range(plan.byzantine_writers)]
        count = config.clients
        self._names = [
            f"writer {max(0, i - 1) if i == 1 and 'shared_writer' in plan.features else i}" for i in range(count)
        ]
        self.direct = [slot_of(NAMESPACE, b"key %d" % i) for i in range(plan.direct_keys)]
        self.configuration = configuration_of(config, plan, suite, [*self._names, *evil])
        self.slots = [slot_of(b"sim", b"key %d" % i) for i in range(plan.keys)]
        if plan.drama:
            self.slots.append(slot_of(b"sim", b"stage"))
        #: (type, slot of the base) of the keys with fields.
        self.keys = [(kind, slot_of(kind.encode(), b"key %d" % i)) for i, kind in enumerate(plan.types)]
        self.exact_slots = [slot_of(EXACT_TYPE.encode(), b"key %d" % i) for i in range(plan.exact)]
        self.authentic: dict[bytes, list[Op]] = {}
        #: Where a feature is taken from a plan, whom it would have needed stays away.
        total = config.nodes + (plan.spares if "epochs" in plan.features else 0)
        self.graph = graph_for(plan, self.world, total, count + len(evil) + ("epochs" in plan.features))
        self.network = Network(self.world, self.graph, self.record, wire=config.wire)
        self.epochs = Epochs(self, suite, total + count + len(evil)) if "epochs" in plan.features else None
        #: Nodes again, as such that go from epoch to epoch, where any do.
        self.moving: list[MovingNode] = []
        self.evil_writers = {suite.key(name).public for name in evil}
        self.revoked: dict[bytes, int] = {}
        #: The same of those that may write no more, retired ones too; and those that soon may not.
        self.retired: dict[bytes, int] = {}
        self.barred: set[bytes] = set()
        self.conspiracy = Conspiracy(self.configuration, suite.verify)
        self.evil_headers = self.conspiracy.signed
        self._hooks(checkers)

        # Room for one more than is to stay: overwriting an entry takes room for both.
        entries = plan.entries_max + 1 + _KEYED_ENTRIES * bool(plan.types) + _EXACT_ENTRIES * plan.exact
        entries += 2 * plan.direct_keys
        room = entries * (_ENTRY_BYTES + self.configuration.n * _GRANT_BYTES)
        limits = NodeLimits(
            bytes_max=room if plan.entries_max else 256 << 20,
            promises_max=plan.promises_max or 100_000,
        )
        half_us = plan.max_skew_us // 2
        self.nodes: list[NodeProcess] = []
        for i in range(total):
            byzantine = i in plan.byzantine
            kind: type[NodeProcess] = ByzantineNode if byzantine else NodeProcess
            if self.epochs is not None:
                kind = MovingLiar if byzantine else MovingNode
            drift_ppm = draw.choice((0, draw.randint(-2000, 2000)))
            edge_us = draw.choice((draw.randint(-half_us, half_us), half_us, -half_us))
            clock = Clock(self.world, edge_us, drift_ppm, None if byzantine else half_us)
            self.nodes.append(
                kind(
                    i,
                    self.world,
                    self._network_of(i),
                    self.record,
                    self.configuration,
                    suite.key(f"node {i}"),
                    suite.verify,
                    clock,
                    limits,
                    self,
                    () if byzantine else (*plan.features, *(("pieces",) if config.pieces else ())),
                )
            )
        for node in self.nodes:
            if self.epochs is not None and isinstance(node, MovingNode):
                self.moving.append(node)
                node.go_along(self.epochs)
        for i, lies, percent in zip(plan.byzantine, plan.lies, plan.lie_percent, strict=True):
            if i >= total:
                continue
            node = self.nodes[i]
            assert isinstance(node, ByzantineNode)
            node.conspire(self.conspiracy, lies, percent)
            if self.direct:
                node.direct = DirectLiar(node, self.direct)
        self.clients = [
            ClientProcess(
                i,
                total + i,
                self.world,
                self._network_of(total + i),
                self.record,
                self.configuration,
                suite.key(self._names[i]),
                suite.verify,
                self,
            )
            for i in range(count)
        ]
        self.writers = [
            ByzantineWriter(
                i,
                total + count + i,
                self.world,
                self._network_of(total + count + i),
                self.configuration,
                suite.key(name),
                self.conspiracy,
                self.slots,
                self.keys,
                plan.schemes[i],
                plan.scheme_gap_us,
            )
            for i, name in enumerate(evil)
        ]
        for writer in self.writers:
            writer.exact_slots = self.exact_slots
        self.direct_writers = [DirectWriter(writer, self.direct) for writer in self.writers if self.direct]
        self.faults = Faults(self)
        self.stage = Stage(self, self.slots[-1]) if plan.drama else None
        self._lanes: dict[tuple[int, int], list[tuple[int, tuple[Any, ...]]]] = {}
        self._running: dict[tuple[int, int], int] = {}
        self._later_played = 0

    # --- building ---

    def _network_of(self, address: int) -> Any:
        """The network as the process at this address sees it: where places change, by its own configuration."""
        return self.network if self.epochs is None else self.epochs.port(address)

    def _hooks(self, checkers: tuple[type[Checker], ...]) -> None:
        self.checkers = [kind(self) for kind in checkers]

        def overriding(name: str, about: str = "") -> list[Any]:
            return [
                getattr(c, name)
                for c in self.checkers
                if getattr(type(c), name) is not getattr(Checker, name)
                and (c.about == (about or c.about) or (not c.about and about != "primary"))
            ]

        #: By whose operations it is.
        self._on_start = {about: overriding("started", about) for about in ABOUT}
        self._on_end = {about: overriding("ended", about) for about in ABOUT}
        self._on_take = overriding("took")
        self._on_sign = overriding("signed")
        self._on_heal = overriding("healed")
        self._on_quiet = overriding("quieted")
        self._on_commit = overriding("committed")
        self._on_ballot = overriding("balloted")
        self._on_ask = overriding("asked")
        self._on_promise = overriding("promised")
        self._on_serve = overriding("served")

    # --- what processes and checkers see of it ---

    def node_at(self, index: int, configuration: Configuration | None = None) -> NodeProcess:
        """The process of the node that has this place in a configuration; in the present one where none is given."""
        if self.epochs is None:
            return self.nodes[index]
        return self.nodes[self.epochs.directory.address_in(configuration or self.configuration, index)]

    def configuration_of(self, client: int) -> Configuration:
        """In which epoch a client is."""
        return self.clients[client].configuration

    @property
    def now_us(self) -> int:
        """True time."""
        return self.world.now_us

    @property
    def hampered(self) -> bool:
        """Whether a correct node is recovering what it joined and cannot end that: of the members before, too many had
        lost their memory. It evicts nothing then, and does not count where others only lag."""
        if self.keeps_state or self.phase == "faults":
            return False
        return any(node.joining and not node.is_byzantine for node in self.moving)

    def moves_since(self, client: int, time_us: int) -> int:
        """How many times a client has gone over to another epoch since then."""
        return sum(moved_us >= time_us for moved_us in self.clients[client].moved_us)

    @property
    def ops(self) -> list[Op]:
        """All operations so far, but for those forgotten."""
        return self.record.ops

    def fail(self, checker: str, text: str) -> None:
        """A checker found a violation: the run ends."""
        self.record.violations.append(Violation(checker, self.world.now_us, text))
        self.world.stopped = True

    def started(self, op: Op) -> None:
        """An operation began."""
        for hook in self._on_start[about(op)]:
            hook(op)
        if len(self.record.ops) > self.config.operations_kept:
            self._forget()

    def signed(self, header: bytes, ops: list[Op]) -> None:
        """A correct client asked for promises for a header of a key with fields."""
        self.authentic[header] = ops
        for hook in self._on_sign:
            hook(header, ops)

    def ended(self, op: Op) -> None:
        """An operation ended."""
        if op.outcome == MISS and self.calm and not op.direct:
            op.proven = self._is_inexcusable(op)
        for hook in self._on_end[about(op)]:
            hook(op)
        self.faults.ended(op)

    def _forget(self) -> None:
        """A long run: the older half of what is over is judged, and kept no longer."""
        older = self.record.ops[: len(self.record.ops) // 2]
        leaving = [op for op in older if op.outcome != PENDING or op.detail]
        for checker in self.checkers:
            checker.forgetting(leaving)
        self.record.forget(leaving)

    def asked(self, request: m.Prepare) -> None:
        """A correct client asked for promises."""
        for hook in self._on_ask:
            hook(request)

    def promised(self, node: NodeProcess, request: m.Prepare, reply: m.PrepareReply) -> None:
        """A correct node answered a prepare."""
        for hook in self._on_promise:
            hook(node, request, reply)

    def balloted(self, node: NodeProcess, request: m.Vote | m.Lock, reply: m.BallotReply) -> None:
        """A correct node answered a vote or a lock."""
        for hook in self._on_ballot:
            hook(node, request, reply)

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node answered a commit."""
        for hook in self._on_commit:
            hook(node, request, reply)

    def served(self, node: MovingNode, request: m.Request, reply: m.Reply) -> None:
        """A node served a request, where epochs change."""
        for hook in self._on_serve:
            hook(node, request, reply)

    def took(self, node: NodeProcess, request: m.Put, reply: m.PutReply) -> None:
        """A node answered a put in mode primary."""
        for hook in self._on_take:
            hook(node, request, reply)

    def must_be_whole(self, op: Op) -> bool:
        """Whether nothing has happened by now that would excuse a key that is not as it was."""
        return self.calm and self._is_inexcusable(op)

    def _is_inexcusable(self, op: Op) -> bool:
        """Whether a miss must be honest (protocol 5.4): no floor ever rose on a correct node, so nothing was evicted,
        dropped or lost, and no adversary's writer deleted anything there."""
        if any(node.node.slots.floor_max_us for node in self.nodes if not node.is_byzantine):
            return False
        if op.type:
            # Nobody ended the key's generation, or let it expire.
            return not any(header_slot(h) == op.base for h in self.evil_headers) and not any(
                other.base == op.base and ((other.kind == "delete" and other.slot == op.base) or other.expires_at_us)
                for other in self.ops
            )
        return not any(h[2] == DELETE and header_slot(h) == op.slot for h in self.evil_headers)

    # --- the run ---

    def run(self) -> None:
        """Let it all happen."""
        with large_keys("large" in self.plan.features):
            self._run()

    def _run(self) -> None:
        for process in self.clients:
            process.on_end = self._op_ended
        self._load(self.plan.steps)
        self.faults.schedule()
        if self.stage is not None:
            self.stage.begin(DRAMAS[self.plan.drama](self.stage))
        start_us = self.world.now_us
        limit_us = start_us + 3 * self.plan.span_us + 20 * self.plan.op_time_us
        while self._is_busy(start_us + self.plan.span_us) and not self.world.stopped:
            if self.world.now_us >= limit_us:
                break
            self.world.run_until(min(self.world.now_us + 100_000, limit_us))
            if not self._lanes and self._later_played < self.plan.later:
                steps = further(self.plan, self.config, self.seed, self._later_played)
                self._later_played += sum(len(ops) for _, _, _, ops in steps)
                self._load(steps)
        self._lanes.clear()
        if not self.world.stopped:
            self._heal()
        if not self.world.stopped:
            finale.play(self)
        if self.world.stuck:
            text = "time stands still: something wakes at one instant for ever"
            self.record.violations.append(Violation("progress", self.world.now_us, text))
        if not self.world.stopped:
            for checker in self.checkers:
                checker.finished()
                if self.record.violations:
                    break
        self.digest = self.record.digest(self._final_state())

    def _load(self, steps: tuple[Step, ...]) -> None:
        """Deal steps out to their lanes, which are empty."""
        for client, lane, think_us, ops in steps:
            self._lanes.setdefault((client, lane), []).append((think_us, ops))
        for place, own in list(self._lanes.items()):
            own.reverse()
            self._schedule(place)

    def _is_busy(self, end_us: int) -> bool:
        """Whether anything of the plan is still to happen."""
        on_stage = self.stage is not None and not self.stage.over
        return bool(self._lanes) or on_stage or self.world.now_us < end_us

    def _schedule(self, place: tuple[int, int]) -> None:
        steps = self._lanes.get(place)
        if not steps:
            self._lanes.pop(place, None)
            return
        self.world.at(self.world.now_us + steps[-1][0], self._step, place)

    def _step(self, place: tuple[int, int], _second: object) -> None:
        steps = self._lanes.get(place)
        if not steps or self.phase != "faults":
            return
        _, ops = steps.pop()
        client = self.clients[place[0]]
        self._running[place] = len(ops)
        for kind, key, ttl_us, full in ops:
            if key >= DIRECT:
                slot = self.direct[(key - DIRECT) % len(self.direct)]
                client.start(kind, slot, phase="faults", lane=place[1], ttl_us=ttl_us, full=full)
                continue
            if key >= EXACT:
                slot = self.exact_slots[(key - EXACT) % len(self.exact_slots)]
                client.start_exact(kind, slot, phase="faults", lane=place[1], ttl_us=ttl_us)
                continue
            if key >= KEYED:
                typed, base = self.keys[(key - KEYED) % len(self.keys)]
                client.start_keyed(kind, typed, base, phase="faults", lane=place[1], ttl_us=ttl_us)
                continue
            client.start(
                kind, self.slots[key % self.plan.keys], phase="faults", lane=place[1], ttl_us=ttl_us, full=full
            )

    def _op_ended(self, op: Op) -> None:
        if op.phase != "faults":
            return
        place = (op.client, op.lane)
        left = self._running.get(place, 0) - 1
        self._running[place] = left
        if left == 0:
            self._schedule(place)

    def _heal(self) -> None:
        """Faults end; nodes come back, recoveries have their time, promises age out. The adversary's nodes stay."""
        self.phase = "healing"
        self.healed_us = self.world.now_us
        if self.stage is not None:
            self.stage.end()
        self.network.calm()
        self.faults.end()
        for writer in self.writers:
            writer.stop()
        for direct_writer in self.direct_writers:
            direct_writer.stop()
        quiet_us = 2 * self.plan.op_time_us + 4 * self.plan.max_skew_us + 200_000
        if any(node.recovery is not None for node in self.nodes):
            quiet_us += 4 * self.plan.op_time_us
        if any(node.voting is not None for node in self.nodes):
            quiet_us += 7 * self.plan.op_time_us + 6 * self.plan.max_skew_us
        if "repair" in self.plan.features:
            quiet_us += REPAIR_ROUNDS * len(self.nodes) * (INTERVAL_US + PATIENCE_US)
        if self.epochs is not None:
            self.epochs.settle()
        if self.direct:
            self.world.run_until(self.world.now_us + QUIET_US)
            for hook in self._on_quiet:
                hook()
        self.world.run_until(self.world.now_us + quiet_us)
        for hook in self._on_heal:
            hook()

    def wait_for_all(self, ops: list[Op]) -> None:
        self.wait_for(lambda: all(op.outcome != PENDING for op in ops))

    def wait_for(self, is_done: Callable[[], bool]) -> None:
        """Let time pass until it is done, or no operation could take longer."""
        limit_us = self.world.now_us + 3 * self.plan.op_time_us
        while self.world.now_us < limit_us and not self.world.stopped and not is_done():
            self.world.run_until(self.world.now_us + 5_000)

    # --- the end ---

    def _final_state(self) -> list[Any]:
        return [
            (
                process.number,
                *((process.configuration.epoch,) if self.epochs is not None else ()),
                process.down,
                sorted((slot, held.digest) for slot, held in process.node.slots),
                [shard.floor_us for shard in process.node.slots.shards],
                len(process.node.evidence),
            )
            for process in self.nodes
        ]

    @property
    def undecided(self) -> int:
        """Histories on which the search for an order gave up."""
        return sum(c.undecided for c in self.checkers if isinstance(c, Linearizability))


def about(op: Op) -> str:
    """Which checkers hear of an operation."""
    if op.direct:
        return "primary"
    return "registers" if not op.type else "exact" if op.type == EXACT_TYPE else "keys"


__all__ = ["OK", "REGIONS", "Engine"]
