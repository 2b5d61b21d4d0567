"""What a running node asks of its storage.

Definitions only. It must not know any one storage.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import msgspec

from quorumcache.core.journal import Journal
from quorumcache.core.slots import Held, Slots

#: What stored state survives. "process": the end of the process, however it comes. "power": of the machine, too.
DURABILITIES: Final = ("process", "power")


class Identity(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whose state it is: stored state counts for this node under this configuration only. `configuration` is the
    digest (32 bytes), `key` the node's public key (32 bytes)."""

    cluster_id: str
    configuration: bytes
    key: bytes


#: A configuration's digest -> new slots of a node under it; None where it is none that led to the present one.
Earlier = Callable[[bytes], Slots | None]


class NotStored(Exception):
    """Nothing of what the journal named was written; the text says why. What was stored before still is."""


class Storage(Protocol):
    """One node's storage. All calls come from one thread, that of the event loop, and but for `open` and `close` take
    no longer than a small transaction."""

    #: Whether there is anything to write: without it, the node keeps no journal.
    keeps: bool

    def open(self, identity: Identity, slots: Slots, earlier: Earlier | None = None) -> bool:
        """Load what is stored into `slots`, which are new. False where there is nothing, or nothing that counts: the
        node then starts as one without stored state, with other slots. Raises Misuse where the place is not this
        node's, and DiskFailed where it cannot be used.

        What is stored may be of a configuration before: the node ended as it went over to the next epoch. Then it is
        loaded into what `earlier` gives for that one, and until `move` brought it up to `identity` nothing else is
        written (node/moving.py does both)."""

    def write(self, journal: Journal, slots: Slots) -> None:
        """Write what the journal names as the slots have it now, all or nothing. Raises NotStored."""

    def move(self, identity: Identity, journal: Journal, slots: Slots, left: Sequence[Held] = ()) -> None:
        """As `write`, and from then on what is stored is that of `identity`, the node's in its next epoch: `carry` has
        handed over the slots, and the journal with all that is another now. What it says went of `left` can be fetched
        until `forget_left`, or until the next start, which finds it among the rest. Raises NotStored; then what is
        stored is of the epoch before and the node has to stop, for the next one has begun. Its next start does it
        again."""

    def forget_left(self, count: int, *, latest: bool) -> int:
        """Forget at most so many entries that earlier moves left, and those of the latest too; returns how many.
        Raises NotStored."""

    def fetch(self, entries: Sequence[Held]) -> list[bytes]:
        """Salt and value of each of these entries, which are stored and of which memory lacks the values, in a few
        queries for all of them. Raises DiskFailed where one cannot be had, or is not what was written: then nothing
        that is stored counts any more, and the node must stop."""

    def synced(self) -> Awaitable[None] | None:
        """When all that was written is as durable as was asked for; None where it is now. Awaiting it raises OSError
        where the disk failed: then what is stored cannot be told any more, and the node must stop."""

    def probe(self) -> None:
        """Whether storage, having failed, takes writes again. Raises NotStored where it does not."""

    def status(self) -> dict[str, Any]:
        """What operators ask, as JSON."""

    def close(self) -> None:
        """Let go of it in order: all that was written is durable, and marked so where that succeeded."""
