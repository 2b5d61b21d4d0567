"""Slots, stamps and headers (protocol 2): one encoding each, in bounds, ordered as the protocol orders them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import model
from quorumcache.core.model import Malformed
from tests import strategies as some

names = st.binary(min_size=1, max_size=64)
keys = st.binary(min_size=1, max_size=1024)
fields = st.binary(max_size=1024)


@given(names, keys, fields)
def test_slots_round_trip(namespace: bytes, key: bytes, field: bytes) -> None:
    """protocol 2, Slot: (namespace, key, field), in one encoding."""
    assert model.slot_parts(model.slot_of(namespace, key, field)) == (namespace, key, field)


@given(some.slots, some.slots)
def test_different_slots_have_different_bytes(a: bytes, b: bytes) -> None:
    """protocol 2, Slot: parts do not run into each other; no slot is the beginning of another."""
    assert (model.slot_parts(a) == model.slot_parts(b)) == (a == b)
    assert a == b or not b.startswith(a)


@pytest.mark.parametrize(
    "parts",
    [(b"", b"k", b""), (b"n" * 65, b"k", b""), (b"n", b"", b""), (b"n", b"k" * 1025, b""), (b"n", b"k", b"f" * 1025)],
)
def test_parts_of_slots_are_bounded(parts: tuple[bytes, bytes, bytes]) -> None:
    """protocol 2: sizes within limits, for whoever makes a slot and whoever reads one."""
    with pytest.raises(ValueError):
        model.slot_of(*parts)
    namespace, key, field = parts
    raw = bytes((len(namespace),)) + namespace
    raw += len(key).to_bytes(2, "big") + key + len(field).to_bytes(2, "big") + field
    with pytest.raises(Malformed):
        model.slot_parts(raw)


stamp_fields = st.tuples(st.integers(0, (1 << 62) - 1), some.hashes, st.integers(0, (1 << 64) - 1))


@given(stamp_fields, stamp_fields)
def test_stamps_compare_as_their_bytes_do(a: tuple[int, bytes, int], b: tuple[int, bytes, int]) -> None:
    """protocol 2, Stamp: total order, by time, writer, nonce, as big-endian bytes."""
    assert (model.stamp_of(*a) < model.stamp_of(*b)) == (a < b)
    assert model.stamp_parts(model.stamp_of(*a)) == a
    assert model.stamp_time(model.stamp_of(*a)) == a[0]


@given(some.headers)
def test_headers_round_trip(raw: bytes) -> None:
    """protocol 2, Header: canonical: decode, encode, compare."""
    header = model.parse_header(raw)
    again = model.encode_header(
        header.slot,
        header.stamp,
        header.kind,
        header.value_hash,
        header.size,
        header.expires_at_us,
        header.metadata,
    )
    assert again == raw == header.raw
    assert header.digest == model.digest_of(raw)
    assert model.slot_parts(header.slot)[0] == header.namespace
    assert (model.header_slot(raw), model.header_stamp(raw)) == (header.slot, header.stamp)
    assert (model.header_time(raw), model.header_writer(raw)) == (header.time_us, header.writer)
    assert (model.header_value_hash(raw), model.header_expires_at(raw)) == (header.value_hash, header.expires_at_us)
    assert model.header_is_delete(raw) == (header.kind == model.DELETE)


@given(some.headers, st.data())
def test_a_header_has_exactly_its_bytes(raw: bytes, data: st.DataObject) -> None:
    """protocol 2, checks of form: neither a prefix nor a longer string is a header."""
    for wrong in (raw + b"\0", raw[: data.draw(st.integers(0, len(raw) - 1))]):
        with pytest.raises(Malformed):
            model.parse_header(wrong)


@given(some.headers, st.data())
@settings(max_examples=200)
def test_any_bit_flipped_gives_another_header_or_none(raw: bytes, data: st.DataObject) -> None:
    """protocol 2, digest: it covers everything: two headers never share their digest."""
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    flipped = bytearray(raw)
    flipped[bit >> 3] ^= 1 << (bit & 7)
    try:
        header = model.parse_header(bytes(flipped))
    except Malformed:
        return
    original = model.parse_header(raw)
    assert header.digest != original.digest
    names = ("slot", "stamp", "kind", "value_hash", "size", "expires_at_us", "metadata")
    assert any(getattr(header, name) != getattr(original, name) for name in names)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_arbitrary_bytes_are_malformed(data: bytes) -> None:
    """Habit 5: nothing else is raised, whatever the bytes."""
    for parse in (model.parse_header, model.slot_parts):
        with pytest.raises(Malformed):
            parse(data)
    with pytest.raises(Malformed):
        model.parse_header(b"\0\1\0" + data[:80])


SLOT = model.slot_of(b"n", b"k")
STAMP = model.stamp_of(1, bytes(32), 0)


@pytest.mark.parametrize(
    "header",
    [
        b"\1" + model.encode_header(SLOT, STAMP, 0, bytes(32), 0, 0)[1:],
        b"\0\2" + model.encode_header(SLOT, STAMP, 0, bytes(32), 0, 0)[2:],
        b"\0\1\2" + model.encode_header(SLOT, STAMP, 0, bytes(32), 0, 0)[3:],
        model.encode_header(SLOT, STAMP, 1, bytes(32), 1, 0),
        model.encode_header(SLOT, STAMP, 1, bytes(32), 0, 1),
        model.encode_header(SLOT, STAMP, 0, bytes(32), (1 << 20) + 1, 0),
        model.encode_header(SLOT, STAMP, 0, bytes(32), 0, 1 << 62),
        model.encode_header(SLOT, model.stamp_of(1 << 62, bytes(32), 0), 0, bytes(32), 0, 0),
        model.encode_header(SLOT, STAMP, 0, bytes(32), 0, 0, bytes(4097)),
    ],
    ids=[
        "domain",
        "version",
        "kind",
        "delete with a size",
        "delete that expires",
        "size",
        "expiry",
        "time",
        "metadata",
    ],
)
def test_headers_out_of_bounds(header: bytes) -> None:
    """protocol 2: sizes and counts within limits; a delete has no size and no expiry."""
    with pytest.raises(Malformed):
        model.parse_header(header)


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=50), st.binary(min_size=16, max_size=16))
def test_value_hash_covers_the_salt(salt: bytes, value: bytes, other: bytes) -> None:
    """protocol 2, value hash (R): salted, deletes included, so a hash tells nobody a value that can be guessed."""
    assert (model.value_hash_of(salt + value) == model.value_hash_of(other + value)) == (salt == other)
    assert model.value_hash_of(salt + value) != model.digest_of(salt + value)


def test_entries_show_what_they_are_about() -> None:
    """protocol 2, Entry: stamp, time and value as its header and salted value have them."""
    certificate: Any = None
    raw = model.encode_header(SLOT, model.stamp_of(77, bytes(32), 5), 0, bytes(32), 1, 0)
    entry = model.Entry(raw, bytes(16) + b"v", certificate, 0, b"")
    assert (entry.stamp, entry.time_us, entry.value) == (model.stamp_of(77, bytes(32), 5), 77, b"v")
