"""Intents, grants, certificates: the strings that are signed, and the one verifier of all that is received.

Signing and verifying are injected (`wire/keys.py` has the real ones, the simulator may have others), so this module
knows no cryptography beyond hashing. It must not know messages' flow, slots' state or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from quorumcache.core import ballots, merkle
from quorumcache.core.config import Configuration, Group
from quorumcache.core.lineage import check_lineage, is_ballot
from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    Certificate,
    Entry,
    Grant,
    Header,
    Malformed,
    digest_of,
    header_value_hash,
    parse_header,
    value_hash_of,
)
from quorumcache.core.quorum import is_bitmap

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]

_INTENT_TAG: Final = b"quorumcache intent 1\x00"
_GRANT_TAG: Final = b"quorumcache grant 1\x00"
_VOTE_TAG: Final = b"quorumcache vote 1\x00"
_EXACT_GRANT_TAG: Final = b"quorumcache exact grant 1\x00"
_ONE: Final = b"\x01"
#: For so many epochs a lock outlives the one that it was made in. Each costs who checks a bad signature another one.
EPOCHS_BACK: Final = 4


def intent_string(configuration: bytes, group: bytes, root: bytes) -> bytes:
    """What a writer signs for a batch: tag, configuration digest (32), group (16), root (32)."""
    return b"".join((_INTENT_TAG, configuration, group, root))


def grant_string(configuration: bytes, group: bytes, root: bytes, bitmap: bytes) -> bytes:
    """What a node signs to promise the headers in `bitmap`: tag, configuration digest, group, root, bitmap."""
    return b"".join((_GRANT_TAG, configuration, group, root, bitmap))


def vote_string(configuration: bytes, group: bytes, root: bytes, ballot: bytes) -> bytes:
    """What a node signs to vote for the header under `root` in a ballot (48 bytes; protocol 17)."""
    return b"".join((_VOTE_TAG, configuration, group, root, ballot))


def exact_grant_string(configuration: bytes, group: bytes, root: bytes, ballot: bytes) -> bytes:
    """What a node signs when it has locked the header under `root` in a ballot (protocol 17)."""
    return b"".join((_EXACT_GRANT_TAG, configuration, group, root, ballot))


class Batch(msgspec.Struct, eq=False):
    """A verified certificate as nodes and clients keep it: shared by the entries of its batch. `leaves` holds the
    batch's digests where they are known (then paths can be made), else it is empty. `counts[i]` says how many grants
    promise header i, or is empty where every grant promises all. `held_count` is the number of stored entries that
    share it; `row` is storage's number for it, 0 where it has none. `upper` is the upper part of the tree over the
    leaves, empty until a path was asked for."""

    certificate: Certificate
    leaves: bytes
    counts: bytes
    held_count: int = 0
    row: int = 0
    upper: bytes = b""

    def path_of(self, position: int) -> bytes:
        """The path of the header at this position. `leaves` must be there."""
        if not self.upper:
            self.upper = merkle.upper_of(self.leaves)
        return merkle.path_in(self.leaves, self.upper, position)


class Verifier:
    """Verifies signatures, certificates and entries, and remembers signatures already checked.

    The memory is keyed by signer, signature and the whole signed string: by less than that, a bad signature could
    ride on a cached good one (protocol 2). At most `remembered_max` signatures, oldest out first. `chain` maps digests
    to the configurations whose certificates count.
    """

    def __init__(self, verify: Verify, chain: Sequence[Configuration], *, remembered_max: int = 8192) -> None:
        self.verify = verify
        self._remembered: dict[bytes, None] = {}
        self._remembered_max = remembered_max
        self.chain: dict[bytes, Configuration] = {c.digest: c for c in chain}
        self._same_groups: dict[bytes, list[Configuration]] = {}
        self.verified_count = 0

    def under(self, chain: Sequence[Configuration]) -> Verifier:
        """One for another chain, that checks signatures as this one does."""
        return Verifier(self.verify, chain, remembered_max=self._remembered_max)

    def learn(self, chain: Sequence[Configuration]) -> None:
        """The certificates of these count too."""
        self.chain.update((each.digest, each) for each in chain)
        self._same_groups.clear()

    def remember(self, signer: bytes, message: bytes, signature: bytes) -> None:
        """Note a signature as good: one that was just made, or checked."""
        remembered = self._remembered
        if len(remembered) >= self._remembered_max:
            # Old ones leave in one sweep: popping one at a time from a dict's front is quadratic.
            for key in list(remembered)[: self._remembered_max // 4 + 1]:
                del remembered[key]
        remembered[signer + signature + message] = None

    def is_signed(self, signer: bytes, message: bytes, signature: bytes) -> bool:
        """Whether `signature` (64 bytes) by `signer` (32 bytes) over `message` is good."""
        if len(signature) != 64:
            return False
        if signer + signature + message in self._remembered:
            return True
        self.verified_count += 1
        if not self.verify(signer, message, signature):
            return False
        self.remember(signer, message, signature)
        return True

    def is_ballot_signed(self, signer: bytes, message: bytes, proof: bytes) -> bool:
        """Whether `proof` shows that `signer` signed `message`, a vote or grant of compare-and-set: alone, or together
        with others (core/ballots.py). The length alone says which."""
        if len(proof) == ballots.SIGNATURE_BYTES:
            return self.is_signed(signer, message, proof)
        string = ballots.string_under(message, proof)
        return string is not None and self.is_signed(signer, string, proof[: ballots.SIGNATURE_BYTES])

    def check_certificate(self, certificate: Certificate) -> tuple[Configuration, Group, bytes]:
        """Check form and all signatures of a certificate, but not which headers belong to it.

        Returns its configuration, its group, and how many grants promise each header (one byte per header; empty
        where all grants promise all). Raises Malformed with the reason otherwise.
        """
        configuration = self.chain.get(certificate.configuration)
        if configuration is None:
            raise Malformed("the certificate names a configuration that is not known or no longer counts")
        group = configuration.groups.get(certificate.group)
        if group is None:
            raise Malformed("the certificate names a group that its configuration does not have")
        count = certificate.count
        grants = certificate.grants
        if not 1 <= count <= BATCH_COUNT_MAX or len(certificate.root) != 32 or len(certificate.writer) != 32:
            raise Malformed("the certificate's batch is not of the right form")
        if not configuration.q <= len(grants) <= configuration.n:
            raise Malformed("the certificate has fewer grants than a quorum, or more than the group has nodes")
        full = ((1 << count) - 1).to_bytes((count + 7) >> 3, "little")
        last = -1
        members = group.members
        uneven = False
        for grant in grants:
            if grant.node <= last:
                raise Malformed("the certificate's grants are not from distinct nodes in order")
            last = grant.node
            if last not in members:
                raise Malformed("the certificate has a grant from outside its group")
            if grant.bitmap != full:
                if not is_bitmap(grant.bitmap, count):
                    raise Malformed("a grant's bitmap has not the form that the batch requires")
                uneven = True
        head = (certificate.configuration, certificate.group, certificate.root)
        if not self.is_signed(certificate.writer, intent_string(*head), certificate.signature) and not (
            certificate.ballot and self.is_intended(certificate.writer, group, certificate.root, certificate.signature)
        ):
            raise Malformed("the certificate's intent is not signed by its writer")
        if certificate.ballot:
            if count != 1 or not is_ballot(certificate.ballot):
                raise Malformed("a certificate with a ballot is not of one header, or the ballot is no stamp")
            self.check_ballot(configuration, exact_grant_string(*head, certificate.ballot), grants)
            return configuration, group, b""
        for grant in grants:
            message = grant_string(*head, grant.bitmap)
            if not self.is_signed(configuration.nodes[grant.node].key, message, grant.signature):
                raise Malformed("the certificate has a grant that its node did not sign")
        counts = b""
        if uneven:
            counts = bytes(sum(g.bitmap[i >> 3] >> (i & 7) & 1 for g in grants) for i in range(count))
        return configuration, group, counts

    def check_ballot(self, configuration: Configuration, message: bytes, signed: Sequence[Grant]) -> None:
        """Check what nodes signed in one ballot: votes, or grants. That they are q distinct members is the caller's to
        check."""
        for vote in signed:
            key = configuration.nodes[vote.node].key
            if vote.bitmap != _ONE or not self.is_ballot_signed(key, message, vote.signature):
                raise Malformed("a ballot has a signature that its node did not make")

    def check_votes(
        self, configuration: Configuration, group: Group, root: bytes, ballot: bytes, votes: Sequence[Grant]
    ) -> None:
        """Check a lock certificate: q votes of the group for the header under `root` in a ballot, all of them made in
        one epoch of `same_groups`. Raises Malformed."""
        nodes = [vote.node for vote in votes]
        if nodes != sorted(set(nodes)) or len(nodes) < configuration.q or not set(nodes) <= set(group.members):
            raise Malformed("a lock has not the votes of a quorum of its group")
        for each in self.same_groups(group):
            message = vote_string(each.digest, group.id, root, ballot)
            key = configuration.nodes[votes[0].node].key
            if votes[0].bitmap == _ONE and self.is_ballot_signed(key, message, votes[0].signature):
                self.check_ballot(configuration, message, votes[1:])
                return
        raise Malformed("a ballot has a signature that its node did not make")

    def is_intended(self, writer: bytes, group: Group, root: bytes, signature: bytes) -> bool:
        """Whether the writer signed the intent for the header under `root`, of an exact namespace, in an epoch of
        `same_groups`: a header that was locked in one may be granted in the next, by whoever finishes it."""
        return any(
            self.is_signed(writer, intent_string(each.digest, group.id, root), signature)
            for each in self.same_groups(group)
        )

    def same_groups(self, group: Group) -> list[Configuration]:
        """The configurations that count and have this very group, the latest first, and no more than EPOCHS_BACK: what
        was signed for it in compare-and-set under one of them stands under the next (protocol 17)."""
        found = self._same_groups.get(group.id)
        if found is None:
            latest = sorted(self.chain.values(), key=lambda each: each.epoch, reverse=True)
            found = [each for each in latest if each.groups.get(group.id) == group][:EPOCHS_BACK]
            self._same_groups[group.id] = found
        return found

    def check_intent(self, certificate: Certificate) -> tuple[Configuration, Group]:
        """As `check_certificate`, for what is kept in mode primary (protocol 10): the writer's intent alone, without
        grants. It says nothing in any other mode: `check_signed_header` refuses headers of those."""
        configuration = self.chain.get(certificate.configuration)
        if configuration is None:
            raise Malformed("the signed batch names a configuration that is not known or no longer counts")
        group = configuration.groups.get(certificate.group)
        if group is None:
            raise Malformed("the signed batch names a group that its configuration does not have")
        if (
            not 1 <= certificate.count <= BATCH_COUNT_MAX
            or len(certificate.root) != 32
            or len(certificate.writer) != 32
        ):
            raise Malformed("the signed batch is not of the right form")
        if certificate.grants:
            raise Malformed("what is kept in mode primary has no grants")
        head = (certificate.configuration, certificate.group, certificate.root)
        if not self.is_signed(certificate.writer, intent_string(*head), certificate.signature):
            raise Malformed("the batch is not signed by its writer")
        return configuration, group

    def check_signed_header(
        self, raw: bytes, certificate: Certificate, configuration: Configuration, group: Group
    ) -> Header:
        """As `check_header`, for what has no grants: only in a namespace of mode primary does that count."""
        header = self.check_header(raw, certificate, configuration, group)
        namespace = configuration.namespace(header.namespace)
        if namespace is None or namespace.mode != "primary":
            raise Malformed("an entry without grants, in a namespace where q nodes have to grant it")
        return header

    def check_header(self, raw: bytes, certificate: Certificate, configuration: Configuration, group: Group) -> Header:
        """Parse a header that claims to be of the certificate's batch; its place in the tree is checked elsewhere."""
        header = parse_header(raw)
        if header.writer != certificate.writer:
            raise Malformed("the header's writer is not the intent's signer")
        if configuration.group_of(header.slot) is not group:
            raise Malformed("the header's slot does not belong to the certificate's group")
        if configuration.is_exact(header.slot) != bool(certificate.ballot):
            raise Malformed("exact namespaces, and they alone, have certificates with ballots")
        if certificate.ballot:
            check_lineage(header)
            if certificate.ballot < header.stamp:
                raise Malformed("a ballot below its header's stamp")
        return header

    def check_entry(self, entry: Entry, *, with_value: bool = True, known: Batch | None = None) -> Header:
        """Verify an entry that stands alone, with its path. Without its value where `with_value` is false, as in the
        proof of a refusal. `known`: a batch that was verified, with a certificate equal to this entry's, which needs no
        verifying then. Returns its header; raises Malformed with the reason otherwise."""
        certificate = entry.certificate
        is_signed_only = not certificate.grants
        named = None if known is None else self.chain.get(certificate.configuration)
        if named is not None and known is not None:
            configuration, group, counts = named, named.groups[certificate.group], known.counts
        elif is_signed_only:
            (configuration, group), counts = self.check_intent(certificate), b""
        else:
            configuration, group, counts = self.check_certificate(certificate)
        root = merkle.root_from_path(digest_of(entry.header), entry.position, certificate.count, entry.path)
        if root != certificate.root:
            raise Malformed("the entry's path does not lead to its certificate's root")
        if counts and counts[entry.position] < configuration.q:
            raise Malformed("too few grants promise this header")
        check_header = self.check_signed_header if is_signed_only else self.check_header
        header = check_header(entry.header, certificate, configuration, group)
        if with_value:
            check_value(entry.header, entry.salted)
        return header

    def batch_of(self, entry: Entry) -> Batch:
        """The batch of an entry that `check_entry` found valid, as nodes keep it."""
        certificate = entry.certificate
        return Batch(certificate, b"", self.check_certificate(certificate)[2] if certificate.grants else b"")


def check_value(header: bytes, salted: bytes) -> None:
    """Check salt and value against the header that names their hash and size; raises Malformed."""
    if value_hash_of(salted) != header_value_hash(header) or len(salted) - 16 != int.from_bytes(header[83:87], "big"):
        raise Malformed("the value is not the one that its header names")


def check_value_of(header: Header, salted: bytes) -> None:
    """As `check_value`, for a header that is parsed."""
    if value_hash_of(salted) != header.value_hash or len(salted) - 16 != header.size:
        raise Malformed("the value is not the one that its header names")
