"""Mutants of anti-entropy (protocol 8), and of values that only the disk has."""

from __future__ import annotations

from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.entropy import AntiEntropy
from quorumcache.core.journal import Journal
from quorumcache.core.model import parse_header
from quorumcache.core.node import Node
from quorumcache.core.slots import Held, Slots
from quorumcache.core.values import Values
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add

_LIARS: Final[dict[str, Any]] = {"byzantine_nodes": 1, "keys": 3, "shards": 2}


@add("8: what a peer sends is verified before it is stored", fast=True, features_add=("repair",), **_LIARS)
def _repair_unverified(patches: Patches) -> None:
    def make(store: Any) -> Any:
        def mutant(self: AntiEntropy, entry: Any, slot: Any, now_us: int) -> None:
            unchecked = Patches()
            unchecked.set(Verifier, "check_entry", lambda self, entry, **_: parse_header(entry.header))
            try:
                store(self, entry, slot, now_us)
            finally:
                unchecked.undo()

        return mutant

    patches.wrap(AntiEntropy, "_store", make)


def _storing(patches: Patches, rule: Any) -> None:
    """Anti-entropy that stores verified entries of registers by a rule of its own."""

    def make(store: Any) -> Any:
        def mutant(self: AntiEntropy, entry: Any, slot: Any, now_us: int) -> None:
            node = self.node
            header = node.verifier.check_entry(entry)
            if node.slots.type_of(header.slot) is None and rule(node, header):
                batch = node.verifier.batch_of(entry)
                held = Held(header.digest, header.raw, entry.salted, batch, entry.position, entry.path)
                if node.slots.store(header.slot, held, now_us):
                    node.slots.settle_promises(header.slot, header.stamp)
            else:
                store(self, entry, slot, now_us)

        return mutant

    patches.wrap(AntiEntropy, "_store", make)


@add(
    "8: what is at or below the floor is not taken",
    fast=True,
    features_add=("repair", "delete", "lull"),
    **_LIARS,
)
def _repair_ignores_floor(patches: Patches) -> None:
    _storing(patches, lambda node, header: header.slot not in node.slots.current)


@add("8: an older entry does not replace a newer", fast=True, features_add=("repair",), **_LIARS)
def _repair_takes_older(patches: Patches) -> None:
    _storing(patches, lambda node, header: True)


@add("8: repair checks rights, as commit does", features_add=("repair", "revoke"), byzantine_writers=1, **_LIARS)
def _repair_ignores_rights(patches: Patches) -> None:
    def rule(node: Node, header: Any) -> bool:
        return node.configuration.is_revoked(header.writer) and header.slot not in node.slots.current

    _storing(patches, rule)


@add(
    "8: what a peer does not name is kept: a summary proves nothing",
    fast=True,
    features_add=("repair",),
    **_LIARS,
)
def _repair_drops_what_a_peer_lacks(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: AntiEntropy, request: m.ShardList, reply: m.ShardListReply) -> None:
            take(self, request, reply)
            slots = self.node.slots
            named = {item.slot for item in reply.items}
            for slot in list(slots.shards[request.shard].slots):
                if slot > request.after and slot not in named and slot not in slots.keys:
                    held = slots.current[slot]
                    if slots.journal is not None:
                        slots.journal.entries.setdefault(slot, held)
                    slots._remove(slot)

        return mutant

    patches.wrap(AntiEntropy, "_take_names", make)


@add("8: nodes with different shards ask each other for what is in them", features_add=("repair", "loss"))
def _repair_trusts_its_peers_digests(patches: Patches) -> None:
    def mutant(self: AntiEntropy, request: m.ShardSums, reply: m.ShardSumsReply) -> None:
        self._to_sum.clear()

    patches.set(AntiEntropy, "_take_sums", mutant)


@add(
    "8, 6: a large key's buckets that differ are asked for",
    features_add=("repair", "loss", "types", "large"),
    features_drop=("far",),
    keys=1,
)
def _repair_skips_buckets(patches: Patches) -> None:
    patches.set(AntiEntropy, "_want_buckets", lambda self, slot, buckets: None)


@add("7: a node that recovers does not vouch for what it lost", features_add=("rolling", "repair"), keys=3)
def _restart_without_floor(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Slots, configuration: Any, *, floor_us: int, **options: Any) -> None:
            init(self, configuration, floor_us=0, **options)

        return mutant

    patches.wrap(Slots, "__init__", make)


@add("storage: a value leaves memory only when it is stored", fast=True, features_add=("cold",))
def _value_leaves_before_it_is_stored(patches: Patches) -> None:
    def make(clear: Any) -> Any:
        def mutant(self: Slots, slot: bytes, held: Held) -> None:
            clear(self, slot, held)
            if self.values is not None and held.salted and held in self.values._hot[0]:
                self.values._cool(held, self.values._hot[0])

        return mutant

    patches.wrap(Slots, "_enter", make)


@add("storage: a value that is fetched is that of its entry", features_add=("cold",))
def _values_of_another(patches: Patches) -> None:
    def make(warm: Any) -> Any:
        last: list[bytes] = []

        def mutant(self: Values, held: Held, salted: bytes) -> None:
            warm(self, held, last[0] if last else salted)
            last[:] = [salted]

        return mutant

    patches.wrap(Values, "warm", make)


@add("3, end: what anti-entropy took is as durable as what was committed", scenario="taken_and_lost")
def _repair_is_not_journaled(patches: Patches) -> None:
    def make(store: Any) -> Any:
        def mutant(self: AntiEntropy, entry: Any, slot: Any, now_us: int) -> None:
            journal = self.node.slots.journal
            self.node.slots.journal = Journal()
            try:
                store(self, entry, slot, now_us)
            finally:
                self.node.slots.journal = journal

        return mutant

    patches.wrap(AntiEntropy, "_store", make)
