"""Whom and what a node lets in: rights to read and write, and room for promises and entries (protocol 3, prepare rules
1 and 7, and 9).

What follows from a slot's own entries and promises is in node.py and fields.py. It must not know signatures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.core import fields
from quorumcache.core import messages as m
from quorumcache.core.config_model import EXACT
from quorumcache.core.held import Held, Promise
from quorumcache.core.memory import entry_cost
from quorumcache.core.model import DELETE, HEADER_BYTES_MAX, SALT_BYTES, VALUE_BYTES_MAX, Header, slot_parts
from quorumcache.core.rights import DELETE as DELETE_ROLE
from quorumcache.core.rights import READ, WRITE
from quorumcache.core.slots import Slots
from quorumcache.core.types.base import base_slot_of
from quorumcache.core.values import HOT_OVERHEAD_BYTES

if TYPE_CHECKING:
    from quorumcache.core.node import Node

_FROZEN: Final = "the node's storage takes no writes now, as when its disk is full; its log says why"
#: What no entry costs more than.
_COST_MAX: Final = entry_cost(HEADER_BYTES_MAX, SALT_BYTES + VALUE_BYTES_MAX, is_mortal=True)


def denial(node: Node, header: Header, now_us: int, mode: str = "quorum") -> str:
    """Prepare rule 1: why this writer may not write this header here; empty where it may. `mode`: that of the write.
    What `plain_size_max` lets pass is not asked here: a new rule belongs there too."""
    configuration = node.configuration
    namespace = configuration.namespace(header.namespace)
    if namespace is None:
        return "the configuration has no such namespace"
    if namespace.type == EXACT:
        if mode != EXACT:
            return "the namespace is exact: it is written by compare-and-set alone"
    elif namespace.mode != mode:
        return f"the namespace's mode is {namespace.mode}, and this is a write of another"
    writer, role = header.writer, DELETE_ROLE if header.kind == DELETE else WRITE
    slot = header.slot
    name_at = 3 + slot[0]
    name_end = name_at + (slot[name_at - 2] << 8 | slot[name_at - 1])
    name, field = slot[name_at:name_end], len(slot) > name_end + 2
    if not node.rights.may(writer, role, header.namespace, name):
        return node.rights.missing(writer, role, header.namespace, name)
    if namespace.value_bytes_max and header.size > namespace.value_bytes_max:
        return f"values in this namespace have at most {namespace.value_bytes_max} bytes"
    if namespace.ttl_s_max and header.kind != DELETE and not field:
        latest = now_us + namespace.ttl_s_max * 1_000_000 + node.configuration.max_skew_us
        if not 0 < header.expires_at_us <= latest:
            return f"values in this namespace live at most {namespace.ttl_s_max} s"
    allowances = node.slots.allowances
    if allowances is not None and (fault := allowances.fault(header, now_us)):
        return fault
    if node.slots.types and (kind := node.slots.type_of(slot)) is not None:
        return fields.fault_of(kind, header)
    if (header.metadata and mode != EXACT) or field:
        return "a register has neither fields nor metadata"
    return ""


def plain_size_max(node: Node, writer: bytes, namespace: bytes) -> int:
    """How large the values are that this writer may put under whichever plain key of the namespace, as far as `lets_in`
    is concerned and there is room; -1 where that takes a look at each header. Once for many headers, for all that it
    looks at is the same for them."""
    configuration, slots = node.configuration, node.slots
    info = configuration.namespace(namespace)
    if (
        info is None
        or info.ttl_s_max
        or info.mode != "quorum"
        or info.type == EXACT
        or slots.allowances is not None
        or slots.types.get(bytes((len(namespace),)) + namespace) is not None
        or not node.rights.may(writer, WRITE, namespace, b"")  # The whole of it, that is.
    ):
        return -1
    return info.value_bytes_max or VALUE_BYTES_MAX


def has_room_for_all(slots: Slots, headers: list[Header]) -> bool:
    """Whether `may_promise` and `may_store` would find room for each of these headers, were they asked one after the
    other: even if each promise came first, and the largest of entries next. Preparing adds no entries."""
    memory = slots.memory
    return (
        not slots.frozen
        and slots.values is None
        and len(slots.promises) + len(headers) <= slots.promises_max
        and memory.fits_whatever(_COST_MAX)
        and memory.fits_promises(len(headers), sum([len(header.raw) for header in headers]))
    )


def lets_in(node: Node, header: Header, held: Held | None, now_us: int) -> bool:
    """Whether nothing but the slot's own entry and promises, or time, speaks against granting this header of a plain
    key; of one with fields, never: their rules are another's."""
    slots = node.slots
    return (
        not denial(node, header, now_us)
        and may_promise(slots, now_us)
        and may_store(slots, header, now_us)
        and (slots.allowances is None or not slots.allowances.is_over(header, held, now_us))
        and (not slots.types or slots.type_of(header.slot) is None)
    )


