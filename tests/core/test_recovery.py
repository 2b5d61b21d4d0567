"""Recovery of a node that started without stored state (protocol 7): waiting, the good condition, lying reporters."""

from collections.abc import Callable

import pytest

from quorumcache.core import messages as m
from quorumcache.core import repair
from quorumcache.core.repair import Recovery
from tests.cluster import START_US, Cluster, configuration_of, slot
from tests.making import SECOND_US, Draft, passed_on

OP_TIME_US = 5 * SECOND_US
Tamper = Callable[[int, m.Request, m.Reply], m.Reply | None]


class Restart:
    """A cluster whose node 0 restarts without state now; `run` drives its recovery to the end of a time."""

    def __init__(self, f: int = 1, *, shards: int = 1, fill: Callable[[Cluster], None] | None = None) -> None:
        self.cluster = Cluster(configuration=configuration_of(f, shards=shards))
        if fill is not None:
            fill(self.cluster)
        self.node = self.cluster.start(0)
        self.recovery = Recovery(self.node, self.cluster.now_us, first_id=0)
        self.asked: list[tuple[int, m.Request]] = []
        self.tamper: Tamper = lambda node, request, reply: reply

    def step(self) -> None:
        """Wake, and deliver until nothing is left to send."""
        self.recovery.wake(self.cluster.now_us)
        while self.recovery.outbox:
            sent, self.recovery.outbox = self.recovery.outbox, []
            for peers, request in sent:
                for peer in peers:
                    self.asked.append((peer, request))
                    reply = self.cluster.answer(peer, request)
                    reply = None if reply is None else self.tamper(peer, request, reply)
                    if reply is not None:
                        self.recovery.receive(peer, reply, self.cluster.now_us)

    def run(self, until_us: int = 60 * SECOND_US) -> None:
        end_us = self.cluster.now_us + until_us
        while not self.recovery.finished and self.cluster.now_us < end_us:
            self.step()
            self.cluster.now_us = max(self.cluster.now_us + 1, min(self.recovery.deadline_us, end_us))

    def value(self, key: str = "k") -> bytes | None:
        held = self.node.slots.current.get(slot(key))
        return None if held is None else held.salted[16:]


def put(*nodes: int, key: str = "k", value: bytes = b"v", at_us: int = START_US) -> Callable[[Cluster], None]:
    """Have some nodes hold an entry."""

    def fill(cluster: Cluster) -> None:
        entry = Draft(cluster.configuration).put(key, value, at_us=at_us).entry()
        for node in nodes:
            reply = cluster.nodes[node].handle(passed_on(entry, cluster.configuration), cluster.now_us)
            assert isinstance(reply, m.CommitReply)

    return fill


def both(*fills: Callable[[Cluster], None]) -> Callable[[Cluster], None]:
    def fill(cluster: Cluster) -> None:
        for one in fills:
            one(cluster)

    return fill


def raised(node: int, floor_us: int) -> Callable[[Cluster], None]:
    def fill(cluster: Cluster) -> None:
        slots = cluster.nodes[node].slots
        for shard in slots.shards:
            slots.raise_floor(shard, floor_us)

    return fill


@pytest.mark.parametrize("f", [1, 2, 3])
def test_recovers_what_the_group_holds(f: int) -> None:
    """protocol 7, recovery: with 2f+1 reports, the highest entry per slot; then the shard is active."""
    everyone = tuple(range(1, 3 * f + 1))
    restart = Restart(f, fill=both(put(*everyone), put(1, key="l", value=b"w")))
    restart.run()
    assert (restart.value(), restart.value("l")) == (b"v", b"w")
    assert not restart.node.slots.shards[0].recovering
    assert restart.recovery.recovered_count == 2


def test_waits_for_2_op_time() -> None:
    """protocol 7 (R): after 2 op_time: a write that still counts an answer given before the restart has ended."""
    restart = Restart(fill=put(1, 2, 3))
    restart.run(2 * OP_TIME_US - 1)
    assert restart.asked == []
    assert restart.node.slots.shards[0].recovering
    restart.run(1 * SECOND_US)
    assert restart.value() == b"v"


def test_the_highest_entry_is_taken() -> None:
    """protocol 7, recovery: the highest entry E among the reports."""
    restart = Restart(fill=both(put(1, 2, value=b"old"), put(3, value=b"new", at_us=START_US + 1)))
    restart.run()
    assert restart.value() == b"new"


@pytest.mark.parametrize(("floor_us", "expected"), [(START_US - 1, b"v"), (START_US, None), (START_US + 1, None)])
def test_the_good_condition(floor_us: int, expected: bytes | None) -> None:
    """protocol 7, recovery: stored only if no reporter is absent with a floor >= E's time."""
    restart = Restart(fill=both(put(1, 2), raised(3, floor_us)))
    restart.run()
    assert restart.value() == expected


