"""The simulator's disk keeps what real storage keeps, and can lose its tail."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sim.disk import Disk
from tests.slot_steps import apply, new_slots, picture, steps


@given(st.lists(steps, min_size=1, max_size=6), st.integers(0, 6))
def test_it_gives_back_what_was_written_but_for_what_it_loses(frames: list[Any], lost: int) -> None:
    slots = new_slots()
    assert slots.journal is not None
    disk = Disk(slots)
    pictures = [picture(slots)]
    for frame in frames:
        apply(slots, frame)
        disk.write(slots.journal, slots)
        pictures.append(picture(slots))
    disk.lose(lost)
    loaded = new_slots()
    disk.load(loaded)
    assert picture(loaded) == pictures[max(0, len(frames) - lost)]
