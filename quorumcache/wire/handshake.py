"""The opening of a session: both sides agree on keys, and each proves who it is.

The client sends a Hello with a fresh X25519 key, the node a Welcome with its own and its ed25519 signature over both
messages and the TLS certificate that it shows; the client, where it has a key, a Proof with its own signature over the
same. Without TLS, one key per direction follows from the shared secret and all of that, for the tags of frames. So
whoever is not the node cannot answer in its name, and nothing can be replayed into another session or relayed over
another connection. Secrecy is TLS's part, not this one's. It must not know sockets or what is said afterwards.
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
_TAG: Final = b"quorumcache session 2\x00"
_CLIENT_TAG: Final = b"quorumcache client 1\x00"
T = TypeVar("T")
_Key = Annotated[bytes, Meta(min_length=32, max_length=32)]

# Why a node refuses a session.
OTHER_CLUSTER: Final = 1
OTHER_CONFIGURATION: Final = 2
OTHER_KEY: Final = 3
TOO_MANY: Final = 4
BAD_HELLO: Final = 5
UNKNOWN_CLIENT: Final = 6


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True, forbid_unknown_fields=True):
    """What a client opens with. `node` is the key it expects to find; `compress` offers compression of large frames;
    `client` is its own key, which it will prove, or empty for a client without one."""

    cluster_id: Annotated[str, Meta(max_length=64)]
    configuration: _Key
    node: _Key
    ephemeral: _Key
    compress: bool = False
    client: Annotated[bytes, Meta(max_length=32)] = b""


class Welcome(msgspec.Struct, array_like=True, tag=2, frozen=True, forbid_unknown_fields=True):
    """What a node answers: its fresh key, its clock in microseconds, and `credit_bytes`, how many bytes of requests it
    takes that it has not answered; `compress` accepts the offer. `signature` covers both messages and the binding."""

    ephemeral: _Key
    clock_us: Annotated[int, Meta(ge=0, le=1 << 62)]
    credit_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 30)]
    compress: bool
    signature: Annotated[bytes, Meta(max_length=64)] = b""


class Refused(msgspec.Struct, array_like=True, tag=3, frozen=True, forbid_unknown_fields=True):
    """Why a node takes no session. Not signed: good for a message to people, not for a conclusion."""

    code: int
    detail: Annotated[str, Meta(max_length=400)]


class Proof(msgspec.Struct, array_like=True, tag=4, frozen=True, forbid_unknown_fields=True):
    """What a client with a key sends next: its signature over what the node's covers."""

    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


_encode: Final = msgspec.msgpack.Encoder().encode
_hello: Final = msgspec.msgpack.Decoder(Hello)
_answer: Final = msgspec.msgpack.Decoder(Welcome | Refused)
_proof: Final = msgspec.msgpack.Decoder(Proof)


class WrongKey(Exception):
    """The peer did not prove the key that was expected."""


class Channel:
    """The two directions of a session, as one side sees them. `claim` is what the client signs to prove its key.
    `client` is that key once it is proven, at the node; empty before, and for a stranger. Without `tags`, frames rest
    on the connection: it is TLS then, and both sides proved that they are at its ends."""

    __slots__ = ("claim", "client", "compress", "opener", "sealer")

    def __init__(self, send_key: bytes, receive_key: bytes, compress: bool, claim: bytes, *, tags: bool) -> None:
        self.compress = compress
        self.claim = claim
        self.client = b""
        self.sealer = Sealer(send_key if tags else None, compress=compress)
        self.opener = Opener(receive_key if tags else None, compress=compress)


class Opening:
    """The client's side: `hello` is what to send; `finish` takes the answer; with a key, `proof` is what to send then.

    `secret`: 32 random bytes, used once. `client`: the public key that will be proven, or empty. `binding`: what the
    connection is bound to, the same on both sides: the hash of the node's TLS certificate; empty without TLS.
    """

    def __init__(
        self,
        cluster_id: str,
        configuration: bytes,
        node: bytes,
        secret: bytes,
        *,
        compress: bool = False,
        client: bytes = b"",
        binding: bytes = b"",
    ) -> None:
        self._node = node
        self._secret = secret
        self._binding = binding
        ephemeral = crypto_scalarmult_base(secret)
        self.hello: bytes = _encode(Hello(cluster_id, configuration, node, ephemeral, compress, client))

    def finish(self, data: bytes) -> tuple[Channel, Welcome] | Refused:
        """The session, or why the node refused. Raises Unreadable for what is neither, WrongKey where the node did not
        prove its key."""
        answer = _decode(_answer, data)
        if isinstance(answer, Refused):
            return answer
        transcript = _transcript(self.hello, answer, self._binding)
        if not verify(self._node, _TAG + transcript, answer.signature):
            raise WrongKey
        to_node, to_client = _keys(self._secret, answer.ephemeral, transcript)
        claim = _CLIENT_TAG + transcript
        return Channel(to_node, to_client, answer.compress, claim, tags=not self._binding), answer


def proof(channel: Channel, sign: Callable[[bytes], bytes]) -> bytes:
    """What a client sends to prove the key that its Hello named."""
    return _encode(Proof(sign(channel.claim)))


def check_proof(data: bytes, hello: Hello, channel: Channel) -> None:
    """Note who the client is. Raises Unreadable for what is no proof, WrongKey for one of another key than named."""
    if not verify(hello.client, channel.claim, _decode(_proof, data).signature):
        raise WrongKey
    channel.client = hello.client


def read_hello(data: bytes) -> Hello:
    """The client's opening message. Raises Unreadable where it is not one."""
    hello = _decode(_hello, data)
    if len(hello.client) not in (0, 32):
        raise Unreadable(f"a client's key of {len(hello.client)} bytes")
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
    binding: bytes = b"",
) -> tuple[Channel, bytes]:
    """The node's side: the session, and what to send. `secret`: 32 random bytes, used once; `binding` as in Opening."""
    unsigned = Welcome(crypto_scalarmult_base(secret), clock_us, credit_bytes, compress and hello.compress)
    transcript = _transcript(hello_data, unsigned, binding)
    signed = msgspec.structs.replace(unsigned, signature=sign(_TAG + transcript))
    to_node, to_client = _keys(secret, hello.ephemeral, transcript)
    claim = _CLIENT_TAG + transcript
    return Channel(to_client, to_node, unsigned.compress, claim, tags=not binding), _encode(signed)


def refusal(code: int, detail: str) -> bytes:
    """A refusal, as bytes."""
    return _encode(Refused(code, detail[:400]))


def _transcript(hello: bytes, answer: Welcome, binding: bytes) -> bytes:
    unsigned = _encode(msgspec.structs.replace(answer, signature=b""))
    lengths = len(hello).to_bytes(4, "big") + len(binding).to_bytes(4, "big")
    return blake2b(lengths + hello + binding + unsigned, digest_size=32).digest()


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
