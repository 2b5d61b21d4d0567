"""Mutants of mode primary (protocol 10): of what nodes store and pass on, and of how clients choose whom to ask."""

from __future__ import annotations

from typing import Any, Final

from quorumcache.core import admission, primary, writeback
from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier
from quorumcache.core.directread import GetBatch
from quorumcache.core.inorder import InOrder
from quorumcache.core.primary import Forwarding
from quorumcache.core.writeback import PutBatch
from sim.mutants.base import Catalogue, Patches

catalogue = Catalogue()
add = catalogue.add

_AIM: Final[dict[str, Any]] = {"features_add": ("primary",), "keys": 1}


def _later_ack(patches: Patches, change: Any) -> None:
    """Clients that count to another number of copies than their namespace has."""

    def make(init: Any) -> Any:
        def mutant(self: PutBatch, context: Any, order: Any, ack: int, writes: Any, now_us: int) -> None:
            init(self, context, order, change(ack), writes, now_us)

        return mutant

    patches.wrap(PutBatch, "__init__", make)


@add("10, put: done when `ack` nodes store it, not one", fast=True, byzantine_nodes=0, **_AIM)
def _acknowledged_before_copies(patches: Patches) -> None:
    _later_ack(patches, lambda ack: 1)


@add("10, put: a node stores before it answers OK", fast=True, **_AIM)
def _put_answers_and_does_not_store(patches: Patches) -> None:
    def make(accept: Any) -> Any:
        def mutant(node: Any, header: Any, held: Any, now_us: int) -> Any:
            return (m.OK, 0, "") if header.stamp[-1] & 3 == 0 else accept(node, header, held, now_us)

        return mutant

    patches.wrap(primary, "_accept", make)


@add("10, put: the higher of two entries stays", fast=True, **_AIM)
def _older_put_overwrites(patches: Patches) -> None:
    patches.set(primary, "is_higher", lambda node, header: True)


@add(
    "10, order: of two under one stamp the higher digest stays", features_add=("primary", "repair"), byzantine_writers=2
)
def _first_of_two_under_a_stamp_stays(patches: Patches) -> None:
    def mutant(node: Any, header: Any) -> bool:
        before = node.slots.current.get(header.slot)
        return before is None or header.stamp > before.stamp

    patches.set(primary, "is_higher", mutant)


@add("10, put: what is ahead of the clock is not stored, and not OK", features_add=("primary", "shared_writer"), keys=1)
def _ahead_is_ok(patches: Patches) -> None:
    def make(accept: Any) -> Any:
        def mutant(node: Any, header: Any, held: Any, now_us: int) -> Any:
            code, time_us, why = accept(node, header, held, now_us)
            return (m.OK if code == m.AHEAD else code), time_us, why

        return mutant

    patches.wrap(primary, "_accept", make)


def _unsigned(patches: Patches, name: str) -> None:
    """No signature is checked while the function of this name in core/primary.py runs."""

    def make(answer: Any) -> Any:
        def mutant(node: Any, request: m.Request, now_us: int) -> m.Reply:
            unchecked = Patches()
            unchecked.set(Verifier, "is_signed", lambda self, key, message, signature: True)
            try:
                return answer(node, request, now_us)  # type: ignore[no-any-return]
            finally:
                unchecked.undo()

        return mutant

    patches.wrap(primary, name, make)


@add("10, put: the writer's signature is checked", byzantine_writers=2, **_AIM)
def _put_unsigned(patches: Patches) -> None:
    _unsigned(patches, "put")


@add(
    "10, put: rights are checked, those of revoked writers too", features_add=("primary", "revoke"), byzantine_writers=1
)
def _put_ignores_rights(patches: Patches) -> None:
    patches.set(admission, "denial", lambda node, header, now_us, mode="quorum": "")


@add("10, forward: the first that was asked passes on what it stored", fast=True, **_AIM)
def _never_forwards(patches: Patches) -> None:
    patches.set(Forwarding, "note", lambda self, slot, members, now_us: None)


@add("10, forward: it goes out again to who was silent", features_add=("primary", "loss"), features_drop=("repair",))
def _forwards_once(patches: Patches) -> None:
    def make(send: Any) -> Any:
        def mutant(self: Forwarding, peer: int, queue: Any, now_us: int) -> None:
            send(self, peer, queue, now_us)
            queue.in_flight = {}

        return mutant

    patches.wrap(Forwarding, "_send", make)


