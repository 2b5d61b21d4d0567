"""Which keys a node has: the node's side of a listing (protocol 4, scan).

A request walks the shards of one group in ascending order, and in a shard the slots in the order of their bytes. What
it costs is bounded: keys and bytes of a reply, and slots looked at; only a shard is never left half looked at, since
its slots are in no order until somebody asks. It must not know quorums, or what a client makes of the answers.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.model import Malformed, header_expires_at, header_is_delete

if TYPE_CHECKING:
    from collections.abc import Iterable

    from quorumcache.core.node import Node
    from quorumcache.core.slots import Slots

#: After so many slots looked at, a reply stops at the end of the shard.
SLOTS_MAX: Final = 8192
_NEVER: Final = bytes(8)


def scan(node: Node, request: m.Scan, now_us: int) -> m.ScanReply:
    """Answer a request for keys: those that are live by the node's own clock. Raises Malformed for another's group."""
    slots, configuration = node.slots, node.configuration
    group = configuration.groups.get(request.group)
    if group is None or node.index not in group.members:
        raise Malformed("this node does not serve the group that the listing names")
    head = bytes((len(request.namespace),)) + request.namespace
    key_at = len(head) + 2
    start = request.start
    after = head + len(start.after).to_bytes(2, "big") + start.after + b"\0\0" if start.after else b""
    keys: list[bytes] = []
    digests: list[bytes] = []
    size = looked_at = 0
    stop = None
    for shard in configuration.shards_of_groups[group.id]:
        if shard < start.shard:
            continue
        if looked_at >= SLOTS_MAX:
            stop = m.Position(shard)
            break
        here = slots.shards[shard].slots
        looked_at += len(here)
        room = request.count - len(keys)
        matching = _matching(slots, here, after if shard == start.shard else b"", head, request.prefix, now_us)
        for slot in sorted(matching) if len(matching) <= room else heapq.nsmallest(room, matching):
            key = slot[key_at:-2]
            keys.append(key)
            digests.append(slots.digest_at(slot))
            size += len(key)
            if len(keys) == request.count or size >= m.SCAN_BYTES_MAX:
                return m.ScanReply(request.id, now_us, keys, b"".join(digests), m.Position(shard, key))
    return m.ScanReply(request.id, now_us, keys, b"".join(digests), stop)


def _matching(
    slots: Slots, here: Iterable[bytes], after: bytes, head: bytes, prefix: bytes, now_us: int
) -> list[bytes]:
    """Of these slots those after `after` that stand for a key (their field is the empty one) of the namespace, with the
    prefix, neither deleted nor expired. In one expression, for it looks at each slot of a shard."""
    current = slots.current
    length_at, key_at = len(head), len(head) + 2
    return [
        slot
        for slot in here
        if slot > after
        and slot.startswith(head)
        and slot.startswith(prefix, key_at, -2)
        and len(slot) == key_at + (slot[length_at] << 8 | slot[length_at + 1]) + 2
        and not header_is_delete(header := current[slot].header)
        and (header[87:95] == _NEVER or header_expires_at(header) > now_us)
    ]
