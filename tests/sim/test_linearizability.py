"""The two algorithms for linearizability agree, and reject what no order explains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.checkers.linearizability import ABSENT, NEVER, Event, Linearizability, is_explained, search
from sim.record import MISS, PENDING
from tests.sim.views import View, judge


def write(start: int, end: int, value: bytes) -> Event:
    return Event(start, end, True, value)


def read(start: int, end: int, value: bytes) -> Event:
    return Event(start, end, False, value)


GOOD = {
    "one after another": [write(0, 1, b"a"), read(2, 3, b"a"), write(4, 5, b"b"), read(6, 7, b"b")],
    "concurrent writes, either order": [write(0, 9, b"a"), write(0, 9, b"b"), read(10, 11, b"a")],
    "a write that never ended and was read": [write(0, NEVER, b"a"), read(50, 51, b"a"), read(60, 61, b"a")],
    "absent at first": [read(0, 1, ABSENT), write(0, 5, b"a"), read(2, 3, ABSENT), read(6, 7, b"a")],
}
BAD = {
    "stale": [write(0, 1, b"a"), write(2, 3, b"b"), read(4, 5, b"a")],
    "back and forth": [
        write(0, 9, b"a"),
        write(0, 9, b"b"),
        read(10, 11, b"a"),
        read(12, 13, b"b"),
        read(14, 15, b"a"),
    ],
    "read before written": [read(0, 1, b"a"), write(2, 3, b"a")],
    "never written": [read(0, 1, b"a")],
    "absent after a write": [write(0, 1, b"a"), read(2, 3, ABSENT)],
    "lost once seen": [write(0, NEVER, b"a"), read(2, 3, b"a"), read(4, 5, ABSENT)],
}


@pytest.mark.parametrize("name", GOOD)
def test_linearizable(name: str) -> None:
    assert is_explained(GOOD[name])
    assert search(GOOD[name]) is True


@pytest.mark.parametrize("name", BAD)
def test_not_linearizable(name: str) -> None:
    assert not is_explained(BAD[name])
    assert search(BAD[name]) is False


def test_deletes_make_absence_again() -> None:
    history = [write(0, 1, b"a"), write(2, 3, ABSENT), read(4, 5, ABSENT)]
    assert search(history) is True
    assert search([*history, read(6, 7, b"a")]) is False


def test_the_search_says_when_it_gave_up() -> None:
    assert search([write(0, 99, bytes([i])) for i in range(12)] + [read(100, 101, b"none")], steps_max=50) is None


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Short histories over few values, each written once."""
    values = draw(st.lists(st.sampled_from([b"a", b"b", b"c"]), unique=True, max_size=3))
    times = st.integers(0, 12)
    found = []
    for value in values:
        start = draw(times)
        found.append(write(start, draw(st.one_of(st.just(NEVER), st.integers(start, 14))), value))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(times)
        found.append(read(start, draw(st.integers(start, 14)), draw(st.sampled_from([b"a", b"b", b"c", ABSENT]))))
    return found


@given(histories())
def test_both_algorithms_agree(history: list[Event]) -> None:
    assert search(history) == is_explained(history)


def test_the_checker_names_the_operation_that_no_order_explains() -> None:
    view = View()
    view.op("write", 0, 10, b"a", time=1)
    view.op("read", 20, 30, outcome=MISS)  # an excused miss says nothing
    view.op("write", 40, None, b"b", PENDING)
    view.op("read", 50, 60, b"a", time=1)
    assert not judge(Linearizability, view)
    view.op("read", 70, 80, b"b", time=2)
    view.op("read", 90, 95, outcome=MISS, proven=True)
    assert "once operation 5" in judge(Linearizability, view)[0]
