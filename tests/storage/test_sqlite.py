"""Storage in SQLite: what was written is there again, or what is there does not count (protocol 3, end; protocol 7)."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quorumcache.errors import DiskFailed, Misuse
from quorumcache.storage import Identity, NotStored, SqliteStorage
from quorumcache.storage import sqlite as module
from quorumcache.storage.directory import ASIDE_MAX
from tests.slot_steps import apply, new_slots, picture, steps

IDENTITY = Identity("test", b"c" * 32, b"k" * 32)
FILES = ("entries.sqlite", "entries.sqlite-wal")
frames = st.lists(steps, min_size=1, max_size=6)
SOME: list[Any] = [
    [("promise", 0, 1), ("promise", 1, 2), ("store", 0, 1), ("floor", 2, 9)],
    [("promise", 0, 5), ("promise", 2, 3), ("settle", 1, 2), ("store", 1, 3), ("activate", 1, 1)],
    [("store", 0, 6), ("drop", 1, 1), ("store", 3, 4), ("drop promise", 2, 1), ("promise", 3, 8)],
]


@contextmanager
def directory() -> Iterator[Path]:
    """hypothesis calls a test many times: each wants a place of its own."""
    memory = Path("/dev/shm")  # There, a sync costs nothing.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True, dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


class Kept:
    """Slots with storage, as a node has them."""

    def __init__(self, path: Path, *, durability: str = "process", boot: str = "boot 1", **changes: Any) -> None:
        self.path = path
        self.storage = SqliteStorage(path, durability=durability, boot=boot)
        slots = new_slots()
        identity = Identity(*{**dict(zip(Identity.__struct_fields__, IDENTITY_PARTS, strict=True)), **changes}.values())
        self.resumed = self.storage.open(identity, slots)
        self.slots = slots if self.resumed else new_slots()
        assert self.slots.journal is not None
        self.journal = self.slots.journal
        if not self.resumed:
            self.journal.shards.update({shard.number: shard for shard in self.slots.shards})
            self.write()

    def write(self) -> None:
        self.storage.write(self.journal, self.slots)
        self.journal.clear()

    def frame(self, some: list[Any]) -> None:
        apply(self.slots, some)
        self.write()


IDENTITY_PARTS = (IDENTITY.cluster_id, IDENTITY.configuration, IDENTITY.key)


def killed(path: Path, to: Path) -> Path:
    """The files as a process leaves them that is killed now."""
    return Path(shutil.copytree(path, to))


def loaded(path: Path, **more: Any) -> dict[str, Any] | None:
    """What a node that starts there finds; None where it starts without stored state."""
    kept = Kept(path, **more)
    try:
        return picture(kept.slots) if kept.resumed else None
    finally:
        kept.storage.close()


# --- round trips ---


@settings(deadline=None, max_examples=50)
@given(frames)
@example(SOME)
def test_what_was_written_is_there_after_a_kill_and_after_a_stop(some: list[Any]) -> None:
    """Protocol 3, end: nothing acknowledged is gone, nothing granted forgotten."""
    with directory() as path:
        kept = Kept(path / "a")
        assert not kept.resumed
        for each in some:
            kept.frame(each)
        expected = picture(kept.slots)
        left = killed(path / "a", path / "b")
        kept.storage.close()
        assert loaded(left) == expected
        assert loaded(path / "a", boot="boot 2") == expected
        assert loaded(path / "a", boot="boot 3") == expected  # It was stopped in order again.


@settings(deadline=None, max_examples=50)
@given(frames, frames)
def test_a_node_goes_on_with_what_it_loaded(before: list[Any], after: list[Any]) -> None:
    with directory() as path:
        kept = Kept(path / "a")
        for each in before:
            kept.frame(each)
        again = Kept(killed(path / "a", path / "b"))
        assert again.resumed
        # Room for all: how often keys were used is not stored, so what is evicted next may differ.
        kept.slots.memory.bytes_max = again.slots.memory.bytes_max = 1 << 24
        for each in after:
            kept.frame(each)
            again.frame(each)
        assert picture(again.slots) == picture(kept.slots)
        left = killed(path / "b", path / "c")
        for each in (kept, again):
            each.storage.close()
        assert loaded(left) == picture(again.slots)


@settings(deadline=None, max_examples=50)
@given(frames, steps)
def test_what_was_not_written_is_not_there(some: list[Any], more: list[Any]) -> None:
    with directory() as path:
        kept = Kept(path / "a")
        for each in some:
            kept.frame(each)
        expected = picture(kept.slots)
        apply(kept.slots, more)
        left = killed(path / "a", path / "b")
        kept.storage.close()
        assert loaded(left) == expected


def test_nothing_is_left_behind_of_what_went() -> None:
    """Rows of batches and promises go with the last that is of them."""
    with directory() as path:
        kept = Kept(path)
        for each in SOME:
            kept.frame(each)
        for key in list(kept.slots.current):
            kept.slots.drop(key)
        for promise in list(kept.slots.promises):
            kept.slots.drop_promise(promise)
        kept.write()
        kept.storage.close()
        with sqlite3.connect(path / FILES[0]) as database:
            for table in ("entries", "batches", "prepares"):
                assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        database.close()


# --- what counts ---


@pytest.mark.parametrize(("durability", "counts"), [("process", False), ("power", True)])
def test_after_the_machine_went_down_only_power_counts(tmp_path: Path, durability: str, counts: bool) -> None:
    """Protocol 7: no clean-stop mark and another boot: it may have lost its tail, and is no stored state."""
    kept = Kept(tmp_path / "a", durability=durability)
    kept.frame(SOME[0])
    left = killed(tmp_path / "a", tmp_path / "b")
    kept.storage.close()
    found = loaded(left, durability=durability, boot="boot 2")
    assert found == (picture(kept.slots) if counts else None)
    # What was kept for "process" does not become whole by asking for more.
    if not counts:
        kept = Kept(tmp_path / "a", durability=durability)
        left = killed(tmp_path / "a", tmp_path / "c")
        kept.storage.close()
        assert loaded(left, durability="power", boot="boot 2") is None


def test_a_machine_that_does_not_tell_its_boots_apart_counts_as_another(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "a", boot="")
    left = killed(tmp_path / "a", tmp_path / "b")
    kept.storage.close()
    assert loaded(left, boot="") is None
    assert loaded(tmp_path / "a", boot="") is not None


def test_what_is_stored_is_for_its_owner_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "a")
    modes = {path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "a").glob("entries*")}
    assert set(modes) == {FILES[0], FILES[1], "entries.sqlite-shm"}
    assert not any(modes.values())
    kept.storage.close()


def test_a_database_without_its_mark_does_not_count(tmp_path: Path) -> None:
    Kept(tmp_path).storage.close()
    (tmp_path / "state.json").unlink()
    assert loaded(tmp_path) is None


def test_a_directory_has_one_user_and_one_node(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    with pytest.raises(Misuse, match="another process"):
        Kept(tmp_path)
    kept.storage.close()
    for changes in ({"key": b"other" + bytes(27)}, {"cluster_id": "other"}):
        with pytest.raises(Misuse, match="data directory of its own"):
            Kept(tmp_path, **changes)  # type: ignore[arg-type]
    assert loaded(tmp_path) is not None, "a wrong call must not cost the right node its state"


def test_another_configuration_does_not_count_and_is_set_aside(tmp_path: Path) -> None:
    Kept(tmp_path).storage.close()
    assert loaded(tmp_path, configuration=b"d" * 32) is None
    assert (tmp_path / "entries.sqlite.other-configuration-1").exists()


def test_a_place_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFailed, match="cannot be used"):
        Kept(tmp_path / "file")
    with pytest.raises(Misuse, match="durability"):
        SqliteStorage(tmp_path, durability="hope")


# --- damage ---


def _flip(path: Path, seed: int) -> None:
    chance = random.Random(seed)
    files = [path / name for name in FILES if (path / name).exists() and (path / name).stat().st_size]
    file = chance.choice(files)
    data = bytearray(file.read_bytes())
    kind = chance.random()
    if kind < 0.7:
        for _ in range(chance.choice((1, 1, 2, 40))):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind < 0.85:
        at = chance.randrange(len(data))
        length = min(chance.choice((1, 64, 512, 4096)), len(data) - at)
        data[at : at + length] = chance.choice((bytes(length), chance.randbytes(length)))
    else:
        del data[chance.randrange(len(data)) :]
    file.write_bytes(data)


@settings(deadline=None, max_examples=200)
@example(True, 2673)  # A blob's length became a text's.
@given(st.booleans(), st.integers(0, 1 << 32))
def test_a_damaged_file_is_never_taken_for_the_truth(stopped: bool, seed: int) -> None:
    """Either all is there as it was, or nothing counts. Damage in the database file of a node that was stopped, or in
    that and the log of one that was killed; of the log, the last commit must be left, see the next test."""
    with directory() as path:
        kept = Kept(path / "a")
        for each in SOME:
            kept.frame(each)
        expected = picture(kept.slots)
        if not stopped:
            left = killed(path / "a", path / "b")
        kept.storage.close()
        if stopped:
            left = path / "a"
        log = left / FILES[1]
        tail = log.read_bytes()[-2072:] if log.exists() else b""
        _flip(left, seed)
        if tail and not (log.exists() and log.read_bytes().endswith(tail)):
            return
        found = loaded(left)
        assert found in (None, expected)


def test_a_damaged_file_is_set_aside_and_the_next_start_is_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(ASIDE_MAX + 2):
        Kept(tmp_path).storage.close()
        data = bytearray((tmp_path / FILES[0]).read_bytes())
        data[2048:] = bytes(len(data) - 2048)
        (tmp_path / FILES[0]).write_bytes(data)
        kept = Kept(tmp_path)
        assert not kept.resumed
        assert "damaged" in kept.storage.set_aside
        kept.frame(SOME[0])
        kept.storage.close()
        assert loaded(tmp_path) == picture(kept.slots)
    assert "damaged-1" in caplog.text
    assert len(list(tmp_path.glob("*.damaged-*"))) == ASIDE_MAX


def test_a_text_that_is_none_is_damage(tmp_path: Path) -> None:
    """One flipped bit makes of a blob's length a text's: the rows are whole for SQLite, and not for who reads them."""
    kept = Kept(tmp_path)
    kept.frame(SOME[0])
    kept.storage.close()
    with closing(sqlite3.connect(tmp_path / FILES[0])) as database, database:
        changed = database.execute("UPDATE batches SET certificate = CAST(X'ff00' AS TEXT)").rowcount
    assert changed
    kept = Kept(tmp_path)
    assert not kept.resumed
    assert "damaged" in kept.storage.set_aside
    kept.storage.close()


def test_a_table_with_other_columns_is_damage(tmp_path: Path) -> None:
    """One bit of a table's definition can turn it into another that SQLite finds nothing wrong with."""
    kept = Kept(tmp_path / "a")
    kept.frame(SOME[0])
    kept.storage.close()
    file = tmp_path / "a" / FILES[0]
    file.write_bytes(file.read_bytes().replace(b"floor_us INTEGER,", b"floor_us INTEGER "))
    assert loaded(tmp_path / "a") is None
    assert (tmp_path / "a" / f"{FILES[0]}.damaged-1").exists()


