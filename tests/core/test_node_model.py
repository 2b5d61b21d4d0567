"""A node against a model of protocol 3 that is too dumb to be wrong: no caches, no shortcuts, one shard."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.node import Node
from quorumcache.wire.keys import verify
from tests import craft
from tests.cluster import START_US, configuration_of, key_of, slot

S = 1_000_000
KEYS = ("a", "b")
CONFIGURATION = configuration_of(shards=1, revoked=("w3",))
#: Every header that may occur: few, so that they meet.
HEADERS = [
    craft.craft(key, START_US + offset, value, writer=writer)
    for key in KEYS
    for writer in ("w1", "w2", "w3")
    for offset, value in ((0, b"x"), (0, b"y"), (1, b"x"), (S, b"x"), (2 * S, b"x"), (4 * S, b"x"), (9 * S, None))
]
ENTRIES = {c.digest: craft.entry(CONFIGURATION, c) for c in HEADERS}
PREPARES = {c.digest: craft.prepare(CONFIGURATION, [c]) for c in HEADERS}
CERTIFIABLE = st.sampled_from([c for c in HEADERS if c.salted[16:] != b"y"])


def key(crafted: craft.Crafted) -> str:
    return next(k for k in KEYS if slot(k) == crafted.raw[95:-2])


class NodeAgainstModel(RuleBasedStateMachine):
    """Prepares, commits, evictions and time in any order; after each, node and model hold the same."""

    @initialize(recovering=st.booleans())
    def begin(self, recovering: bool) -> None:
        verifier = Verifier(verify, [CONFIGURATION])
        started_us = START_US if recovering else None
        self.node = Node(CONFIGURATION, 0, key_of("node 0").sign, verifier, started_us=started_us)
        self.now_us = START_US
        self.floor_us = START_US + 2 * S if recovering else 0
        self.recovering = recovering
        self.current: dict[str, craft.Crafted] = {}
        self.promises: list[tuple[craft.Crafted, int]] = []  # In the order in which they were made.

    def open(self, k: str) -> list[craft.Crafted]:
        return [c for c, _ in self.promises if key(c) == k]

    @rule(crafted=st.sampled_from(HEADERS))
    def prepare(self, crafted: craft.Crafted) -> None:
        reply = self.node.handle(PREPARES[crafted.digest], self.now_us)
        assert isinstance(reply, m.PrepareReply)
        answer = 0 if reply.bitmap == b"\x01" else reply.refusals[0].code
        assert answer == self.prepared(crafted)

    def prepared(self, crafted: craft.Crafted) -> int:
        """Protocol 3, prepare, rules 1 to 8."""
        k = key(crafted)
        held = self.current.get(k)
        if crafted.writer == "w3":
            return m.DENIED
        if held is not None and crafted.stamp <= held.stamp:
            return 0 if crafted.digest == held.digest else m.STALE
        for other in self.open(k):
            if other.stamp == crafted.stamp:
                return 0 if other.digest == crafted.digest else m.EQUIVOCATION
        if crafted.time_us <= self.floor_us:
            return m.BELOW_FLOOR
        if crafted.time_us > self.now_us + S:
            return m.AHEAD
        own = [(c, at_us) for c, at_us in self.promises if key(c) == k and c.writer == crafted.writer]
        if len(own) >= 4:
            oldest = min(own, key=lambda pair: pair[1])
            if oldest[1] + 7 * S >= self.now_us:
                return m.BUSY
            self.promises.remove(oldest)
            self.floor_us = max(self.floor_us, oldest[0].time_us)
            return self.prepared(crafted)
        self.promises.append((crafted, self.now_us))
        return 0

    @rule(crafted=CERTIFIABLE)
    def commit(self, crafted: craft.Crafted) -> None:
        reply = self.node.handle(craft.commit(CONFIGURATION, ENTRIES[crafted.digest]), self.now_us)
        assert isinstance(reply, m.CommitReply)
        assert reply.codes == bytes((self.committed(crafted),))

    def committed(self, crafted: craft.Crafted) -> int:
        """Protocol 3, commit, rules 1 to 5."""
        k = key(crafted)
        held = self.current.get(k)
        if held is crafted:
            return m.OK
        if crafted.writer == "w3":
            return m.REVOKED
        if held is not None and crafted.stamp <= held.stamp:
            return m.OK
        promised = any(c is crafted for c in self.open(k))
        evicted = held is None and not promised and crafted.time_us <= self.floor_us
        if not evicted:
            self.current[k] = crafted
        self.promises = [(c, t) for c, t in self.promises if key(c) != k or c.stamp > crafted.stamp]
        if evicted:
            return m.RECOVERING if self.recovering else m.EVICTED
        return m.OK

    @rule(k=st.sampled_from(KEYS))
    def evict(self, k: str) -> None:
        if k in self.current:
            self.node.slots.drop(slot(k))
            self.floor_us = max(self.floor_us, self.current.pop(k).time_us)

    @rule(by_us=st.sampled_from((1, S, 3 * S, 7 * S)))
    def wait(self, by_us: int) -> None:
        self.now_us += by_us

    @rule()
    def tick(self) -> None:
        """Protocol 3 and 7: old promises go, and tombstones."""
        self.node.tick(self.now_us)
        for crafted, at_us in list(self.promises):
            if at_us + 7 * S < self.now_us:
                self.promises.remove((crafted, at_us))
                self.floor_us = max(self.floor_us, crafted.time_us)
        for k, held in list(self.current.items()):
            if len(held.salted) == 16 and held.time_us + 2 * S < self.now_us and not self.recovering:
                del self.current[k]
                self.floor_us = max(self.floor_us, held.time_us)

    @rule()
    def recovered(self) -> None:
        self.recovering = False
        self.node.slots.shards[0].recovering = False
        # What waited for the shard to be active is looked at again 2 max_skew after that look.
        self.node.slots._reap.sort()
        self.node.slots._reap[:] = [
            (self.current[k].time_us + 2 * S, slot(k), self.current[k].stamp)
            for k in KEYS
            if k in self.current and len(self.current[k].salted) == 16
        ]

    @invariant()
    def they_hold_the_same(self) -> None:
        if not hasattr(self, "node"):
            return
        slots = self.node.slots
        assert {k: c.digest for k, c in self.current.items()} == {
            k: slots.current[slot(k)].digest for k in KEYS if slot(k) in slots.current
        }
        assert [c.digest for c, _ in self.promises] == [p.header.digest for p in slots.promises]
        assert {p.header.digest for here in slots.open.values() for p in here} == {c.digest for c, _ in self.promises}
        assert slots.shards[0].floor_us == self.floor_us


TestNodeAgainstModel = NodeAgainstModel.TestCase
TestNodeAgainstModel.settings = settings(max_examples=60, stateful_step_count=40)
