"""Reads, one round: 2f+1 equal answers end them (protocol 4, read 1).

A batch of slots of one group travels in one request per node. Nodes whose digests are equal for the whole batch are
compared in one step; only where they differ is each slot looked at. What equality cannot settle goes to settle.py.
It must not know sockets, or what values mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from quorumcache.core import messages as m
from quorumcache.core.config import Group
from quorumcache.core.keys import fields_in
from quorumcache.core.machine import HEDGE_US, RESEND_US, RESEND_US_MAX, Machine, is_worth_asking_again
from quorumcache.core.model import (
    ABSENT,
    DELETE,
    digest_of,
    header_expires_at,
    header_time,
    value_hash_of,
)
from quorumcache.core.outcome import DENIED, MISMATCH, UNAVAILABLE, Failed, Found, Missed, Outcome
from quorumcache.core.types.base import is_base_slot

if TYPE_CHECKING:
    from quorumcache.core.coordinator import Coordinator

#: From this many slots on, the wanted values are split among the nodes asked.
SPLIT_MIN: Final = 8

_OPEN, _AGREED, _DONE = 0, 1, 2


def outcome_of(header: bytes, salted: bytes, cluster_us: int, q: int) -> Outcome:
    """What a settled entry means to a reader: its value, or a miss where it is a tombstone or has expired."""
    if header[2] == DELETE:
        return Missed(q)
    expires_at_us = header_expires_at(header)
    if expires_at_us and expires_at_us <= cluster_us:
        return Missed(q)
    return Found(header, salted)


def outcome_of_key(base: bytes, fields: list[tuple[bytes, bytes]], cluster_us: int, q: int) -> Outcome:
    """As `outcome_of`, for a key with fields and for one of its fields."""
    outcome = outcome_of(base, b"", cluster_us, q)
    return outcome if isinstance(outcome, Missed) else Found(base, b"", None, fields)


def is_value_of(digest: bytes, header: bytes, salted: bytes) -> bool:
    """Whether header and salted value are those that `digest` covers."""
    return digest_of(header) == digest and value_hash_of(salted) == header[51:83]


def is_rejected(rejects: dict[int, m.Reject], tolerated: int) -> bool:
    """Whether more nodes than `tolerated` rejected it for good. Those whose epoch has ended do not count: beside a liar
    that rejects all, one of them would fail what can go on in the next epoch, or at the others."""
    if len(rejects) <= tolerated:
        return False
    return sum(reject.code != m.SEALED for reject in rejects.values()) > tolerated


def rejection(group: Group, rejects: dict[int, m.Reject]) -> Failed:
    """Why an operation failed that a quorum's worth of nodes rejected."""
    denied = [reject for reject in rejects.values() if reject.code == m.NOT_ALLOWED]
    if 2 * len(denied) > len(rejects):
        return Failed(DENIED, denied[0].detail)
    mismatched = sum(reject.code == m.WRONG_CONFIGURATION for reject in rejects.values())
    node, reject = next(iter(rejects.items()))
    name = m.REJECTIONS.get(reject.code, "an unknown code")
    detail = f"{len(rejects)} of {len(group.members)} nodes rejected it; node {node}: {name}, {reject.detail}"
    return Failed(MISMATCH if 2 * mismatched > len(rejects) else UNAVAILABLE, detail)


