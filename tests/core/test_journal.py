"""The journal of slots says all that changed, and undoes it (protocol 3: a reply waits until what it promises is
stored)."""

from __future__ import annotations

from typing import Any

from hypothesis import given

from quorumcache.core.slots import Slots
from tests.slot_steps import KEYS, SECOND_US, apply, new_slots, steps


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


@given(steps, steps)
def test_undo_puts_back_what_was_held_and_the_floors_that_nobody_heard_of(before: list[Any], after: list[Any]) -> None:
    slots = new_slots()
    journal = slots.journal
    assert journal is not None
    apply(slots, before)
    journal.clear()
    held, bounds = _held(slots), _bounds(slots)
    apply(slots, after)
    active = [shard.recovering for shard in slots.shards]
    journal.undo(slots)
    assert _held(slots) == held
    assert [shard.floor_us for shard in slots.shards] == [floor_us for floor_us, _ in bounds]
    assert slots.floor_max_us >= max(floor_us for floor_us, _ in bounds)
    # A shard that has become active stays so: that is written when it can be.
    assert [shard.recovering for shard in slots.shards] == active
    assert all(shard.number in journal.shards for shard in slots.shards if bounds[shard.number][1] != shard.recovering)


@given(steps, steps)
def test_what_the_journal_does_not_name_did_not_change(before: list[Any], after: list[Any]) -> None:
    slots = new_slots()
    journal = slots.journal
    assert journal is not None
    apply(slots, before)
    journal.clear()
    current, bounds = dict(slots.current), _bounds(slots)
    open_ = {key: tuple(here) for key, here in slots.open.items()}
    apply(slots, after)
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
    slots = new_slots()
    journal = slots.journal
    assert journal is not None
    apply(slots, some)
    batches = {id(held.batch) for held in slots.current.values()}
    journal.clear()
    for key in list(slots.current):
        slots.drop(key)
    assert {id(batch) for batch in journal.released} == batches


@given(steps, steps)
def test_while_frozen_no_entry_comes_or_goes(before: list[Any], after: list[Any]) -> None:
    slots = new_slots()
    apply(slots, before)
    slots.frozen = True
    held = dict(slots.current)
    apply(slots, [step for step in after if step[0] == "store"])
    assert slots.current == held
    assert not slots.reap(100 * SECOND_US, 100)
    assert not slots.drop_old_promises(1000 * SECOND_US, 100)
