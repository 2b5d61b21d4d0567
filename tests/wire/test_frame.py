"""Frames: whatever happens to one on its way, the session notices."""

import zlib
from hashlib import blake2b
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.wire.codec import PAYLOAD_BYTES_MAX, Unreadable
from quorumcache.wire.frame import COMPRESS_BYTES_MIN, COMPRESSED, HEAD_BYTES, Opener, Sealer

KEY = bytes(range(32))
TEXT = b"a payload that is easy to compress " * 300


def forged(flags: int, length: int, body: bytes, count: int = 0) -> bytes:
    """A frame of one who has the key, and makes of it what the sealer would not."""
    tag = blake2b(pack(">QBI", count, flags, length) + body, key=KEY, digest_size=16).digest()
    return pack(">BI", flags, length) + tag + body


@given(st.lists(st.binary(max_size=200), max_size=5), st.booleans(), st.sampled_from([KEY, None]))
def test_frames_round_trip(payloads: list[bytes], compress: bool, key: bytes | None) -> None:
    """What is sealed in order is opened in order, compressed or not, with tags or without."""
    sealer, opener = Sealer(key, compress=compress), Opener(key, compress=compress)
    for payload in [*payloads, TEXT, b""]:
        assert opener.open(sealer.seal(payload)) == payload


def test_compression_is_for_large_frames_that_gain_by_it() -> None:
    """Frames below 4 KiB, and those that would not shrink, go as they are."""
    sealer = Sealer(KEY, compress=True)
    assert sealer.seal(TEXT)[0] == COMPRESSED
    assert len(sealer.seal(TEXT)) < len(TEXT) // 10
    assert sealer.seal(bytes(COMPRESS_BYTES_MIN - 1))[0] == 0
    noise = b"".join(blake2b(b"%d" % i).digest() for i in range(100))
    assert sealer.seal(noise)[0] == 0
    assert Sealer(KEY).seal(TEXT)[0] == 0


def test_reordered_replayed_and_dropped_frames_are_refused() -> None:
    """The tag counts: a frame opens in its own place only, and again after the refusal."""
    sealer = Sealer(KEY)
    first, second, third = (sealer.seal(b"%d" % i) for i in range(3))
    opener = Opener(KEY)
    for frame in (second, third):
        with pytest.raises(Unreadable):
            opener.open(frame)
    assert opener.open(first) == b"0"
    for frame in (first, third):
        with pytest.raises(Unreadable):
            opener.open(frame)
    assert opener.open(second) == b"1"


def test_a_wrong_key_opens_nothing() -> None:
    """A frame of another session, or of the other direction, is refused."""
    with pytest.raises(Unreadable):
        Opener(bytes(32)).open(Sealer(KEY).seal(b"hello"))


@given(st.binary(max_size=100), st.data())
@settings(max_examples=50)
def test_truncated_and_continued_frames_are_refused(payload: bytes, data: st.DataObject) -> None:
    """A frame that was cut or continued is no frame."""
    frame = Sealer(KEY).seal(payload)
    with pytest.raises(Unreadable):
        Opener(KEY).open(frame[: data.draw(st.integers(0, len(frame) - 1))])
    with pytest.raises(Unreadable):
        Opener(KEY).open(frame + b"\0")


@pytest.mark.parametrize("payload", [b"a small payload", TEXT], ids=["plain", "compressed"])
def test_any_bit_flipped_in_a_frame_is_refused(payload: bytes) -> None:
    """Every bit of a frame is covered by its tag."""
    frame = Sealer(KEY, compress=True).seal(payload)
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(Unreadable):
            Opener(KEY, compress=True).open(bytes(flipped))


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_arbitrary_bytes_raise_only_unreadable(data: bytes) -> None:
    """Habit 5: whatever comes in is a payload or Unreadable."""
    with pytest.raises(Unreadable):
        Opener(KEY, compress=True).open(data)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_without_tags_arbitrary_bytes_raise_only_unreadable_or_are_a_payload(data: bytes) -> None:
    """Habit 5: over TLS a peer's nonsense is its own; it is bounded and clear all the same."""
    try:
        payload = Opener(None, compress=True).open(data)
    except Unreadable:
        return
    assert data[:5] == pack(">BI", 0, len(payload)) or data[0] == COMPRESSED


@pytest.mark.parametrize("change", [-1, 1], ids=["cut", "continued"])
def test_without_tags_a_frame_has_the_length_that_it_says(change: int) -> None:
    """A frame is whole or no frame."""
    frame = Sealer(None).seal(b"payload")
    with pytest.raises(Unreadable):
        Opener(None).open(frame[:-1] if change < 0 else frame + b"\0")
    bomb = pack(">BI", COMPRESSED, 100) + zlib.compress(bytes(1 << 20))
    with pytest.raises(Unreadable):
        Opener(None, compress=True).open(bomb)


@given(st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.binary(max_size=60))
@settings(max_examples=200)
def test_a_peer_with_the_key_can_send_nonsense_too(flags: int, length: int, body: bytes) -> None:
    """Habit 5: the tag says who sent a frame, not that it makes sense."""
    try:
        payload = Opener(KEY, compress=True).open(forged(flags, length, body))
    except Unreadable:
        return
    assert (flags, length, payload) == (0, len(body), body)


def test_a_decompression_bomb_is_refused() -> None:
    """Habit 6: no more is unpacked than the frame says, and it cannot say more than a payload may have."""
    bomb = zlib.compress(bytes(200 << 20), 9)
    for length in (100, PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MAX + 1, (1 << 32) - 1):
        with pytest.raises(Unreadable):
            Opener(KEY, compress=True).open(forged(COMPRESSED, length, bomb))


def test_a_compressed_body_is_exactly_one_stream() -> None:
    """What follows a stream, or is missing of it, or is of another length, is refused."""
    packed = zlib.compress(b"x" * 5000)
    assert Opener(KEY, compress=True).open(forged(COMPRESSED, 5000, packed)) == b"x" * 5000
    for length, body in ((5000, packed + b"y"), (5000, packed[:-1]), (4999, packed), (5001, packed), (1, b"junk")):
        with pytest.raises(Unreadable):
            Opener(KEY, compress=True).open(forged(COMPRESSED, length, body))


def test_compression_has_to_be_agreed_on() -> None:
    """A compressed frame where none was negotiated ends the session."""
    with pytest.raises(Unreadable):
        Opener(KEY).open(forged(COMPRESSED, len(TEXT), zlib.compress(TEXT)))


def test_sizes_are_bounded_on_both_sides() -> None:
    """Habit 6: neither side seals or opens more than a payload may have."""
    with pytest.raises(ValueError):
        Sealer(KEY).seal(bytes(PAYLOAD_BYTES_MAX + 1))
    with pytest.raises(Unreadable):
        Opener(KEY).open(forged(0, PAYLOAD_BYTES_MAX + 1, bytes(PAYLOAD_BYTES_MAX + 1)))
    assert len(Opener(KEY).open(Sealer(KEY).seal(bytes(PAYLOAD_BYTES_MAX)))) == PAYLOAD_BYTES_MAX
    assert len(Sealer(KEY).seal(b"")) == HEAD_BYTES
