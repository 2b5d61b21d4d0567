"""What is fuzzed: functions of bytes that may raise what they say they raise, and nothing else.

One target a parser. Where a check is behind signatures or a decoder, a second target makes what comes after it from the
same bytes. It must not know the fuzzer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from quorumcache.core.certificate import Verifier
from quorumcache.core.config import (
    Configuration,
    NamespaceInfo,
    NodeInfo,
    SignedConfiguration,
    WriterInfo,
    canonical,
    parse_toml,
    to_toml,
)
from quorumcache.core.epochmessages import Signed, read_successor
from quorumcache.core.evidence import Equivocation, Proof, SignedHeader, proves
from quorumcache.core.model import PUT, Malformed, digest_of, encode_header, parse_header, slot_of, slot_parts, stamp_of
from quorumcache.core.node import Node
from quorumcache.errors import ConfigurationError, InvalidProof, KeyFileError
from quorumcache.wire import codec, handshake
from quorumcache.wire.codec import Unreadable
from quorumcache.wire.evidence import check_evidence, make_evidence
from quorumcache.wire.frame import Opener, Sealer
from quorumcache.wire.keys import SigningKey, key_from, verify
from quorumcache.wire.proof import check_proof

NOW_US: Final = 1_700_000_000_000_000


def _key(name: str) -> SigningKey:
    return SigningKey(random.Random(name).randbytes(32))


CONFIGURATION: Final = Configuration(
    cluster_id="fuzzed",
    f=1,
    shards=8,
    admins=(_key("admin").public,),
    admins_needed=1,
    nodes=tuple(NodeInfo(i, f"n{i}", _key(f"n{i}").public, f"127.0.0.1:{7000 + i}") for i in range(4)),
    namespaces=(NamespaceInfo("test"), NamespaceInfo("maps", type="map"), NamespaceInfo("some", type="siblings")),
    writers=(WriterInfo("w", _key("w").public),),
)
SIGNED: Final = SignedConfiguration(
    CONFIGURATION,
    ((_key("admin").public, _key("admin").sign(SignedConfiguration(CONFIGURATION, ()).signed_message)),),
)
_OPENING: Final = handshake.Opening("fuzzed", CONFIGURATION.digest, CONFIGURATION.nodes[0].key, bytes(range(32)))


def requests(data: bytes) -> None:
    """What a node decodes, and then handles."""
    try:
        decoded = codec.decode_requests(data)
    except Unreadable:
        return
    node = Node(CONFIGURATION, 0, _key("n0").sign, Verifier(lambda *_: True, [CONFIGURATION]), started_us=None)
    for request in decoded:
        # Behind the digest of the configuration and every signature, both of which no fuzzer guesses.
        known = msgspec.structs.replace(request, configuration=CONFIGURATION.digest)
        for client in (None, b"", _key("w").public):
            codec.encode(node.handle(known, NOW_US, client))


def replies(data: bytes) -> None:
    """What a client decodes."""
    try:
        codec.decode_replies(data)
    except Unreadable:
        return


def headers(data: bytes) -> None:
    """Headers and slots, canonical or refused."""
    try:
        header = parse_header(data)
    except Malformed:
        pass
    else:
        assert header.digest == digest_of(data)
        slot_parts(header.slot)
    try:
        namespace, key, field = slot_parts(data)
    except Malformed:
        return
    assert slot_of(namespace, key, field) == data


def node_opens(data: bytes) -> None:
    """What a node makes of the first messages of a session."""
    try:
        hello = handshake.read_hello(data)
        channel, _ = handshake.welcome(
            data, hello, _key("n0").sign, bytes(range(32)), clock_us=NOW_US, credit_bytes=1 << 20, compress=True
        )
        handshake.check_proof(data, hello, channel)
    except (Unreadable, handshake.WrongKey):
        return


def client_opens(data: bytes) -> None:
    """What a client makes of a node's answer."""
    try:
        _OPENING.finish(data)
    except (Unreadable, handshake.WrongKey):
        return


def frames(data: bytes) -> None:
    """Frames as they come, and their payloads once they are authentic."""
    for opener in (Opener(b"k" * 32), Opener(None)):
        try:
            opener.open(data)
        except Unreadable:
            continue
    sealed = Sealer(b"k" * 32).seal(data[:4096])
    assert Opener(b"k" * 32).open(sealed) == data[:4096]


def configuration(data: bytes) -> None:
    """Cluster files."""
    try:
        signed = parse_toml(data.decode("utf-8", "surrogateescape"))
    except ConfigurationError:
        return
    again = parse_toml(to_toml(signed))
    assert again.configuration.digest == signed.configuration.digest


