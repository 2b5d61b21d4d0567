"""Portable proofs: an entry and the configuration that it was certified under, in one file that anyone can check.

A proof shows that an authorised writer wrote this value for this key, and that a quorum of the cluster's nodes let it.
It says nothing of what was written later. There is one encoding of each proof: any bit that is changed makes it
invalid. It must not know files or the network.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from quorumcache.core.certificate import Verifier
from quorumcache.core.config import TEXT_CHARS_MAX, Configuration, SignedConfiguration, parse_toml, to_toml
from quorumcache.core.model import DELETE, Entry, Malformed, slot_parts, stamp_parts
from quorumcache.errors import ConfigurationError, InvalidProof
from quorumcache.wire.codec import Unreadable, decode_whole, encode_whole
from quorumcache.wire.keys import verify

FORMAT: Final = "quorumcache proof 1"
#: Within so many bytes of the beginning is the format, in proofs and in evidence.
FORMAT_BYTES_MAX: Final = 64


class _Proof(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    format: Annotated[str, msgspec.Meta(max_length=64)]
    configuration: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
    entry: Entry


@dataclass(frozen=True, slots=True)
class ProvenWrite:
    """What a valid proof says. `value` is None for a delete; times are microseconds since 1970, 0 = never expires.

    `admins` are the public keys that vouch for the configuration, `admins_trusted` whether the caller named them;
    `granted_by` are the names of the nodes whose grants the certificate carries.
    """

    configuration: Configuration
    namespace: str
    key: bytes
    field: bytes
    value: bytes | None
    written_us: int
    expires_at_us: int
    writer: str
    writer_key: bytes
    writer_status: str
    granted_by: tuple[str, ...]
    batch_count: int
    admins: tuple[bytes, ...]
    admins_trusted: bool


def make_proof(entry: Entry, signed: SignedConfiguration) -> bytes:
    """The proof of `entry`, certified under the configuration `signed`. Raises InvalidProof where it proves nothing."""
    proof = encode_whole(_Proof(FORMAT, text_of(signed), entry))
    check_proof(proof)
    return proof


def text_of(signed: SignedConfiguration) -> str:
    """The text of a configuration as proofs carry it. Signatures that count for nothing are left out: every byte of a
    proof has to matter."""
    configuration, message = signed.configuration, signed.signed_message
    good = {admin: s for admin, s in signed.signatures if admin in configuration.admins and verify(admin, message, s)}
    return to_toml(SignedConfiguration(configuration, tuple(good.items())))


def require_trusted(signed: SignedConfiguration, trusted_admins: Collection[bytes] | None) -> None:
    """Raise InvalidProof where administrators are named and too few of them signed the configuration."""
    admins = {admin for admin, _ in signed.signatures}
    if trusted_admins is not None and len(admins & set(trusted_admins)) < signed.configuration.admins_needed:
        raise InvalidProof(
            "the configuration in the proof is not signed by the administrators you trust: "
            "it is of another cluster, or made up"
        )


def check_proof(data: bytes, *, trusted_admins: Collection[bytes] | None = None) -> ProvenWrite:
    """What the proof `data` says; raises InvalidProof, with the reason, where it is not valid.

    `trusted_admins`: public keys (32 bytes each), of which enough must have signed the configuration. Without them the
    proof is only consistent in itself: whether its administrators are the right ones is for the caller to judge.
    """
    try:
        proof = decode_whole(data, _Proof)
    except Unreadable as fault:
        raise InvalidProof(f"the proof cannot be read: {fault}") from None
    if proof.format != FORMAT:
        raise InvalidProof(f"the file is not in the format {FORMAT!r}, but in {proof.format!r}")
    signed = configuration_in(proof.configuration)
    configuration = signed.configuration
    admins = tuple(admin for admin, _ in signed.signatures)
    require_trusted(signed, trusted_admins)
    entry = proof.entry
    if entry.certificate.configuration != configuration.digest:
        raise InvalidProof("the certificate names another configuration than the one in the proof")
    try:
        header = Verifier(verify, [configuration]).check_entry(entry)
        namespace, key, field = slot_parts(header.slot)
    except Malformed as fault:
        raise InvalidProof(f"the entry in the proof is not valid: {fault}") from None
    if configuration.namespace(namespace) is None:
        raise InvalidProof("the configuration in the proof has no such namespace")
    writer = next((w for w in configuration.writers if w.key == header.writer), None)
    if writer is None:
        raise InvalidProof("the configuration in the proof does not list the writer")
    return ProvenWrite(
        configuration,
        namespace.decode("ascii"),
        key,
        field,
        None if header.kind == DELETE else entry.value,
        stamp_parts(header.stamp)[0],
        header.expires_at_us,
        writer.name,
        writer.key,
        writer.status,
        tuple(configuration.nodes[grant.node].name for grant in entry.certificate.grants),
        entry.certificate.count,
        admins,
        trusted_admins is not None,
    )


def configuration_in(text: str) -> SignedConfiguration:
    """The configuration that a proof carries, once its signatures and its form were checked. Raises InvalidProof."""
    try:
        signed = parse_toml(text)
        signed.verify(verify)
    except ConfigurationError as fault:
        raise InvalidProof(f"the configuration in the proof is not valid: {fault}") from None
    # Signatures cover the values, not the text, so the text has to be the one that these values give; and a bad
    # signature beside enough good ones would otherwise be a place where bits may change.
    admins = signed.configuration.admins
    message = signed.signed_message
    if to_toml(signed) != text:
        raise InvalidProof("the configuration in the proof is not in its canonical form")
    if len({admin for admin, _ in signed.signatures}) != len(signed.signatures) or not all(
        admin in admins and verify(admin, message, signature) for admin, signature in signed.signatures
    ):
        raise InvalidProof("the configuration in the proof carries a signature that is not valid")
    return signed
