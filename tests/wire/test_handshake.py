"""The opening of a session: only the node itself can answer, and nothing can be replayed into another session."""

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.wire import handshake
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.handshake import HANDSHAKE_BYTES_MAX, Channel, Hello, Opening, Refused, Welcome, WrongKey
from tests.cluster import key_of

NODE = key_of("node 0")
CONFIGURATION = bytes(range(32))


def opening(secret: bytes = b"c" * 32, *, compress: bool = False, client: bytes = b"", binding: bytes = b"") -> Opening:
    return Opening("test", CONFIGURATION, NODE.public, secret, compress=compress, client=client, binding=binding)


def answered(
    hello: bytes,
    secret: bytes = b"n" * 32,
    *,
    compress: bool = False,
    sign: Callable[[bytes], bytes] = NODE.sign,
    binding: bytes = b"",
) -> tuple[Channel, bytes]:
    read = handshake.read_hello(hello)
    return handshake.welcome(
        hello, read, sign, secret, clock_us=5, credit_bytes=1 << 20, compress=compress, binding=binding
    )


def test_both_sides_agree() -> None:
    """After Hello and Welcome either side opens what the other seals, each direction with its own key."""
    client = opening()
    hello = handshake.read_hello(client.hello)
    assert (hello.cluster_id, hello.configuration, hello.node) == ("test", CONFIGURATION, NODE.public)
    theirs, welcome = answered(client.hello)
    finished = client.finish(welcome)
    assert not isinstance(finished, Refused)
    ours, said = finished
    assert (said.clock_us, said.credit_bytes) == (5, 1 << 20)
    frame = ours.sealer.seal(b"request")
    with pytest.raises(Unreadable):
        ours.opener.open(frame)
    assert theirs.opener.open(frame) == b"request"
    assert ours.opener.open(theirs.sealer.seal(b"reply")) == b"reply"


