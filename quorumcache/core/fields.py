"""What a node does with keys that have fields: the rules of prepare and commit for bases and fields, and what it tells
of a key (protocol 6 with its repairs).

A node takes a field only under the generation that is current at it, and lets go of a key only as a whole: so whoever
names a generation has all that it ever took under it. It must not know how clients use that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorumcache.core import messages as m
from quorumcache.core import noticing
from quorumcache.core.keys import PACKED_BYTES_EACH, Key, bucket_of, pack
from quorumcache.core.model import DELETE, Entry, Header, Malformed, header_expires_at, slot_parts, stamp_time
from quorumcache.core.slots import Held, Promise, Slots
from quorumcache.core.types.base import (
    GENERATION_BYTES,
    KEY_FIELDS_MAX,
    KEY_SIZE_MAX,
    FieldType,
    base_fault,
    base_slot_of,
    generation_of,
    is_base_slot,
    rank_of,
)

if TYPE_CHECKING:
    from quorumcache.core.node import Node


def fault_of(kind: FieldType, header: Header) -> str:
    """Prepare rule 1, by form: why no node may promise this header; empty where it may."""
    return base_fault(header) if is_base_slot(header.slot) else kind.fault(header)


def refusal_of(node: Node, kind: FieldType, wanted: Promise, now_us: int) -> m.Refusal | None:
    """Prepare rules 2 to 6 for a base or a field, in their order, and what its type and its key's bounds forbid; None
    where all of that allows it. The caller has checked rule 1, and goes on with 7."""
    position, header = wanted.position, wanted.header
    slots = node.slots
    slot, stamp = header.slot, header.stamp
    base_slot = base_slot_of(slot)
    held = slots.current.get(slot)
    if held is not None:
        if held.digest == header.digest and noticing.has_granted(node, held):
            return None
        # By stamp alone: whatever the generation, a stamp up to the current one may have been promised before.
        if stamp <= held.stamp:
            if stamp == held.stamp and held.digest != header.digest:
                noticing.accuse_beside(node, held, wanted)
            return m.Refusal(position, m.STALE, 0, held.entry(with_value=slot == base_slot))
    here = slots.open.get(slot, ())
    for promise in here:
        if promise.header.stamp == stamp:
            if promise.header.digest == header.digest:
                return None
            noticing.accuse(node, promise, wanted)
            return m.Refusal(position, m.EQUIVOCATION, 0, None, "another header is open under this very stamp")
    generation = generation_of(header.raw)
    key = slots.keys.get(base_slot)
    shard = slots.shard(slot)
    if key is not None:
        if generation < key.generation or (generation == key.generation and not _is_live(key, now_us)):
            return m.Refusal(position, m.GENERATION, 0, key.base.entry())
    elif (
        (generation != stamp or slot != base_slot)
        and stamp_time(generation) <= shard.floor_us
        and not any(p.header.stamp == generation and not p.header.metadata for p in slots.open.get(base_slot, ()))
    ):
        # Gone here for good: not even its base is open.
        return m.Refusal(position, m.GENERATION, shard.floor_us, None, "the key's generation is gone here")
    if slot == base_slot and generation == stamp and header.kind != DELETE:
        refusal = _refusal_to_begin(node, wanted, key, now_us)
        if refusal is not None:
            return refusal
    floor_us = max(shard.floor_us, slots.key_barrier_us, 0 if key is None else key.barrier_us)
    if header.time_us <= floor_us:
        return m.Refusal(position, m.BELOW_FLOOR, floor_us)
    if max(header.time_us, 0 if slot == base_slot else kind.seen_us(header)) > now_us + node.configuration.max_skew_us:
        return m.Refusal(position, m.AHEAD, now_us)
    if slot == base_slot:
        return None
    promised, promised_bytes = slots.promised_in_key.get(base_slot, (0, 0))
    if promised >= kind.promised_max or promised_bytes > KEY_SIZE_MAX:
        # They count on top of the bounds below: what is promised will be stored.
        return m.Refusal(position, m.BUSY, 0, None, "too much is promised in this key")
    is_current = key is not None and generation == key.generation
    fault = kind.fault_beside(
        header,
        held.header if is_current and held is not None else None,
        # Of a generation to come, too: once that is there, what was promised for it will be stored.
        [p.header for p in here if p.header.metadata[:GENERATION_BYTES] == generation],
    )
    if fault:
        return m.Refusal(position, m.DENIED, 0, None, fault)
    if key is None or not is_current:
        return None
    if held is None and not kind.fits(
        header, [field.header for field in key.fields.values()] if kind.replaces else key.fields
    ):
        return m.Refusal(position, m.DENIED, 0, None, kind.full_detail)
    if key.size + len(header.raw) + header.size > KEY_SIZE_MAX:
        return m.Refusal(position, m.DENIED, 0, None, f"the key would have more than {KEY_SIZE_MAX} bytes")
    return None


def _refusal_to_begin(node: Node, wanted: Promise, key: Key | None, now_us: int) -> m.Refusal | None:
    """Whether a new generation may begin here. Not beside a live one: that would be the end of what was written under
    it. And not right after another's promise: of two that begin at once, one is to see the other's base. The wait is
    longer for the higher stamp, so that nodes that were reached in different orders come to let one of them pass."""
    slots = node.slots
    if key is not None and _is_live(key, now_us):
        return m.Refusal(wanted.position, m.GENERATION, 0, key.base.entry())
    stamp = wanted.header.stamp
    grace_us = node.configuration.grace_us
    for promise in slots.open.get(wanted.header.slot, ()):
        other = promise.header
        if other.kind == DELETE or other.metadata or other.stamp[8:] == stamp[8:]:
            continue
        if now_us - promise.recorded_us < (grace_us if stamp < other.stamp else 3 * grace_us):
            return m.Refusal(wanted.position, m.BUSY, 0, None, "another writer is beginning this key")
    return None


def _is_live(key: Key, now_us: int) -> bool:
    """Whether the key is neither deleted nor expired, by the node's own clock."""
    expires_at_us = header_expires_at(key.base.header)
    return not key.is_deleted and not 0 < expires_at_us <= now_us