def test_what_came_meanwhile_stands() -> None:
    """protocol 7, recovery: for each slot that is absent *here*."""
    restart = Restart(fill=put(1, 2, 3))
    new_us = START_US + 3 * SECOND_US
    put(0, value=b"newer", at_us=new_us)(restart.cluster)
    restart.run()
    assert restart.value() == b"newer"


def test_promises_up_to_the_entry_are_dropped() -> None:
    """protocol 7, recovery: store E, dropping promises up to E; higher ones stay."""
    restart = Restart(fill=put(1, 2, 3, at_us=START_US + 9 * SECOND_US))
    restart.cluster.now_us += 8 * SECOND_US
    for seconds in (9, 10):
        if seconds == 10:
            restart.cluster.now_us += SECOND_US
        draft = Draft(restart.cluster.configuration, "w2").put("k", at_us=START_US + seconds * SECOND_US - 1)
        reply = restart.node.handle(draft.prepare(), restart.cluster.now_us)
        assert isinstance(reply, m.PrepareReply)
        assert reply.bitmap == b"\1"
    restart.run()
    (promise,) = restart.node.slots.open[slot("k")]
    assert promise.header.time_us == START_US + 10 * SECOND_US - 1


def test_of_a_revoked_writer_nothing_is_stored() -> None:
    """protocol 7 and 11 (R): where E's writer is revoked store nothing for that slot, not the next-highest."""
    before = configuration_of(shards=1)
    now = configuration_of(shards=1, revoked=("w1",), epoch=2)
    cluster = Cluster(configuration=now)
    for node in cluster.nodes.values():
        node.verifier.chain[before.digest] = before
    old = Draft(now, "w2").put("k", b"older", at_us=START_US - 5).entry()
    new = Draft(before).put("k", b"revoked").entry()
    for index in (1, 2, 3):
        node = cluster.nodes[index]
        node.handle(passed_on(old, now), START_US)
    for index in (1, 2):
        # As nodes hold it that have not evicted it yet: it came in under the earlier epoch.
        node = cluster.nodes[index]
        node.configuration = before
        node.handle(passed_on(new, before), START_US)
        node.configuration = now
    restart = Restart.__new__(Restart)
    restart.cluster, restart.asked = cluster, []
    restart.tamper = lambda node, request, reply: reply
    restart.node = cluster.start(0)
    restart.node.verifier.chain[before.digest] = before
    restart.recovery = Recovery(restart.node, cluster.now_us, first_id=0)
    restart.run()
    assert restart.recovery.finished
    assert restart.value() is None
    assert not restart.node.slots.shards[0].recovering


def test_without_enough_reports_it_becomes_active_as_it_is() -> None:
    """protocol 7, recovery: without 2f+1 reports in time it becomes active as it is: best effort."""
    restart = Restart(fill=put(1, 2, 3))
    restart.cluster.down = {2}
    restart.run()
    assert restart.recovery.finished
    assert restart.recovery.abandoned_count == 1
    assert restart.value() is None
    assert not restart.node.slots.shards[0].recovering


def test_the_silent_are_asked_again() -> None:
    """protocol 1: the network may drop; reports are asked for again until the time is over."""
    restart = Restart(fill=put(1, 2, 3))
    lost: list[int] = []

    def lose_the_first_two(peer: int, request: m.Request, reply: m.Reply) -> m.Reply | None:
        lost.append(peer)
        return None if lost.count(peer) <= 2 else reply

    restart.tamper = lose_the_first_two
    restart.run()
    assert restart.value() == b"v"


def forged(reply: m.ReportReply, cluster: Cluster, how: str) -> m.Reply:
    """A report that no correct node gives."""
    draft = Draft(cluster.configuration).put("k", b"forged", at_us=START_US + 5)
    entry = draft.entry()
    if how == "a value of its own":
        reply.entries[0].salted = b"salt of sixteen.forged"
    elif how == "too few grants":
        reply.entries = [draft.entry(nodes=(0, 1))]
    elif how == "out of order":
        reply.entries = reply.entries[::-1]
    elif how == "a slot twice":
        reply.entries = [reply.entries[0], *reply.entries]
    elif how == "empty, yet more to come":
        reply.entries, reply.more = [], True
    else:
        raise AssertionError(entry)
    return reply


LIES = ("a value of its own", "too few grants", "out of order", "a slot twice", "empty, yet more to come")


@pytest.mark.parametrize("how", LIES)
@pytest.mark.parametrize("f", [1, 2])
def test_lying_reporters(how: str, f: int) -> None:
    """protocol 7, recovery: what does not verify is no report: with f liars of 3f peers, 2f+1 reports of the rest
    are needed; for f = 1 that is all too few, and the shard becomes active as it is; nothing forged gets in."""
    everyone = tuple(range(1, 3 * f + 1))
    restart = Restart(f, fill=both(put(*everyone), put(*everyone, key="l")))

    def lie(peer: int, request: m.Request, reply: m.Reply) -> m.Reply:
        assert isinstance(reply, m.ReportReply)
        return forged(reply, restart.cluster, how) if peer == 1 else reply

    restart.tamper = lie
    restart.run()
    assert restart.recovery.finished
    expected = (None, None) if f == 1 else (b"v", b"v")
    assert (restart.value(), restart.value("l")) == expected
    assert restart.recovery.abandoned_count == (f == 1)