@pytest.mark.parametrize("offered", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_compression_needs_both(offered: bool, wanted: bool) -> None:
    """Compression is on where the client offers it and the node accepts."""
    client = opening(compress=offered)
    theirs, welcome = answered(client.hello, compress=wanted)
    finished = client.finish(welcome)
    assert not isinstance(finished, Refused)
    assert finished[0].compress == theirs.compress == (offered and wanted)


def test_another_key_is_not_the_node() -> None:
    """protocol 1: channels are authenticated: whoever cannot sign as the node is not the node."""
    client = opening()
    for sign in (key_of("node 1").sign, lambda message: bytes(64), lambda message: b""):
        with pytest.raises(WrongKey):
            client.finish(answered(client.hello, sign=sign)[1])


def test_a_welcome_for_another_hello_is_refused() -> None:
    """protocol 1: an old answer cannot stand in for a new one: the signature covers both messages."""
    _, welcome = answered(opening(b"1" * 32).hello)
    with pytest.raises(WrongKey):
        opening(b"2" * 32).finish(welcome)


@pytest.mark.parametrize(
    "changed", [{"clock_us": 6}, {"credit_bytes": 1 << 21}, {"compress": True}, {"ephemeral": b"e" * 32}], ids=str
)
def test_an_altered_welcome_is_refused(changed: dict[str, object]) -> None:
    """What the node said about itself is signed."""
    client = opening(compress=True)
    welcome = msgspec.msgpack.decode(answered(client.hello)[1], type=Welcome)
    with pytest.raises(WrongKey):
        client.finish(msgspec.msgpack.encode(msgspec.structs.replace(welcome, **changed)))


def test_an_altered_hello_is_noticed() -> None:
    """Somebody between who changes the Hello gets a signature over what was not sent."""
    client = opening()
    hello = msgspec.msgpack.decode(client.hello, type=Hello)
    altered = msgspec.msgpack.encode(msgspec.structs.replace(hello, compress=True))
    with pytest.raises(WrongKey):
        client.finish(answered(altered)[1])


def test_sessions_have_keys_of_their_own() -> None:
    """A frame of one session does not open in another, even of the same two."""
    channels = []
    for secret in (b"1" * 32, b"2" * 32):
        client = opening(secret)
        theirs, welcome = answered(client.hello)
        finished = client.finish(welcome)
        assert not isinstance(finished, Refused)
        channels.append((finished[0], theirs))
    frame = channels[0][0].sealer.seal(b"request")
    with pytest.raises(Unreadable):
        channels[1][1].opener.open(frame)


@pytest.mark.parametrize(("shown", "signed"), [(b"a" * 32, b"b" * 32), (b"", b"b" * 32), (b"a" * 32, b"")], ids=str)
def test_a_session_is_bound_to_the_connection_that_each_side_sees(shown: bytes, signed: bytes) -> None:
    """Protocol 14: who ends TLS between the two, or strips it on one side, cannot join their sessions."""
    client = opening(binding=shown)
    with pytest.raises(WrongKey):
        client.finish(answered(client.hello, binding=signed)[1])


def test_over_tls_frames_carry_no_tags() -> None:
    """Protocol 14: what is on the connection is the peer's own, in order; without TLS, tags see to that."""
    for binding, more in ((b"a" * 32, 5), (b"", 21)):
        client = opening(binding=binding)
        theirs, welcome = answered(client.hello, binding=binding)
        finished = client.finish(welcome)
        assert not isinstance(finished, Refused)
        frame = finished[0].sealer.seal(b"request")
        assert len(frame) == len(b"request") + more
        assert theirs.opener.open(frame) == b"request"
        assert finished[0].opener.open(theirs.sealer.seal(b"reply")) == b"reply"


def test_a_client_proves_its_key() -> None:
    """Protocol 14: a Proof is a signature of the key that the Hello named, over this very session."""
    writer = key_of("w1")
    client = opening(client=writer.public, binding=b"a" * 32)
    hello = handshake.read_hello(client.hello)
    theirs, welcome = answered(client.hello, binding=b"a" * 32)
    finished = client.finish(welcome)
    assert not isinstance(finished, Refused)
    sent = handshake.proof(finished[0], writer.sign)
    handshake.check_proof(sent, hello, theirs)
    # Of another session of the same two, by another key, or the node's own signature handed back: none is a proof.
    other, _ = answered(client.hello, b"m" * 32, binding=b"a" * 32)
    elsewhere, _ = answered(client.hello, binding=b"b" * 32)
    for channel in (other, elsewhere):
        with pytest.raises(WrongKey):
            handshake.check_proof(sent, hello, channel)
    node_signature = msgspec.msgpack.decode(welcome, type=Welcome).signature
    for sign in (key_of("w2").sign, lambda _: bytes(64), lambda _: node_signature):
        with pytest.raises(WrongKey):
            handshake.check_proof(handshake.proof(finished[0], sign), hello, theirs)
    with pytest.raises(Unreadable):
        handshake.check_proof(sent[:-1], hello, theirs)


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_clients_key_has_32_bytes_or_none(length: int) -> None:
    """Habit 6: keys have one length."""
    with pytest.raises(Unreadable):
        handshake.read_hello(opening(client=bytes(length)).hello)


def test_a_refusal_is_told() -> None:
    """A node that takes no session says why, within bounds."""
    refused = opening().finish(handshake.refusal(handshake.OTHER_CLUSTER, "this is cluster other" + "!" * 500))
    assert isinstance(refused, Refused)
    assert refused.code == handshake.OTHER_CLUSTER
    assert refused.detail.startswith("this is cluster other")


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31)], ids=["zero", "one"])
def test_weak_session_keys_are_refused(point: bytes) -> None:
    """A point of small order would make the session's keys known to anyone."""
    hello = msgspec.msgpack.encode(Hello("test", CONFIGURATION, NODE.public, point))
    with pytest.raises(Unreadable):
        answered(hello)


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_arbitrary_bytes_raise_only_unreadable(data: bytes) -> None:
    """Habit 5: what is no opening message is Unreadable, on either side."""
    client = opening()
    for take in (handshake.read_hello, client.finish):
        with pytest.raises(Unreadable):
            take(data)


@given(st.data())
@settings(max_examples=100)
def test_damaged_openings_raise_nothing_else(data: st.DataObject) -> None:
    """Habit 5: one altered byte makes a Welcome unreadable, unproven, or a refusal; never a session."""
    client = opening()
    welcome = bytearray(answered(client.hello)[1])
    at = data.draw(st.integers(0, len(welcome) - 1))
    welcome[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((Unreadable, WrongKey)):
        client.finish(bytes(welcome))


def test_openings_are_bounded() -> None:
    """Habit 6: an opening message has at most 4 KiB."""
    with pytest.raises(Unreadable):
        handshake.read_hello(bytes(HANDSHAKE_BYTES_MAX + 1))
    with pytest.raises(Unreadable):
        handshake.read_hello(opening().hello + b"\0")