def store(node: Node, kind: FieldType, header: Header, held: Held, now_us: int) -> int:
    """The commit rules for a base or a field that was verified; returns a commit code."""
    slots = node.slots
    slot, stamp = header.slot, header.stamp
    base_slot = base_slot_of(slot)
    before = slots.current.get(slot)
    if before is not None and before.digest == held.digest:
        return m.OK
    if node.configuration.is_revoked(header.writer):
        return m.REVOKED
    key = slots.keys.get(base_slot)
    rank = rank_of(header.raw)
    generation = rank[:GENERATION_BYTES]
    if key is None:
        shard = slots.shard(slot)
        if stamp_time(generation) <= shard.floor_us and not (
            slot == base_slot
            and generation == stamp
            and any(p.header.digest == held.digest for p in slots.open.get(slot, ()))
        ):
            # What is gone here stays gone: a node that took this generation back would lack what it once had of it.
            if slots.frozen and slot in slots.open:
                return m.COMMIT_FULL
            slots.settle_promises(slot, stamp, rank)
            return m.RECOVERING if shard.recovering else m.EVICTED
        if slot != base_slot:
            return m.NO_BASE
    elif slot == base_slot:
        if rank <= rank_of(key.base.header):
            # A base that goes on with an older generation than this one, or a deleted one, has not done what its writer
            # wants.
            return m.OK if generation == stamp or (generation == key.generation and not key.is_deleted) else m.OTHER
    else:
        if generation > key.generation:
            return m.NO_BASE
        if generation < key.generation or key.is_deleted:
            return m.OTHER
        if before is not None and stamp <= before.stamp:
            if stamp == before.stamp:
                noticing.two_certified(node, before, held)
            return m.OK
        if kind.replaces and kind.replaced(header.raw, [field.header for field in key.fields.values()]):
            if slots.frozen and slot in slots.open:
                return m.COMMIT_FULL
            # It is not stored, so nothing but the barrier tells that its stamp was promised.
            key.raise_barrier(header.time_us)
            slots.settle_promises(slot, stamp, rank)
            return m.OK
    if not slots.store(slot, held, now_us):
        return m.COMMIT_FULL
    here = slots.open.get(slot)
    if here is not None and here[0].header.digest != held.digest:
        noticing.stored_over(node, header, held, here)
    slots.settle_promises(slot, stamp, rank)
    if kind.replaces and slot != base_slot:
        key = slots.keys[base_slot]
        for other in [s for s, field in key.fields.items() if s != slot and kind.replaced(field.header, (header.raw,))]:
            slots.replace_field(other)
    return m.OK


