"""What is kept beside a computed value: any bytes come back as they were, and the lot to make it anew is fair."""

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.client.envelope import MAGIC, Envelope, escape, is_due, parse, touched, wrap

times = st.integers(0, (1 << 62) - 1)
data = st.one_of(st.binary(), st.binary().map(lambda more: MAGIC + more), st.binary().map(lambda m: wrap(m, 1, 1)))


@given(data)
def test_plain_bytes_come_back_whatever_they_begin_with(stored: bytes) -> None:
    assert parse(escape(stored)) == Envelope(stored, 0, 0)


@given(st.none() | data, st.integers(0, 1 << 40), times)
def test_what_was_wrapped_comes_back(inside: bytes | None, compute_us: int, until_us: int) -> None:
    assert parse(wrap(inside, compute_us, until_us)) == Envelope(inside, min(compute_us, (1 << 32) - 1), until_us)


@given(st.binary().map(lambda more: MAGIC + more))
def test_bytes_that_are_no_envelope_are_themselves(stored: bytes) -> None:
    envelope = parse(stored)
    assert envelope.data is None or stored.endswith(envelope.data)


@given(data, times, times)
def test_touching_changes_the_end_only(inside: bytes, before_us: int, after_us: int) -> None:
    assert touched(escape(inside), after_us) == escape(inside)
    changed = parse(touched(wrap(inside, 7, before_us), after_us))
    assert changed == Envelope(inside, 7, after_us if before_us else 0)


def test_no_serializer_makes_bytes_that_begin_so() -> None:
    first = MAGIC[:1]
    with pytest.raises(UnicodeDecodeError):
        first.decode()
    with pytest.raises(json.JSONDecodeError):
        json.loads(first.decode("latin-1"))
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(first)


@given(times, times, st.integers(0, 1 << 32), st.floats(0, 10), st.floats(0, 1, exclude_max=True))
def test_a_value_is_due_at_its_end_at_the_latest(
    now_us: int, until_us: int, compute_us: int, eagerness: float, chance: float
) -> None:
    due = is_due(now_us, until_us, compute_us, eagerness, chance)
    if not until_us:
        assert not due
    elif now_us >= until_us:
        assert due
    elif not compute_us or not eagerness or not chance:
        assert not due


@pytest.mark.parametrize("eagerness", [0.5, 1.0, 2.0])
def test_the_chance_to_be_due_is_that_of_xfetch(eagerness: float) -> None:
    """With a time of d left and c to make it, it is exp(-d / (c * eagerness))."""
    compute_us, left_us, lots = 1_000_000, 700_000, 2000
    due = sum(is_due(0, left_us, compute_us, eagerness, lot / lots) for lot in range(lots))
    assert abs(due / lots - math.exp(-left_us / (compute_us * eagerness))) < 0.002
