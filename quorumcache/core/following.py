"""Asking nodes which epochs came after one's own, and which before: what clients do, nodes that were away, and nodes
that are to join (protocol 9).

Belongs here: whom to ask, when again, and what counts of the answers. What is done with a step is the asker's: clients
go over to it in coordinator.py, nodes in membership.py. Must not know sockets or files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration, SignedConfiguration
from quorumcache.core.epochmessages import digest_of_document, read_document, read_steps, read_successor
from quorumcache.core.seals import Seal, Step, follow
from quorumcache.core.succession import Verify, check_link, lacks_history
from quorumcache.errors import ConfigurationError

ASK_US: Final = 50_000
ASK_US_MAX: Final = 2_000_000


class Following:
    """Asks the nodes of `configuration` for the steps that lead on from it, until told to stop.

    `outbox` collects (node indices, request); `wake` is due at `deadline_us`. What was found: `steps`, each checked,
    and `chain`, the configurations that they lead to; `sealed`: successors, signed by enough administrators, for which
    some node waits for seals, with those it had. With `history`, `before` has the configurations before, the latest
    first: where one reply does not carry all whose certificates count, whoever has told some is asked for those before
    them. `new_id()` gives ids that no other request has.
    """

    def __init__(
        self, configuration: Configuration, verify: Verify, new_id: Callable[[], int], now_us: int, *, history: bool
    ) -> None:
        self.configuration = configuration
        self.steps: tuple[Step, ...] = ()
        self.chain: tuple[Configuration, ...] = ()
        self.sealed: list[tuple[SignedConfiguration, tuple[Seal, ...]]] = []
        self.before: list[Configuration] = []
        self.outbox: list[tuple[tuple[int, ...], m.Request]] = []
        self.deadline_us = now_us
        self._verify = verify
        self._new_id = new_id
        self._history = history
        self._wait_us = ASK_US
        self._asked: dict[int, int] = {}
        #: Of the questions asked, those for what came before some configuration of `before`.
        self._earlier: set[int] = set()
        self._answered: set[int] = set()

    def asked(self, request_id: int) -> bool:
        """Whether it asked this, and waits for the answer."""
        return request_id in self._asked

    @property
    def has_asked(self) -> bool:
        """Whether it has asked at all."""
        return self._wait_us > ASK_US or bool(self._answered)

    @property
    def is_answered(self) -> bool:
        """Whether every node has answered the last round of questions."""
        return len(self._answered) == len(self.configuration.nodes)

    @property
    def answered_count(self) -> int:
        """How many nodes have."""
        return len(self._answered)

    def wake(self, now_us: int, skipped: Collection[int] = ()) -> None:
        """Ask all nodes, but those `skipped`."""
        if now_us < self.deadline_us:
            return
        self.deadline_us = now_us + self._wait_us
        self._wait_us = min(2 * self._wait_us, ASK_US_MAX)
        self._asked.clear()
        self._earlier.clear()
        self._answered.clear()
        for info in self.configuration.nodes:
            if info.index in skipped:
                self._answered.add(info.index)
                continue
            request_id = self._new_id()
            self._asked[request_id] = info.index
            self.outbox.append(((info.index,), m.Follow(request_id, self.configuration.digest, self._history)))

    def hurry(self, now_us: int) -> None:
        """There is news: ask again soon."""
        self._wait_us = ASK_US
        self.deadline_us = min(self.deadline_us, now_us + ASK_US)

    def receive(self, node: int, reply: m.Reply) -> bool:
        """Take a node's answer; False where it tells nothing that holds. Steps may come from anyone, for they prove
        themselves; so does what came before, for each configuration names the digest of its predecessor."""
        if self._asked.pop(reply.id, None) != node:
            return False
        is_earlier = reply.id in self._earlier
        self._earlier.discard(reply.id)
        if not is_earlier:
            self._answered.add(node)
        if not isinstance(reply, m.FollowReply):
            return False
        try:
            told = self._take_history(reply.before)
            # In each round again of who tells anything: an answer may have been lost, and the next one be a liar's.
            if told or (reply.before and not is_earlier):
                self._ask_earlier(node)
            if is_earlier:
                return told
            if len(reply.steps) > len(self.steps):
                steps = read_steps(reply.steps, self.configuration, self._verify)
                self.chain = follow(self.configuration, steps, self._verify)[1:]
                self.steps = tuple(steps)
            elif reply.sealed is not None and not self.steps:
                signed = read_successor(reply.sealed.successor, self.configuration, self._verify)
                # Administrators signed the present one too, and what came before it.
                check_link(signed, self.configuration, self._verify)
                self.sealed.append((signed, tuple(reply.sealed.seals)))
                self._wait_us = ASK_US  # It will not be long.
        except ConfigurationError:
            return False  # Who says so lies, or is of another mind than enough others.
        return True

    def _take_history(self, documents: list[bytes]) -> bool:
        """Take what goes on from what is known already; whether anything does. What does not is not even read."""
        if not self._history:
            return False
        known = len(self.before)
        after = self.before[-1] if self.before else self.configuration
        for document in documents:
            if digest_of_document(document) == after.previous:
                after = read_document(document)
                self.before.append(after)
        return len(self.before) > known

    def _ask_earlier(self, node: int) -> None:
        """Ask a node that tells what came before for what came before all that is known, where certificates of then
        count."""
        if self.before and lacks_history(self.configuration, self.before[::-1]):
            request_id = self._new_id()
            self._asked[request_id] = node
            self._earlier.add(request_id)
            self.outbox.append(((node,), m.Follow(request_id, self.before[-1].digest, True)))
