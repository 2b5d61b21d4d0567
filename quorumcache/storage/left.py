"""Entries of shards that a node left with an epoch: their rows stay until nobody asks for them any more.

They are among the rest in the database, and counted there, so that nothing has to be copied; a start finds them, and
drops what the node does not serve (node/moving.py). Belongs here: which they are, and which batches still have a row
for their sake. It must not know SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from quorumcache.core.certificate import Batch
from quorumcache.core.config import Configuration
from quorumcache.core.held import Held
from quorumcache.core.journal import Journal
from quorumcache.core.model import header_slot


class Left:
    """What was left: `latest` by the last move, `before` by those before it. `batches`: how many of them share it."""

    def __init__(self) -> None:
        self.latest: dict[Held, None] = {}
        self.before: dict[Held, None] = {}
        self.batches: dict[Batch, int] = {}

    def move(self, journal: Journal, left: Iterable[Held]) -> None:
        """Keep what the journal says went of these; it says so no more. What earlier moves left is `before`."""
        self.before.update(self.latest)
        self.latest = {}
        for held in left:
            slot = header_slot(held.header)
            if held.row and journal.entries.get(slot) is held:
                del journal.entries[slot]
                self.latest[held] = None
                self.batches[held.batch] = self.batches.get(held.batch, 0) + 1

    def come_again(self, configuration: Configuration, key: bytes) -> list[Held]:
        """Those of earlier moves whose shards the node of this key serves now: it may get others in their places."""
        info = configuration.node_by_key(key)
        return [
            held
            for held in self.before
            if info is not None and info.index in configuration.group_of(header_slot(held.header)).members
        ]

    def first(self, count: int, *, latest: bool) -> list[Held]:
        """At most so many, the earliest first."""
        found = list(islice(self.before, count))
        if latest:
            found += islice(self.latest, count - len(found))
        return found

    def free_after(self, gone: Iterable[Held]) -> list[Batch]:
        """The batches that nothing has any more once these are gone."""
        counts = Counter(held.batch for held in gone)
        return [b for b, count in counts.items() if count == self.batches[b] and not b.held_count]

    def forget(self, gone: Iterable[Held]) -> None:
        """These are gone."""
        for held in gone:
            self.before.pop(held, None)
            self.latest.pop(held, None)
            batch = held.batch
            self.batches[batch] -= 1
            if not self.batches[batch]:
                del self.batches[batch]
                if not batch.held_count:
                    batch.row = 0
