"""Each checker rejects a history that it must reject, and accepts one that it must accept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from quorumcache.core import messages as m
from quorumcache.core.evidence import Equivocation, SignedHeader
from quorumcache.core.model import encode_header, slot_of, stamp_of
from quorumcache.core.types.base import field_slot, generation_of
from sim.checkers.confirmed import Confirmed
from sim.checkers.convergence import Convergence
from sim.checkers.durability import Durability
from sim.checkers.evidence import NoFalseAccusation
from sim.checkers.floors import Floors
from sim.checkers.freshness import Freshness
from sim.checkers.integrity import Integrity
from sim.checkers.keyconvergence import ConvergedKeys
from sim.checkers.liveness import Liveness
from sim.checkers.revocation import Revocation
from sim.checkers.stamps import OneValuePerStamp
from sim.crypto import Suite
from sim.engine import Engine
from sim.plan import plan_of
from sim.record import FAILED, MISS, OK, PENDING, UNKNOWN, Op
from sim.revoking import revoking
from sim.settings import SimConfig
from tests.sim.views import ALICE, EVE, SLOT, View, judge


def test_freshness() -> None:
    view = View()
    view.op("write", 0, 10, b"old", time=1)
    view.op("write", 20, 30, b"new", time=2)
    view.op("read", 25, 40, b"old", time=1)  # began before the newer was complete
    view.op("read", 50, 60, b"new", time=2)
    view.op("read", 50, 60, outcome=MISS)
    assert not judge(Freshness, view)
    view.op("read", 70, 80, b"old", time=1)
    assert "returned what is older" in judge(Freshness, view)[0]


def test_freshness_of_writes() -> None:
    view = View()
    view.op("write", 0, 10, b"a", time=5)
    view.op("write", 20, 30, b"b", time=4, overtaken=True)  # ordered before something concurrent: no stamp counts
    assert not judge(Freshness, view)
    view.op("write", 40, 50, b"c", time=4)
    assert "took a stamp" in judge(Freshness, view)[0]


def test_integrity() -> None:
    view = View()
    view.op("write", 0, 10, b"a", time=1)
    view.op("read", 20, 30, b"a", time=1)
    view.op("write", 0, 10, b"b", outcome=FAILED)
    assert not judge(Integrity, view)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": b"never"}, "never wrote"),
        ({"value": b"b"}, "failed for certain"),
        ({"value": b"a", "writer": EVE}, "another writer's name"),
        ({"value": b"a", "time": 9}, "another stamp"),
        ({"value": b"x", "writer": EVE}, "never signed"),
        ({"value": b"a", "time": 1, "expires_at_us": 1, "start": 10**7}, "expired"),
    ],
)
def test_integrity_rejects(change: dict[str, Any], says: str) -> None:
    view = View()
    view.op("write", 0, 10, b"a", time=1)
    view.op("write", 0, 10, b"b", outcome=FAILED)
    start = change.pop("start", 20)
    view.op("read", start, start + 10, change.pop("value"), **change)
    assert says in judge(Integrity, view)[0]


def test_integrity_rejects_a_failure_whose_value_was_read_before() -> None:
    view = View()
    view.op("write", 0, 50, b"a", outcome=PENDING)
    view.op("read", 20, 30, b"a", time=1)
    checker = Integrity(view)  # type: ignore[arg-type]
    write, read = view.ops
    checker.started(write)
    checker.ended(read)
    assert not view.violations
    write.outcome = FAILED
    checker.ended(write)
    assert "failed for certain" in view.violations[0]


def test_one_value_per_stamp() -> None:
    view = View()
    view.op("read", 0, 10, b"a", time=1)
    view.op("read", 0, 10, b"a", time=1)
    view.op("read", 0, 10, b"b", time=2)
    assert not judge(OneValuePerStamp, view)
    view.op("read", 0, 10, b"b", time=1)
    assert "another value" in judge(OneValuePerStamp, view)[0]


def test_one_value_per_stamp_of_certificates() -> None:
    view = View()
    checker = OneValuePerStamp(view)  # type: ignore[arg-type]
    first, second = (encode_header(SLOT, stamp_of(1, ALICE, 1), 0, bytes([i]) * 32, 1, 0) for i in (1, 2))
    other = encode_header(SLOT, stamp_of(1, ALICE, 2), 0, bytes(32), 1, 0)
    for header in (first, first, other):
        checker.see(header)
    assert not view.violations
    checker.see(second)
    assert "two headers are certified" in view.violations[0]


def test_revocation() -> None:
    view = View()
    view.revoked[ALICE] = 100
    view.op("read", 99, 200, b"a", time=1)
    assert not judge(Revocation, view)
    view.op("read", 101, 200, b"a", time=1)
    assert "was revoked" in judge(Revocation, view)[0]


def test_revocation_rejects_a_node_that_keeps_what_is_revoked() -> None:
    engine, op = stage()
    checker = Revocation(engine)
    checker.finished()
    writer = op.writer
    engine.revoked[writer] = 1 << 62
    checker.finished()
    assert not engine.record.violations  # published, but no node works under it yet
    engine.nodes[2].node.configuration = revoking(engine.configuration, writer)
    checker.finished()
    assert "node 2 holds an entry" in engine.record.violations[0].text


def test_liveness() -> None:
    view = View()
    view.op("read", 0, 500_000, outcome=FAILED)
    view.op("write", 0, 900_000, b"a")
    view.op("write", 0, None, b"b", PENDING, detail="its client crashed")
    view.op("read", 0, 10, b"a", phase="final")
    assert not judge(Liveness, view)


@pytest.mark.parametrize(
    ("kind", "end", "outcome", "phase"),
    [
        ("read", 510_000, OK, "faults"),
        ("write", 1_100_000, OK, "faults"),
        ("write", 10, FAILED, "final"),
        ("write", 10, UNKNOWN, "race"),
        ("read", None, PENDING, "faults"),
    ],
)
def test_liveness_rejects(kind: str, end: int | None, outcome: str, phase: str) -> None:
    view = View()
    view.op(kind, 0, end, outcome=outcome, phase=phase)
    assert judge(Liveness, view)


def test_convergence() -> None:
    view = View()
    view.op("write", 0, 10, b"a", time=1, phase="final")
    view.op("read", 20, 30, b"a", time=1, phase="final")
    assert not judge(Convergence, view)
    view.op("read", 40, 50, outcome=MISS, phase="final")
    assert "did not return what was written last" in judge(Convergence, view)[0]


def stage() -> tuple[Engine, Op]:
    """A real cluster in which one write has ended."""
    config = SimConfig(byzantine_nodes=0, byzantine_writers=0, features=(), operations=1, faults=0, keys=1)
    engine = Engine(config, 1, plan_of(config, 1))
    op = engine.clients[0].start("write", engine.slots[0], phase="final")
    engine.world.run_until(engine.now_us + 100_000)
    assert op.outcome == OK
    return engine, op


def test_durability() -> None:
    engine, op = stage()
    checker = Durability(engine)
    checker.ended(op)
    for node in engine.nodes[:2]:
        # Evicted as it should be: the floor stands in for the entry.
        node.node.slots.drop(op.slot)
    checker.finished()
    assert not engine.record.violations
    for node in engine.nodes[:2]:
        node.node.slots.shards[node.configuration.shard_of(op.slot)].floor_us = 0
    engine.nodes[2].node.slots.drop(op.slot)
    engine.nodes[2].node.slots.shards[engine.configuration.shard_of(op.slot)].floor_us = 0
    checker.finished()
    assert "only nodes [3] still stand" in engine.record.violations[0].text


def test_no_false_accusation() -> None:
    engine, _ = stage()
    checker = NoFalseAccusation(engine)
    checker.finished()
    assert not engine.record.violations
    headers = [encode_header(SLOT, stamp_of(1, ALICE, 1), 0, bytes([i]) * 32, 1, 0) for i in (1, 2)]
    parts = [SignedHeader(header, bytes(16), 1, 0, b"", bytes(64)) for header in headers]
    engine.nodes[0].node.evidence.append(Equivocation(engine.configuration.digest, *parts))
    checker.finished()
    assert "proves nothing" in engine.record.violations[0].text


def test_no_false_accusation_names_a_correct_writer_convicted() -> None:
    from sim.adversary.conspiracy import Proposal, header_for

    engine, _ = stage()
    key = Suite("fake").key("writer 0")
    key = engine.clients[0].key or key
    proposals = []
    for salt in (b"1", b"2"):
        salted = salt * 16
        header = header_for(engine.slots[0], 5, key.public, 1, 0, salted)
        proposals.append(Proposal(engine.configuration, key, [header], [salted]))
    parts = [SignedHeader(p.headers[0], p.group.id, 1, 0, b"", p.signature) for p in proposals]
    engine.nodes[0].node.evidence.append(Equivocation(engine.configuration.digest, *parts))
    checker = NoFalseAccusation(engine)
    checker.finished()
    assert "against the correct writer" in engine.record.violations[0].text
    engine.record.violations.clear()
    engine.evil_writers.add(key.public)
    checker.finished()
    assert not engine.record.violations


def test_every_request_has_a_reply_in_the_record() -> None:
    from sim.record import KIND_OF

    assert {*m.TABLE, *m.TABLE.values(), m.Reject} == set(KIND_OF)


# --- floors ---


def floored(floor_us: int, *, restarts: int = 0, evicted: int = 0, recovering: bool = False) -> SimpleNamespace:
    shard = SimpleNamespace(floor_us=floor_us, recovering=recovering)
    slots = SimpleNamespace(shard=lambda slot: shard, shards=[shard], evicted_count=evicted, reaped_count=0)
    return SimpleNamespace(number=0, is_byzantine=False, down=False, life=restarts, node=SimpleNamespace(slots=slots))


@pytest.mark.parametrize(
    ("node", "is_fine"),
    [
        (floored(10**9 - 2 * 50_000 + 24_999), True),
        (floored(10**9 - 2 * 50_000 + 25_000), False),
        (floored(10**9 + 2 * 50_000, restarts=1), True),
        (floored(10**9 + 3 * 50_000, restarts=1), False),
        (floored(0, recovering=True), True),
        (floored(0, recovering=True, evicted=1), False),
        (floored(0, evicted=1), True),
    ],
)
def test_floors_are_below_what_is_young_but_for_starts(node: SimpleNamespace, is_fine: bool) -> None:
    """Protocol 7: only what is older than 2 max_skew may go, and nothing while recovering."""
    view = View()
    view.nodes = [node]
    Floors(view).ended(view.op("read", 0, 1))  # type: ignore[arg-type]
    assert bool(view.violations) != is_fine


def test_what_a_new_epoch_evicts_may_be_young() -> None:
    view = View()
    view.nodes = [floored(10**9)]
    view.revoked = {ALICE: 1}
    Floors(view).ended(view.op("read", 0, 1))  # type: ignore[arg-type]
    assert not view.violations


def test_a_field_is_taken_by_a_quorum() -> None:
    """Protocol 6: EVICTED does not count, and up to as many may be missing as there are liars."""
    base = slot_of(b"map", b"k")
    header = encode_header(field_slot(base, b"=x"), stamp_of(5, ALICE, 1), 0, bytes(32), 0, 0, stamp_of(4, ALICE, 1))
    request = m.Commit(1, b"", [m.Bundle(None, b"", [m.Item(0, header, b"")])])  # type: ignore[arg-type]
    for liars, takers, holds in ((0, 3, True), (0, 2, False), (1, 2, True), (1, 1, False)):
        view = View()
        view.nodes = [SimpleNamespace(number=i, is_byzantine=i < liars) for i in range(4)]
        view.authentic = {header: []}  # type: ignore[attr-defined]
        op = view.op("write", 0, 10, type="map", slot=field_slot(base, b"=x"), base=base, fields=[(header, b"")])
        checker = Confirmed(view)  # type: ignore[arg-type]
        for i, node in enumerate(view.nodes[liars:]):
            code = m.OK if i < takers else m.EVICTED
            checker.committed(node, request, m.CommitReply(1, 0, bytes((code,)), []))
        checker.ended(op)
        assert bool(view.violations) != holds, (liars, takers)


# --- convergence of keys ---

GENERATION = stamp_of(1_000, ALICE, 1)
KEY = slot_of(b"siblings", b"k")


def base_of(writer: bytes, time_us: int, expires_us: int, *, goes_on: bytes = GENERATION) -> bytes:
    return encode_header(KEY, stamp_of(time_us, writer, 1), 0, bytes(32), 0, expires_us, goes_on)


def keyed_view(bases: list[bytes], liars: int = 1) -> View:
    """Four nodes that hold a key with these bases; the last `liars` of them lie."""
    view = View()
    view.nodes = [
        SimpleNamespace(
            number=i,
            is_byzantine=i >= 4 - liars,
            node=SimpleNamespace(
                slots=SimpleNamespace(
                    keys={KEY: SimpleNamespace(generation=generation_of(raw), base=SimpleNamespace(header=raw))},
                    shard=lambda slot: SimpleNamespace(floor_us=0),
                )
            ),
        )
        for i, raw in enumerate(bases)
    ]
    view.evil_headers = {raw for raw in bases if raw[11:43] == EVE}
    return view


def judge_miss(view: View, full: dict[int, bytes] | None = None, *, late: bool = False) -> bool:
    """Whether a miss is a violation after the key was written; `full`: which nodes have no room, for which key."""
    checker = ConvergedKeys(view)  # type: ignore[arg-type]
    place = {"type": "siblings", "slot": KEY, "base": KEY, "phase": "final"}
    checker.ended(view.op("write", 0, 10, generation=GENERATION, **place))
    view.now_us = 30 if late else 15
    for node, base in (full or {}).items():
        header = encode_header(field_slot(base, b"x" * 40), stamp_of(5, EVE, 1), 0, bytes(32), 0, 0, GENERATION)
        request = m.Commit(1, b"", [m.Bundle(None, b"", [m.Item(0, header, b"")])])  # type: ignore[arg-type]
        reply = m.CommitReply(1, 0, bytes((m.COMMIT_FULL,)), [])
        checker.committed(view.nodes[node], request, reply)
    view.now_us = 10**9
    checker.ended(view.op("read", 20, 40, outcome=MISS, **place))
    return bool(view.violations)


OTHER_KEY = slot_of(b"siblings", b"other")
PLAIN = base_of(ALICE, 2_000, 0)


@pytest.mark.parametrize(
    ("full", "liars", "late", "fails"),
    [
        ({}, 1, True, True),
        ({0: KEY}, 1, True, False),
        ({0: KEY}, 0, True, True),  # Three are left, and that is a quorum.
        ({0: KEY, 1: KEY}, 0, True, False),
        ({0: OTHER_KEY, 1: OTHER_KEY}, 1, True, True),
        ({0: KEY, 1: KEY}, 1, False, True),  # Before the read began.
    ],
)
def test_a_key_may_be_missed_where_too_many_nodes_are_full(
    full: dict[int, bytes], liars: int, late: bool, fails: bool
) -> None:
    assert judge_miss(keyed_view([PLAIN] * 4, liars), full, late=late) == fails


SOON, LATER = 10**9, 10**9 + 60_000  # by clocks that may be 50,000 us ahead of time 10**9


@pytest.mark.parametrize(
    ("bases", "fails"),
    [
        ([base_of(EVE, 3_000, SOON)] * 4, False),
        ([base_of(EVE, 3_000, LATER)] * 4, True),
        ([base_of(ALICE, 3_000, SOON)] * 4, True),
        # Somebody gave it another time to live since.
        ([base_of(EVE, 3_000, SOON), PLAIN, base_of(ALICE, 4_000, 0), PLAIN], True),
        # It was about a generation that is over.
        ([base_of(EVE, 3_000, SOON, goes_on=stamp_of(500, ALICE, 1))] * 4, True),
    ],
)
def test_a_key_may_be_missed_whose_time_a_byzantine_writer_ended(bases: list[bytes], fails: bool) -> None:
    assert judge_miss(keyed_view(bases)) == fails


def test_so_it_may_when_all_nodes_have_reaped_it() -> None:
    for writer, fails in ((EVE, False), (ALICE, True)):
        view = keyed_view([base_of(writer, 3_000, SOON)] * 4, liars=0)
        place = {"type": "siblings", "slot": KEY, "base": KEY, "phase": "final"}
        checker = ConvergedKeys(view)  # type: ignore[arg-type]
        checker.ended(view.op("write", 0, 10, generation=GENERATION, **place))
        for node in view.nodes:
            node.node.slots.keys.clear()
        checker.ended(view.op("read", 20, 40, outcome=MISS, **place))
        assert bool(view.violations) == fails
