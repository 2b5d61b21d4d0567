"""The usual batch in few steps: plain entries promised, and stored, all together, with the outcome that one after the
other would have (protocol 3).

What that takes is asked once for all of them; where the answer is no, nothing is done, and the caller goes one by one.
When to promise or store is in node.py. It must not know messages or signatures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quorumcache.core.eviction import USES_MAX
from quorumcache.core.held import Held, Promise
from quorumcache.core.memory import batch_cost
from quorumcache.core.model import header_expires_at
from quorumcache.core.slots import Slots, is_mortal


def promise_all(slots: Slots, promises: Sequence[Promise]) -> None:
    """As `slots.add_promise` of each, in order: promises of one batch, in plain slots where none is open. The caller
    has checked the bounds."""
    if not promises:
        return
    if slots.allowances is not None:
        for promise in promises:
            slots.add_promise(promise)
        return
    leaves = slots.memory.promised_all(promises[0].leaves, [promise.header.raw for promise in promises])
    open_, table, journal = slots.open, slots.promises, slots.journal
    for promise in promises:
        slot = promise.header.slot
        promise.leaves = leaves
        open_[slot] = [promise]
        table[promise] = None
        if journal is not None:
            journal.promises.setdefault(slot, ())


def may_store_all(slots: Slots) -> bool:
    """Whether `store_all` is worth a try: it is not where each entry has more to be counted."""
    return not slots.frozen and slots.values is None and slots.allowances is None and not slots.memory.has_quotas


def store_all(slots: Slots, entries: Mapping[bytes, tuple[Held, Promise]]) -> bool:
    """As `slots.store`, and then `slots.settle_promises`, of each, in order: new entries of one batch for plain slots,
    above what is there, each with the one promise that is open in its slot, its own. False, and nothing done, where
    something might have to go to make room. Where `may_store_all` says so."""
    memory = slots.memory
    batch = next(iter(entries.values()))[0].batch
    costs = [slots.cost_of(held) for held, _ in entries.values()]
    if memory.bytes_used + sum(costs) + batch_cost(batch) > memory.bytes_max:
        return False
    current, shards, shard_of, places = slots.current, slots.shards, slots.configuration.shard_of, memory.places
    journal, open_, table = slots.journal, slots.open, slots.promises
    memory.hold_all(batch, len(entries))
    settled: list[Promise] = []
    raws: list[bytes] = []
    for cost, (slot, (held, promise)) in zip(costs, entries.items(), strict=True):
        raw = held.header
        before = current.get(slot)
        shard = shards[shard_of(slot)]
        shard.sum = b""
        if journal is not None:
            journal.entries.setdefault(slot, before)
            journal.promises.setdefault(slot, (promise,))
        if before is None:
            memory.charge(slot, cost)
            shard.slots[slot] = None
        else:
            place = places[slot]
            if place.uses < USES_MAX:
                place.uses += 1
            if place.cost != cost:
                memory.charge(slot, cost - place.cost)
            if memory.release(before.batch, slot) and journal is not None:
                journal.released.append(before.batch)
        current[slot] = held
        if is_mortal(raw):
            slots.schedule_reap(slot, held.stamp, max(header_expires_at(raw), held.time_us))
        del open_[slot], table[promise]
        settled.append(promise)
        raws.append(raw)
    slots.feed.note_all(raws)
    memory.unpromised_all(settled)
    return True
