"""One node's key through the epochs of its cluster: which node it is now, what is left of the one before, and how it
gets from one to the next (protocol 9).

Belongs here: requests about epochs, to whom the others go, when the node seals and when it activates. A seal is asked
for by whoever has a signed successor; from then on nodes that sealed tell each other, so nobody has to stay and see it
through. What counts as enough seals is in seals.py, what a node takes along in carrying.py, what it still answers of an
epoch that has ended in ended.py. Must not know sockets or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

import msgspec

from quorumcache.core import messages as m
from quorumcache.core.carrying import Carried, carry, stays_in
from quorumcache.core.certificate import Sign, Verifier, Verify
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.cutting import PIECE_COUNT, Cut, cut
from quorumcache.core.ended import Ended
from quorumcache.core.epochmessages import (
    Shown,
    digest_of_document,
    packed,
    packed_documents,
    read_successor,
    signed_of,
)
from quorumcache.core.following import Following
from quorumcache.core.node import Node
from quorumcache.core.seals import Ending, Seal, Step
from quorumcache.core.succession import counting, lacks_history
from quorumcache.errors import ConfigurationError

#: How often a node that sealed hands the successor and the seals to the others, until enough have sealed.
TELL_US: Final = 50_000
TELL_US_MAX: Final = 1_000_000
#: How often, and how many times in a row, a node asks whether an epoch passed it by.
LOOKS_MAX: Final = 6
LOOK_US: Final = 10_000_000


class Record(Protocol):
    """What a node's key remembers for good (wire/sealrecord.py has the real one). Raises ConfigurationError."""

    def remember(self, before: Configuration, successor: SignedConfiguration) -> None:
        """Durably note, before anything is signed, that `before` ends for this successor and no other."""

    def began(self, before: Configuration, step: Step) -> None:
        """Durably note that the next epoch has begun, with all that shows it."""


class Moved(msgspec.Struct, frozen=True):
    """A node went over to its next epoch, or left the cluster with it (`carried` is None)."""

    before: Configuration
    step: Step
    carried: Carried | None


MakeNode = Callable[[Configuration, Verifier], Node]
Carry = Callable[[Node, Node, int], Carried]


def carry_in_memory(old: Node, new: Node, now_us: int) -> Carried:
    """What a node takes along whose values are all in memory."""
    return carry(old.slots, new.slots, new.key, now_us, new.verifier.chain)


