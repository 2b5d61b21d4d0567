"""Seals: what nodes sign when an epoch ends for them, and how many of them it takes to go on (protocol 9).

Belongs here: the string that is signed, counting by groups, one node's state between two epochs, and what a client
checks that follows with an old configuration. Who may follow whom is in core/succession.py, what a node takes along in
core/carrying.py. Must not know files, messages or time: signing, verifying and remembering are injected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from quorumcache.core.certificate import Sign, Verify
from quorumcache.core.config_model import Configuration, SignedConfiguration
from quorumcache.core.config_rules import NODES_MAX, fault
from quorumcache.core.succession import CHAIN_MAX, check_link
from quorumcache.errors import ConfigurationError

_SEAL_TAG: Final = b"quorumcache seal 1\x00"

#: Makes durable, before it returns, that the node seals its epoch for this successor; raises where it cannot, or where
#: another is remembered.
Remember = Callable[[SignedConfiguration], None]


def seal_string(before: bytes, successor: bytes) -> bytes:
    """What a node signs to end an epoch: tag, the digest of its configuration (32) and that of its successor (32)."""
    return b"".join((_SEAL_TAG, before, successor))


class Seal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One node's seal: its key (32 bytes) and its signature (64) over `seal_string`."""

    node: bytes
    signature: bytes


class Step(msgspec.Struct, frozen=True):
    """All that shows that a cluster moved on: the successor with its administrators' signatures, and the seals of
    nodes of the epoch before it. It proves itself, so anyone may hand it over."""

    successor: SignedConfiguration
    seals: tuple[Seal, ...]


class Seals:
    """Seals of one epoch for one successor, counted by the groups of that epoch.

    Complete with q of *every* group, not only of those that change: else, of two successors that administrators signed
    against the rules, one group could activate the one and the next group the other.
    """

    def __init__(self, before: Configuration, successor: bytes, verify: Verify) -> None:
        self.before = before
        self.successor = successor
        self._message = seal_string(before.digest, successor)
        self._verify = verify
        self._found: dict[bytes, Seal] = {}
        # Groups by their members: each seal would else have all groups looked through.
        self._missing = dict.fromkeys(before.groups, before.q)
        self._groups_of: dict[int, list[bytes]] = {}
        for group in before.groups.values():
            for member in group.members:
                self._groups_of.setdefault(member, []).append(group.id)

    def add(self, seal: Seal) -> bool:
        """Count a seal. False where it says nothing: of no node of the epoch, not signed by it, for another epoch or
        successor, or counted already."""
        info = self.before.node_by_key(seal.node)
        if info is None or seal.node in self._found or len(seal.signature) != 64:
            return False
        if not self._verify(seal.node, self._message, seal.signature):
            return False
        self._found[seal.node] = seal
        for group in self._groups_of.get(info.index, ()):
            self._missing[group] -= 1
        return True

    @property
    def found(self) -> tuple[Seal, ...]:
        """Those that count, in the order in which they came."""
        return tuple(self._found.values())

    @property
    def lacking(self) -> dict[bytes, int]:
        """How many more are needed of each group that has fewer than q, by the group's id."""
        return {group: count for group, count in self._missing.items() if count > 0}

    @property
    def complete(self) -> bool:
        """Whether the successor may be put to use."""
        return not any(count > 0 for count in self._missing.values())


def check_step(step: Step, after: Configuration, verify: Verify) -> Configuration:
    """The configuration of the next epoch. Raises ConfigurationError unless it may follow `after`, enough
    administrators of both signed it, and q nodes of every group of `after` sealed their epoch for it."""
    check_link(step.successor, after, verify)
    successor = step.successor.configuration
    if len(step.seals) > NODES_MAX:
        raise fault("seals", f"{len(step.seals)} are too many; at most {NODES_MAX}, one of each node")
    seals = Seals(after, successor.digest, verify)
    for seal in step.seals:
        seals.add(seal)
    if not seals.complete:
        lacking = seals.lacking
        raise fault(
            "seals",
            f"{len(seals.found)} of epoch {after.epoch} count, and {len(lacking)} of its {len(after.groups)} groups "
            f"have fewer than {after.q}: the cluster has not moved to epoch {successor.epoch} yet",
        )
    return successor


def follow(trusted: Configuration, steps: Sequence[Step], verify: Verify) -> tuple[Configuration, ...]:
    """The configurations from a trusted one on, itself first, each step checked: what a client does that comes back
    with an old file. Signatures of administrators alone will not do, for keys of long ago may have leaked.

    Raises ConfigurationError for the first step that does not hold, and for more than CHAIN_MAX of them.
    """
    if len(steps) > CHAIN_MAX:
        raise ConfigurationError(f"configuration: {len(steps)} epochs to pass; at most {CHAIN_MAX} at once")
    chain = [trusted]
    for step in steps:
        chain.append(check_step(step, chain[-1], verify))
    return tuple(chain)


