"""Evidence files: a proof of misbehaviour and the configuration that it is about, in one file that anyone can check.

A file shows that a writer, or a node, signed two things of which nobody correct signs both. There is one encoding of
each: any bit that is changed makes it invalid. It must not know files or the network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Final

import msgspec

from quorumcache.core.certificate import Verifier
from quorumcache.core.config import TEXT_CHARS_MAX, Configuration, SignedConfiguration
from quorumcache.core.evidence import Proof, Retraction, Verdict, Witnessed, proves
from quorumcache.core.model import HEADER_BYTES_MAX, Malformed, slot_parts
from quorumcache.errors import InvalidProof
from quorumcache.wire.codec import Unreadable, decode_whole, encode_whole
from quorumcache.wire.keys import verify
from quorumcache.wire.proof import configuration_in, require_trusted, text_of

FORMAT: Final = "quorumcache evidence 1"
MEMORY_FORMAT: Final = "quorumcache answers 1"
#: No file is larger: the text of a configuration, and two headers with what is signed over them.
EVIDENCE_BYTES_MAX: Final = 4 * TEXT_CHARS_MAX + 2 * (HEADER_BYTES_MAX + 4096)


class _File(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    format: Annotated[str, msgspec.Meta(max_length=64)]
    configuration: Annotated[str, msgspec.Meta(max_length=TEXT_CHARS_MAX)]
    proof: Proof


@dataclass(frozen=True, slots=True)
class Conviction:
    """What a valid evidence file says: `role` ("writer" or "node"), name and key of whom it convicts, of what
    (`offence`), in which slot; the proof itself. `admins` are the public keys that vouch for the configuration,
    `admins_trusted` whether the caller named them."""

    configuration: Configuration
    role: str
    name: str
    key: bytes
    offence: str
    namespace: str
    slot_key: bytes
    field: bytes
    stamp: bytes
    proof: Proof
    admins: tuple[bytes, ...]
    admins_trusted: bool

    @property
    def file_name(self) -> str:
        """A name for the file that says whom it convicts; the same for each proof against that key of that kind."""
        kind = type(self.proof).__name__.lower()
        mark = blake2b(self.key + self.configuration.digest, digest_size=4).hexdigest()
        return f"{self.role}-{self.name}-{kind}-{mark}.evidence"


def make_evidence(proof: Proof, signed: SignedConfiguration) -> bytes:
    """The evidence file of a proof under the configuration `signed`. Raises InvalidProof where it convicts nobody."""
    data = encode_whole(_File(FORMAT, text_of(signed), proof))
    check_evidence(data)
    return data


def check_evidence(data: bytes, *, trusted_admins: Collection[bytes] | None = None) -> Conviction:
    """Whom the evidence file `data` convicts; raises InvalidProof, with the reason, where it convicts nobody.

    `trusted_admins`: public keys (32 bytes each), of which enough must have signed the configuration. Without them the
    file is only consistent in itself: whether its administrators are the right ones is for the caller to judge.
    """
    if len(data) > EVIDENCE_BYTES_MAX:
        raise InvalidProof(f"no evidence file has more than {EVIDENCE_BYTES_MAX} bytes")
    try:
        file = decode_whole(data, _File)
    except Unreadable as fault:
        raise InvalidProof(f"the evidence cannot be read: {fault}") from None
    if file.format != FORMAT:
        raise InvalidProof(f"the file is not in the format {FORMAT!r}, but in {file.format!r}")
    signed = configuration_in(file.configuration)
    require_trusted(signed, trusted_admins)
    configuration = signed.configuration
    try:
        verdict = proves(file.proof, Verifier(verify, [configuration]))
        namespace, key, field = slot_parts(verdict.slot)
    except Malformed as fault:
        raise InvalidProof(f"the evidence convicts nobody: {fault}") from None
    return Conviction(
        configuration,
        verdict.role,
        name_of(configuration, verdict),
        verdict.key,
        verdict.offence,
        namespace.decode("ascii", "backslashreplace"),
        key,
        field,
        verdict.stamp,
        file.proof,
        tuple(admin for admin, _ in signed.signatures),
        trusted_admins is not None,
    )


class _Memory(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    format: Annotated[str, msgspec.Meta(max_length=64)]
    configuration: Annotated[bytes, msgspec.Meta(max_length=32)]
    witnessed: Annotated[list[tuple[int, Witnessed]], msgspec.Meta(max_length=10_000)]


class Recollection:
    """Signed answers as bytes, from one audit of a cluster to the next."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def dump(self, memory: Mapping[tuple[int, bytes], Witnessed]) -> bytes:
        """The bytes of what nodes signed: by node's index and slot."""
        found = [(node, witnessed) for (node, _), witnessed in sorted(memory.items())]
        return encode_whole(_Memory(MEMORY_FORMAT, self._configuration.digest, found))

    def load(self, data: bytes) -> dict[tuple[int, bytes], Witnessed]:
        """The inverse; of another configuration nothing is remembered. Raises InvalidProof for what is no such file."""
        try:
            memory = decode_whole(data, _Memory)
        except Unreadable as fault:
            raise InvalidProof(f"what nodes signed cannot be read: {fault}") from None
        if memory.format != MEMORY_FORMAT:
            raise InvalidProof(f"the file is not in the format {MEMORY_FORMAT!r}, but in {memory.format!r}")
        if memory.configuration != self._configuration.digest:
            return {}
        count = len(self._configuration.nodes)
        return {(node, w.slot): w for node, w in memory.witnessed if 0 <= node < count}


def name_of(configuration: Configuration, verdict: Verdict) -> str:
    """The name that the configuration has for whom a verdict convicts; "unknown" for a key that it does not list."""
    if verdict.role == "node":
        node = configuration.node_by_key(verdict.key)
        return "unknown" if node is None else node.name
    return next((w.name for w in configuration.writers if w.key == verdict.key), "unknown")


def signed_headers(proof: Proof) -> tuple[bytes, bytes]:
    """The two headers that a proof is about; one may be empty, in a retraction."""
    first, second = proof.first, proof.second
    return first.header, second.header


def is_retraction(proof: Proof) -> bool:
    """Whether a proof is about what a node took back."""
    return isinstance(proof, Retraction)
