"""The journal of slots says all that changed, and undoes it (protocol 3: a reply waits until what it promises is
stored)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quorumcache.core.certificate import Batch
from quorumcache.core.journal import Journal
from quorumcache.core.model import Certificate, Grant, encode_header, parse_header, stamp_of, value_hash_of
from quorumcache.core.slots import Held, Promise, Slots
from tests.cluster import configuration_of, slot

SECOND_US = 1_000_000
KEYS = [slot(f"k{i}") for i in range(4)]
OPERATIONS = ("store", "drop", "promise", "settle", "drop promise", "floor", "activate")


def _slots() -> Slots:
    slots = Slots(configuration_of(shards=2), floor_us=0, recovering=True, bytes_max=4000, promises_max=100)
    slots.journal = Journal()
    return slots


def _header(key: bytes, time_us: int) -> bytes:
    return encode_header(key, stamp_of(time_us, b"w" * 32, 1), 0, value_hash_of(bytes(20)), 4, 0)


def _batch() -> Batch:
    return Batch(
        Certificate(bytes(32), bytes(16), bytes(32), 2, b"w" * 32, bytes(64), (Grant(0, b"\x03", bytes(64)),)),
        bytes(64),
        b"",
    )


def _apply(slots: Slots, steps: list[tuple[str, int, int]]) -> None:
    batch = _batch()
    for number, (operation, key_number, time_s) in enumerate(steps):
        key, time_us = KEYS[key_number], time_s * SECOND_US
        raw = _header(key, time_us)
        if operation == "store":
            if number % 2:
                batch = _batch()
            held = Held(parse_header(raw).digest, raw, bytes(20), batch, 0, None)
            slots.store(key, held, 40 * SECOND_US)
        elif operation == "drop" and key in slots.current:
            slots.drop(key)
        elif operation == "promise":
            slots.add_promise(Promise(parse_header(raw), time_us, bytes(16), bytes(64), bytes(64), 0))
        elif operation == "settle":
            slots.settle_promises(key, raw[3:51])
        elif operation == "drop promise" and key in slots.open:
            slots.drop_promise(slots.open[key][0])
        elif operation == "floor":
            slots.raise_floor(slots.shard(key), time_us)
        elif operation == "activate":
            slots.activate(slots.shard(key))


def _held(slots: Slots) -> dict[str, Any]:
    return {
        "current": {key: id(held) for key, held in slots.current.items()},
        "open": {key: [id(p) for p in open_] for key, open_ in slots.open.items()},
        "promises": {id(p) for p in slots.promises},
        "bytes": slots.memory.bytes_used,
        "shards": {key: shard.number for shard in slots.shards for key in shard.slots},
    }


def _bounds(slots: Slots) -> list[tuple[int, bool]]:
    return [(shard.floor_us, shard.recovering) for shard in slots.shards]


steps = st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 3), st.integers(1, 30)), max_size=25)


@given(steps, steps)
def test_undo_puts_back_what_was_held_and_leaves_floors(before: list[Any], after: list[Any]) -> None:
    slots = _slots()
    journal = slots.journal
    assert journal is not None
    _apply(slots, before)
    journal.clear()
    held = _held(slots)
    _apply(slots, after)
    bounds = _bounds(slots)
    journal.undo(slots)
    assert _held(slots) == held
    assert _bounds(slots) == bounds
    assert slots.floor_max_us == max(floor_us for floor_us, _ in bounds)


@given(steps, steps)
def test_what_the_journal_does_not_name_did_not_change(before: list[Any], after: list[Any]) -> None:
    slots = _slots()
    journal = slots.journal
    assert journal is not None
    _apply(slots, before)
    journal.clear()
    current, bounds = dict(slots.current), _bounds(slots)
    open_ = {key: tuple(here) for key, here in slots.open.items()}
    _apply(slots, after)
    for key in KEYS:
        if key in journal.entries:
            assert journal.entries[key] is current.get(key)
        else:
            assert slots.current.get(key) is current.get(key)
        if key in journal.promises:
            assert journal.promises[key] == open_.get(key, ())
        else:
            assert tuple(slots.open.get(key, ())) == open_.get(key, ())
    for shard, bound in zip(slots.shards, bounds, strict=True):
        assert shard.number in journal.shards or (shard.floor_us, shard.recovering) == bound


@given(steps)
def test_batches_that_nothing_shares_any_more_are_named(some: list[Any]) -> None:
    slots = _slots()
    journal = slots.journal
    assert journal is not None
    _apply(slots, some)
    batches = {id(held.batch) for held in slots.current.values()}
    journal.clear()
    for key in list(slots.current):
        slots.drop(key)
    assert {id(batch) for batch in journal.released} == batches


@given(steps, steps)
def test_while_frozen_no_entry_comes_or_goes(before: list[Any], after: list[Any]) -> None:
    slots = _slots()
    _apply(slots, before)
    slots.frozen = True
    held = dict(slots.current)
    _apply(slots, [step for step in after if step[0] == "store"])
    assert slots.current == held
    assert not slots.reap(100 * SECOND_US, 100)
    assert not slots.drop_old_promises(1000 * SECOND_US, 100)
