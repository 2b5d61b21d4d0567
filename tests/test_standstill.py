"""Tests are excused for nothing but a machine that stood still, and for no other errors than those that it causes."""

from __future__ import annotations

from quorumcache.errors import InvalidProof, OutcomeUnknown, Unavailable
from tests.standstill import JUMP_S, Watch, is_excused


class ResponseError(Exception):
    """As redis-py's is called."""


def test_only_what_says_that_nobody_answered_in_time() -> None:
    late = (Unavailable("x"), OutcomeUnknown("x"), ResponseError("OUTCOMEUNKNOWN it was sent"))
    assert all(is_excused(error, JUMP_S) for error in late)
    assert is_excused(ExceptionGroup("all", list(late)), JUMP_S)
    assert not any(is_excused(error, JUMP_S / 2) for error in late)
    wrong = (AssertionError("1 == 2"), InvalidProof("x"), ResponseError("WRONGTYPE"), Exception("UNAVAILABLE"))
    assert not any(is_excused(error, 100.0) for error in wrong)
    assert not is_excused(ExceptionGroup("some", [*late, AssertionError()]), 100.0)


def test_a_jump_is_seen_once() -> None:
    watch = Watch()
    watch.stop()
    watch._longest_s = 1.5
    assert [watch.longest_s(), watch.longest_s()] == [1.5, 0.0]
