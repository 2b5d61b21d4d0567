"""One run: builds the world that a plan describes, lets it happen, heals it, and has the checkers judge.

Phases: "faults" (operations under faults and attack), "healing" (nothing is asked; recoveries end, promises age out),
"final" (operations one by one, all of which must succeed) and "race" (writes at once, which must succeed too). It must
not know how plans are drawn or shrunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, WriterInfo
from quorumcache.core.memory import BATCH_OVERHEAD_BYTES, ENTRY_OVERHEAD_BYTES, GRANT_OVERHEAD_BYTES
from quorumcache.core.model import DELETE, header_slot, slot_of
from quorumcache.core.node import NodeLimits
from sim.adversary.conspiracy import Conspiracy
from sim.adversary.direct import DirectLiar, DirectWriter
from sim.adversary.nodes import ByzantineNode
from sim.adversary.writers import ByzantineWriter
from sim.bounds import large_keys
from sim.checkers import ALL, Checker
from sim.checkers.linearizability import Linearizability
from sim.crypto import Suite
from sim.direct import NAMESPACE, QUIET_US, end_of
from sim.dramas import DRAMAS, Stage
from sim.epochs import activate, revoking
from sim.exact import EXACT as EXACT_TYPE
from sim.faults import Faults
from sim.listing import list_all
from sim.network import REGIONS, Network, graph_of, places_of
from sim.plan import DIRECT, EXACT, KEYED, Plan, Step, calm, compares, further, keeps_state, lossless, reachable
from sim.processes import ClientProcess, NodeProcess
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
        self.configuration = self._configuration(suite, evil)
        self.slots = [slot_of(b"sim", b"key %d" % i) for i in range(plan.keys)]
        if plan.drama:
            self.slots.append(slot_of(b"sim", b"stage"))
        #: (type, slot of the base) of the keys with fields.
        self.keys = [(kind, slot_of(kind.encode(), b"key %d" % i)) for i, kind in enumerate(plan.types)]
        self.exact_slots = [slot_of(EXACT_TYPE.encode(), b"key %d" % i) for i in range(plan.exact)]
        self.authentic: dict[bytes, list[Op]] = {}
        self.graph = self._graph(count + len(evil))
        self.network = Network(self.world, self.graph, self.record, wire=config.wire)
        self.evil_writers = {suite.key(name).public for name in evil}
        self.revoked: dict[bytes, int] = {}
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
        for i in range(config.nodes):
            byzantine = i in plan.byzantine
            kind = ByzantineNode if byzantine else NodeProcess
            drift_ppm = draw.choice((0, draw.randint(-2000, 2000)))
            edge_us = draw.choice((draw.randint(-half_us, half_us), half_us, -half_us))
            clock = Clock(self.world, edge_us, drift_ppm, None if byzantine else half_us)
            self.nodes.append(
                kind(
                    i,
                    self.world,
                    self.network,
                    self.record,
                    self.configuration,
                    suite.key(f"node {i}"),
                    suite.verify,
                    clock,
                    limits,
                    self,
                    () if byzantine else plan.features,
                )
            )
        for i, lies, percent in zip(plan.byzantine, plan.lies, plan.lie_percent, strict=True):
            node = self.nodes[i]
            assert isinstance(node, ByzantineNode)
            node.conspire(self.conspiracy, lies, percent)
            if self.direct:
                node.direct = DirectLiar(node, self.direct)
        self.clients = [
            ClientProcess(
                i,
                config.nodes + i,
                self.world,
                self.network,
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
                config.nodes + count + i,
                self.world,
                self.network,
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

    def _configuration(self, suite: Suite, evil: list[str]) -> Configuration:
        plan = self.plan
        zones = ("", "a", "b") if self.config.nodes > 3 * self.config.f + 1 else ("",)
        return Configuration(
            cluster_id="sim",
            f=self.config.f,
            shards=plan.shards,
            max_skew_us=plan.max_skew_us,
            op_time_us=plan.op_time_us,
            grace_us=plan.grace_us,
            admins=(suite.key("admin").public,),
            admins_needed=1,
            nodes=tuple(
                NodeInfo(i, f"n{i}", suite.key(f"node {i}").public, "", zones[i % len(zones)], 1)
                for i in range(self.config.nodes)
            ),
            namespaces=(
                NamespaceInfo("sim"),
                *(NamespaceInfo(kind, kind) for kind in sorted({*plan.types, *((EXACT_TYPE,) if plan.exact else ())})),
                *(NamespaceInfo(NAMESPACE.decode(), mode="primary", ack=plan.direct_ack) for _ in self.direct[:1]),
            ),
            writers=tuple(
                WriterInfo(name.replace(" ", "-"), suite.key(name).public)
                for name in dict.fromkeys([*self._names, *evil])
            ),
        )

    def _graph(self, others: int) -> nx.DiGraph:
        plan, nodes = self.plan, self.config.nodes
        places = places_of(plan.topology, nodes) + places_of(plan.topology, others)
        edge: dict[str, float] = {}
        draw = self.world.random("graph")
        if "loss" in plan.features:
            edge["loss"] = draw.choice((0.01, 0.05, 0.2))
        if "duplication" in plan.features:
            edge["duplication"] = draw.choice((0.02, 0.2))
        if "lateness" in plan.features:
            edge["reordering"] = draw.choice((0.02, 0.1, 0.3))
            edge["late_us"] = draw.choice((plan.op_time_us // 20, plan.op_time_us // 4, plan.op_time_us))
        graph = graph_of(plan.topology, places, **edge)
        if "far" in plan.features:
            far_us = plan.op_time_us // draw.choice((10, 20))
            if "types" in plan.features:
                far_us //= 2  # Fields take more rounds: to look for the generation, and once more where it changed.
            for _, _, attributes in [*graph.in_edges(nodes, data=True), *graph.out_edges(nodes, data=True)]:
                attributes["latency_us"] += far_us
        return graph

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

    # --- what processes and checkers see of it ---

    @property
    def now_us(self) -> int:
        """True time."""
        return self.world.now_us

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
            self._final()
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
        if self.direct:
            self.world.run_until(self.world.now_us + QUIET_US)
            for hook in self._on_quiet:
                hook()
        self.world.run_until(self.world.now_us + quiet_us)
        for hook in self._on_heal:
            hook()

    def _final(self) -> None:
        """Slot by slot: a write, then reads by two clients; and two more writes by others, one of them a race."""
        self.phase = "final"
        able = [c for c in self.clients if c.key is not None and c.key.public not in self.revoked]
        for number, slot in enumerate(self.slots[:8]):
            if self.plan.entries_max:
                # A node full of what was written just now has no room, and nobody promised that it has.
                self.world.run_until(self.world.now_us + 3 * self.plan.max_skew_us)
            reader = self.clients[number % len(self.clients)]
            self.wait_for_all([reader.start("read", slot, phase="final", full=True)])
            for turn in range(2 if able else 0):
                writer = able[(number + turn) % len(able)]
                self.wait_for_all([writer.start("write", slot, phase="final")])
                readers = {(number + turn + step) % len(self.clients) for step in (1, 2)}
                self.wait_for_all([self.clients[r].start("read", slot, phase="final") for r in sorted(readers)])
        end_of(self, able)
        list_all(self)
        # A write that begins a key anew takes eight messages one after another: too many for who is far.
        near = [c for c in able if c.number or "far" not in self.plan.features]
        for number in range(len(self.keys)):
            self._final_of_key(number, near)
        roomy = not self.plan.entries_max and not self.plan.promises_max
        if self.keeps_state and roomy and able and not self.plan.byzantine:
            # Where nobody forgot, nothing is in doubt, and where all answer, one that lags is in nobody's way: whoever
            # comes alone gets through, whatever was left behind.
            gap_us = 4 * self.plan.op_time_us + 8 * self.plan.max_skew_us
            for number, slot in enumerate(self.exact_slots):
                first = able[(number + 1) % len(able)].start_exact("set", slot, phase="healing")
                self.wait_for_all([first])
                if first.outcome != OK:
                    # What is dead may be forgotten by some: until the others do so too, which was promised.
                    self.world.run_until(self.world.now_us + gap_us)
                for turn, word in enumerate(("set", "swap", "drop", "add")):
                    client = able[(number + turn) % len(able)]
                    self.wait_for_all([client.start_exact("read", slot, phase="final")])
                    self.wait_for_all([client.start_exact(word, slot, phase="final")])
        if len(able) > 1 and not self.plan.promises_max:
            # All at once on one slot: everyone has to get through.
            self.phase = "race"
            self.wait_for_all([c.start("write", self.slots[0], phase="race") for c in able])
            for kind, base in self.keys:
                what = {"counter": "add 1", "siblings": "blind"}.get(kind, "put ")
                texts = [f"{what}{i}" if what == "put " else what for i in range(len(near))]
                self.wait_for_all(
                    [c.start_keyed(text, kind, base, phase="race") for c, text in zip(near, texts, strict=True)]
                )

    def _final_of_key(self, number: int, able: list[ClientProcess]) -> None:
        """A key: writes, a new time to live, its deletion, a write that begins it anew; and reads after each."""
        kind, base = self.keys[number]
        clients, count = self.clients, len(self.clients)
        self.wait_for_all([clients[number % count].start_keyed("read", kind, base, phase="final")])
        first = {"counter": "add 2", "siblings": "blind"}.get(kind, "put 1")
        second = {"counter": "add -1", "siblings": "resolve"}.get(kind, "remove 1")
        for turn, what in enumerate((first, second, "touch", "drop", first) if able else ()):
            if self.plan.entries_max:
                self.world.run_until(self.world.now_us + 3 * self.plan.max_skew_us)
            writer = able[(number + turn) % len(able)]
            if what == "resolve":
                self.wait_for_all([writer.start_keyed("read", kind, base, phase="final")])
            self.wait_for_all([writer.start_keyed(what, kind, base, phase="final")])
            looks = ["read", "get 1" if kind in ("set", "map") else "read"]
            readers = [clients[(number + turn + step) % count] for step in (1, 2)]
            self.wait_for_all(
                [r.start_keyed(look, kind, base, phase="final") for r, look in zip(readers, looks, strict=True)]
            )

    def wait_for_all(self, ops: list[Op]) -> None:
        self.wait_for(lambda: all(op.outcome != PENDING for op in ops))

    def wait_for(self, is_done: Callable[[], bool]) -> None:
        """Let time pass until it is done, or no operation could take longer."""
        limit_us = self.world.now_us + 3 * self.plan.op_time_us
        while self.world.now_us < limit_us and not self.world.stopped and not is_done():
            self.world.run_until(self.world.now_us + 5_000)

    # --- epochs ---

    def revoke(self, which: int) -> None:
        """Publish an epoch in which a writer is revoked, preferably one of the adversary's."""
        if self.revoked:
            return
        evil = [w.key.public for w in self.writers]
        able = [c.key.public for c in self.clients if c.key is not None]
        writer = evil[which % len(evil)] if evil else able[which % len(able)]
        following = revoking(self.configuration, writer)
        self.revoked[writer] = 1 << 62
        self.conspiracy.adopt(following)
        draw = self.world.random("epoch")
        now_us = self.world.now_us
        seal_us = [0 if node.is_byzantine else draw.randrange(100_000) for node in self.nodes]
        # Every group seals: wait for the q-th of each, which the (N - n + q)-th of all is at the latest.
        enough = sorted(seal_us)[len(self.nodes) - self.configuration.n + self.configuration.q - 1]
        active_us = [max(seal, enough) + draw.randrange(50_000) for seal in seal_us]
        for node, seal, active in zip(self.nodes, seal_us, active_us, strict=True):
            self.world.at(now_us + seal, self._seal, node)
            self.world.at(now_us + active, self._activate, node, following)
        known_us = now_us + sorted(active_us)[len(self.nodes) - self.configuration.n + self.configuration.q - 1]
        self.world.at(known_us, self._known, writer)
        for client in self.clients:
            self.world.at(now_us + draw.randrange(300_000), self._adopt, client, following)
        for evil_writer in self.writers:
            evil_writer.configuration = following

    def _seal(self, node: NodeProcess, _second: object) -> None:
        node.sealed = True

    def _activate(self, node: NodeProcess, following: Configuration) -> None:
        node.configuration = following
        node.chain.append(following)
        node.sealed = False
        activate(node.node, following)
        node.store()
        if not node.down:
            node.begin_repair()
        if isinstance(node, ByzantineNode):
            node.adopt_twin()

    def _known(self, writer: bytes, _second: object) -> None:
        self.revoked[writer] = self.world.now_us

    def _adopt(self, client: ClientProcess, following: Configuration) -> None:
        client.adopt(following)
        self.configuration = following

    # --- the end ---

    def _final_state(self) -> list[Any]:
        return [
            (
                process.index,
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