@add("10, forward: all others of the group get it", fast=True, **_AIM)
def _forwards_to_one(patches: Patches) -> None:
    def make(note: Any) -> Any:
        def mutant(self: Forwarding, slot: bytes, members: Any, now_us: int) -> None:
            note(self, slot, [peer for peer in members if peer != self.node.index][:1], now_us)

        return mutant

    patches.wrap(Forwarding, "note", make)


@add("10, forward: whoever is asked first forwards, when it is asked again too", features_add=("primary", "loss"))
def _asked_again_does_not_forward(patches: Patches) -> None:
    def mutant(self: PutBatch, node: int) -> None:
        request = self._request
        fields = {name: getattr(request, name) for name in request.__struct_fields__}
        fields["forward"] = len(self._asked) == 1 or len(self._asked) > self._ack
        self._context.send((node,), m.Put(**fields))

    patches.set(PutBatch, "_ask", mutant)


@add("10, forward: who receives checks all anew", byzantine_nodes=1, shards=4, **_AIM)
def _forwards_unverified(patches: Patches) -> None:
    _unsigned(patches, "forward")


@add("10, forward: what was passed on and is older does not replace what is newer", byzantine_nodes=1, shards=4, **_AIM)
def _older_forward_overwrites(patches: Patches) -> None:
    def make(forward: Any) -> Any:
        def mutant(node: Any, request: m.Forward, now_us: int) -> m.Reply:
            blind = Patches()
            blind.set(primary, "is_higher", lambda node, header: True)
            try:
                return forward(node, request, now_us)  # type: ignore[no-any-return]
            finally:
                blind.undo()

        return mutant

    patches.wrap(primary, "forward", make)


@add("10: what peers have is taken by who was away", features_add=("primary", "repair", "wipe"), faults=20)
def _no_catching_up(patches: Patches) -> None:
    patches.set(primary, "restore", lambda node, header, held, now_us: m.OK)


@add("10, recovery: an older entry does not replace a newer", features_add=("primary", "repair"), byzantine_nodes=1)
def _restores_older(patches: Patches) -> None:
    def make(restore: Any) -> Any:
        def mutant(node: Any, header: Any, held: Any, now_us: int) -> int:
            blind = Patches()
            blind.set(primary, "is_higher", lambda node, header: True)
            try:
                return restore(node, header, held, now_us)  # type: ignore[no-any-return]
            finally:
                blind.undo()

        return mutant

    patches.wrap(primary, "restore", make)


@add("10, put and get: who is silent is passed over", fast=True, byzantine_nodes=1, shards=4, **_AIM)
def _no_failover(patches: Patches) -> None:
    def make(ask_more: Any) -> Any:
        def mutant(self: Any, needed: int) -> None:
            if not self._asked:
                ask_more(self, needed)

        return mutant

    patches.wrap(InOrder, "_ask_more", make)


@add(
    "10, put: who says again and again that something newer is there is not waited for",
    byzantine_nodes=1,
    shards=4,
    **_AIM,
)
def _newer_for_ever(patches: Patches) -> None:
    patches.set(PutBatch, "_doubted", lambda self, write: [])


@add("10, put: a time beyond all clocks is a lie", byzantine_nodes=1, shards=4, **_AIM)
def _believes_any_time(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: PutBatch, node: int, reply: m.PutReply, now_us: int) -> bool:
            return take(self, node, reply, now_us + (1 << 56))  # type: ignore[no-any-return]

        return mutant

    patches.wrap(PutBatch, "_take", make)


@add("10, get: what its writer did not sign is as none", byzantine_nodes=1, shards=4, **_AIM)
def _get_unverified(patches: Patches) -> None:
    def make(take: Any) -> Any:
        def mutant(self: GetBatch, node: int, part: Any, reply: Any, now_us: int) -> None:
            unchecked = Patches()
            unchecked.set(Verifier, "is_signed", lambda self, key, message, signature: True)
            try:
                take(self, node, part, reply, now_us)
            finally:
                unchecked.undo()

        return mutant

    patches.wrap(GetBatch, "_take", make)


@add(
    "10, put: out of time, or rejected in the end, it may have taken effect",
    features_add=("primary", "partition"),
    faults=30,
)
def _unknown_is_failed(patches: Patches) -> None:
    patches.set(writeback, "UNKNOWN", "unavailable")
