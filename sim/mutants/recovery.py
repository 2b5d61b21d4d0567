"""Mutants of recovery (protocol 7)."""

from __future__ import annotations

from typing import Any

from quorumcache.core.repair import Recovery
from quorumcache.core.slots import Held, Slots
from sim.disk import Disk
from sim.mutants.base import Catalogue, Patches
from sim.processes import NodeProcess

catalogue = Catalogue()
add = catalogue.add


@add("7: recovery waits 2 op_time before it asks", fast=True, scenario="answered_then_forgot")
def _recovery_does_not_wait(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Recovery, node: Any, started_us: int, **more: Any) -> None:
            init(self, node, started_us, **more)
            self._begin_us = started_us
            self.deadline_us = started_us

        return mutant

    patches.wrap(Recovery, "__init__", make)


@add(
    "7: no reporter is absent with a floor at or above what is stored",
    features_add=("wipe", "evict"),
    lies=("stale", "gossip"),
    byzantine_nodes=1,
    keys=4,
    shards=1,
)
def _recovery_ignores_floors(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: Recovery, active: Any, report: Any, reply: Any) -> None:
            take(self, active, report, reply)
            report.floor_us = 0

        return mutant

    patches.wrap(Recovery, "_take", make)


@add("7: recovery needs 2f+1 reports", fast=True, scenario="two_reports")
def _recovery_from_f_plus_1(patches: Patches) -> None:
    def make(init: Any) -> Any:
        def mutant(self: Recovery, node: Any, started_us: int, **more: Any) -> None:
            init(self, node, started_us, **more)
            self._q = node.configuration.f + 1

        return mutant

    patches.wrap(Recovery, "__init__", make)


def _store(self: Recovery, header: Any, entry: Any, now_us: int) -> None:
    node = self.node
    batch = node.verifier.batch_of(entry)
    held = Held(header.digest, header.raw, entry.salted, batch, entry.position, entry.path)
    if node.slots.store(header.slot, held, now_us):
        node.slots.settle_promises(header.slot, header.stamp)


def _recovering(patches: Patches, rights: str) -> None:
    def mutant(self: Recovery, slot: bytes, reports: list[Any], now_us: int) -> None:
        if slot in self.node.slots.current:
            return
        found = [report.entries[slot] for report in reports if slot in report.entries]
        if rights == "next":
            found = [pair for pair in found if not self.node.configuration.is_revoked(pair[0].writer)]
        if not found:
            return
        header, entry = max(found, key=lambda pair: pair[0].stamp)
        if not any(slot not in r.entries and r.floor_us >= header.time_us for r in reports):
            _store(self, header, entry, now_us)

    patches.set(Recovery, "_recover", mutant)


@add("11, recovery checks rights", fast=True, scenario="revoked_meanwhile")
def _recovery_ignores_rights(patches: Patches) -> None:
    _recovering(patches, "ignored")


@add("7: where the highest is a revoked writer's, not the next-highest", fast=True, scenario="revoked_meanwhile")
def _recovery_takes_next_highest(patches: Patches) -> None:
    _recovering(patches, "next")


@add(
    "7: recovery takes the highest entry of the reports",
    features_add=("wipe", "loss", "lull"),
    lies=("stale", "false_ok"),
    byzantine_nodes=1,
    operations=60,
    keys=4,
    shards=1,
)
def _recovery_takes_any(patches: Patches) -> None:
    def mutant(self: Recovery, slot: bytes, reports: list[Any], now_us: int) -> None:
        if slot not in self.node.slots.current:
            header, entry = next(report.entries[slot] for report in reports if slot in report.entries)
            if not any(slot not in r.entries and r.floor_us >= header.time_us for r in reports):
                _store(self, header, entry, now_us)

    patches.set(Recovery, "_recover", mutant)


# --- what is stored ---


@add("7, end: a store that may have lost its tail is no stored state", features_add=("wipe",), features_drop=("lull",))
def _torn_log_trusted(patches: Patches) -> None:
    patches.set(NodeProcess, "trusts_what_is_left", lambda self: True)


@add(
    "3, end: a promise is durable before its grant is sent",
    features_add=("crash",),
    schemes=("equivocate",),
    byzantine_writers=2,
)
def _restart_forgets_promises(patches: Patches) -> None:
    def make(load: Any) -> Any:
        def mutant(self: Disk, slots: Slots) -> None:
            self.promises.clear()
            load(self, slots)

        return mutant

    patches.wrap(Disk, "load", make)


@add("7: the floor is never lowered, by a restart either", features_add=("crash", "evict"), keys=3)
def _restart_forgets_floors(patches: Patches) -> None:
    def make(load: Any) -> Any:
        def mutant(self: Disk, slots: Slots) -> None:
            load(self, slots)
            for shard in slots.shards:
                shard.floor_us = 0
            slots.floor_max_us = 0

        return mutant

    patches.wrap(Disk, "load", make)