class Membership:
    """`node` is that of the current epoch; `handle` answers requests of any.

    `make_node(configuration, verifier)` makes the node of a later epoch, as for a start with stored state; `carry`
    fills it. `known`: configurations before the current one, the oldest first; `steps`: those that led here from one of
    them. `remembered`: the successor that the node sealed its present epoch for, in an earlier life. `moved` collects
    what happened, for the driver to take; `outbox` what is to be sent to nodes of `configuration`, by their indices
    there; `wake` is due at `deadline_us`.
    """

    def __init__(
        self,
        node: Node,
        sign: Sign,
        verify: Verify,
        record: Record,
        make_node: MakeNode,
        *,
        first_id: int,
        known: Sequence[Configuration] = (),
        steps: Sequence[Step] = (),
        remembered: SignedConfiguration | None = None,
        carry: Carry = carry_in_memory,
    ) -> None:
        self.node = node
        self.configuration = node.configuration
        self.known = list(known)
        self.steps = list(steps)
        self.ended: Ended | None = None
        self.has_left = False
        self.moved: list[Moved] = []
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        self.deadline_us = 0
        self._sign = sign
        self._verify = verify
        self._record = record
        self._make_node = make_node
        self._carry = carry
        self._next_id = first_id
        self._told: dict[int, int] = {}
        self._tell_us = TELL_US
        self._tell_at_us = 0
        self._looks = 0
        self._looking: Following | None = None
        self._digest = self.configuration.digest
        self._serving: Node | Ended = node
        #: The digest of each configuration that was followed -> the place of its step.
        self._places = {step.successor.configuration.previous or b"": place for place, step in enumerate(self.steps)}
        self._ending = self._ending_of(self.configuration, remembered)
        if self._ending.is_sealed:
            self._end()

    # --- requests ---

    def handle(self, request: m.Request, now_us: int, client: bytes | None = None) -> m.Reply:
        """Answer one request, as `Node.handle`."""
        if request.configuration == self._digest and type(request) not in _ABOUT_EPOCHS:
            return self._serving.handle(request, now_us, client)
        if isinstance(request, m.Follow):
            return self._follow(request, now_us)
        if isinstance(request, m.SealEpoch):
            return self._seal(request, now_us)
        if isinstance(request, m.Report) and self._reports(request, client):
            return self.node.handle(msgspec.structs.replace(request, configuration=self._digest), now_us)
        ended = self.ended
        if ended is not None and request.configuration == ended.node.configuration.digest:
            return ended.handle(request, now_us, client)
        if request.configuration in self._places or request.configuration == self.successor_digest:
            return m.Reject(
                request.id, now_us, m.SEALED, "that epoch has ended here, or not begun yet: ask what follows"
            )
        return self.node.handle(request, now_us, client)

    def cut(self, request: m.Request, piece_count: int = PIECE_COUNT) -> Cut | None:
        """The request, to be worked on in pieces by `go_on`; None where it is to be handled at once."""
        serving = self._serving
        if isinstance(serving, Node) and request.configuration == self._digest:
            return cut(serving, request, piece_count)
        return None

    def go_on(self, piecewise: Cut, now_us: int, client: bytes | None = None) -> m.Reply | None:
        """The next piece of such a request; the reply with the last one, and None before. Where the node has sealed, or
        gone to another epoch, it is worked on no more: the answer is that of now, and says so."""
        if self._serving is piecewise.node:
            return piecewise.step(now_us)
        piecewise.finished = True
        return self.handle(piecewise.request, now_us, client)

    def _reports(self, request: m.Report, client: bytes | None) -> bool:
        """Whether a node that joined, and asks the members of the epoch before, is told what this one has of a shard
        now: it stayed in the shard, and what it lacked, it has recovered since. That is no less than it had when it
        sealed, for entries only give way to higher ones, or go under a floor that says so."""
        if self.has_left or request.shard >= len(self.node.slots.shards):
            return False
        if client is not None and self.configuration.node_by_key(client) is None:
            return False
        before = next((each for each in self.known if each.digest == request.configuration), None)
        if before is None or not stays_in(self.configuration, before, request.shard, self.node.key):
            return False
        return not self.node.slots.shards[request.shard].recovering

    def serves(self, digest: bytes) -> bool:
        """Whether a session may be opened by who works under this configuration: what follows it, it learns here."""
        return digest == self._digest or digest in self._places or digest == self.successor_digest

    def is_client(self, key: bytes) -> bool:
        """Whether a session may be opened with this key: a writer's or node's of this epoch, the next, or the last."""
        configurations = [self.configuration, *self.known[-1:]]
        if self._ending.successor is not None:
            configurations.append(self._ending.successor.configuration)
        return any(configuration.is_client(key) for configuration in configurations)

    @property
    def is_sealed(self) -> bool:
        """Whether the node has sealed its epoch, and waits for others to."""
        return self._ending.is_sealed and not self.has_left

    @property
    def successor_digest(self) -> bytes:
        """The digest of the successor that the node sealed its epoch for; empty where it has not."""
        return b"" if self._ending.successor is None else self._ending.successor.configuration.digest

    @property
    def lacking_groups(self) -> int:
        """Of how many groups more seals are needed, while the node waits for them."""
        return len(self._ending.lacking) if self.is_sealed else 0

    def _follow(self, request: m.Follow, now_us: int) -> m.Reply:
        place = self._places.get(request.configuration)
        asked = [i for i, x in enumerate(self.known) if x.digest == request.configuration] if request.history else []
        if place is None and request.configuration != self._digest and not asked:
            return m.Reject(
                request.id,
                now_us,
                m.WRONG_CONFIGURATION,
                f"this node knows no configuration {request.configuration.hex()[:16]}; it works under epoch "
                f"{self.configuration.epoch}, configuration {self._digest.hex()[:16]}",
            )
        before: list[bytes] = []
        if request.history:
            before = packed_documents(self.known[: asked[0] if asked else None][::-1])
        steps = [] if place is None else packed(self.steps[place:])
        sealed = None
        if request.configuration == self._digest and self._ending.successor is not None:
            sealed = Shown(signed_of(self._ending.successor), list(self._ending.seals))
        return m.FollowReply(request.id, now_us, steps, sealed, before)

    def _seal(self, request: m.SealEpoch, now_us: int) -> m.Reply:
        place = self._places.get(request.configuration)
        digest = digest_of_document(request.successor.document)
        try:
            if place is not None:
                step = self.steps[place]
                if step.successor.configuration.digest == digest:
                    return m.SealReply(request.id, now_us, list(step.seals), True)
                raise ConfigurationError(
                    f"epoch {step.successor.configuration.epoch} has begun, with configuration "
                    f"{step.successor.configuration.digest.hex()[:16]}: what was sent would be another one"
                )
            if request.configuration != self._digest:
                raise ConfigurationError(
                    f"this node works under epoch {self.configuration.epoch}, configuration {self._digest.hex()[:16]}"
                )
            if digest != self.successor_digest:
                self.seal(read_successor(request.successor, self.configuration, self._verify), now_us)
            self._take(request.seals, now_us)
        except ConfigurationError as problem:
            return m.Reject(request.id, now_us, m.NOT_ALLOWED, str(problem)[:400])
        place = self._places.get(request.configuration)
        seals = self._ending.seals if place is None else self.steps[place].seals
        return m.SealReply(request.id, now_us, list(seals), place is not None)

    # --- ending and beginning ---

    def _ending_of(self, configuration: Configuration, remembered: SignedConfiguration | None = None) -> Ending:
        remember = partial(self._record.remember, configuration)
        return Ending(configuration, self.node.key, self._sign, self._verify, remember, remembered=remembered)

    def seal(self, signed: SignedConfiguration, now_us: int) -> None:
        """End the epoch for this successor. Raises ConfigurationError, and nothing has changed, where it may not be."""
        was_sealed = self._ending.is_sealed
        self._ending.seal(signed)
        if not was_sealed:
            self._end()
            self._tell_us, self._tell_at_us = TELL_US, now_us
            self.deadline_us = now_us

    def _end(self) -> None:
        self.ended = self._serving = Ended(self.node, self._ending)

    def _take(self, seals: Sequence[Seal], now_us: int) -> None:
        if self.has_left or not self._ending.is_sealed:
            return
        self._ending.take(seals)
        step = self._ending.step
        if step is not None:
            self._begin(step, now_us)

    def advance(self, steps: Sequence[Step], now_us: int) -> None:
        """Go the steps that others showed, the first of which follows the present configuration: seal, and activate.
        Raises ConfigurationError where one does not hold, or the node had sealed for another successor."""
        for step in steps:
            if self.has_left:
                return
            before = self._digest
            self.seal(step.successor, now_us)
            self._take(step.seals, now_us)
            if self._digest == before and not self.has_left:
                raise ConfigurationError(f"the step to epoch {step.successor.configuration.epoch} lacks seals")

    def _begin(self, step: Step, now_us: int) -> None:
        before, after = self.configuration, step.successor.configuration
        self._record.began(before, step)
        self._places[self._digest] = len(self.steps)
        self.steps.append(step)
        self._looking, self._looks = None, 0
        self._told.clear()
        self.outbox.clear()
        if after.node_by_key(self.node.key) is None:
            self.has_left = True
            self.moved.append(Moved(before, step, None))
            return
        self.known.append(before)
        old = self.node
        verifier = Verifier(self._verify, counting(after, self.known))
        self.node = self._serving = self._make_node(after, verifier)
        carried = self._carry(old, self.node, now_us)
        if self.ended is not None:
            self.ended.went_on(now_us)
        self.configuration, self._digest = after, after.digest
        self._ending = self._ending_of(after)
        self.moved.append(Moved(before, step, carried))
        if self._lacks_history:
            self.look(now_us)

    # --- what goes out by itself ---

    def look(self, now_us: int) -> None:
        """An epoch may have passed by while the node was away, or somebody says so: ask the others."""
        if self.has_left or self._ending.is_sealed:
            return
        if self._looking is None:
            self._looking, self._looks = self._following(now_us), 0
        self.deadline_us = min(self.deadline_us, self._looking.deadline_us)

    @property
    def _lacks_history(self) -> bool:
        return lacks_history(self.configuration, self.known)

    def _following(self, now_us: int) -> Following:
        return Following(self.configuration, self._verify, self._new_id, now_us, history=self._lacks_history)

    def _new_id(self) -> int:
        self._next_id = (self._next_id + 1) & ((1 << 63) - 1)
        return self._next_id

    @property
    def is_talking(self) -> bool:
        """Whether there is anything to ask or to tell the others."""
        return self.is_sealed or self._looking is not None

    def wake(self, now_us: int) -> None:
        """Tell the others of the seal, or ask them for what passed by."""
        if now_us < self.deadline_us:
            return
        self.deadline_us = now_us + LOOK_US
        own = self.node.index
        if self.is_sealed:
            signed = self._ending.successor
            if now_us >= self._tell_at_us and signed is not None:
                self._told.clear()
                seals, successor = list(self._ending.seals), signed_of(signed)
                for info in self.configuration.nodes:
                    if info.index != own:
                        request_id = self._new_id()
                        self._told[request_id] = info.index
                        self.outbox.append(((info.index,), m.SealEpoch(request_id, self._digest, successor, seals)))
                self._tell_at_us = now_us + self._tell_us
                self._tell_us = min(2 * self._tell_us, TELL_US_MAX)
            self.deadline_us = self._tell_at_us
        elif self._looking is not None:
            looking = self._looking
            if now_us >= looking.deadline_us:
                self._looks += 1
                has_enough = self._looks > LOOKS_MAX or (self._looks > 1 and looking.is_answered)
                # Without what came before, it would take all that was written then for lies: it goes on asking.
                if has_enough and not self._lacks_history:
                    self._looking = None
                    return
                looking.wake(now_us, (own,))
                self.outbox += looking.outbox
                looking.outbox.clear()
            self.deadline_us = looking.deadline_us

    def receive(self, peer: int, reply: m.Reply, now_us: int) -> None:
        """Take another node's answer. Raises ConfigurationError where the node cannot follow what holds."""
        if self._told.get(reply.id) == peer:
            del self._told[reply.id]
            if isinstance(reply, m.SealReply):
                self._take(reply.seals, now_us)
            return
        looking = self._looking
        if looking is None:
            return
        is_true = looking.receive(peer, reply)
        self.outbox += looking.outbox
        looking.outbox.clear()
        if not is_true:
            return
        if len(looking.before) > len(self.known):
            self.known = looking.before[::-1]
            self.node.verifier.learn(counting(self.configuration, self.known))
        if looking.steps:
            self.advance(looking.steps, now_us)
        elif looking.sealed:
            signed, seals = looking.sealed.pop()
            self.seal(signed, now_us)
            self._take(seals, now_us)

    def hear(self, reply: m.Reply, now_us: int) -> None:
        """Any reply that the node got from another one: one that says that the epoch has ended makes it look."""
        if isinstance(reply, m.Reject) and reply.code == m.SEALED:
            self.look(now_us)


_ABOUT_EPOCHS: Final = frozenset((m.Follow, m.SealEpoch))
