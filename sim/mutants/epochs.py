"""Mutants of epochs (protocol 9): seals, what nodes take along, what those that join ask, and how clients follow."""

from __future__ import annotations

from typing import Any, Final

from quorumcache.core import carrying, membership, onward, seals
from quorumcache.core import messages as m
from quorumcache.core.commits import Commits
from quorumcache.core.ended import Ended
from quorumcache.core.instances import Instances
from quorumcache.core.membership import Membership
from quorumcache.core.onward import CommittedAgain
from quorumcache.core.refusal import PendingWrite
from quorumcache.core.repair import Recovery
from quorumcache.core.seals import Seals
from quorumcache.core.slots import Slots
from quorumcache.core.succession import check_link
from sim.moving import MovingNode, SealMemory
from sim.mutants.base import Catalogue, Patches
from sim.mutants.nodes import commit_rules

catalogue = Catalogue()
add = catalogue.add

_EPOCHS: Final = ("epochs",)
_EXACT: Final = ("epochs", "exact", "contention", "client_crash", "loss")
_BUSY: Final = ("types", "revoke", "wipe", "ambush", "rolling")
#: What would excuse a loss, or hide it.
_QUIET: Final = (
    "wipe",
    "ambush",
    "rolling",
    "evict",
    "expire",
    "delete",
    "lull",
    "few_promises",
    "partition",
    "one_way",
)
_CALM: Final[dict[str, Any]] = {
    "features_drop": (*_QUIET, "one_way", "crash", "slow"),
    "byzantine_nodes": 0,
    "byzantine_writers": 0,
}


# --- seals ---


@add("9: a node that has sealed is silent", fast=True, features_add=_EPOCHS)
def _no_seal(patches: Patches) -> None:
    def mutant(self: Membership) -> None:
        self.ended = Ended(self.node, self._ending)

    patches.set(Membership, "_end", mutant)