def test_a_liar_in_another_shard() -> None:
    """protocol 7, recovery: entries of a shard that was not asked for are a lie."""
    restart = Restart(2, shards=8, fill=put(*range(1, 7)))
    other = next(
        k
        for k in map(str, range(99))
        if restart.cluster.configuration.shard_of(slot(k)) != (restart.cluster.configuration.shard_of(slot("k")))
    )
    entry = Draft(restart.cluster.configuration).put(other, b"planted").entry()

    def lie(peer: int, request: m.Request, reply: m.Reply) -> m.Reply:
        assert isinstance(request, m.Report)
        assert isinstance(reply, m.ReportReply)
        home = restart.cluster.configuration.shard_of(slot(other))
        if peer == 1 and request.shard != home:
            reply.entries = [entry]
        return reply

    restart.tamper = lie
    restart.run()
    assert restart.value() == b"v"
    assert restart.value(other) is None


def test_replies_that_nobody_asked_for_are_ignored() -> None:
    """protocol 1: a reply is known to come from the node it names, and carries the request's id."""
    restart = Restart(fill=put(1, 2, 3))
    restart.cluster.now_us += 2 * OP_TIME_US
    restart.recovery.wake(restart.cluster.now_us)
    (_, request), *_ = restart.recovery.outbox
    liar = m.ReportReply(request.id, 0, 0, [], False)
    for peer in (0, 2, 3):
        if peer != restart.recovery.outbox[0][0][0]:
            restart.recovery.receive(peer, liar, restart.cluster.now_us)
    restart.recovery.receive(1, m.ReportReply(1 << 40, 0, 0, [], False), restart.cluster.now_us)
    restart.run()
    assert restart.value() == b"v"


def test_paging(monkeypatch: pytest.MonkeyPatch) -> None:
    """protocol 7, recovery: a shard comes in pages, and slots that a report's pages do not name are absent."""
    monkeypatch.setattr(m, "REPORT_ENTRIES_MAX", 3)
    keys = [f"k{i}" for i in range(10)]
    restart = Restart(fill=both(*(put(1, 2, 3, key=key) for key in keys), put(3, key="only")))
    restart.run()
    assert [restart.value(key) for key in [*keys, "only"]] == [b"v"] * 11
    assert len(restart.asked) == 3 * 4


def test_pages_count_the_highest_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """protocol 7, recovery: what a reporter evicts between two pages is absent with its floor of then."""
    monkeypatch.setattr(m, "REPORT_ENTRIES_MAX", 2)
    keys = [f"k{i}" for i in range(4)]
    restart = Restart(fill=both(*(put(1, 2, 3, key=key) for key in keys)))

    def evict_after_the_first_page(peer: int, request: m.Request, reply: m.Reply) -> m.Reply:
        slots = restart.cluster.nodes[1].slots
        if peer == 1 and slot("k3") in slots.current:
            slots.drop(slot("k3"))
        return reply

    restart.tamper = evict_after_the_first_page
    restart.run()
    assert restart.value("k3") is None
    assert restart.value("k0") == b"v"


def test_a_report_without_end_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Habit 6: a lying peer may report for ever."""
    monkeypatch.setattr(repair, "SHARD_ENTRIES_MAX", 5)
    restart = Restart(fill=both(*(put(1, 2, 3, key=f"k{i}") for i in range(6))))
    restart.run()
    assert restart.recovery.finished
    assert restart.recovery.abandoned_count == 1


def test_shards_of_other_groups_are_not_recovered() -> None:
    """protocol 9: a node recovers the shards it serves, and asks the members of their groups only."""
    configuration = configuration_of(nodes=7, shards=16)
    cluster = Cluster(configuration=configuration)
    node = cluster.start(2)
    recovery = Recovery(node, START_US, first_id=0)
    recovery.wake(START_US + 2 * OP_TIME_US)
    served = [i for i, group in enumerate(configuration.shard_groups) if 2 in group.members]
    asked = sorted((r.shard, peers[0]) for peers, r in recovery.outbox if isinstance(r, m.Report))
    members = [configuration.shard_groups[s].members for s in served]
    assert asked == sorted((s, p) for s, g in zip(served, members, strict=True) for p in g if p != 2)
    assert 0 < len(served) < 16
    assert [shard.recovering for shard in node.slots.shards] == [i in served for i in range(16)]


def test_many_shards_are_recovered_some_at_a_time() -> None:
    """Habit 6: at most 32 shards at once."""
    cluster = Cluster(configuration=configuration_of(shards=100))
    node = cluster.start(0)
    recovery = Recovery(node, START_US, first_id=0)
    recovery.wake(START_US + 2 * OP_TIME_US)
    assert len(recovery.outbox) == 3 * repair.SHARDS_AT_ONCE_MAX
