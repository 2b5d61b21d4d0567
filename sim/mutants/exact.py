"""Mutants of compare-and-set (protocol 17), at nodes and at clients."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from quorumcache.core import admission, exact, exactrecovery
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.exactwrite import ExactWrite
from quorumcache.core.instances import NONE, Instance, Instances
from quorumcache.core.model import parse_header
from quorumcache.core.node import Node
from quorumcache.core.repair import Recovery
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add

_EXACT: Final = ("exact", "contention", "client_crash", "loss")


def _looking(patches: Patches, name: str, change: Any) -> None:
    """Nodes that look at another instance than theirs in `exact.vote` or `exact.lock`: what `change` makes of it."""

    def make(answer: Any) -> Any:
        def mutant(node: Node, request: m.Vote | m.Lock, now_us: int, client: Any) -> m.Reply:
            looked, get = Patches(), Instances.get
            looked.set(Instances, "get", lambda self, slot: change(get(self, slot), request))
            try:
                reply: m.Reply = answer(node, request, now_us, client)
            finally:
                looked.undo()
            return reply

        return mutant

    patches.wrap(exact, name, make)


@add(
    "17, vote rule 4: one header in a ballot, and none below what is promised",
    fast=True,
    features_add=_EXACT,
    features_drop=("revoke",),
)
def _votes_twice(patches: Patches) -> None:
    _looking(patches, "vote", lambda instance, request: msgspec.structs.replace(instance, promised=b"", voted=b""))


@add("17, vote rule 5: another header is locked here", fast=True, features_add=_EXACT, features_drop=("revoke",))
def _lock_ignored_in_votes(patches: Patches) -> None:
    def make(vote: Any) -> Any:
        def mutant(node: Node, request: m.Vote, now_us: int, client: Any) -> m.Reply:
            reply: m.Reply = vote(node, request, now_us, client)
            table = node.slots.instances
            if not isinstance(reply, m.BallotReply) or reply.code != m.LOCKED or table is None:
                return reply
            slot = parse_header(request.header).slot
            locked = table.get(slot)
            table.put(slot, Instance(locked.promised, locked.voted, None))
            again: m.Reply = vote(node, request, now_us, client)
            here = table.get(slot)
            table.put(slot, Instance(here.promised, here.voted, locked.locked))
            return again

        return mutant

    patches.wrap(exact, "vote", make)


@add(
    "17, vote rule 5: what unlocks is a lock of a later ballot",
    features_add=(*_EXACT, "partition"),
    features_drop=("revoke",),
)
def _any_lock_unlocks(patches: Patches) -> None:
    def change(instance: Instance, request: m.Vote) -> Instance:
        if instance.locked is None or not request.lock_ballot:
            return instance
        return msgspec.structs.replace(instance, locked=None)

    _looking(patches, "vote", change)


@add(
    "17, vote rule 5: a lock has q votes",
    features_add=_EXACT,
    features_drop=("revoke",),
    byzantine_nodes=1,
    byzantine_writers=1,
)
def _no_check_of_locks(patches: Patches) -> None:
    patches.set(Verifier, "check_votes", lambda self, configuration, group, root, ballot, votes: None)


@add("17, lock: none below what is promised", features_add=_EXACT, features_drop=("revoke",))
def _lock_below_a_promise(patches: Patches) -> None:
    _looking(patches, "lock", lambda instance, request: msgspec.structs.replace(instance, promised=b""))


@add(
    "17: nothing is prepared in an exact namespace",
    features_add=_EXACT,
    features_drop=("revoke",),
    byzantine_writers=1,
    schemes=("plain_in_exact",),
)
def _prepared_in_exact(patches: Patches) -> None:
    denial = admission.denial
    patches.set(admission, "denial", lambda node, header, now_us, mode="quorum": denial(node, header, now_us, "exact"))
    check = vars(Verifier)["check_header"]

    def checked(self: Verifier, raw: bytes, certificate: Any, configuration: Any, group: Any) -> Any:
        if certificate.ballot:
            return check(self, raw, certificate, configuration, group)
        return parse_header(raw)

    patches.set(Verifier, "check_header", checked)


@add("17: an entry is decided by q grants", fast=True, features_add=_EXACT, features_drop=("revoke",))
def _decided_by_2f(patches: Patches) -> None:
    from quorumcache.core.config_model import Configuration

    def make(method: Any) -> Any:
        def mutant(self: Any, *arguments: Any) -> Any:
            fewer = Patches()
            fewer.set(Configuration, "q", property(lambda c: 2 * c.f))
            try:
                return method(self, *arguments)
            finally:
                fewer.undo()

        return mutant

    patches.wrap(ExactWrite, "_assess", make)
    patches.wrap(ExactWrite, "_certify", make)
    patches.wrap(ExactWrite, "_lock", make)
    patches.wrap(Verifier, "check_certificate", make)
    patches.wrap(Verifier, "check_votes", make)


@add("17, vote rule 1: `after` is what is current", fast=True, features_add=_EXACT, features_drop=("revoke",))
def _kept_after_current_changed(patches: Patches) -> None:
    def make(refused: Any) -> Any:
        def mutant(node: Node, table: Any, request: Any, header: Any, now_us: int) -> Any:
            reply = refused(node, table, request, header, now_us)
            return None if reply is not None and reply.code == m.STALE and now_us % 2 else reply

        return mutant

    patches.wrap(exact, "_refused", make)


@add("17, start: silent until it has asked", features_add=(*_EXACT, "wipe", "ambush"), features_drop=("revoke",))
def _votes_while_it_recovers(patches: Patches) -> None:
    patches.set(Instances, "is_silent", lambda self, slot: False)


@add("17, start: the locks of those who report", fast=True, scenario="lock_forgotten")
def _recovers_without_locks(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Any, active: Any, report: Any, reply: Any) -> None:
            for item in reply.items:
                item.locked = None
            reply.items = [item for item in reply.items if item.entry is not None]
            take(self, active, report, reply)

        return mutant

    patches.wrap(exactrecovery.ExactRecovery, "_take", make)


@add(
    "17, start: not before what was voted for is too old",
    features_add=(*_EXACT, "wipe", "ambush"),
    features_drop=("revoke",),
)
def _recovers_without_waiting(patches: Patches) -> None:
    def make(begin: Any) -> Any:
        def mutant(self: Any, node: Node, started_us: int, *, first_id: int) -> None:
            begin(self, node, started_us, first_id=first_id)
            self._again_us = dict.fromkeys(self._again_us, started_us)
            self.deadline_us = started_us

        return mutant

    patches.wrap(exactrecovery.ExactRecovery, "__init__", make)


@add(
    "17, start: entries too come with the locks, not before",
    features_add=(*_EXACT, "rolling", "ambush"),
    features_drop=("revoke",),
)
def _entries_before_locks(patches: Patches) -> None:
    from quorumcache.core.config_model import Configuration

    def make(conclude: Any) -> Any:
        def mutant(self: Recovery, *arguments: Any) -> None:
            all_alike = Patches()
            all_alike.set(Configuration, "is_exact", lambda configuration, slot: False)
            try:
                conclude(self, *arguments)
            finally:
                all_alike.undo()

        return mutant

    patches.wrap(Recovery, "_conclude", make)


@add("17: what is forgotten leaves a floor", scenario="lost_and_back")
def _forgets_without_a_floor(patches: Patches) -> None:
    patches.set(Instances, "forget", lambda self, slot, now_us: self.put(slot, NONE))


@add(
    "17: nothing is forgotten before its last ballot is old",
    features_add=(*_EXACT, "expire", "delete"),
    features_drop=("revoke",),
)
def _forgets_what_is_young(patches: Patches) -> None:
    patches.set(Instances, "due_us", lambda self, slot: 0)


@add("17, vote rule 3: ballots live for op_time", scenario="old_ballot")
def _ballots_live_for_ever(patches: Patches) -> None:
    def make(refused: Any) -> Any:
        def mutant(node: Node, table: Instances, request: Any, header: Any, now_us: int) -> Any:
            life_us = table.life_us
            table.life_us = 1 << 60
            try:
                return refused(node, table, request, header, now_us)
            finally:
                table.life_us = life_us

        return mutant

    patches.wrap(exact, "_refused", make)
