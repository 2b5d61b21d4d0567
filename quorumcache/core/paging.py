"""A shard's entries page by page, in the order of their slots: what a node reports to one that recovers.

Keys with fields come as a whole; one that is too long for a page goes on in the next, which begins with its base again,
so that who reads them sees whether the key changed in between. Fields that replace each other are not split where they
fit on a page: one on the second part could go, between the two, for a new one on the first. It must not know messages.
"""

from __future__ import annotations

import heapq

from quorumcache.core.keys import Key
from quorumcache.core.slots import Held, Shard, Slots
from quorumcache.core.types.base import base_slot_of


def page_of(slots: Slots, shard: Shard, after: bytes, count_max: int, bytes_max: int) -> tuple[list[Held], bool, bool]:
    """A page of the shard's entries in the order of their slots, after `after`; whether more follow; and whether
    the last key goes on in the next page, which then begins with that key's base again."""
    page: list[Held] = []
    size = 0
    if after and slots.types:
        key = slots.keys.get(base_slot_of(after))
        rest = () if key is None else heapq.nsmallest(count_max, (s for s in key.fields if s > after))
        if key is not None and rest:
            page, size, whole = _part_of(key, list(rest), count_max, bytes_max)
            if not whole or len(page) >= count_max:
                return page, True, not whole
    following = heapq.nsmallest(count_max + 1, (s for s in shard.slots if s > after))
    for slot in following:
        held = slots.current[slot]
        size += held.size
        if len(page) >= count_max or (page and size > bytes_max):
            return page, True, False
        key = slots.keys.get(slot) if slots.types else None
        if key is None or not key.fields:
            page.append(held)
            continue
        room = count_max - len(page)
        if room < 2 or (page and _belongs_whole(slots, slot, key, room, count_max, bytes_max - size, bytes_max)):
            return page, True, False
        rest = heapq.nsmallest(room, key.fields)
        part, more_size, whole = _part_of(key, list(rest), room, bytes_max - size)
        page += part
        size += more_size
        if not whole or len(rest) < len(key.fields):
            return page, True, True
    return page, len(following) > count_max, False


def _belongs_whole(slots: Slots, slot: bytes, key: Key, room: int, count_max: int, left: int, bytes_max: int) -> bool:
    """Whether the key has to wait for the next page: there, it fits whole; here, only a part of it."""
    kind, count = slots.type_of(slot), 1 + len(key.fields)
    if kind is None or not kind.replaces or (count <= room and key.size <= left):
        return False
    return count <= count_max and key.size <= bytes_max


def _part_of(key: Key, chosen: list[bytes], count_max: int, bytes_max: int) -> tuple[list[Held], int, bool]:
    """The key's base and these of its fields, as far as they fit (one does); their size; whether all did."""
    page, size = [key.base], 0
    for slot in chosen:
        held = key.fields[slot]
        size += held.size
        if len(page) > 1 and (size > bytes_max or len(page) >= count_max):
            return page, size, False
        page.append(held)
    return page, size, True