@add("9: a node answers in no epoch that has ended", fast=True, features_add=_EPOCHS)
def _old_configuration_accepted(patches: Patches) -> None:
    def mutant(self: Ended, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        return self.node.handle(request, now_us)

    patches.set(Ended, "handle", mutant)


@add("9: an epoch begins with seals of 2f+1 of every group, not of 2f", fast=True, scenario="two_halves")
def _seal_by_2f(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Seals, before: Any, *rest: Any) -> None:
            init(self, before, *rest)
            self._missing = dict.fromkeys(before.groups, before.q - 1)

        return mutant

    patches.wrap(Seals, "__init__", make)


@add("9, 0016.7: the record of seals belongs to the key, and survives all starts", features_add=(*_EPOCHS, "crash"))
def _seal_forgotten(patches: Patches) -> None:
    def make(restart: Any) -> Any:
        def mutant(self: MovingNode, *, wipe: bool) -> None:
            known = {step.successor.configuration.previous for step in self.seal_record.steps}
            sealed = self.seal_record.sealed
            forgotten = {digest: each for digest, each in sealed.items() if digest not in known}
            self.seal_record.sealed = {digest: each for digest, each in sealed.items() if digest in known}
            restart(self, wipe=wipe)
            self.seal_record.sealed.update(forgotten)

        return mutant

    patches.wrap(MovingNode, "restart", make)


@add("9: a node seals each epoch for one successor only after it has noted that", features_add=(*_EPOCHS, "crash"))
def _seal_not_noted(patches: Patches) -> None:
    patches.set(SealMemory, "remember", lambda self, before, successor: None)


# --- what nodes take along ---


@add("9, 0022: a shard in which a node stays keeps its floor", features_add=_EPOCHS, features_drop=("types",))
def _floors_left_behind(patches: Patches) -> None:
    def make(carry: Any) -> Any:
        def mutant(old: Slots, new: Slots, *rest: Any) -> Any:
            carried = carry(old, new, *rest)
            for shard in new.shards:
                if shard.number not in carried.joined:
                    shard.floor_us = 0
            return carried

        return mutant

    patches.wrap(membership, "carry", make)


@add("9, 0022: open promises are kept", fast=True, scenario="stamp_of_before")
def _promises_left_behind(patches: Patches) -> None:
    def make(carry: Any) -> Any:
        def mutant(old: Slots, new: Slots, *rest: Any) -> Any:
            carried = carry(old, new, *rest)
            new.open.clear()
            new.promises.clear()
            return carried

        return mutant

    patches.wrap(membership, "carry", make)


@add(
    "5.5: activating evicts what a revoked writer wrote",
    fast=True,
    features_add=_EPOCHS,
    schemes=("plain", "subset", "hoard"),
    byzantine_writers=1,
)
def _hoard_stays(patches: Patches) -> None:
    def mutant(old: Slots, after: Any, counting: Any) -> dict[bytes, None]:
        held = old.current.items()
        gone = [slot for slot, each in held if each.batch.certificate.configuration not in counting]
        return dict.fromkeys(map(old.place_of, gone))

    patches.set(carrying, "_uncounted", mutant)


# --- rights ---


@add(
    "5.5: a revoked writer is refused at commit, not at prepare alone",
    features_add=(*_EPOCHS, "lateness"),
    features_drop=("types",),
    schemes=("lurk", "hoard"),
    byzantine_writers=2,
)
def _policy_at_prepare_alone(patches: Patches) -> None:
    commit_rules(patches, rights="never")


# --- members that join ---


@add("9, 0022: members that join recover", features_add=_EPOCHS, **_CALM)
def _joins_without_recovery(patches: Patches) -> None:
    def make(begin: Any) -> Any:
        def mutant(self: MovingNode, started_us: int) -> None:
            for number in (number for _, numbers in self.joining for number in numbers):
                self.node.slots.activate(self.node.slots.shards[number])
            begin(self, started_us)

        return mutant

    patches.wrap(MovingNode, "begin_recoveries", make)


@add("9, 0022: q members of the epoch before have to report, not f+1", fast=True, scenario="joined_on_hearsay")
def _joins_from_f_plus_1(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Recovery, node: Any, started_us: int, *, before: Any = None, **more: Any) -> None:
            init(self, node, started_us, before=before, **more)
            if before is not None:
                self._q = before.f + 1

        return mutant

    patches.wrap(Recovery, "__init__", make)


@add("9, 0016.2: who joins takes its floor once it holds the seals", fast=True, scenario="stamp_of_before")
def _joins_with_an_early_floor(patches: Patches) -> None:
    def make(carry: Any) -> Any:
        def mutant(old: Slots, new: Slots, key: bytes, now_us: int, counting: Any) -> Any:
            return carry(old, new, key, now_us - 500_000, counting)

        return mutant

    patches.wrap(membership, "carry", make)
    patches.set(MovingNode, "floor_to_join_us", lambda self, now_us: now_us - 500_000)


# --- compare-and-set ---


@add("17, epochs: what was voted and locked goes along", features_add=_EXACT, features_drop=_BUSY, byzantine_nodes=1)
def _locks_left_behind(patches: Patches) -> None:
    patches.set(Instances, "take_over", lambda self, other: None)


@add(
    "17, epochs: what a revoked writer has locked is dropped, so that nobody finishes it",
    features_add=_EXACT,
    features_drop=(*_BUSY, "evict", "few_promises"),
    byzantine_nodes=0,
    byzantine_writers=1,
    schemes=("leave_locked",),
)
def _revoked_locks_stay(patches: Patches) -> None:
    patches.set(carrying, "_drop_locks", lambda old, after: None)


# --- those that follow ---


@add(
    "9, 0016.8: who follows counts seals, not administrators' signatures alone",
    features_add=_EPOCHS,
    byzantine_nodes=1,
    lies=("unsealed_step", "says_sealed"),
)
def _follows_signatures_alone(patches: Patches) -> None:
    def mutant(step: Any, after: Any, verify: Any) -> Any:
        check_link(step.successor, after, verify)
        return step.successor.configuration

    patches.set(seals, "check_step", mutant)


@add(
    "0016.3: after a commit was sent, nothing else is proposed",
    features_add=(*_EPOCHS, "far"),
    features_drop=("types",),
)
def _proposed_anew_though_sent(patches: Patches) -> None:
    def mutant(new: Any, write: PendingWrite, entry: Any, now_us: int) -> None:
        new.take_up(onward._anew(write))

    patches.set(onward, "_commit_again", mutant)


@add("9: answers of two epochs are never counted together", fast=True, scenario="acks_of_two_epochs")
def _answers_counted_across_epochs(patches: Patches) -> None:
    told: dict[bytes, set[int]] = {}

    def make(committing: Any) -> Any:
        def mutant(self: Commits) -> Any:
            for part in self._commits.values():
                for i in part.positions:
                    told[self._draft.stamps[i]] = set(part.full)
            return committing(self)

        return mutant

    class Keeping(CommittedAgain):
        def __init__(self, new: Any, write: Any, entry: Any, *rest: Any) -> None:
            super().__init__(new, write, entry, *rest)
            self._holders |= told.get(entry.stamp, set())

    patches.wrap(Commits, "committing", make)
    patches.set(onward, "CommittedAgain", Keeping)