def test_rows_that_are_missing_are_noticed(tmp_path: Path) -> None:
    """A database can be in order, and not what was written."""
    for number, table in enumerate(("entries", "prepares", "batches", "shards", "totals", "about")):
        kept = Kept(tmp_path / str(number))
        for each in SOME:
            kept.frame(each)
        kept.storage.close()
        with sqlite3.connect(tmp_path / str(number) / FILES[0]) as database:
            changed = database.execute(f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})").rowcount
        database.close()
        assert changed == 1
        assert loaded(tmp_path / str(number)) is None, table


# --- disks that are full, or fail ---


def test_what_cannot_be_stored_is_undone_and_what_was_stored_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "a")
    kept.frame(SOME[0])
    stored = picture(kept.slots)
    database = kept.storage._database
    assert database is not None
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    kept.slots.memory.bytes_max = 1 << 24
    before, fault = stored, ""
    for number in range(1000):
        before = picture(kept.slots)
        apply(kept.slots, [("floor", number % 4, number + 30), *(("promise", i % 4, number + i) for i in range(8))])
        try:
            kept.write()
        except NotStored as told:
            fault = str(told)
            break
    assert "full" in fault
    kept.journal.undo(kept.slots)
    assert picture(kept.slots) == before
    assert stored["entries"] == before["entries"]
    assert not kept.storage.status()["storage_takes_writes"]
    with pytest.raises(NotStored):
        kept.storage.probe()
    database.execute("PRAGMA max_page_count = 1000000").fetchall()
    kept.storage.probe()
    assert kept.storage.status()["storage_takes_writes"]
    kept.frame(SOME[1])
    left = killed(tmp_path / "a", tmp_path / "b")
    kept.storage.close()
    assert loaded(left) == picture(kept.slots)


