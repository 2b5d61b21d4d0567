"""A liar's role about one slot while a drama plays (sim/dramas/): what it shows to readers and to nodes that recover.

Its powers are those of the lies in nodes.py: it grants anything, says OK to any commit, and shows what its conspiracy
holds with a valid certificate, or nothing. About other slots it tells what it otherwise would. It must not know dramas
or checkers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quorumcache.core import merkle
from quorumcache.core import messages as m
from quorumcache.core.certificate import grant_string
from quorumcache.core.model import ABSENT, Entry, digest_of, header_slot
from quorumcache.core.quorum import full_bitmap

if TYPE_CHECKING:
    from sim.adversary.nodes import ByzantineNode

#: The name under which what a role says is told of (`run.lies`).
SCRIPTED: Final = "scripted"


class Role:
    """What the liars say about `slot`: `shown` to readers, `reported` to nodes that recover (None: absent, with a floor
    of zero)."""

    def __init__(self, slot: bytes) -> None:
        self.slot = slot
        self.shown: Entry | None = None
        self.reported: Entry | None = None

    def concerns(self, node: ByzantineNode, request: m.Request) -> bool:
        """Whether the role has something to say to this request."""
        slot = self.slot
        if isinstance(request, (m.Read, m.ReadFull)):
            return slot in request.slots
        if isinstance(request, m.Report):
            return node.configuration.shard_of(slot) == request.shard
        if isinstance(request, m.Prepare):
            return any(header_slot(header) == slot for header in request.headers)
        if isinstance(request, m.Commit):
            return any(header_slot(item.header) == slot for bundle in request.bundles for item in bundle.items)
        return False

    def answer(self, node: ByzantineNode, source: int, request: m.Request, honest: m.Reply) -> m.Reply | None:
        """What is answered in place of the truth. `source` does not matter."""
        slot, shown = self.slot, self.shown
        if isinstance(request, m.Prepare) and isinstance(honest, m.PrepareReply):
            root = merkle.root_of(b"".join(digest_of(header) for header in request.headers))
            bitmap = full_bitmap(len(request.headers))
            message = grant_string(request.configuration, request.group, root, bitmap)
            return m.PrepareReply(request.id, honest.clock_us, bitmap, node.key.sign(message), [])
        if isinstance(honest, m.CommitReply):
            return m.CommitReply(request.id, honest.clock_us, bytes([m.OK]) * len(honest.codes), [])
        if isinstance(request, m.Read) and isinstance(honest, m.ReadReply):
            i = request.slots.index(slot)
            digest = ABSENT if shown is None else digest_of(shown.header)
            digests = honest.digests[: 32 * i] + digest + honest.digests[32 * (i + 1) :]
            values = list(honest.values)
            if request.values_from <= i < request.values_to:
                at = 2 * (i - request.values_from)
                values[at : at + 2] = [b"", b""] if shown is None else [shown.header, shown.salted]
            return m.ReadReply(request.id, honest.clock_us, digests, values)
        if isinstance(request, m.ReadFull) and isinstance(honest, m.ReadFullReply):
            answers = list(honest.answers)
            answers[request.slots.index(slot)] = m.FullAnswer(shown, 0)
            return m.ReadFullReply(request.id, honest.clock_us, answers)
        if isinstance(request, m.Report) and isinstance(honest, m.ReportReply):
            entries = {header_slot(entry.header): entry for entry in honest.entries}
            entries.pop(slot, None)
            if self.reported is not None and slot > request.after:
                entries[slot] = self.reported
            return m.ReportReply(request.id, honest.clock_us, 0, [entries[s] for s in sorted(entries)], honest.more)
        return honest
