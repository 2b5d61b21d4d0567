"""The codec (protocol 2, checks of form): round trips, bounds, and bytes that are nothing."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.core import messages as m
from quorumcache.core.evidence import Equivocation
from quorumcache.core.model import Certificate, Entry, Malformed
from quorumcache.wire import codec
from quorumcache.wire.codec import Unreadable
from tests import strategies as some
from tests.cluster import configuration_of, slot
from tests.making import Alone, Draft


@given(st.lists(some.requests, min_size=1, max_size=3))
@settings(max_examples=60)
def test_requests_round_trip(requests: list[Any]) -> None:
    """Habit 4: what is encoded is what is decoded."""
    assert codec.decode_requests(codec.join([codec.encode(r) for r in requests])) == requests


@given(st.lists(some.replies, min_size=1, max_size=3))
@settings(max_examples=60)
def test_replies_round_trip(replies: list[Any]) -> None:
    """Habit 4: what is encoded is what is decoded."""
    assert codec.decode_replies(codec.join([codec.encode(r) for r in replies])) == replies


def test_a_frame_carries_1_to_256_messages() -> None:
    """Habit 6: counts are bounded on both sides."""
    ping = codec.encode(m.Ping(1, bytes(32)))
    for count in (1, 15, 16, 256):
        assert len(codec.decode_requests(codec.join([ping] * count))) == count
    for count in (0, 257):
        with pytest.raises(ValueError):
            codec.join([ping] * count)
    with pytest.raises(Unreadable):
        codec.decode_requests(b"\xdc\x01\x01" + ping * 257)


def only_unreadable(data: bytes) -> None:
    """Give bytes to each decoder: each returns or raises Unreadable."""
    for decode in (codec.decode_requests, codec.decode_replies):
        try:
            decode(data)
        except Unreadable:
            pass  # The one answer that is expected to nonsense.
    for kind in (Entry, Certificate, Equivocation):
        try:
            assert codec.encode_whole(codec.decode_whole(data, kind)) == data
        except Unreadable:
            pass  # As above.


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_arbitrary_bytes_raise_only_unreadable(data: bytes) -> None:
    """Habit 5: a peer's bytes never raise anything but Unreadable."""
    only_unreadable(data)


@given(st.one_of(some.requests, some.replies), st.data())
@settings(max_examples=150)
def test_damaged_messages_raise_only_unreadable(message: Any, data: st.DataObject) -> None:
    """Habit 5: neither do messages that were altered, cut or continued."""
    payload = bytearray(codec.join([codec.encode(message)]))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    only_unreadable(bytes(payload))
    only_unreadable(bytes(payload[: data.draw(st.integers(0, len(payload)))]))
    with pytest.raises(Unreadable):
        codec.decode_requests(bytes(payload) + b"\0")


def test_deep_nesting_and_large_claims_are_unreadable() -> None:
    """Habit 6: no bytes make the decoder recurse or allocate without bound."""
    for data in (
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x91\x94\x0c\x01\xc6\xff\xff\xff\xff",
        b"\x91\x93\x0c\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc4\x20" + bytes(32),
        bytes(codec.PAYLOAD_BYTES_MAX + 1),
        b"",
    ):
        with pytest.raises(Unreadable):
            codec.decode_requests(data)
        with pytest.raises(Unreadable):
            codec.decode_whole(data, Entry)


def over_bounds() -> dict[str, m.Request | m.Reply]:
    """One message for each bound of the table, with one more than allowed."""
    zero, group, signature = bytes(32), bytes(16), bytes(64)
    draft = Draft(configuration_of()).put()
    certificate = draft.certificate()
    item = m.Item(0, b"", b"")
    bundle = m.Bundle(certificate, b"", [item])
    long_item = m.Item(0, b"", bytes((1 << 20) + 17))
    return {
        "id": m.Ping(1 << 63, zero),
        "negative id": m.Ping(-1, zero),
        "configuration": m.Ping(1, bytes(31)),
        "group": m.Prepare(1, zero, bytes(15), zero, signature, [b""]),
        "writer": m.Prepare(1, zero, group, bytes(33), signature, [b""]),
        "signature": m.Prepare(1, zero, group, zero, bytes(65), [b""]),
        "no headers": m.Prepare(1, zero, group, zero, signature, []),
        "headers": m.Prepare(1, zero, group, zero, signature, [b""] * 1025),
        "header": m.Prepare(1, zero, group, zero, signature, [bytes(7000)]),
        "no bundles": m.Commit(1, zero, []),
        "no items": m.Commit(1, zero, [m.Bundle(certificate, b"", [])]),
        "items": m.Commit(1, zero, [m.Bundle(certificate, b"", [item] * 1025)]),
        "leaves": m.Commit(1, zero, [m.Bundle(certificate, bytes(32 * 1024 + 1), [item])]),
        "value": m.Commit(1, zero, [m.Bundle(certificate, b"", [long_item])]),
        "path": m.Commit(1, zero, [m.Bundle(certificate, b"", [m.Item(0, b"", b"", bytes(321))])]),
        "position": m.Commit(1, zero, [m.Bundle(certificate, b"", [m.Item(1024, b"", b"")])]),
        "slots": m.Read(1, zero, [b"s"] * 1025),
        "no slots": m.Read(1, zero, []),
        "slot": m.Read(1, zero, [bytes(3000)]),
        "values": m.Read(1, zero, [b"s"], 0, 1025),
        "full slots": m.ReadFull(1, zero, [b"s"] * 9),
        "shard": m.Report(1, zero, 1 << 16),
        "clock": m.Pong(1, (1 << 62) + 1),
        "negative clock": m.Pong(1, -1),
        "bitmap": m.PrepareReply(1, 1, bytes(129), b"", []),
        "detail": m.Reject(1, 1, 1, "x" * 401),
        "entries": m.ReportReply(1, 1, 1, [draft.entry()] * 65, False),
        "namespace": m.Scan(1, zero, group, bytes(65), b"", m.Position(0), 1),
        "no namespace": m.Scan(1, zero, group, b"", b"", m.Position(0), 1),
        "prefix": m.Scan(1, zero, group, b"n", bytes(1025), m.Position(0), 1),
        "place": m.Scan(1, zero, group, b"n", b"", m.Position(1 << 16), 1),
        "after": m.Scan(1, zero, group, b"n", b"", m.Position(0, bytes(1025)), 1),
        "no count": m.Scan(1, zero, group, b"n", b"", m.Position(0), 0),
        "count": m.Scan(1, zero, group, b"n", b"", m.Position(0), 1025),
        "keys": m.ScanReply(1, 1, [b"k"] * 1025, b"", None),
        "key": m.ScanReply(1, 1, [bytes(1025)], b"", None),
        "digests": m.ScanReply(1, 1, [b"k"], bytes(32 * 1024 + 1), None),
        "changes": m.ChangesReply(1, 1, 1, 1, [b""] * 1025, False, False),
        "no feed": m.ChangesReply(1, 1, 0, 1, [], False, False),
        "bundles": m.Commit(1, zero, [bundle] * 1025),
    }


