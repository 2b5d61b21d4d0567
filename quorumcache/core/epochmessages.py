"""The messages by which a cluster goes from one epoch to the next (protocol 9): what is signed for it travels here.

Shapes and bounds, and configurations as bytes and back: these are checked before they are read, since anyone may send
them. What nodes do with the messages is in membership.py, what clients do in following.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from quorumcache.core.config import Configuration, SignedConfiguration, canonical, from_document
from quorumcache.core.config_model import CONFIGURATION_TAG
from quorumcache.core.config_rules import ADMINS_MAX, DIGEST_BYTES, NODES_MAX, fault
from quorumcache.core.seals import Seal, Step
from quorumcache.core.shapes import Hash, Reply, Request, Signature
from quorumcache.core.succession import Verify
from quorumcache.errors import ConfigurationError

#: A configuration as canonical JSON: a thousand writers take about 200 KiB.
DOCUMENT_BYTES_MAX: Final = 4 << 20
#: Steps in one reply; who is further behind asks again.
STEPS_MAX: Final = 64
#: Beyond so many bytes of configurations a reply takes no more; the first is always in it.
STEPS_BYTES_MAX: Final = 2 << 20

Document = Annotated[bytes, Meta(max_length=DOCUMENT_BYTES_MAX)]
SealList = Annotated[list[Seal], Meta(max_length=NODES_MAX)]


class Signed(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A configuration, as the canonical bytes that its digest covers, with (administrator's key, signature) pairs."""

    document: Document
    signatures: Annotated[tuple[tuple[Hash, Signature], ...], Meta(max_length=ADMINS_MAX)]


class Shown(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A successor, and seals for it of nodes of the epoch before: with enough of them, a step of the chain."""

    successor: Signed
    seals: SealList


class Follow(Request, tag=24):
    """What came after the configuration that I work under? With `history`, also: what came before it?"""

    history: bool = False


class FollowReply(Reply, tag=25):
    """The steps from there on, the oldest first, as far as they find room; the successor that the node itself sealed
    its epoch for, while it waits for others' seals; the configurations before, the latest first."""

    steps: Annotated[list[Shown], Meta(max_length=STEPS_MAX)]
    sealed: Shown | None
    before: Annotated[list[Document], Meta(max_length=STEPS_MAX)]


class SealEpoch(Request, tag=26):
    """End the epoch of the configuration that the request names, for this successor; these seals there are already."""

    successor: Signed
    seals: SealList


class SealReply(Reply, tag=27):
    """The node has sealed: all seals that it knows, its own among them. `begun`: it is in the next epoch, or a later
    one."""

    seals: SealList
    begun: bool


def signed_of(signed: SignedConfiguration) -> Signed:
    """A configuration with its signatures, to be sent."""
    return Signed(canonical(signed.configuration), signed.signatures)


def digest_of_document(document: bytes) -> bytes:
    """The digest of the configuration with these canonical bytes."""
    return blake2b(CONFIGURATION_TAG + document, digest_size=DIGEST_BYTES).digest()


def read_document(document: bytes) -> Configuration:
    """The configuration with these canonical bytes; raises ConfigurationError. For what somebody vouches for: reading
    takes time, and the form of what is read says nothing of who wrote it."""
    try:
        configuration = from_document(json.loads(document.decode("ascii")))
    except (ValueError, RecursionError, AttributeError) as problem:
        raise ConfigurationError(f"configuration: not in the form in which it is sent: {problem}") from None
    if configuration.digest != digest_of_document(document):
        raise ConfigurationError("configuration: not in the one form that its digest covers")
    return configuration


def read_successor(signed: Signed, after: Configuration, verify: Verify) -> SignedConfiguration:
    """The successor that was sent. Before it is read, enough administrators of `after` have to vouch for it. Raises
    ConfigurationError; whether it may follow is for `check_link` to say."""
    message = CONFIGURATION_TAG + digest_of_document(signed.document)
    given = dict(signed.signatures)
    vouching = sum(key in given and verify(key, message, given[key]) for key in after.admins)
    if vouching < after.admins_needed:
        raise fault(
            "signatures",
            f"{vouching} of the administrators of epoch {after.epoch} signed what was sent as its successor, "
            f"{after.admins_needed} have to",
        )
    return SignedConfiguration(read_document(signed.document), signed.signatures)


def shown(step: Step) -> Shown:
    """A step, to be sent."""
    return Shown(signed_of(step.successor), list(step.seals))


def read_steps(steps: Sequence[Shown], after: Configuration, verify: Verify) -> list[Step]:
    """Steps that were sent, the first of which follows `after`. Raises ConfigurationError for the first that cannot be
    read; the seals are for `follow` to count."""
    found: list[Step] = []
    for each in steps:
        successor = read_successor(each.successor, after, verify)
        found.append(Step(successor, tuple(each.seals)))
        after = successor.configuration
    return found


def packed(steps: Sequence[Step]) -> list[Shown]:
    """As many of these steps as a reply takes."""
    found: list[Shown] = []
    size = 0
    for step in steps[:STEPS_MAX]:
        each = shown(step)
        size += len(each.successor.document) + 160 * len(each.seals)
        if found and size > STEPS_BYTES_MAX:
            break
        found.append(each)
    return found


def packed_documents(configurations: Sequence[Configuration]) -> list[bytes]:
    """As many of these configurations as a reply takes."""
    found: list[bytes] = []
    size = 0
    for configuration in configurations[:STEPS_MAX]:
        document = canonical(configuration)
        size += len(document)
        if found and size > STEPS_BYTES_MAX:
            break
        found.append(document)
    return found
