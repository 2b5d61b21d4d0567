"""Storage goes along into the next epoch, in one transaction, or at the next start (protocol 9; decision 0022)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorumcache.core import amend
from quorumcache.core import messages as m
from quorumcache.core.carrying import Carried, carry
from quorumcache.core.certificate import Verifier
from quorumcache.core.config import Configuration, WriterInfo
from quorumcache.core.journal import Journal
from quorumcache.core.model import header_slot
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.slots import Slots
from quorumcache.core.values import Values
from quorumcache.errors import DiskFailed
from quorumcache.node.moving import Resumed, carry_with, resume
from quorumcache.storage import Identity, NotStored, SqliteStorage
from quorumcache.wire.keys import verify
from tests.cluster import START_US, configuration_of, key_of
from tests.core.test_epochs import with_nodes
from tests.making import Draft
from tests.slot_steps import KEYS as STEP_KEYS
from tests.slot_steps import SECOND_US, apply, picture, steps
from tests.storage.test_sqlite import SOME, directory, killed

KEY = key_of("node 0").public
FIRST = configuration_of(nodes=6, shards=8, writers=("w1", "w2"))
NOW_US = 50 * SECOND_US
frames = st.lists(steps, min_size=1, max_size=4)


def _revoking(before: Configuration) -> Configuration:
    """The writer of `slot_steps` is revoked."""
    return amend.successor_of(before, writers=(*before.writers, WriterInfo("steps", b"w" * 32, "revoked")))


def _replacing(before: Configuration) -> Configuration:
    """Three others take the place of two nodes: node 0 leaves shards 2 and 3, and joins shard 1."""
    return with_nodes(before, [0, 1, 2, 3, 6, 7, 8])


CHANGES: dict[str, Callable[[Configuration], Configuration]] = {
    "nothing": lambda before: amend.successor_of(before, grace_us=before.grace_us + 1),
    "a writer is revoked": _revoking,
    "nodes are replaced": _replacing,
    "nothing of before counts": lambda before: amend.successor_of(before, oldest_epoch=before.epoch + 1),
    "fewer shards": lambda before: amend.successor_of(before, shards=2),
}


def slots_of(configuration: Configuration, *, on_disk: bool = False, bytes_max: int = 6000) -> Slots:
    slots = Slots(configuration, floor_us=0, recovering=False, bytes_max=bytes_max, promises_max=100)
    if on_disk:
        slots.values = Values(slots, 1 << 20, kept_bytes_max=16)
    return slots


def identity_of(configuration: Configuration) -> Identity:
    return Identity(configuration.cluster_id, configuration.digest, KEY)


def begun(path: Path, *, on_disk: bool = False, durability: str = "process") -> tuple[SqliteStorage, Slots]:
    """New storage of the first epoch, with its slots."""
    storage, slots = SqliteStorage(path, boot="boot 1", durability=durability), slots_of(FIRST, on_disk=on_disk)
    assert not storage.open(identity_of(FIRST), slots)
    slots.journal = Journal()
    slots.journal.shards.update({shard.number: shard for shard in slots.shards})
    write(storage, slots)
    return storage, slots


def write(storage: SqliteStorage, slots: Slots) -> None:
    assert slots.journal is not None
    storage.write(slots.journal, slots)
    slots.journal.clear()


def carried(old: Slots, after: Configuration) -> tuple[Slots, Carried]:
    new = slots_of(after, on_disk=old.values is not None)
    counts = {bytes(32)} if after.oldest_epoch == 1 else set()
    return new, carry(old, new, KEY, NOW_US, counts)


def move(storage: SqliteStorage, slots: Slots) -> None:
    assert slots.journal is not None
    storage.move(identity_of(slots.configuration), slots.journal, slots)
    slots.journal.clear()


def seen(storage: SqliteStorage | None, slots: Slots) -> dict[str, Any]:
    """`picture`, with the values that only storage has."""
    lacking = [held for held in slots.current.values() if not held.salted]
    if lacking:
        assert storage is not None
        for held, salted in zip(lacking, storage.fetch(lacking), strict=True):
            held.salted = salted
    found = picture(slots)
    for held in lacking:
        held.salted = b""
    return found


def loaded(path: Path, configuration: Configuration, *, boot: str = "boot 1", durability: str = "process") -> Any:
    """What is stored there for this configuration; None where that is nothing."""
    storage, slots = SqliteStorage(path, boot=boot, durability=durability), slots_of(configuration)
    try:
        return picture(slots) if storage.open(identity_of(configuration), slots) else None
    finally:
        storage.close()


def counts(path: Path) -> dict[str, int]:
    database = sqlite3.connect(path / "entries.sqlite")
    try:
        tables = ("entries", "batches", "prepares", "shards")
        return {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    finally:
        database.close()


def cool(slots: Slots, count: int) -> None:
    """Have some values on the disk only."""
    assert slots.values is not None
    for _ in range(count):
        slots.values.cool_one(slots.memory.pools[0])


@settings(deadline=None, max_examples=60)
@given(frames, steps, st.sampled_from(list(CHANGES)), steps, st.booleans(), st.integers(0, 3))
@example(SOME, SOME[1], "nodes are replaced", SOME[2], True, 2)
@example(SOME, SOME[1], "a writer is revoked", SOME[2], False, 0)
def test_what_is_stored_after_a_move_is_what_the_node_has(
    some: list[Any], unwritten: list[Any], change: str, more: list[Any], on_disk: bool, cooled: int
) -> None:
    """Rows that stay are referred to, rows that went are gone, and the node goes on writing as if it had always been
    in this epoch. What its journal named when it went over is written with it."""
    with directory() as path:
        storage, old = begun(path / "a", on_disk=on_disk)
        for each in some:
            apply(old, each)
            write(storage, old)
        if on_disk:
            cool(old, cooled)
        apply(old, unwritten)
        after = CHANGES[change](FIRST)
        new, _ = carried(old, after)
        move(storage, new)
        expected = seen(storage, new)
        moved = killed(path / "a", path / "b")
        apply(new, more)
        write(storage, new)
        later = seen(storage, new)
        storage.close()
        assert loaded(moved, after) == expected
        assert loaded(path / "a", after, boot="boot 2") == later
        found = counts(path / "a")
        assert found["entries"] == len(new.current)
        assert found["batches"] == len({id(held.batch) for held in new.current.values()})
        assert found["shards"] == after.shards
        assert loaded(moved, FIRST) is None, "it is of another configuration now"


class Faulty:
    """A database that does something before each statement."""

    def __init__(self, database: Any, before: Callable[[], None]) -> None:
        self._database = database
        self._before = before

    def execute(self, *args: Any) -> Any:
        if args[0] != "ROLLBACK":
            self._before()
        return self._database.execute(*args)

    def executemany(self, *args: Any) -> Any:
        self._before()
        return self._database.executemany(*args)

    def close(self) -> None:
        self._database.close()


def _filled(path: Path) -> tuple[SqliteStorage, Slots]:
    storage, old = begun(path)
    for each in SOME:
        apply(old, each)
        write(storage, old)
    return storage, old


def test_a_node_that_is_killed_at_any_statement_of_the_move_is_in_one_epoch_or_the_other(tmp_path: Path) -> None:
    after = _replacing(FIRST)
    storage, old = _filled(tmp_path / "a")
    before = picture(old)
    new, _ = carried(old, after)
    left: list[Path] = []
    storage._database = Faulty(  # type: ignore[assignment]
        storage._database, lambda: left.append(killed(tmp_path / "a", tmp_path / f"killed {len(left)}"))
    )
    move(storage, new)
    expected = picture(new)
    assert len(left) > 5
    assert expected != before
    for path in left:
        assert loaded(path, FIRST) == before, path
    assert loaded(killed(tmp_path / "a", tmp_path / "done"), after) == expected
    storage.close()


def test_a_move_that_fails_at_any_statement_is_none(tmp_path: Path) -> None:
    after = _replacing(FIRST)
    for number in range(100):
        path = tmp_path / str(number)
        storage, old = _filled(path)
        before = picture(old)
        new, _ = carried(old, after)
        passed = iter(range(number))

        def fail(passed: Iterator[int] = passed) -> None:
            if next(passed, None) is None:
                raise sqlite3.OperationalError("disk I/O error")

        storage._database = Faulty(storage._database, fail)  # type: ignore[assignment]
        try:
            move(storage, new)
        except NotStored:
            assert loaded(killed(path, tmp_path / f"{number} killed"), FIRST) == before
        else:
            assert number > 5
            return
        finally:
            storage._stop_threads()
            storage._let_go()
    raise AssertionError("it never came to an end")


# --- nodes ---


class Home:
    """One node with storage, through its epochs."""

    def __init__(self, path: Path, *, limits: NodeLimits | None = None) -> None:
        self.path = path
        self.limits = limits or NodeLimits()
        self.chain = [FIRST]
        self.now_us = START_US
        self.storage = SqliteStorage(path, boot="boot 1")
        self.node = self.make(FIRST, Verifier(verify, [FIRST]))
        assert not self.storage.open(identity_of(FIRST), self.node.slots)
        journal = self.node.slots.journal = Journal()
        journal.shards.update({shard.number: shard for shard in self.node.slots.shards})
        self.write()

    def make(self, configuration: Configuration, verifier: Verifier) -> Node:
        info = configuration.node_by_key(KEY)
        assert info is not None
        node = Node(configuration, info.index, key_of("node 0").sign, verifier, started_us=None, limits=self.limits)
        node.leave_values_to_storage(kept_bytes_max=16)
        return node

    def write(self) -> None:
        write(self.storage, self.node.slots)

    def put(self, number: int, *, size: int = 100, writer: str = "w1", commit: bool = True) -> None:
        draft = Draft(self.node.configuration, writer).put(f"k{number}", bytes(size), at_us=self.now_us + number)
        if self.node.index in self.node.configuration.groups[draft.group].members:
            self.node.handle(draft.prepare(), self.now_us)
            if commit:
                self.node.handle(draft.commit(), self.now_us)
        self.write()

    def next(self, after: Configuration) -> Carried:
        """Go over, as a running node does."""
        self.chain.append(after)
        old = self.node
        self.node = self.make(after, Verifier(verify, self.chain))
        return carry_with(self.storage)(old, self.node, self.now_us)

    def killed(self, name: str) -> Home:
        """The node after a crash, before it starts again."""
        home = object.__new__(Home)
        home.__dict__.update(self.__dict__)
        home.path = killed(self.path, self.path.parent / name)
        return home

    def resume(self) -> Resumed | None:
        self.storage = SqliteStorage(self.path, boot="boot 1")
        found = resume(self.storage, self.chain, KEY, self.make, verify, self.now_us, lambda _before: False)
        if found is not None:
            self.node = found.node
        return found

    def seen(self) -> dict[str, Any]:
        return seen(self.storage, self.node.slots)


def test_a_start_that_finds_the_epoch_before_goes_over(tmp_path: Path) -> None:
    """The record of seals is written before storage moves: a node that ends in between starts in the next epoch."""
    home = Home(tmp_path / "a")
    for number in range(30):
        home.put(number, writer="w2" if number % 3 else "w1", commit=number % 4 > 0)
    crashed = home.killed("b")
    second = _replacing(FIRST)
    third = amend.revoke_writer(second, "w1")
    home.next(second)
    crashed_later = home.killed("c")
    crashed.chain = crashed_later.chain = [FIRST, second, third]
    first = home.next(third)
    assert (first.kept, len(home.node.slots.promises)) != (0, 0)
    for late in (crashed, crashed_later):
        found = late.resume()
        assert found is not None
        assert found.carried is not None
        # What it joined two epochs ago it still knows nothing of: the members of before have to be asked.
        assert found.joining == [(FIRST, (1,))]
        assert late.node.slots.shards[1].recovering
        assert late.seen()["entries"] == home.seen()["entries"]
        assert late.seen()["promises"] == home.seen()["promises"]
        expected = late.seen()
        late.storage.close()
        again = late.resume()
        assert again is not None
        assert again.carried is None, "once is enough"
        assert late.seen() == expected
        late.storage.close()
    home.storage.close()


def test_an_epoch_that_led_nowhere_does_not_count(tmp_path: Path) -> None:
    """State of a configuration that is not in the chain is set aside, as ever."""
    home = Home(tmp_path / "a")
    home.put(1)
    home.storage.close()
    home.chain = [replace(FIRST, grace_us=7), amend.successor_of(replace(FIRST, grace_us=7), grace_us=8)]
    assert home.resume() is None
    assert "another configuration" in home.storage.set_aside
    home.storage.close()


def test_a_node_whose_disk_is_full_when_it_goes_over_has_to_stop_and_can_start_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "a")
    for number in range(40):
        home.put(number, commit=number % 4 > 0)
    database = home.storage._database
    assert database is not None
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute("DELETE FROM probe")
    database.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    # Small things find room in pages that are there; so have the promises take more.
    for number in range(200):
        draft = Draft(home.node.configuration, "w2", nonce=number).put(f"p{number}", at_us=home.now_us + number)
        home.node.handle(draft.prepare(), home.now_us)
    with pytest.raises(DiskFailed, match="has begun, and storage cannot go along"):
        home.next(_replacing(FIRST))
    crashed = home.killed("b")
    home.storage.close()
    found = crashed.resume()
    assert found is not None
    assert found.carried is not None
    assert found.carried.kept > 0
    assert found.carried.promises > 0
    crashed.storage.close()


def test_what_it_left_can_be_read_until_it_is_forgotten(tmp_path: Path) -> None:
    """Members that join may ask for it; after a start nobody can, and it goes."""
    home = Home(tmp_path / "a", limits=NodeLimits(bytes_max=400_000))
    for number in range(120):
        home.put(number, size=5000 + number)
    cool(home.node.slots, 60)
    old = home.node
    expected = seen(home.storage, old.slots)["entries"]
    home.next(_replacing(FIRST))
    left = old.slots.current
    assert left
    assert {old.slots.shard(where).number for where in left} == {2, 3}
    assert not any(held.salted for held in left.values()), "memory is for what it serves"
    assert old.slots.values is not None
    for request in (m.Report(1, FIRST.digest, number, b"") for number in (2, 3)):
        reply = old.handle(request, home.now_us)
        assert isinstance(reply, m.ReportReply)
        missing = list(old.slots.values.missing)
        assert len(missing) == len(reply.entries) > 0
        for held, salted in zip(missing, home.storage.fetch(missing), strict=True):
            old.slots.values.warm(held, salted)
        reply = old.handle(request, home.now_us)
        assert isinstance(reply, m.ReportReply)
        assert all(entry == expected[header_slot(entry.header)][1] for entry in reply.entries)
        old.slots.values.settle()
    assert old.slots.memory.bytes_used <= 100_000
    again = home.killed("b")
    assert counts(again.path)["entries"] == len(expected)
    found = again.resume()
    assert found is not None
    assert set(again.node.slots.current) == set(home.node.slots.current)
    assert counts(killed(again.path, tmp_path / "c"))["entries"] == len(again.node.slots.current)
    again.storage.close()
    assert home.storage.forget_left(7, latest=False) == 0
    for _ in range(-(-len(left) // 7)):
        home.storage.forget_left(7, latest=True)
    assert home.storage.forget_left(7, latest=True) == 0
    kept = home.seen()
    home.storage.close()
    assert counts(home.path)["entries"] == len(kept["entries"]) < len(expected)
    assert counts(home.path)["batches"] == len(kept["entries"])
    assert loaded(home.path, home.node.configuration) == kept


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(steps, st.integers(0, 3), st.sampled_from(["nothing", "away", "back"])), max_size=6))
@example([(SOME[0], 0, "away"), (SOME[1], 1, "nothing"), (SOME[2], 2, "back")])
@example([(SOME[0], 0, "away"), (SOME[1], 0, "back"), (SOME[2], 0, "away"), (SOME[1], 3, "nothing")])
def test_what_was_left_never_comes_back(epochs: list[Any]) -> None:
    """Joining starts with the shard empty (protocol 11), whatever rows of an earlier membership there still are; and
    batches that left entries share with others stay as long as any of them."""
    with directory() as path:
        storage, slots = begun(path / "a")
        for number, (some, forgets, change) in enumerate(epochs):
            before = slots.configuration
            # A node stores nothing of shards that it does not serve.
            apply(slots, [x for x in some if 0 in before.group_of(STEP_KEYS[x[1]]).members])
            write(storage, slots)
            names = {"nothing": None, "away": [0, 1, 2, 3, 6, 7, 8], "back": [0, 1, 2, 3, 4, 5]}[change]
            after = CHANGES["nothing"](before) if names is None else with_nodes(before, names)
            old = slots
            slots = slots_of(after)
            carry(old, slots, KEY, NOW_US, {bytes(32)})
            assert slots.journal is not None
            storage.move(identity_of(after), slots.journal, slots, list(old.current.values()))
            slots.journal.clear()
            storage.forget_left(forgets, latest=number % 2 > 0)
            own = {s for s, group in enumerate(after.shard_groups) if 0 in group.members}
            left = killed(path / "a", path / f"killed {number}")
            found = loaded(left, after)
            assert found is not None
            served = {where: x for where, x in found["entries"].items() if after.shard_of(where) in own}
            assert served == picture(slots)["entries"]
            assert found["promises"] == picture(slots)["promises"]
        while storage.forget_left(1, latest=True):
            pass
        expected = picture(slots)
        storage.close()
        assert loaded(path / "a", slots.configuration) == expected
        assert counts(path / "a")["entries"] == len(slots.current)
        assert counts(path / "a")["batches"] == len({id(held.batch) for held in slots.current.values()})
