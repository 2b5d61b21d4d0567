"""Storage that keeps nothing: each start is one without stored state (protocol 7)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from quorumcache.core.journal import Journal
from quorumcache.core.slots import Held, Slots
from quorumcache.storage.interface import Earlier, Identity


class MemoryStorage:
    """The default: what a node holds is in its memory only."""

    keeps = False

    def open(self, identity: Identity, slots: Slots, earlier: Earlier | None = None) -> bool:
        """There is nothing."""
        return False

    def write(self, journal: Journal, slots: Slots) -> None:
        """Nothing to do."""

    def move(self, identity: Identity, journal: Journal, slots: Slots, left: Sequence[Held] = ()) -> None:
        """Nothing to do."""

    def forget_left(self, count: int, *, latest: bool) -> int:
        """There is nothing."""
        return 0

    def fetch(self, entries: Sequence[Held]) -> list[bytes]:
        """There is nothing that memory lacks."""
        return [held.salted for held in entries]

    def synced(self) -> Awaitable[None] | None:
        """At once: nothing more was promised."""
        return None

    def probe(self) -> None:
        """It never fails."""

    def status(self) -> dict[str, Any]:
        """Its name."""
        return {"storage": "memory"}

    def close(self) -> None:
        """Nothing to do."""
