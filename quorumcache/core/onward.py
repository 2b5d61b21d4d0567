"""A client's way into the next epoch: it notices that one has ended, asks what follows, and goes on there (protocol 9).

Belongs here: when to ask, and what becomes of operations that were under way. Nothing that nodes answered in one epoch
is ever counted together with what they answer in another: reads begin anew, and so do writes that no certificate was
sent for, with other stamps. A certificate that was sent is sent again, as it is. It must not know sockets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from quorumcache.core import messages as m
from quorumcache.core.commits import Commits
from quorumcache.core.config import Configuration
from quorumcache.core.exactwrite import ExactWrite
from quorumcache.core.following import Following
from quorumcache.core.model import Entry
from quorumcache.core.outcome import UNKNOWN, Failed, Written
from quorumcache.core.refusal import FieldWrite, PendingWrite
from quorumcache.core.seals import Step
from quorumcache.core.settle import Overtaken
from quorumcache.core.succession import Verify, counting, lacks_history

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: After a look that found nothing, how long until the next rejection starts another one.
REST_US: Final = 500_000
_MOVED: Final = "the cluster went over to its next epoch meanwhile"


class Onward:
    """Watches over whether the cluster is still in the epoch of `context`.

    `known`: the configurations before, the oldest first. Where some whose certificates count are missing, `look` asks
    for them. `chain` is set once the cluster turned out to have moved on: the driver then takes `go_over`.
    """

    def __init__(self, context: Coordinator, known: Sequence[Configuration], verify: Verify, moved_us: int) -> None:
        self.known = list(known)
        self.chain: tuple[Configuration, ...] = ()
        #: What shows that: the successors are signed.
        self.steps: tuple[Step, ...] = ()
        self._context = context
        self._verify = verify
        self._looking: Following | None = None
        self._rest_until_us = 0
        self._moved_us = moved_us
        #: The first f nodes that said so.
        self._sealed: set[int] = set()

    @property
    def lacks_history(self) -> bool:
        """Whether certificates count that cannot be checked, for their configurations are not known."""
        return lacks_history(self._context.configuration, self.known)

    @property
    def deadline_us(self) -> int | None:
        """When `wake` is due, or None."""
        return None if self._looking is None else self._looking.deadline_us

    def look(self, now_us: int) -> None:
        """Ask the nodes what follows, and what was before."""
        if self._looking is None:
            context = self._context
            self._looking = Following(
                context.configuration, self._verify, context.unrouted_id, now_us, history=self.lacks_history
            )
            self.wake(now_us)

    def wake(self, now_us: int) -> None:
        """Ask again, or be content with the answers."""
        looking = self._looking
        if looking is None or now_us < looking.deadline_us:
            return
        if looking.is_answered and not looking.sealed and not self.lacks_history and looking.has_asked:
            self._looking, self._rest_until_us = None, now_us + REST_US
            return
        looking.sealed.clear()
        looking.wake(now_us)
        self._context.outbox += looking.outbox
        looking.outbox.clear()

    def is_question(self, request_id: int) -> bool:
        """Whether it asked this, and waits for the answer."""
        return self._looking is not None and self._looking.asked(request_id)

    def receive(self, node: int, reply: m.Reply) -> None:
        """Take an answer."""
        looking = self._looking
        if looking is None:
            return
        is_true = looking.receive(node, reply)
        self._context.outbox += looking.outbox
        looking.outbox.clear()
        if not is_true:
            return
        if len(looking.before) > len(self.known) and self.lacks_history:
            self.known = looking.before[::-1]
            self._context.verifier.learn(counting(self._context.configuration, self.known))
        if looking.chain:
            self.chain, self.steps = looking.chain, looking.steps

    def is_dropped(self, node: int, reply: m.Reject, now_us: int) -> bool:
        """Whether a rejection is no answer to the operation: the epoch ends, or has ended, at more nodes than may lie,
        or the node is not as far as this client is."""
        if reply.code == m.SEALED:
            if now_us >= self._rest_until_us:
                # The first is enough to ask: beside a liar, others may have answered before they sealed.
                self.look(now_us)
            if node in self._sealed or len(self._sealed) < self._context.configuration.f:
                # So few may lie, can fail no operation, and are answers less to wait for.
                self._sealed.add(node)
                return False
            return True
        # One that does not know the client's epoch knows no later one either.
        return reply.code == m.WRONG_CONFIGURATION and (
            now_us < self._moved_us + self._context.configuration.op_time_us
        )


def go_over(old: Coordinator, chain: Sequence[Configuration], now_us: int) -> Coordinator:
    """The coordinator of the last of these configurations, which follow that of `old` one after the other. It goes on
    with all that was under way; `old` must not be used any more.

    Listings under way end as failed, changes as if nobody had answered. In mode primary a write that was sent out may
    have been stored or not, and ends as unknown.
    """
    known = [*old.onward.known, old.configuration, *chain[:-1]]
    new = old.successor(chain[-1], known, now_us)
    for slot, tokens, full in old.unread():
        for token in tokens:
            new.read(slot, token, full=full)
    committing: dict[bytes, tuple[PendingWrite, Entry]] = {}
    for machine in old.machines():
        for slot, tokens, full in machine.waiting():
            for token in tokens:
                new.read(slot, token, full=full)
        if isinstance(machine, Commits):
            committing |= {write.slot: (write, entry) for write, entry in machine.committing()}
        elif isinstance(machine, CommittedAgain):
            committing[machine.write.slot] = (machine.write, machine.entry)
        for tokens, outcome in machine.stranded(_MOVED):
            new.finish(tokens, outcome)
        machine.finished = True
        if isinstance(machine, ExactWrite):
            for slot, change, token in machine.begun_nothing():
                new.exact(slot, change, token)
    for slot, change, token in old.unsent_exact():
        new.exact(slot, change, token)
    is_primary = old.configuration.is_primary
    for write, is_sent in old.unwritten():
        if write.begins or write.wipes or not write.tokens:
            continue  # Of the client's own making, for another that goes on.
        if is_sent and (found := committing.get(write.slot)) is not None:
            _commit_again(new, *found, now_us)
        elif is_sent and is_primary(write.slot):
            new.finish(write.tokens, Failed(UNKNOWN, f"{_MOVED}, and it was sent: it may have taken effect"))
        else:
            new.take_up(_anew(write))
    return new


def _anew(write: PendingWrite) -> PendingWrite:
    """The same write, as if it had not been tried."""
    anew: PendingWrite
    if isinstance(write, FieldWrite):
        rest = (write.details, write.tokens, write.base_expires_at_us)
        anew = FieldWrite(write.slot, write.kind, write.value, write.expires_at_us, *rest)
        if write.committed:
            # It may be found to stand: as what was sent out, and not as something older of the same generation.
            anew.committed, anew.stamp = write.committed, write.stamp
    else:
        anew = PendingWrite(write.slot, write.kind, write.value, write.expires_at_us, write.metadata, write.tokens)
    anew.seal = write.seal
    return anew


class CommittedAgain(Overtaken):
    """Commits once more, in another epoch, what was certified and sent out for `write`."""

    __slots__ = ("entry", "write")

    def __init__(
        self, new: Coordinator, write: PendingWrite, entry: Entry, finish: Callable[[bool, int], None], now_us: int
    ) -> None:
        self.write = write
        self.entry = entry
        group, end_us = new.configuration.group_of(write.slot), now_us + new.configuration.op_time_us
        super().__init__(new, group, write.slot, entry.stamp, end_us, finish, now_us, entry=entry)


def _commit_again(new: Coordinator, write: PendingWrite, entry: Entry, now_us: int) -> None:
    """Its certificate was sent: now to the group of the new epoch, whose answers alone count."""
    new.take_off(write)

    def finish(done: bool, _at_us: int) -> None:
        detail = f"{_MOVED}; too few nodes confirmed the write there: it may have taken effect, or may yet"
        new.finish_write(write, Written(entry.stamp) if done else Failed(UNKNOWN, detail))

    new.schedule(CommittedAgain(new, write, entry, finish, now_us))
