"""Mutants of listings (protocol 4, scan)."""

from __future__ import annotations

from typing import Any

from quorumcache.core.outcome import Listed
from quorumcache.core.scan import ScanPart
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add


@add("4, scan 3: a key that fewer than q nodes list alike is read before it is listed", byzantine_nodes=1)
def _listing_believes_anyone(patches: Patches) -> None:
    def make(finish: Any) -> Any:
        def mutant(self: ScanPart, outcome: Any) -> None:
            finish(self, Listed(outcome.keys, [], outcome.stop) if isinstance(outcome, Listed) else outcome)

        return mutant

    patches.wrap(ScanPart, "_finish", make)


@add("4, scan 3: a key that fewer than q nodes list alike may be there all the same", byzantine_nodes=1)
def _listing_drops_doubtful(patches: Patches) -> None:
    def make(finish: Any) -> Any:
        def mutant(self: ScanPart, outcome: Any) -> None:
            if isinstance(outcome, Listed):
                keys = [key for place, key in enumerate(outcome.keys) if place not in outcome.doubtful]
                outcome = Listed(keys, [], outcome.stop)
            finish(self, outcome)

        return mutant

    patches.wrap(ScanPart, "_finish", make)


@add("4, scan 2: q lists are merged, not the last one believed", byzantine_nodes=1)
def _listing_of_one_node(patches: Patches) -> None:
    def make(receive: Any) -> Any:
        def mutant(self: ScanPart, request_id: int, node: int, reply: Any, now_us: int) -> None:
            receive(self, request_id, node, reply, now_us)
            if not self.finished and len(self._answers) >= self._context.configuration.q and node in self._answers:
                self._finish(Listed(list(reply.keys), list(range(len(reply.keys))), reply.stop))

        return mutant

    patches.wrap(ScanPart, "receive", make)
