"""Mutants of nodes: prepare and commit rules, floors, certificates (protocol 2, 3 and 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quorumcache.core import certificate, node, noticing
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string, intent_string
from quorumcache.core.config import Configuration
from quorumcache.core.model import Certificate, Header, Malformed, header_expires_at, header_is_delete
from quorumcache.core.node import Node
from quorumcache.core.promises import Promises
from quorumcache.core.slots import Held, Promise, Slots
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add


@add("1: a quorum is 2f+1", fast=True)
def _quorum_2f(patches: Patches) -> None:
    patches.set(Configuration, "q", property(lambda self: 2 * self.f))


@add(
    "3, rule 2: what is current is granted again only where this node granted it",
    schemes=("equivocate",),
    byzantine_writers=1,
)
def _grant_current_again(patches: Patches) -> None:
    patches.set(noticing, "has_granted", lambda node, held: True)


# --- floors ---


def _drop_without_floor(patches: Patches, when: Callable[[Held, bool], bool]) -> None:
    def make(drop: Any) -> Any:
        def mutant(self: Slots, slot: bytes, *, evicted: bool = False) -> None:
            shard, silent = self.shard(slot), when(self.current[slot], evicted)
            before = shard.floor_us
            drop(self, slot, evicted=evicted)
            if silent:
                shard.floor_us = before

        return mutant

    patches.wrap(Slots, "drop", make)


@add("7: evicting raises the floor", fast=True)
def _no_floor_on_evict(patches: Patches) -> None:
    _drop_without_floor(patches, lambda held, evicted: True)


@add("7: reaping a tombstone raises the floor", features_add=("delete", "lull"), keys=4, shards=1)
def _no_floor_on_reap(patches: Patches) -> None:
    _drop_without_floor(patches, lambda held, evicted: not evicted and header_is_delete(held.header))


@add("7: reaping an expired entry raises the floor", features_add=("expire", "lull"), keys=4, shards=1)
def _no_floor_on_expiry(patches: Patches) -> None:
    _drop_without_floor(patches, lambda held, evicted: not evicted and header_expires_at(held.header) > 0)


@add("11, evict only what is old", fast=True)
def _evict_young(patches: Patches) -> None:
    patches.set(Slots, "_may_go", lambda self, slot, now_us: not self.shard(slot).recovering)


@add("7: a recovering shard evicts nothing", features_add=("evict", "wipe"), keys=4, shards=1)
def _evict_while_recovering(patches: Patches) -> None:
    patches.set(Slots, "_may_go", lambda self, slot, now_us: self.current[slot].time_us < now_us - self.age_us)


@add("3: dropping a promise raises the floor", schemes=("reuse",), byzantine_writers=2, keys=4, operations=40)
def _no_floor_on_promise_drop(patches: Patches) -> None:
    def make(drop: Any) -> Any:
        def mutant(self: Slots, promise: Promise) -> None:
            shard = self.shard(promise.header.slot)
            before = shard.floor_us
            drop(self, promise)
            shard.floor_us = before

        return mutant

    patches.wrap(Promises, "drop_promise", make)


@add("7: the floor is never lowered")
def _floor_goes_down(patches: Patches) -> None:
    def mutant(self: Slots, shard: Any, time_us: int) -> None:
        shard.floor_us = time_us
        self.floor_max_us = max(self.floor_max_us, time_us)

    patches.set(Promises, "raise_floor", mutant)


def _slots_with(patches: Patches, floor: Callable[[int, Configuration], int]) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Slots, configuration: Configuration, *, floor_us: int, **rest: Any) -> None:
            init(self, configuration, floor_us=floor(floor_us, configuration), **rest)

        return mutant

    patches.wrap(Slots, "__init__", make)


@add("7: a start without stored state raises the floor", features_add=("wipe",))
def _restart_floor_zero(patches: Patches) -> None:
    _slots_with(patches, lambda floor_us, configuration: 0)


@add(
    "7: ... to now + 2 max_skew, not to now",
    features_add=("ambush",),
    features_drop=("evict", "few_promises"),
    schemes=("edge", "equivocate"),
)
def _restart_floor_now(patches: Patches) -> None:
    _slots_with(patches, lambda floor_us, configuration: max(0, floor_us - 2 * configuration.max_skew_us))


@add("11, two max_skew at start: one is not enough", fast=True, scenario="edge_of_the_clock")
def _restart_floor_one_skew(patches: Patches) -> None:
    _slots_with(patches, lambda floor_us, configuration: max(0, floor_us - configuration.max_skew_us))


@add("3: promises age out")
def _promises_never_age(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Slots, *arguments: Any, **rest: Any) -> None:
            init(self, *arguments, **rest)
            self.promise_age_us = 1 << 61

        return mutant

    patches.wrap(Slots, "__init__", make)


# --- prepare ---


def _without_refusal(patches: Patches, *codes: int) -> None:
    def make(refusal: Any) -> Any:
        def mutant(self: Node, wanted: Promise, now_us: int) -> m.Refusal | None:
            found: m.Refusal | None = refusal(self, wanted, now_us)
            return None if found is not None and found.code in codes else found

        return mutant

    patches.wrap(Node, "_refusal", make)


@add("3, prepare rule 2: nothing at or below the current stamp is granted", fast=True)
def _grant_stale(patches: Patches) -> None:
    _without_refusal(patches, m.STALE)


@add("3, prepare rule 4: one digest per stamp", fast=True)
def _grant_twice(patches: Patches) -> None:
    _without_refusal(patches, m.EQUIVOCATION)


@add(
    "3, prepare rule 5: nothing at or below the floor is granted",
    features_add=("evict",),
    schemes=("backdate", "plain"),
)
def _grant_below_floor(patches: Patches) -> None:
    _without_refusal(patches, m.BELOW_FLOOR)


@add("3, prepare rule 6: nothing ahead of the clock by more than max_skew is granted")
def _grant_ahead(patches: Patches) -> None:
    _without_refusal(patches, m.AHEAD)


@add("3, prepare rule 1: only writers with the right get grants")
def _grant_anyone(patches: Patches) -> None:
    _without_refusal(patches, m.DENIED)


# --- commit ---


def commit_rules(
    patches: Patches,
    *,
    rights: str = "first",
    older_stays: bool = True,
    floor_counts: bool = True,
    settle_on_evict: bool = True,
    evicted: int = m.EVICTED,
    recovering: int = m.RECOVERING,
) -> None:
    """The commit rules of protocol 3 for registers, with something wrong in them."""
    store = vars(Node)["store"]

    def mutant(self: Node, header: Header, held: Held, now_us: int) -> int:
        slots = self.slots
        if slots.type_of(header.slot) is not None:
            return int(store(self, header, held, now_us))
        slot, stamp = header.slot, header.stamp
        before = slots.current.get(slot)
        if before is not None and before.digest == held.digest:
            return m.OK
        revoked = self.configuration.is_revoked(header.writer)
        if rights == "first" and revoked:
            return m.REVOKED
        if before is not None:
            if stamp <= before.stamp and older_stays:
                return m.OK
        elif floor_counts:
            shard = slots.shard(slot)
            if header.time_us <= shard.floor_us and not any(
                p.header.digest == held.digest for p in slots.open.get(slot, ())
            ):
                if settle_on_evict:
                    slots.settle_promises(slot, stamp)
                return recovering if shard.recovering else evicted
        if rights == "last" and revoked:
            return m.REVOKED
        if not slots.store(slot, held, now_us):
            return m.COMMIT_FULL
        slots.settle_promises(slot, stamp)
        return m.OK

    patches.set(Node, "store", mutant)


@add("3, commit rule 3: the older entry does not replace the newer", fast=True)
def _commit_older(patches: Patches) -> None:
    commit_rules(patches, older_stays=False)


@add("3, commit rule 4: nothing at or below the floor is stored anew", fast=True)
def _commit_below_floor(patches: Patches) -> None:
    commit_rules(patches, floor_counts=False)


@add(
    "11, EVICTED: a node that answers it drops its promises up to the stamp",
    features_add=("evict", "loss"),
    keys=4,
    shards=1,
    schemes=("lurk", "hoard", "flood", "subset"),
    byzantine_writers=2,
    lies=("false_ok", "grant_all", "gossip"),
)
def _evicted_keeps_promises(patches: Patches) -> None:
    commit_rules(patches, settle_on_evict=False)


@add(
    "4, write 4: EVICTED counts",
    features_add=("evict", "far"),
    features_drop=(
        "loss",
        "lateness",
        "partition",
        "one_way",
        "crash",
        "wipe",
        "slow",
        "revoke",
        "ambush",
        "few_promises",
    ),
    keys=4,
    shards=1,
    byzantine_nodes=1,
    lies=("no_commits",),
    op_time_ms=2000,
)
def _evicted_does_not_count(patches: Patches) -> None:
    commit_rules(patches, evicted=m.INVALID)


@add("4, write 4: RECOVERING never counts", fast=True, scenario="late_for_recovery")
def _recovering_counts(patches: Patches) -> None:
    commit_rules(patches, recovering=m.EVICTED)


@add(
    "3, commit rule 2: entries of revoked writers are refused",
    features_add=("revoke",),
    schemes=("lurk", "hoard"),
    byzantine_writers=1,
)
def _commit_ignores_rights(patches: Patches) -> None:
    commit_rules(patches, rights="never")


@add(
    "11, order of the commit rules: rights before what is newer",
    features_add=("revoke", "contention", "lateness"),
    schemes=("lurk", "hoard", "subset"),
    byzantine_writers=1,
    lies=("stale", "gossip"),
)
def _commit_rights_last(patches: Patches) -> None:
    commit_rules(patches, rights="last")


# --- certificates ---


@add("2: grants are signed by their nodes", fast=True)
def _grants_unchecked(patches: Patches) -> None:
    def make(is_signed: Any) -> Any:
        def mutant(self: Verifier, signer: bytes, message: bytes, signature: bytes) -> bool:
            return message.startswith(b"quorumcache grant") or bool(is_signed(self, signer, message, signature))

        return mutant

    patches.wrap(Verifier, "is_signed", make)


@add("2: the signature cache is keyed by the signature too", schemes=("spoil",), byzantine_writers=1, operations=60)
def _cache_without_signature(patches: Patches) -> None:
    def remember(self: Verifier, signer: bytes, message: bytes, signature: bytes) -> None:
        self._remembered[signer + message] = None

    def is_signed(self: Verifier, signer: bytes, message: bytes, signature: bytes) -> bool:
        if signer + message in self._remembered:
            return True
        if not self.verify(signer, message, signature):
            return False
        remember(self, signer, message, signature)
        return True

    patches.set(Verifier, "remember", remember)
    patches.set(Verifier, "is_signed", is_signed)


@add("2: a certificate's grants are of distinct nodes", fast=True)
def _one_signer_many_grants(patches: Patches) -> None:
    def mutant(self: Verifier, found: Certificate) -> tuple[Any, Any, bytes]:
        configuration = self.chain.get(found.configuration)
        group = configuration.groups.get(found.group) if configuration is not None else None
        if configuration is None or group is None or len(found.grants) < configuration.q:
            raise Malformed("not of the right form")
        head = (found.configuration, found.group, found.root)
        if not self.is_signed(found.writer, intent_string(*head), found.signature):
            raise Malformed("the intent is not signed")
        for grant in found.grants:
            if grant.node not in group.members:
                raise Malformed("a grant from outside the group")
            key = configuration.nodes[grant.node].key
            if not self.is_signed(key, grant_string(*head, grant.bitmap), grant.signature):
                raise Malformed("a grant is not signed")
        return configuration, group, b""

    patches.set(Verifier, "check_certificate", mutant)


@add("2: each of the grants has the header's bit set")
def _bitmaps_ignored(patches: Patches) -> None:
    def make(check: Any) -> Any:
        def mutant(self: Verifier, found: Certificate) -> tuple[Any, Any, bytes]:
            configuration, group, _ = check(self, found)
            return configuration, group, b""

        return mutant

    patches.wrap(Verifier, "check_certificate", make)


@add("3: a commit's value is the one that its header names", fast=True)
def _value_unchecked(patches: Patches) -> None:
    patches.set(node, "check_value", lambda header, salted: None)
    patches.set(node, "check_value_of", lambda header, salted: None)
    patches.set(certificate, "check_value", lambda header, salted: None)


# --- reads ---


@add("3, read: expired entries are reported like any other", features_add=("expire",))
def _expired_hidden(patches: Patches) -> None:
    def make(read: Any) -> Any:
        def mutant(self: Node, request: m.Request, now_us: int) -> m.Reply:
            current = self.slots.current
            hidden = {s: h for s, h in current.items() if 0 < header_expires_at(h.header) <= now_us}
            for slot in hidden:
                del current[slot]
            reply: m.Reply = read(self, request, now_us)
            current.update(hidden)
            return reply

        return mutant

    patches.wrap(Node, "_read", make)
    patches.wrap(Node, "_read_full", make)
