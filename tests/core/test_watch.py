"""Protocol 4, watch: what is complete is told, or something newer, or a gap; and nothing that no writer wrote.

Real nodes and coordinators; nodes lie, restart, miss messages, and lose their feeds.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from quorumcache.core import feed as feeds
from quorumcache.core import messages as m
from quorumcache.core.model import header_slot, header_stamp
from quorumcache.core.outcome import Failed, Found, Heard, Missed, Written
from quorumcache.core.watch import PATIENCE, WAITING_MAX, Subject, Told, Watching
from tests.cluster import Client, Cluster, slot
from tests.making import Draft
from tests.steps import S, finish

ALL = Subject(b"test", b"", False)


class Watcher:
    """A watch by one client of a cluster, driven by hand: `poll` is one round, with its reads."""

    def __init__(self, cluster: Cluster, subject: Subject = ALL, standings: object = None) -> None:
        self.cluster = cluster
        self.client = cluster.client(None)
        self.told: list[Told] = []
        self.gaps = 0
        self.reads = 0
        self.watching = Watching(cluster.configuration, subject, cluster.now_us, standings)  # type: ignore[arg-type]
        self.poll()

    def poll(self) -> list[Told]:
        watching, began_us = self.watching, self.cluster.now_us
        token = object()
        self.client.core.changes(watching, token, began_us)
        outcome = finish(self.client, token)
        assert isinstance(outcome, Heard), outcome
        watching.take(outcome.replies, began_us, self.cluster.now_us)
        for place in watching.doubtful():
            self.reads += 1
            reading = object()
            self.client.core.read(place, reading)
            read = finish(self.client, reading)
            if isinstance(read, Found):
                watching.settled(place, read.header, True)
            elif isinstance(read, Missed):
                watching.settled(place, None, read.vouchers > self.cluster.configuration.f)
            else:
                assert isinstance(read, Failed)
        told, watching.told = watching.told, []
        self.told += told
        self.gaps += watching.gap
        watching.gap = False
        return told

    def newest(self, key: str) -> bytes:
        """The newest stamp that was told of the key."""
        return max((header_stamp(t.header) for t in self.told if t.header and t.slot == slot(key)), default=b"")


def stamp_of_write(client: Client, key: str, value: bytes = b"v") -> bytes:
    outcome = client.set(key, value)
    assert isinstance(outcome, Written)
    return outcome.stamp


def test_a_write_is_told_once_and_what_was_before_is_not() -> None:
    cluster = Cluster()
    writer = cluster.client()
    writer.set("old", b"v")
    watcher = Watcher(cluster)
    stamp = stamp_of_write(writer, "new")
    (told,) = watcher.poll()
    assert told.header is not None
    assert (told.slot, header_stamp(told.header), told.is_delete) == (slot("new"), stamp, False)
    assert [watcher.poll() for _ in range(5)] == [[]] * 5
    writer.delete("new")
    writer.run()
    (told,) = watcher.poll()
    assert told.is_delete
    assert (watcher.reads, watcher.gaps) == (0, 0)


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        (Subject(b"test", b"a", False), {"a", "ab", "abc"}),
        (Subject(b"test", b"ab", False), {"ab", "abc"}),
        (Subject(b"test", b"ab", True), {"ab"}),
    ],
)
def test_only_what_is_watched_is_told(subject: Subject, expected: set[str]) -> None:
    cluster = Cluster()
    writer = cluster.client()
    watcher = Watcher(cluster, subject)
    for key in ("a", "ab", "abc", "b", "xab"):
        writer.set(key, b"v")
    assert {told.slot for told in watcher.poll()} == {slot(key) for key in expected}


def test_a_write_that_one_correct_node_alone_can_tell_of_is_told_after_a_read() -> None:
    """Complete at A, B and Z; Z hides it, A is gone: only B names it."""
    cluster = Cluster()
    writer = cluster.client()
    watcher = Watcher(cluster)
    cluster.down = {2}
    stamp = stamp_of_write(writer, "k")
    cluster.down = {0}

    def hides(request: m.Request, reply: m.Reply) -> m.Reply | None:
        return msgspec.structs.replace(reply, headers=[]) if isinstance(reply, m.ChangesReply) else reply

    cluster.lies[3] = hides
    for _ in range(PATIENCE + 1):
        watcher.poll()
    assert watcher.newest("k") == stamp
    assert (watcher.reads, watcher.gaps) == (1, 0)


def test_a_deletion_that_one_node_alone_can_tell_of_is_told_without_its_stamp() -> None:
    cluster = Cluster()
    writer = cluster.client()
    writer.set("k", b"v")
    watcher = Watcher(cluster)
    cluster.down = {2}
    writer.delete("k")
    writer.run()
    cluster.down = {0}
    cluster.lies[3] = lambda _, reply: (
        msgspec.structs.replace(reply, headers=[]) if isinstance(reply, m.ChangesReply) else reply
    )
    for _ in range(PATIENCE + 1):
        watcher.poll()
    assert watcher.told == [Told(slot("k"), None)]


def _forged(cluster: Cluster, key: str) -> bytes:
    return Draft(cluster.configuration, "w2").put(key, b"forged", at_us=cluster.now_us + 7).headers[0]


def test_a_liar_plants_nothing_and_its_reads_become_few() -> None:
    """Headers that no writer signed, of keys that are there and that are not: no more reads than its credit."""
    cluster = Cluster()
    writer = cluster.client()
    stamp_of_write(writer, "there")
    watcher = Watcher(cluster)
    numbers = iter(range(1 << 20))

    def plants(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if not isinstance(reply, m.ChangesReply):
            return reply
        forged = [_forged(cluster, f"made up {next(numbers)}") for _ in range(100)]
        return msgspec.structs.replace(reply, headers=[_forged(cluster, "there"), *forged])

    cluster.lies[1] = plants
    for _ in range(60):
        watcher.poll()
    assert watcher.told == []
    # 32 at first, half as many each time, one a round from then on.
    assert watcher.reads < 32 + 16 + 8 + 4 + 2 + 70
    assert len(watcher.watching._hints) <= WAITING_MAX
    assert watcher.gaps == 0
    # And what is true is told as ever.
    stamp = stamp_of_write(writer, "there", b"more")
    watcher.poll()
    assert watcher.newest("there") == stamp


def test_two_nodes_that_start_anew_within_op_time_make_a_gap_and_one_does_not() -> None:
    cluster = Cluster()
    watcher = Watcher(cluster)
    cluster.advance(1)
    cluster.start(0)
    watcher.poll()
    assert watcher.gaps == 0
    cluster.advance(cluster.configuration.op_time_us // 2)
    watcher.poll()
    cluster.start(1)
    watcher.poll()
    assert watcher.gaps == 1


def test_two_nodes_that_start_anew_far_apart_make_none() -> None:
    cluster = Cluster()
    watcher = Watcher(cluster)
    for node in (0, 1, 2):
        cluster.start(node)
        watcher.poll()
        cluster.advance(2 * cluster.configuration.op_time_us)
        watcher.poll()
    assert watcher.gaps == 0


def test_more_than_a_node_keeps_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_MAX", 16)
    cluster = Cluster()
    writer = cluster.client()
    watcher = Watcher(cluster)
    for i in range(16):
        writer.set(f"k{i}", b"v")
    watcher.poll()
    assert watcher.gaps == 0
    for i in range(17):
        writer.set(f"k{i}", b"w")
    watcher.poll()
    assert watcher.gaps == 1
    stamp = stamp_of_write(writer, "k1", b"x")
    watcher.poll()
    assert watcher.newest("k1") == stamp


def test_a_feed_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "KEPT_BYTES_MAX", 1000)
    feed = feeds.Feed()
    for i in range(100):
        feed.note(bytes([i]) * 100)
    assert (feed.tail, feed.head) == (90, 100)
    assert feed.since(90) == [bytes([i]) * 100 for i in range(90, 100)]
    feed.note(bytes(2000))
    assert feed.since(feed.tail) == []


def test_a_watch_goes_on_from_where_it_stood() -> None:
    cluster = Cluster()
    writer = cluster.client()
    watcher = Watcher(cluster)
    writer.set("before", b"v")
    watcher.poll()
    standings = watcher.watching.standings_now(cluster.now_us)
    stamp = stamp_of_write(writer, "meanwhile")
    later = Watcher(cluster, standings=standings)
    assert later.newest("meanwhile") == stamp
    assert later.newest("before") == b""
    assert later.gaps == 0
    # One node that started anew is made up for by the others; with two it cannot be said what was missed.
    cluster.start(0)
    assert Watcher(cluster, standings=standings).gaps == 0
    cluster.start(1)
    assert Watcher(cluster, standings=standings).gaps > 0


def test_what_is_still_doubtful_is_told_to_who_goes_on() -> None:
    cluster = Cluster()
    writer = cluster.client()
    watcher = Watcher(cluster)
    cluster.down = {2}
    stamp = stamp_of_write(writer, "k")
    cluster.down = {0}
    cluster.lies[3] = lambda _, reply: (
        msgspec.structs.replace(reply, headers=[]) if isinstance(reply, m.ChangesReply) else reply
    )
    assert watcher.poll() == []
    later = Watcher(cluster, standings=watcher.watching.standings_now(cluster.now_us))
    for _ in range(PATIENCE):
        later.poll()
    assert later.newest("k") == stamp


def test_a_key_that_is_empty_or_a_number_that_no_feed_has_harms_nobody() -> None:
    cluster = Cluster()
    node, digest = cluster.nodes[0], cluster.configuration.digest
    reply = node.handle(m.Changes(1, digest, b"test", b"", True, 1, 0), cluster.now_us)
    assert isinstance(reply, m.ChangesReply)
    assert reply.lost
    reply = node.handle(m.Changes(1, digest, b"test", b"", True, reply.feed, 0), cluster.now_us)
    assert isinstance(reply, m.Reject)
    reply = node.handle(m.Changes(1, digest, b"test", b"", False, 7, 1 << 62), cluster.now_us)
    assert isinstance(reply, m.ChangesReply)
    assert reply.lost


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_complete_writes_are_told_or_something_newer_or_a_gap(seed: int) -> None:
    """Random writes, lost messages, restarts with and without the feed, and one liar that hides or plants."""
    draw = random.Random(seed)
    cluster = Cluster()
    writer = cluster.client()
    liar = draw.randrange(4)
    written: dict[bytes, tuple[str, bytes]] = {}

    def lies(request: m.Request, reply: m.Reply) -> m.Reply | None:
        if not isinstance(reply, m.ChangesReply):
            return reply
        choice = draw.randrange(5)
        if choice == 0:
            return None
        if choice == 1:
            return msgspec.structs.replace(reply, lost=True)
        kept = [header for header in reply.headers if draw.random() < 0.3]
        return msgspec.structs.replace(reply, headers=[*kept, _forged(cluster, f"k{draw.randrange(4)}")])

    cluster.lies[liar] = lies
    watcher = Watcher(cluster)
    keys = [f"k{i}" for i in range(4)]
    since_gap: dict[str, bytes] = {}
    for _ in range(60):
        step = draw.random()
        if step < 0.5:
            cluster.down = {draw.choice([n for n in range(4) if n != liar])} if draw.random() < 0.5 else set()
            key = draw.choice(keys)
            token = writer.write(key, b"%d" % draw.randrange(100))
            outcome = finish(writer, token)
            if isinstance(outcome, Written) and not outcome.overtaken:
                written[outcome.stamp] = (key, outcome.stamp)
                since_gap[key] = outcome.stamp
        elif step < 0.6:
            node = draw.choice([n for n in range(4) if n != liar])
            if draw.random() < 0.5:
                cluster.nodes[node].slots.feed = feeds.Feed()  # As after a start with stored state.
                cluster.advance(1)
            else:
                cluster.start(node)
        elif step < 0.7:
            cluster.advance(draw.randrange(8 * S))
        else:
            cluster.down = {draw.choice([n for n in range(4) if n != liar])} if draw.random() < 0.3 else set()
            before = watcher.gaps
            watcher.poll()
            if watcher.gaps > before:
                since_gap.clear()
    cluster.down = set()
    for _ in range(PATIENCE + 2):
        before = watcher.gaps
        watcher.poll()
        if watcher.gaps > before:
            since_gap.clear()
    for key, stamp in since_gap.items():
        assert watcher.newest(key) >= stamp, f"{key}: what was complete was never told"
    real = {header for node in cluster.nodes.values() for header in node.slots.feed.since(node.slots.feed.tail)}
    for told in watcher.told:
        if told.header is not None:
            assert header_slot(told.header) == told.slot
            assert header_stamp(told.header) in written or told.header in real, "a change that nobody made"