class _Holder(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    proof: Proof


def successors(data: bytes) -> None:
    """What follows an epoch, as nodes and clients read it from anyone: behind signatures that no fuzzer makes, so here
    all of them count."""
    shown = Signed(data, ((_key("admin").public, bytes(64)),))
    try:
        read_successor(shown, CONFIGURATION, lambda *_: True)
    except ConfigurationError:
        return


def evidence(data: bytes) -> None:
    """Evidence files, and the proofs in them."""
    for check in (check_evidence, check_proof):
        try:
            check(data)  # type: ignore[operator]
        except InvalidProof:
            continue
    try:
        proof = codec.decode_whole(data, _Holder).proof
    except Unreadable:
        return
    known = msgspec.structs.replace(proof, configuration=CONFIGURATION.digest)
    for verifying in (verify, lambda *_: True):
        try:
            proves(known, Verifier(verifying, [CONFIGURATION]))
        except Malformed:
            continue


def key_files(data: bytes) -> None:
    """Key files."""
    try:
        key_from(Path("fuzzed"), data)
        return
    except KeyFileError as fault:
        told = str(fault)
    if data.startswith(b"quorumcache key file 1\n"):
        # No error repeats what may be a secret.
        secret = data.decode("ascii", "replace").rpartition("secret: ")[2][:32]
        assert len(secret) < 32 or secret not in told


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "requests": requests,
    "replies": replies,
    "headers": headers,
    "node-opens": node_opens,
    "client-opens": client_opens,
    "frames": frames,
    "configuration": configuration,
    "successors": successors,
    "evidence": evidence,
    "key-files": key_files,
}


def seeds_of(name: str) -> list[bytes]:
    """A few inputs that are valid, or nearly so: from there the fuzzer goes on."""
    from quorumcache.core import messages as m

    writer = _key("w")
    header, other = (
        encode_header(slot_of(b"test", b"k"), stamp_of(NOW_US, writer.public, 1), PUT, bytes([n]) * 32, 1, 0)
        for n in (1, 2)
    )
    digest, group = CONFIGURATION.digest, next(iter(CONFIGURATION.groups))
    parts = [SignedHeader(raw, group, 1, 0, b"", bytes(64)) for raw in (header, other)]
    proof = Equivocation(digest, parts[0], parts[1])
    slot = slot_of(b"maps", b"k")
    asked: list[m.Request] = [
        m.Prepare(1, digest, group, writer.public, bytes(64), [header]),
        m.Read(2, digest, [slot_of(b"test", b"k"), slot], 0, 2),
        m.ReadFull(3, digest, [slot]),
        m.Report(4, digest, 1),
        m.Outline(5, digest, slot),
        m.Fields(6, digest, slot, b"\0\1", b"", b""),
        m.Scan(7, digest, group, b"test", b"", m.Position(0), 9),
        m.ShardSums(8, digest, 0, 8),
        m.ShardList(9, digest, 0),
        m.Evidence(10, digest),
        m.Witness(11, digest, slot_of(b"test", b"k"), bytes(32)),
        m.Follow(12, digest, True),
        m.SealEpoch(13, digest, Signed(canonical(CONFIGURATION), ()), []),
    ]
    answered: list[m.Reply] = [
        m.PrepareReply(1, NOW_US, b"\1", bytes(64), []),
        m.EvidenceReply(2, NOW_US, [proof], 0),
        m.Reject(3, NOW_US, m.BAD_FORM, "no"),
    ]
    seeds: dict[str, list[bytes]] = {
        "requests": [codec.join([codec.encode(message)]) for message in asked],
        "replies": [codec.join([codec.encode(message)]) for message in answered],
        "headers": [header, slot],
        "node-opens": [_OPENING.hello],
        "configuration": [to_toml(SIGNED).encode()],
        "successors": [canonical(CONFIGURATION)],
        "evidence": [codec.encode_whole(_Holder(proof))],
        "key-files": [b"quorumcache key file 1\nrole: node\npublic: " + b"0" * 64 + b"\nsecret: " + b"0" * 64 + b"\n"],
    }
    if name == "evidence":
        real = []
        for raw in (header, other):
            from quorumcache.core import merkle
            from quorumcache.core.certificate import intent_string

            signature = writer.sign(intent_string(digest, group, merkle.root_of(digest_of(raw))))
            real.append(SignedHeader(raw, group, 1, 0, b"", signature))
        seeds[name].append(make_evidence(Equivocation(digest, real[0], real[1]), SIGNED))
    return seeds.get(name, [b"\x92\x00"])
