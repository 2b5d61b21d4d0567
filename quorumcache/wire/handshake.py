"""The opening of a session: both sides agree on keys, and the node proves which node it is.

The client sends a Hello with a fresh X25519 key, the node a Welcome with its own and its ed25519 signature over both
messages. From the shared secret and both messages follow one key per direction, for the tags of frames: whoever is not
the node cannot answer in its name, and nothing can be replayed into another session. Secrecy is TLS's part, not this
one's. It must not know sockets or what is said afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from quorumcache.wire.codec import Unreadable
from quorumcache.wire.frame import Opener, Sealer
from quorumcache.wire.keys import verify

HANDSHAKE_BYTES_MAX: Final = 4096
_TAG: Final = b"quorumcache session 1\x00"
T = TypeVar("T")
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]

# Why a node refuses a session.
OTHER_CLUSTER: Final = 1
OTHER_CONFIGURATION: Final = 2
OTHER_KEY: Final = 3
TOO_MANY: Final = 4
BAD_HELLO: Final = 5


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True, forbid_unknown_fields=True):
    """What a client opens with. `node` is the key it expects to find; `compress` offers compression of large frames."""

    cluster_id: Annotated[str, Meta(max_length=64)]
    configuration: _Key
    node: _Key
    ephemeral: _Key
    compress: bool = False


class Welcome(msgspec.Struct, array_like=True, tag=2, frozen=True, forbid_unknown_fields=True):
    """What a node answers: its fresh key, its clock in microseconds, and `credit_bytes`, how many bytes of requests it
    takes that it has not answered; `compress` accepts the offer. `signature` covers both messages."""

    ephemeral: _Key
    clock_us: Annotated[int, Meta(ge=0, le=1 << 62)]
    credit_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 30)]
    compress: bool
    signature: Annotated[bytes, Meta(max_length=64)] = b""


class Refused(msgspec.Struct, array_like=True, tag=3, frozen=True, forbid_unknown_fields=True):
    """Why a node takes no session. Not signed: good for a message to people, not for a conclusion."""

    code: int
    detail: Annotated[str, Meta(max_length=400)]


_encode: Final = msgspec.msgpack.Encoder().encode
_hello: Final = msgspec.msgpack.Decoder(Hello)
_answer: Final = msgspec.msgpack.Decoder(Welcome | Refused)


class WrongKey(Exception):
    """The peer did not prove the key that was expected."""


class Channel:
    """The two directions of a session, as one side sees them."""

    __slots__ = ("compress", "opener", "sealer")

    def __init__(self, send_key: bytes, receive_key: bytes, compress: bool) -> None:
        self.compress = compress
        self.sealer = Sealer(send_key, compress=compress)
        self.opener = Opener(receive_key, compress=compress)


class Opening:
    """The client's side: `hello` is what to send; `finish` takes the answer. `secret`: 32 random bytes, used once."""

    def __init__(
        self, cluster_id: str, configuration: bytes, node: bytes, secret: bytes, *, compress: bool = False
    ) -> None:
        self._node = node
        self._secret = secret
        self.hello: bytes = _encode(Hello(cluster_id, configuration, node, crypto_scalarmult_base(secret), compress))

    def finish(self, data: bytes) -> tuple[Channel, Welcome] | Refused:
        """The session, or why the node refused. Raises Unreadable for what is neither, WrongKey where the node did not
        prove its key."""
        answer = _decode(_answer, data)
        if isinstance(answer, Refused):
            return answer
        transcript = _transcript(self.hello, answer)
        if not verify(self._node, _TAG + transcript, answer.signature):
            raise WrongKey
        to_node, to_client = _keys(self._secret, answer.ephemeral, transcript)
        return Channel(to_node, to_client, answer.compress), answer


def read_hello(data: bytes) -> Hello:
    """The client's opening message. Raises Unreadable where it is not one."""
    hello = _decode(_hello, data)
    return hello


def welcome(
    hello_data: bytes,
    hello: Hello,
    sign: Callable[[bytes], bytes],
    secret: bytes,
    *,
    clock_us: int,
    credit_bytes: int,
    compress: bool,
) -> tuple[Channel, bytes]:
    """The node's side: the session, and what to send. `secret`: 32 random bytes, used once."""
    unsigned = Welcome(crypto_scalarmult_base(secret), clock_us, credit_bytes, compress and hello.compress)
    transcript = _transcript(hello_data, unsigned)
    signed = msgspec.structs.replace(unsigned, signature=sign(_TAG + transcript))
    to_node, to_client = _keys(secret, hello.ephemeral, transcript)
    return Channel(to_client, to_node, unsigned.compress), _encode(signed)


def refusal(code: int, detail: str) -> bytes:
    """A refusal, as bytes."""
    return _encode(Refused(code, detail[:400]))


def _transcript(hello: bytes, answer: Welcome) -> bytes:
    unsigned = _encode(msgspec.structs.replace(answer, signature=b""))
    return blake2b(len(hello).to_bytes(4, "big") + hello + unsigned, digest_size=32).digest()


def _keys(secret: bytes, ephemeral: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    try:
        shared = crypto_scalarmult(secret, ephemeral)
    except CryptoError:
        raise Unreadable("a peer's session key is not a point that can be used") from None
    return (
        blake2b(b"to node" + transcript, key=shared, digest_size=32).digest(),
        blake2b(b"to client" + transcript, key=shared, digest_size=32).digest(),
    )


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    if len(data) > HANDSHAKE_BYTES_MAX:
        raise Unreadable("an opening message over its bound")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise Unreadable(f"not an opening message: {fault}") from None
