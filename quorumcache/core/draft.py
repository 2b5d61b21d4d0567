"""What a batch of writes proposes: stamps, salts, headers, their root and the intent that is signed (protocol 2 and 4).

It must not know what nodes answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from quorumcache.core import merkle
from quorumcache.core.certificate import intent_string
from quorumcache.core.config import Group
from quorumcache.core.model import (
    SALT_BYTES,
    STAMP_BYTES,
    TIME_US_MAX,
    digest_of,
    encode_header,
    stamp_of,
    stamp_time,
    value_hash_of,
)
from quorumcache.core.refusal import FieldWrite, PendingWrite

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator


class Draft(msgspec.Struct, frozen=True, eq=False):
    """By position: headers, salts with values, stamps. `leaves` are the headers' digests, one after the other;
    `signature` is the writer's, over the intent with their `root`."""

    writer: bytes
    headers: list[bytes]
    salted: list[bytes]
    stamps: list[bytes]
    leaves: bytes
    root: bytes
    signature: bytes


def draft(context: Coordinator, group: Group, writes: list[PendingWrite], now_us: int) -> Draft:
    """Give each write a stamp above all that its slot was known to have, and sign the batch."""
    time_us = context.clock.next_us(now_us)
    salts = context.random_bytes(SALT_BYTES * len(writes))
    writer = context.writer
    assert writer is not None
    assert context.sign is not None
    headers: list[bytes] = []
    all_salted: list[bytes] = []
    stamps: list[bytes] = []
    bases = {write.slot: i for i, write in enumerate(writes) if write.begins}
    digests: list[bytes] = []
    nonce = context.nonce  # Not a later one: the fields of a new generation are not below their base.
    common = stamp_of(time_us, writer, nonce)
    # All of them at first: noting one may forget another of this batch, and the nonce stays.
    ahead_us = [context.ahead_of(write.slot) for write in writes]
    for i, write in enumerate(writes):
        stamp = common
        least_us = max(write.time_min_us, ahead_us[i] + 1)
        if isinstance(write, FieldWrite):
            # A base comes before what it begins with: `stamps` has it.
            base = write.creates
            generation = write.metadata[:STAMP_BYTES] if base is None else stamps[bases[base.slot]]
            details = write.details(generation) if callable(write.details) else write.details
            write.metadata = generation + details
            # Not below its generation, which may be another's stamp, or one that this very slot has had already.
            least_us = max(
                least_us,
                stamp_time(generation) + (base is None),
                context.type_of(write.slot).after_us(details, common[8:]) + 1,
            )
        if least_us > time_us:
            if least_us > TIME_US_MAX:
                # There is no later time, so another nonce: no node takes such a stamp, but none is used twice.
                least_us, stamp = TIME_US_MAX, stamp_of(TIME_US_MAX, writer, context.random_u64())
            else:
                stamp = stamp_of(least_us, writer, nonce)
            context.note_ahead(write.slot, least_us, now_us)
        value = write.value if write.seal is None else write.seal(write.slot, stamp, write.value)
        salted = salts[i * SALT_BYTES : (i + 1) * SALT_BYTES] + value
        header = encode_header(
            write.slot,
            stamp,
            write.kind,
            value_hash_of(salted),
            len(value),
            write.expires_at_us,
            write.metadata,
        )
        if isinstance(write, FieldWrite):
            write.stamp, write.is_first = stamp, write.creates is not None
        stamps.append(stamp)
        all_salted.append(salted)
        headers.append(header)
        digests.append(digest_of(header))
    leaves = b"".join(digests)
    root = merkle.root_of(leaves)
    signature = context.sign(intent_string(context.configuration.digest, group.id, root))
    return Draft(writer, headers, all_salted, stamps, leaves, root, signature)
