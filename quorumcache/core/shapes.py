"""What messages are made of: the bounded types of their fields, and the bases of requests and replies.

Shapes only: the messages are in messages.py and in epochmessages.py. It must not know any of them.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from quorumcache.core.model import (
    BATCH_COUNT_MAX,
    HEADER_BYTES_MAX,
    SALT_BYTES,
    SLOT_BYTES_MAX,
    STAMP_BYTES,
    VALUE_BYTES_MAX,
    Grant,
)

PATH_BYTES_MAX: Final = 32 * 10
GROUP_NODES_MAX: Final = 100
BALLOT_BYTES: Final = STAMP_BYTES

Id = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
TimeUs = Annotated[int, Meta(ge=0, le=(1 << 62))]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
GroupId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Bitmap = Annotated[bytes, Meta(max_length=BATCH_COUNT_MAX // 8)]
Index = Annotated[int, Meta(ge=0, lt=BATCH_COUNT_MAX)]
HeaderBytes = Annotated[bytes, Meta(max_length=HEADER_BYTES_MAX)]
SaltedBytes = Annotated[bytes, Meta(max_length=SALT_BYTES + VALUE_BYTES_MAX)]
SlotBytes = Annotated[bytes, Meta(max_length=SLOT_BYTES_MAX)]
Ballot = Annotated[bytes, Meta(min_length=BALLOT_BYTES, max_length=BALLOT_BYTES)]
BallotOrNone = Annotated[bytes, Meta(max_length=BALLOT_BYTES)]
Votes = Annotated[tuple[Grant, ...], Meta(max_length=GROUP_NODES_MAX)]
PathBytes = Annotated[bytes, Meta(max_length=PATH_BYTES_MAX)]


class Request(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The base of all requests: `id` is the client's, unique while its session key lives; `configuration` is the
    digest of the configuration that the sender works under."""

    id: Id
    configuration: Hash


class Reply(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The base of all replies: the request's id, and the node's clock in microseconds when it answered."""

    id: Id
    clock_us: TimeUs