# --- power cuts ---


class Disk:
    """Keeps of the log what was synced; the rest, a power cut may or may not keep, sector by sector."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.durable = b""

    def sync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)
        if self._log.exists() and os.path.samestat(os.fstat(descriptor), self._log.stat()):
            self.durable = self._log.read_bytes()

    def cut(self, chance: random.Random) -> bytes:
        """What may be left of the log."""
        written, durable = self._log.read_bytes(), self.durable
        assert written.startswith(durable[:32])
        share = chance.random()
        left = bytearray()
        for at in range(0, len(written), 512):
            old = durable[at : at + 512]
            new = written[at : at + 512]
            left += new if chance.random() < share else old.ljust(len(new), b"\0")
        return bytes(left[: chance.randint(len(durable), len(written))])


async def _cut(path: Path, some: list[Any], seed: int, *, honest: bool, patch: pytest.MonkeyPatch) -> bool:
    """Write frame by frame, waiting for some to be durable; cut the power; whether what was waited for is there."""
    chance = random.Random(seed)
    disk = Disk(path / "a" / FILES[1])
    if honest:
        patch.setattr(module, "sync", disk.sync)
    kept = Kept(path / "a", durability="power")
    pictures, waited = [picture(kept.slots)], -1
    for each in some:
        kept.frame(each)
        pictures.append(picture(kept.slots))
        if chance.random() < 0.5:
            waiting = kept.storage.synced()
            if waiting is not None:
                await waiting
            waited = len(pictures) - 1
    left = killed(path / "a", path / "b")
    (left / FILES[1]).write_bytes(disk.cut(chance))
    kept.storage.close()
    found = loaded(left, durability="power", boot="boot 2")
    if waited >= 0:
        return found in pictures[waited:]
    return found is None or found in pictures


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(SOME), min_size=1, max_size=12), st.integers(0, 1 << 32))
def test_a_power_cut_takes_nothing_that_was_waited_for(some: list[Any], seed: int) -> None:
    """Durability "power": what the disk did not sync may be lost in any part, what `synced` waited for may not."""
    with directory() as path, pytest.MonkeyPatch.context() as patch:
        assert asyncio.run(_cut(path, some, seed, honest=True, patch=patch))


def test_the_test_above_notices_a_disk_that_does_not_sync() -> None:
    lost = 0
    for seed in range(10):
        with directory() as path, pytest.MonkeyPatch.context() as patch:
            lost += not asyncio.run(_cut(path, SOME * 3, seed, honest=False, patch=patch))
    assert lost


async def test_a_sync_that_fails_is_told_to_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path, durability="power")
    assert kept.storage._syncer is not None

    def fail() -> None:
        raise OSError(5, "Input/output error")

    kept.storage._syncer._sync = fail
    kept.frame(SOME[0])
    first, second = kept.storage.synced(), kept.storage.synced()
    assert first is not None
    assert second is not None
    for waiting in (first, second):
        with pytest.raises(OSError, match="Input/output"):
            await waiting
    third = kept.storage.synced()
    assert third is not None
    with pytest.raises(OSError, match="Input/output"):
        await third
    kept.storage.close()
    assert loaded(tmp_path, durability="power") is None, "what is stored cannot be told any more"


# --- the log ---


@pytest.mark.parametrize("slow_s", [0.0, 0.3])
def test_the_log_stays_short_and_nothing_is_lost_on_its_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    """It is moved into the database while writing goes on, and at once where that is too slow."""
    move = module._move
    monkeypatch.setattr(module, "_move", lambda path: (time.sleep(slow_s), move(path)))
    monkeypatch.setattr(module, "LOG_BYTES_STEP", 64 << 10)
    monkeypatch.setattr(module, "LOG_BYTES_MAX", 2 << 20)
    kept = Kept(tmp_path / "a")
    log, longest = tmp_path / "a" / FILES[1], 0
    for number in range(1500):
        kept.frame([("promise", number % 4, number % 25 + 1), ("store", number % 4, number // 50 + 1)])
        longest = max(longest, log.stat().st_size)
    moving = kept.storage._moving
    assert moving is not None
    moving.result()
    # What a step, and 64 transactions, after which it looks again, can add, however slow the moving is.
    assert longest < (2 << 20) + (64 << 10) + 64 * (16 << 10)
    assert (tmp_path / "a" / FILES[0]).stat().st_size > 4096, "something was moved"
    left = killed(tmp_path / "a", tmp_path / "b")
    kept.storage.close()
    assert loaded(left) == picture(kept.slots)


def test_a_log_that_cannot_be_moved_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOG_BYTES_STEP", 32 << 10)
    kept = Kept(tmp_path / "a")
    move = module._move
    monkeypatch.setattr(module, "_move", lambda path: move(path.parent / "nowhere" / path.name))
    for number in range(200):
        kept.frame([("store", number % 4, number // 10 + 1)])
    moving = kept.storage._moving
    assert moving is not None
    moving.result()
    assert "could not be moved" in caplog.text
    kept.storage.close()
    assert loaded(tmp_path / "a", boot="boot 2") == picture(kept.slots)


async def test_who_waits_for_a_sync_when_storage_closes_is_told(tmp_path: Path) -> None:
    kept = Kept(tmp_path, durability="power")
    syncer = kept.storage._syncer
    assert syncer is not None
    first = kept.storage.synced()
    kept.frame(SOME[0])
    second = kept.storage.synced()  # The first is under way: this one is next.
    assert first is not None
    assert second is not None
    kept.storage.close()
    await first
    with pytest.raises(OSError, match="closed"):
        await second
    assert loaded(tmp_path, durability="power") == picture(kept.slots), "it was stored all the same"