class Ending:
    """One node's way out of an epoch: it serves, it has sealed, it may activate the next.

    `key` is the node's. `remembered`: the successor that it sealed for in an earlier life. Each step may be repeated;
    seals may come before the successor does, and then have to be handed over again.
    """

    def __init__(
        self,
        configuration: Configuration,
        key: bytes,
        sign: Sign,
        verify: Verify,
        remember: Remember,
        *,
        remembered: SignedConfiguration | None = None,
    ) -> None:
        self.configuration = configuration
        self.key = key
        self._sign = sign
        self._verify = verify
        self._remember = remember
        self.successor: SignedConfiguration | None = None
        self._seals: Seals | None = None
        self._own: Seal | None = None
        if remembered is not None:
            # What it sealed it was shown whole, so this fails only for a record that is not this node's.
            check_link(remembered, configuration, verify)
            self._seal(remembered)

    @property
    def is_sealed(self) -> bool:
        """Whether the node answers nothing of its epoch any more but what it sealed for."""
        return self.successor is not None

    def seal(self, signed: SignedConfiguration) -> Seal:
        """Seal the epoch: from here on, and over all restarts, it has ended for this node. The same again gives the
        same seal.

        Raises ConfigurationError, and nothing has changed, where it may not follow, is not signed by enough, the node
        sealed for another, or would lose what it promised; and whatever `remember` raises.
        """
        if self.successor is not None and self._own is not None:
            if signed.configuration.digest == self.successor.configuration.digest:
                return self._own
            raise fault(
                "epoch",
                f"this node sealed epoch {self.configuration.epoch} for the successor "
                f"{self.successor.configuration.digest.hex()[:16]}, and seals it for no other: administrators signed "
                "two, which is against the rules. Go on with that one",
            )
        check_link(signed, self.configuration, self._verify)
        check_movable(signed.configuration, self.configuration)
        self._remember(signed)
        return self._seal(signed)

    def _seal(self, signed: SignedConfiguration) -> Seal:
        digest = signed.configuration.digest
        own = Seal(self.key, self._sign(seal_string(self.configuration.digest, digest)))
        seals = Seals(self.configuration, digest, self._verify)
        seals.add(own)
        self.successor, self._seals, self._own = signed, seals, own
        return own

    def take(self, seals: Iterable[Seal]) -> int:
        """Count others' seals for the successor that this node sealed for; returns how many were new and good. Before
        it sealed, none."""
        if self._seals is None:
            return 0
        return sum(self._seals.add(seal) for seal in seals)

    @property
    def lacking(self) -> dict[bytes, int]:
        """How many more seals are needed of which groups, by the group's id; of every group, before it sealed."""
        if self._seals is None:
            return dict.fromkeys(self.configuration.groups, self.configuration.q)
        return self._seals.lacking

    @property
    def seals(self) -> tuple[Seal, ...]:
        """The seals that count so far, the node's own first; none before it sealed."""
        return () if self._seals is None else self._seals.found

    @property
    def step(self) -> Step | None:
        """What shows to anyone that the next epoch has begun; None while that is not so."""
        if self.successor is None or self._seals is None or not self._seals.complete:
            return None
        return Step(self.successor, self._seals.found)


def check_movable(successor: Configuration, before: Configuration) -> None:
    """Raise ConfigurationError where the cluster cannot move to `successor` while it runs, though it may follow.

    Exact namespaces: who joins a group would have to learn what its members voted for, and who stays carries its votes
    and locks along; so they need the same groups. Fewer liars, or other shards: then every member joins anew, and
    nobody is left to ask what was there.
    """
    if successor.f < before.f or successor.shards != before.shards:
        raise fault(
            "f, shards",
            "with fewer faulty nodes to withstand, or another number of shards, every node begins anew: stop all nodes "
            "and start them under the new configuration",
        )
    names = sorted(x.name for x in (*before.namespaces, *successor.namespaces) if x.type == "exact")
    if names and not has_same_groups(successor, before):
        raise fault(
            "nodes",
            f"{names[0]} is exact, and who joins a group cannot take over its locks yet: with exact namespaces the "
            "nodes, their zones and weights stay while they run; writers, rights and quotas may change. Stop all nodes "
            "and start them under the new configuration",
        )


def has_same_groups(successor: Configuration, before: Configuration) -> bool:
    """Whether every shard is served by the same nodes, under the same numbers."""
    if [node.key for node in before.nodes] != [node.key for node in successor.nodes]:
        return False
    return [group.members for group in before.shard_groups] == [group.members for group in successor.shard_groups]