@pytest.mark.parametrize("bound", sorted(over_bounds()))
def test_bounds(bound: str) -> None:
    """protocol 2: sizes and counts within limits, for every field of the table."""
    payload = codec.join([codec.encode(over_bounds()[bound])])
    with pytest.raises(Unreadable):
        codec.decode_requests(payload)
    with pytest.raises(Unreadable):
        codec.decode_replies(payload)


@pytest.mark.parametrize("message", [m.Ping(1, bytes(32)), m.Pong(1, 2)], ids=["request", "reply"])
def test_extra_missing_and_unknown_fields(message: Any) -> None:
    """protocol 2: encodings are strict: no field more, none less, no unknown type."""
    fields = msgspec.msgpack.decode(codec.encode(message))
    decode = codec.decode_requests if isinstance(message, m.Request) else codec.decode_replies
    assert decode(msgspec.msgpack.encode([fields])) == [message]
    for wrong in ([*fields, 0], fields[:-1], [99, *fields[1:]], ["x", *fields[1:]], [], [None], None):
        with pytest.raises(Unreadable):
            decode(msgspec.msgpack.encode([wrong]))


def test_requests_are_no_replies() -> None:
    """protocol 3: the two directions have tables of their own."""
    with pytest.raises(Unreadable):
        codec.decode_replies(codec.join([codec.encode(m.Ping(1, bytes(32)))]))
    with pytest.raises(Unreadable):
        codec.decode_requests(codec.join([codec.encode(m.Pong(1, 1))]))


def test_the_table_is_complete() -> None:
    """Habit 10: every request has its reply, and every message its own number."""
    numbers = [kind.__struct_config__.tag for kind in {*m.TABLE, *m.TABLE.values(), m.Reject}]
    assert sorted(numbers) == [*range(1, 28), *range(30, 39), 40, 41, *range(44, 48), 50, 51]


def test_whole_values_are_canonical() -> None:
    """protocol 2: decode, encode, compare: another encoding of the same entry is refused."""
    entry = Draft(configuration_of()).put().entry()
    data = codec.encode_whole(entry)
    assert codec.decode_whole(data, Entry) == entry
    assert data[0] == 0x95
    with pytest.raises(Unreadable, match="canonical"):
        codec.decode_whole(b"\xdc\x00\x05" + data[1:], Entry)


def test_any_bit_flipped_in_an_entry_is_rejected() -> None:
    """protocol 5.1 and 2: each bit of an entry, its certificate included, is covered by a check."""
    alone = Alone()
    data = codec.encode_whole(alone.draft().put("a").put("k", b"value", metadata=b"").entry(1))
    verifier = alone.node.verifier
    verifier.check_entry(codec.decode_whole(data, Entry))
    passed = []
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        try:
            verifier.check_entry(codec.decode_whole(bytes(flipped), Entry))
        except (Unreadable, Malformed):
            continue
        passed.append(bit)
    assert not passed


def test_any_bit_flipped_in_a_prepare_or_commit_stores_nothing_else() -> None:
    """protocol 3: a request with a flipped bit is unreadable, rejected, or (where the bit is its id) the same one."""
    alone = Alone()
    draft = alone.draft().put("k", b"value")
    for request in (draft.prepare(), draft.commit()):
        data = codec.join([codec.encode(request)])
        for bit in range(8 * len(data)):
            flipped = bytearray(data)
            flipped[bit >> 3] ^= 1 << (bit & 7)
            try:
                (changed,) = codec.decode_requests(bytes(flipped))
            except (Unreadable, ValueError):
                continue
            reply = alone.node.handle(changed, alone.now_us)
            if not isinstance(reply, m.Reject):
                assert msgspec.structs.replace(changed, id=request.id) == request
    assert alone.node.slots.open.keys() | alone.node.slots.current.keys() <= {slot("k")}