class ReadBatch(Machine):
    """Reads of some slots of one group. `tokens[i]` wait for `slots[i]`."""

    __slots__ = (
        "_answers",
        "_asked",
        "_context",
        "_digests",
        "_fetches",
        "_group",
        "_hedge_us",
        "_id",
        "_keyed",
        "_left",
        "_quorum_us",
        "_ranges",
        "_rejects",
        "_resend_us",
        "_slots",
        "_started_us",
        "_states",
        "_tokens",
    )

    def __init__(
        self,
        context: Coordinator,
        group: Group,
        slots: list[bytes],
        tokens: list[list[Any]],
        now_us: int,
    ) -> None:
        self._resend_us = RESEND_US
        super().__init__(now_us + RESEND_US, now_us + context.configuration.op_time_us)
        self._context = context
        self._group = group
        self._slots = slots
        self._tokens = tokens
        #: For each slot, whether it is of a key with fields; empty where none is.
        types = context.types
        self._keyed = [slot[: 1 + slot[0]] in types for slot in slots] if types else []
        if True not in self._keyed:
            self._keyed = []
        # A whole key may be megabytes, and then takes its node a while: another is asked only after the grace time.
        whole = any(keyed and is_base_slot(slot) for keyed, slot in zip(self._keyed, slots, strict=False))
        self._hedge_us = max(HEDGE_US, context.configuration.grace_us) if whole else HEDGE_US
        self._started_us = now_us
        self._answers: dict[int, bytes] = {}  # node -> its digests, joined
        self._rejects: dict[int, m.Reject] = {}
        self._digests: list[bytes] = []  # what is agreed, per slot; empty until any is
        self._states = bytearray(len(slots))
        self._left = len(slots)
        self._quorum_us = 0
        self._asked: dict[int, tuple[int, int]] = {}  # node -> range of slots whose values it was asked for
        self._ranges: dict[int, m.ReadReply] = {}  # node -> its reply, for the values in it
        self._fetches: dict[int, tuple[int, list[int]]] = {}  # request id -> the node asked, the positions it fetches
        self._id = context.new_id(self)
        count = len(slots)
        preferred = context.preferred(group)
        parts = min(len(preferred), context.configuration.q) if count >= SPLIT_MIN else 1
        digest = context.configuration.digest
        for part in range(parts):
            low, high = count * part // parts, count * (part + 1) // parts
            self._asked[preferred[part]] = (low, high)
            context.send((preferred[part],), m.Read(self._id, digest, slots, low, high))
        others = tuple(node for node in group.members if node not in self._asked)
        if others:
            context.send(others, m.Read(self._id, digest, slots))

    def waiting(self) -> list[tuple[bytes, list[Any], bool]]:
        """See `Machine.waiting`."""
        pairs = zip(self._slots, self._tokens, self._states, strict=True)
        return [(slot, tokens, False) for slot, tokens, state in pairs if state != _DONE]

    # --- replies ---

    def receive(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        """Take a node's digests, and values where it was asked for them."""
        if node not in self._group.members or self.finished:
            return
        if request_id != self._id:
            self._receive_fetch(request_id, node, reply, now_us)
            return
        if type(reply) is not m.ReadReply:
            if isinstance(reply, m.Reject):
                self._reject(node, reply, now_us)
            return
        if node in self._answers:
            return
        digests = reply.digests
        low, high = self._asked.get(node, (0, 0))
        if len(digests) != 32 * len(self._slots) or len(reply.values) != 2 * (high - low):
            self._context.suspect(node, 4.0, lie=True)
            return
        answers = self._answers
        answers[node] = digests
        self._rejects.pop(node, None)
        if high:
            self._ranges[node] = reply
        q = self._context.configuration.q
        if len(answers) < q:
            return
        if not self._quorum_us:
            self._quorum_us = now_us
            self.deadline_us = min(now_us + self._hedge_us, self.end_us)
        if not self._digests:
            if list(answers.values()).count(digests) >= q:
                self._digests = [digests[at : at + 32] for at in range(0, len(digests), 32)]
                self._states = bytearray(b"\x01") * len(self._slots)
            else:
                self._compare(q, now_us)
        elif 0 in self._states:
            self._compare(q, now_us)
        if self._left:
            self._deliver(now_us)

    def _reject(self, node: int, reply: m.Reject, now_us: int) -> None:
        if node in self._answers:
            return  # Its answer stands; counted as both, a liar would have two votes.
        self._rejects[node] = reply
        configuration = self._context.configuration
        if is_rejected(self._rejects, configuration.n - configuration.q):
            self._fail(rejection(self._group, self._rejects))

    def _compare(self, q: int, now_us: int) -> None:
        """Slot by slot: which have q equal answers, and for which is that out of reach?"""
        count = len(self._slots)
        if not self._digests:
            self._digests = [ABSENT] * count
        answers = list(self._answers.values())
        outstanding = len(self._group.members) - len(answers) - len(self._rejects)
        hopeless = []
        for i in range(count):
            if self._states[i] != _OPEN:
                continue
            at = i << 5
            here = [digests[at : at + 32] for digests in answers]
            most = max(here, key=here.count)
            votes = here.count(most)
            if votes >= q:
                self._digests[i] = most
                self._states[i] = _AGREED
            elif votes + outstanding < q:
                hopeless.append(i)
        if hopeless:
            self._to_settle(hopeless, now_us)

    def _deliver(self, now_us: int) -> None:
        """Hand out what is agreed and whose value is here."""
        context = self._context
        cluster_us = context.clock.time_us(now_us)
        states, digests, tokens = self._states, self._digests, self._tokens
        q = context.configuration.q
        done = context.done
        delivered = 0
        for i, state in enumerate(states):
            if state == _AGREED and digests[i] == ABSENT:
                states[i] = _DONE
                delivered += 1
                context.counts["reads_missed"] += 1
                context.finish(tokens[i], Missed(q))
        for node, reply in self._ranges.items():
            low, high = self._asked[node]
            values = reply.values
            for i in range(low, high):
                if states[i] != _AGREED:
                    continue
                at = (i - low) << 1
                header, salted = values[at], values[at + 1]
                if self._keyed and self._keyed[i]:
                    fields = fields_in(digests[i], self._slots[i], header, salted) if header else None
                    if fields is not None:
                        states[i] = _DONE
                        delivered += 1
                        self._note_ahead(i, fields, cluster_us, now_us)
                        context.finish(tokens[i], outcome_of_key(header, fields, cluster_us, q))
                    continue
                if not is_value_of(digests[i], header, salted):
                    if self._answers[node][i << 5 : (i + 1) << 5] != digests[i]:
                        # Behind, or lying: another will be the first to be asked for values (protocol 8).
                        context.suspect(node, 0.25)
                    continue
                states[i] = _DONE
                delivered += 1
                outcome: Outcome
                if header[2] or header[87:95] != b"\0\0\0\0\0\0\0\0":
                    outcome = outcome_of(header, salted, cluster_us, q)
                else:
                    outcome = Found(header, salted)
                if header_time(header) > cluster_us:
                    context.note_ahead(self._slots[i], header_time(header), now_us)
                for token in tokens[i]:
                    done.append((token, outcome))
        context.counts["reads_fast"] += delivered
        self._left -= delivered
        if not self._left:
            self._finish()
        elif self._ranges.keys() == self._asked.keys():
            self._fetch(now_us)

    def _note_ahead(self, i: int, fields: list[tuple[bytes, bytes]], cluster_us: int, now_us: int) -> None:
        if len(fields) == 1 and header_time(fields[0][0]) > cluster_us:
            self._context.note_ahead(self._slots[i], header_time(fields[0][0]), now_us)

    def _finish(self) -> None:
        self.finished = True
        self._context.forget(self._id)
        for request_id in self._fetches:
            self._context.forget(request_id)

    def _fail(self, failed: Failed) -> None:
        for i, state in enumerate(self._states):
            if state != _DONE:
                self._context.finish(self._tokens[i], failed)
        self._finish()

    # --- values that their node withheld, or is slow to give ---

    def _fetch(self, now_us: int) -> None:
        """Ask another of those that agreed for values that are missing; where none is left, read in full."""
        context = self._context
        fetching = {i for _, positions in self._fetches.values() for i in positions}
        wanted: dict[int, list[int]] = {}
        hopeless = []
        for i, state in enumerate(self._states):
            if state != _AGREED or i in fetching:
                continue
            asked = [node for node, (low, high) in self._asked.items() if low <= i < high]
            at = i << 5
            voters = [
                node
                for node in context.preferred(self._group)
                if node not in asked and self._answers.get(node, b"")[at : at + 32] == self._digests[i]
            ]
            for node in asked:
                if self._keyed and self._keyed[i]:
                    continue  # A large key is left out by honest nodes too.
                if node in self._ranges and self._answers[node][at : at + 32] == self._digests[i]:
                    reply = self._ranges[node]
                    if sum(map(len, reply.values)) <= m.REPLY_VALUES_BYTES_MAX:
                        # It named the digest, yet did not give the value, though there was room for it.
                        context.suspect(node, 2.0, lie=True)
            if voters:
                wanted.setdefault(voters[0], []).append(i)
            else:
                hopeless.append(i)
        for node, positions in wanted.items():
            request_id = context.new_id(self)
            self._fetches[request_id] = (node, positions)
            slots = [self._slots[i] for i in positions]
            context.send(
                (node,),
                m.Read(request_id, context.configuration.digest, slots, 0, len(slots)),
            )
        if wanted:
            self.deadline_us = min(now_us + self._hedge_us, self.end_us)
        if hopeless:
            self._to_settle(hopeless, now_us)

    def _receive_fetch(self, request_id: int, node: int, reply: m.Reply, now_us: int) -> None:
        asked, positions = self._fetches.get(request_id, (-1, []))
        if node != asked:
            return
        del self._fetches[request_id]
        self._context.forget(request_id)
        hopeless = []
        cluster_us = self._context.clock.time_us(now_us)
        q = self._context.configuration.q
        fits = type(reply) is m.ReadReply and len(reply.values) == 2 * len(positions)
        values = reply.values if fits else []  # type: ignore[attr-defined]
        for at, i in enumerate(positions):
            if self._states[i] != _AGREED:
                continue
            if fits and self._keyed and self._keyed[i]:
                fields = fields_in(self._digests[i], self._slots[i], values[2 * at], values[2 * at + 1])
                if fields is None or not values[2 * at]:
                    hopeless.append(i)
                    continue
                self._states[i] = _DONE
                self._left -= 1
                self._context.counts["reads_fast"] += 1
                self._context.finish(self._tokens[i], outcome_of_key(values[2 * at], fields, cluster_us, q))
            elif fits and is_value_of(self._digests[i], values[2 * at], values[2 * at + 1]):
                self._states[i] = _DONE
                self._left -= 1
                self._context.counts["reads_fast"] += 1
                header, salted = values[2 * at], values[2 * at + 1]
                self._context.finish(self._tokens[i], outcome_of(header, salted, cluster_us, q))
            else:
                hopeless.append(i)
        if hopeless:
            # Overwritten meanwhile, or withheld again: all will be asked.
            self._to_settle(hopeless, now_us)
        elif not self._left:
            self._finish()

    # --- time ---

    def _to_settle(self, positions: list[int], now_us: int) -> None:
        for i in positions:
            self._states[i] = _DONE
        self._left -= len(positions)
        self._context.settle(
            self._group,
            [self._slots[i] for i in positions],
            [self._tokens[i] for i in positions],
            self._started_us,
            now_us,
        )
        if not self._left:
            self._finish()

    def wake(self, now_us: int) -> None:
        """After the hedge: fetch or settle what is left. Else: resend to the silent, or give up at op_time."""
        context = self._context
        if now_us >= self.end_us:
            self._fail(
                Failed(
                    UNAVAILABLE,
                    f"{len(self._answers)} of {len(self._group.members)} nodes answered in time, "
                    f"{context.configuration.q} are needed",
                )
            )
            return
        if self._quorum_us:
            for node in self._asked:
                if node not in self._ranges:
                    context.suspect(node, 1.0)
            open_ = [i for i, state in enumerate(self._states) if state == _OPEN]
            if open_:
                self._to_settle(open_, now_us)
            if not self._left:
                return
            late = [i for _, positions in self._fetches.values() for i in positions]
            for request_id in self._fetches:
                context.forget(request_id)
            self._fetches.clear()
            if late:
                self._to_settle([i for i in late if self._states[i] == _AGREED], now_us)
            if self._left:
                self._fetch(now_us)
            return
        silent = [
            node
            for node in self._group.members
            if node not in self._answers and is_worth_asking_again(node, self._rejects)
        ]
        for node in silent:
            low, high = self._asked.get(node, (0, 0))
            context.send(
                (node,),
                m.Read(self._id, context.configuration.digest, self._slots, low, high),
            )
        self._resend_us = min(2 * self._resend_us, RESEND_US_MAX)
        self.deadline_us = min(now_us + self._resend_us, self.end_us)
