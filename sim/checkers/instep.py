"""Anti-entropy brings correct nodes in step (protocol 8): once the world is healed and nobody writes, of each slot all
who serve it have the highest entry that any of them has, or rule it out by their floor; of a key with fields, all that
have its generation have the same.

Excused are nodes that have no room, what a new epoch has made others drop, and what a Byzantine writer hoarded: a liar
may commit that a moment before.
"""

from __future__ import annotations

from quorumcache.core.model import stamp_time
from quorumcache.core.node import Node
from sim.checkers.base import Checker


class InStep(Checker):
    """Compares what correct nodes hold."""

    name = "in step"

    def healed(self) -> None:
        """Time enough has passed for some rounds with every peer."""
        if not self.view.compares:
            return
        configuration = self.view.configuration
        nodes = [node.node for node in self.view.nodes if not node.is_byzantine]
        for slot in sorted({slot for node in nodes for shard in node.slots.shards for slot in shard.slots}):
            if configuration.is_primary(slot):
                continue  # sim/checkers/directinstep.py
            members = map(self.view.node_at, configuration.group_of(slot).members)
            here = [node.node for node in members if not node.is_byzantine]
            fault = self._register(slot, here) if here[0].slots.type_of(slot) is None else self._key(slot, here)
            if fault:
                self.fail(f"{fault} {slot[-8:]!r}, and others what it could have taken")
                return

    def _register(self, slot: bytes, nodes: list[Node]) -> str:
        held = {node.index: node.slots.current.get(slot) for node in nodes}
        highest = max((entry for entry in held.values() if entry is not None), key=lambda entry: entry.stamp)
        if highest.header in self.view.evil_headers:
            return ""
        for node in nodes:
            entry = held[node.index]
            if entry is None and node.slots.shard(slot).floor_us < stamp_time(highest.stamp):
                return f"node {node.index} has nothing in"
            if entry is not None and entry.stamp < highest.stamp:
                return f"node {node.index} has something older in"
        return ""

    def _key(self, slot: bytes, nodes: list[Node]) -> str:
        keys = {node.index: node.slots.keys.get(slot) for node in nodes}
        known = [key for key in keys.values() if key is not None]
        evil = self.view.evil_headers
        if any(held.header in evil for key in known for held in (key.base, *key.fields.values())):
            return ""
        highest = max(known, key=lambda key: key.generation)
        for node in nodes:
            key = keys[node.index]
            if key is None and node.slots.shard(slot).floor_us < stamp_time(highest.generation):
                return f"node {node.index} has nothing of the key"
            if key is not None and (key.generation, key.digest()) != (highest.generation, highest.digest()):
                return f"node {node.index} has less, or something older, of the key"
        return ""