def may_promise(slots: Slots, now_us: int) -> bool:
    """Rule 7: whether the table of promises has room for one more, or gets it by dropping old ones."""
    excess = len(slots.promises) - slots.promises_max + 1
    if excess > 0 and slots.drop_old_promises(now_us, max(16, excess)) < excess:
        return False
    fits = slots.memory.fits_promise
    return fits() or (slots.drop_old_promises(now_us, 64) > 0 and fits())


def may_store(slots: Slots, header: Header, now_us: int) -> bool:
    """Whether there is memory for the entry that would follow: better to say so now than after the commit."""
    if slots.frozen:
        return False
    cost, place = cost_of(header), header.slot
    if slots.types and slots.type_of(place) is not None:
        cost -= slots.freed_by(place, header.raw)
        place = base_slot_of(place)
    if slots.values is not None:
        cost += HOT_OVERHEAD_BYTES
        if not slots.make_stored_room(place, len(header.raw) + SALT_BYTES + header.size, now_us):
            return False
    return slots.memory.fits(place, cost) or slots.make_room(place, cost, now_us)


def refusal_for_room(node: Node, wanted: Promise, now_us: int) -> m.Refusal | None:
    """Rule 7, and whether there is room for the entry."""
    position, header = wanted.position, wanted.header
    slots = node.slots
    shard = slots.shard(header.slot)
    here = slots.open.get(header.slot, ())
    if here:
        own = [p for p in here if p.header.writer == header.writer]
        if len(own) >= node.limits.open_max:
            if slots.types and slots.drop_void_promises(header.slot):
                return node._refusal(wanted, now_us)
            oldest = min(own, key=lambda p: p.recorded_us)
            if oldest.recorded_us + slots.promise_age_us >= now_us:
                return m.Refusal(position, m.BUSY, 0, None, "too many of the writer's promises are open on this slot")
            if slots.frozen:
                return m.Refusal(position, m.FULL, 0, None, _FROZEN)
            slots.drop_promise(oldest)
            return node._refusal(wanted, now_us)
    if slots.allowances is not None:
        held = slots.current.get(header.slot)
        over = slots.allowances.denial(header, held)
        if over:
            return m.Refusal(position, m.DENIED, 0, None, over)
        over = slots.allowances.delay(header, held, now_us)
        if over:
            node.denied(header.writer, "limit")
            return m.Refusal(position, m.BUSY, 0, None, over)
    floor_us = shard.floor_us
    if not may_promise(slots, now_us):
        return m.Refusal(position, m.BUSY, 0, None, "the node's table of promises is full")
    if not may_store(slots, header, now_us):
        why = _FROZEN if slots.frozen else slots.memory.why_full(header.slot, cost_of(header))
        return m.Refusal(position, m.FULL, 0, None, why)
    # Making room may have raised the floor, or taken the current entry.
    return None if shard.floor_us == floor_us else node._refusal(wanted, now_us)


def reading_denial(node: Node, request: m.Request, client: bytes) -> str:
    """Which right to read whoever asks lacks for this request; empty where none."""
    rights = node.rights
    asker = node.configuration.node_by_key(client)
    if isinstance(request, m.Report | m.ShardList | m.ExactReport):
        if asker is not None:
            return ""
        node.denied(client, "report")
        return "reports of what a shard holds are for the cluster's nodes"
    if isinstance(request, m.Scan | m.Changes):
        if rights.may(client, READ, request.namespace, request.prefix):
            return ""
        node.denied(client, READ)
        return rights.missing(client, READ, request.namespace, request.prefix)
    for slot in m.slots_read_by(request):
        if asker is not None and asker.index in node.configuration.group_of(slot).members:
            continue  # It serves this slot too, and may have missed what is in it.
        if not rights.may_read(client, slot):
            namespace, name, _ = slot_parts(slot)
            node.denied(client, READ)
            return rights.missing(client, READ, namespace, name)
    return ""


def cost_of(header: Header) -> int:
    """What the entry of this header would cost, in bytes of the node's memory."""
    is_mortal = header.kind == DELETE or header.expires_at_us > 0
    return entry_cost(len(header.raw), SALT_BYTES + header.size, is_mortal=is_mortal)