def outline(node: Node, request: m.Outline, now_us: int) -> m.Reply:
    """What the node has of one key: whole where it is small, else the digests of its buckets."""
    key, floor_us = _key_at(node, request.slot)
    if key is None:
        return m.OutlineReply(request.id, now_us, None, floor_us, [], b"")
    base = node.slots.entry_of(key.base)
    proof_bytes = m.OUTLINE_BYTES_MAX
    if len(key.fields) <= 512:
        held_of = key.fields.values()
        # A path out of a large batch takes the time of hashing all of it.
        batches = {id(held.batch): len(held.batch.leaves) for held in held_of}
        proof_bytes = sum(map(proof_cost, held_of)) + sum(batches.values()) // 8
    if key.size + proof_bytes < m.OUTLINE_BYTES_MAX:
        entries = [node.slots.entry_of(key.fields[slot]) for slot in sorted(key.fields)]
        return m.OutlineReply(request.id, now_us, base, floor_us, entries, b"")
    known = key.buckets()
    buckets = b"".join([bytes((number,)) + known[number] for number in sorted(known)])
    return m.OutlineReply(request.id, now_us, base, floor_us, [], buckets)


def fields(node: Node, request: m.Fields, now_us: int) -> m.Reply:
    """A page of some of a key's buckets."""
    key, _ = _key_at(node, request.slot)
    if key is None:
        return m.FieldsReply(request.id, now_us, b"", b"", [], False)
    if len(request.known) % 8:
        raise Malformed("what is known of fields has 8 bytes each")
    known = {request.known[at : at + 8] for at in range(0, len(request.known), 8)}
    numbers = sorted(set(request.buckets))
    digests: list[bytes] = []
    entries: list[Entry] = []
    batches: set[int] = set()
    size = 0
    after = (bucket_of(request.after), request.after) if request.after else (-1, b"")
    for number in numbers:
        bucket = key.in_bucket(number)
        for slot in sorted(bucket):
            if (number, slot) <= after:
                continue
            held = key.fields[slot]
            if held.digest[:8] not in known:
                size += held.size + proof_cost(held)
                if id(held.batch) not in batches:
                    batches.add(id(held.batch))
                    size += len(held.batch.leaves)  # Which are hashed for its path.
                if entries and size > m.REPLY_VALUES_BYTES_MAX:
                    return m.FieldsReply(request.id, now_us, key.generation, b"".join(digests), entries, True)
                entries.append(node.slots.entry_of(held))
            digests.append(held.digest)
            if len(digests) == KEY_FIELDS_MAX:
                return m.FieldsReply(request.id, now_us, key.generation, b"".join(digests), entries, True)
    return m.FieldsReply(request.id, now_us, key.generation, b"".join(digests), entries, False)


def _key_at(node: Node, slot: bytes) -> tuple[Key | None, int]:
    slot_parts(slot)
    if node.slots.type_of(slot) is None or not is_base_slot(slot):
        raise Malformed("this is not the base of a key with fields")
    return node.slots.keys.get(slot), node.slots.shard(slot).floor_us


def proof_cost(held: Held) -> int:
    """About how many bytes an entry's certificate and path take in a reply."""
    return 512 + 96 * len(held.batch.certificate.grants)


def read_keys(node: Node, request: m.Read, now_us: int) -> m.Reply:
    """As a node answers any read, in a cluster with namespaces whose keys have fields."""
    slots = node.slots
    for slot in request.slots:
        slot_parts(slot)  # Raises Malformed.
    digests = b"".join([slots.digest_at(slot) for slot in request.slots])
    values: list[bytes] = []
    size = 0
    for slot in request.slots[request.values_from : request.values_to]:
        fits = size + slots.lacking_bytes <= m.REPLY_VALUES_BYTES_MAX
        header, salted = _value_at(slots, slot) if fits else (b"", b"")
        if len(salted) > m.REPLY_VALUES_BYTES_MAX:
            header, salted = b"", b""
        values += (header, salted)
        size += len(salted)
    if not slots.lacking_bytes:
        slots.memory.touched(map(slots.place_of, request.slots))
    return m.ReadReply(request.id, now_us, digests, values)


def _value_at(slots: Slots, slot: bytes) -> tuple[bytes, bytes]:
    if slots.type_of(slot) is None:
        held = slots.current.get(slot)
        return (b"", b"") if held is None else (held.header, slots.value_of(held))
    key = slots.keys.get(base_slot_of(slot))
    if key is None:
        return b"", b""
    if is_base_slot(slot):
        if key.size + PACKED_BYTES_EACH * len(key.fields) > m.REPLY_VALUES_BYTES_MAX:
            return b"", b""
        return key.base.header, pack((key.fields[s].header, slots.value_of(key.fields[s])) for s in sorted(key.fields))
    held = key.fields.get(slot)
    return key.base.header, b"" if held is None else pack([(held.header, slots.value_of(held))])
