"""Bounded exhaustive search of compare-and-set in the real core (protocol 17), by the search of explorer.py.

Writers append their numbers to what they find, a reader reads. A deviation is also the death of a client in the middle.
Checked in every state: no two headers may be locked in one ballot; what is decided (q grants of a ballot, the liar's
among them, whoever puts them together) is one line of entries, each made for the one before; nobody hears of what this
line does not show, nor of older things than before. It must not know real time, sockets or randomness.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from itertools import pairwise
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.ballots import signed_together
from quorumcache.core.certificate import exact_grant_string, vote_string
from quorumcache.core.config_model import EXACT
from quorumcache.core.exactwrite import Change, Changer, ExactWrite
from quorumcache.core.lineage import lineage_of
from quorumcache.core.merkle import root_of
from quorumcache.core.model import PUT, digest_of, header_stamp, header_time, parse_header, stamp_of, stamp_time
from quorumcache.core.outcome import Decided, Found, Missed, Outcome
from sim.copying import clone
from sim.explorer import (
    LIAR,
    NODE_KEYS,
    SLOT,
    Bounds,
    Broken,
    Client,
    Explorer,
    Message,
    Result,
    State,
    configuration_of,
)
from sim.mutants.base import Patches

#: The liar's plans: (does it sign all that it is asked to, does it confirm commits, what does it say to readers). Where
#: it signs nothing it names a later ballot.
EXACT_PLANS: Final = (
    (True, True, "oldest"),
    (True, False, "absent, high floor"),
    (True, True, "absent"),
    (False, True, "oldest"),
    (False, False, "silent"),
)


@dataclass(frozen=True)
class _ExactState(State):
    """`signed`: what correct nodes signed, (is it a grant, ballot, header, node)."""

    signed: frozenset[tuple[bool, bytes, bytes, int]] = frozenset()

    def mark(self) -> bytes:
        rest = b"".join(
            b"%d%b%b%d" % (grant, ballot, digest_of(raw), i) for grant, ballot, raw, i in sorted(self.signed)
        )
        return blake2b(super().mark() + rest, digest_size=16).digest()


def _append(number: int) -> Changer:
    """Each change adds its own number to what it finds."""
    return lambda header, salted, _now_us: Change(PUT, salted[16:] + b"%d" % number)


def _without_a_look(pause: Any) -> Any:
    def hasty(self: ExactWrite, now_us: int) -> None:
        self._looks = False
        pause(self, now_us)

    return hasty


class ExactExplorer(Explorer):
    """One search, of a slot that is written by compare-and-set. `hasty`: clients raise their ballots without a look at
    what came of others' first, and so are in each other's way far more often; what holds must hold for these too."""

    plans = EXACT_PLANS

    def __init__(self, bounds: Bounds, *, hasty: bool = True, **named: Any) -> None:
        super().__init__(bounds, configuration=configuration_of(EXACT), **named)
        self._hasty = hasty

    def run(self) -> Result:
        """Search."""
        patches = Patches()
        if self._hasty:
            patches.wrap(ExactWrite, "_pause", _without_a_look)
        try:
            return super().run()
        finally:
            patches.undo()

    def _first(self, plan: tuple[bool, bool, str]) -> _ExactState:
        first = super()._first(plan)
        return _ExactState(**{field.name: getattr(first, field.name) for field in fields(first)})

    def _steps(self, state: State) -> Iterator[tuple[str, Any]]:
        yield from super()._steps(state)
        if state.deviations and state.evictions:
            for i, client in enumerate(state.clients):
                if client.busy and client.writes:
                    yield f"client {i} dies", lambda i=i: self._die(state, i)

    def _faults(self, state: State) -> Iterator[tuple[str, Any]]:
        # Nothing is evicted here.
        return super()._faults(replace(state, evictions=0))

    def _die(self, state: State, i: int) -> State:
        client = clone(state.clients[i])
        client.core.abandon(state.now_us)
        client.core.done.clear()
        client.core.outbox.clear()
        client.left, client.busy = 0, False
        state = replace(state, deviations=state.deviations - 1, evictions=state.evictions - 1)
        return self._with_client(state, i, client)

    def _queue(self, client: Client, i: int) -> None:
        if client.writes:
            client.core.exact(SLOT, _append(i), i)
        else:
            client.core.read(SLOT, i)

    # --- what nodes sign ---

    def _answered(self, state: State, message: Message, reply: m.Reply) -> State:
        request = message.body
        if not isinstance(request, m.Vote | m.Lock) or not isinstance(reply, m.BallotReply) or reply.code:
            return state
        assert isinstance(state, _ExactState)
        one = (isinstance(request, m.Lock), request.ballot, request.header, message.node)
        if one in state.signed:
            return state
        signed = state.signed | {one}
        self._check(signed)
        return replace(state, signed=signed)

    def _check(self, signed: frozenset[tuple[bool, bytes, bytes, int]]) -> None:
        needed = self._configuration.q - self.bounds.liar
        count: dict[tuple[bool, bytes, bytes], int] = {}
        for grant, ballot, raw, _ in signed:
            count[grant, ballot, raw] = count.get((grant, ballot, raw), 0) + 1
        locked = [ballot for (grant, ballot, _), nodes in count.items() if not grant and nodes >= needed]
        if len(set(locked)) < len(locked):
            raise Broken("two headers may be locked in one ballot")
        line = self._line(signed)
        for before, after in pairwise(line):
            if lineage_of(parse_header(after).metadata).after != digest_of(before):
                raise Broken("two headers may be decided of which neither was made for the other")
            if header_time(after) <= header_time(before):
                raise Broken("two headers may be decided with one token")

    def _line(self, signed: frozenset[tuple[bool, bytes, bytes, int]]) -> list[bytes]:
        needed = self._configuration.q - self.bounds.liar
        nodes: dict[tuple[bytes, bytes], int] = {}
        for grant, ballot, raw, _ in signed:
            if grant:
                nodes[ballot, raw] = nodes.get((ballot, raw), 0) + 1
        return sorted({raw for (_, raw), many in nodes.items() if many >= needed}, key=header_stamp)

    # --- what clients are told ---

    def _judge(self, state: State, client: Client, outcome: Outcome) -> State:
        assert isinstance(state, _ExactState)
        if isinstance(outcome, Missed) and client.least and state.restarts == self.bounds.restarts:
            raise Broken("a read missed what was decided before it began")
        if not isinstance(outcome, Decided | Found):
            return state
        line = self._line(state.signed)
        stamp = header_stamp(outcome.header)
        if outcome.header not in line:
            raise Broken("an operation was told of what was never decided")
        if stamp < client.least or (stamp == client.least and isinstance(outcome, Decided)):
            raise Broken("an operation was told of what is older than what another was told before it began")
        written = line[: line.index(outcome.header) + 1]
        if len(outcome.salted) != 16 + len(written):
            raise Broken(f"{outcome.salted[16:]!r} stands where {len(written)} were decided, one after another")
        if len(set(outcome.salted[16:])) < len(written):
            raise Broken(f"{outcome.salted[16:]!r} was decided: one of these took effect twice")
        return replace(state, settled=max(state.settled, stamp))

    # --- the liar ---

    def _lie(self, state: State, request: m.Request) -> m.Reply | None:
        if not isinstance(request, m.Vote | m.Lock):
            return super()._lie(state, request)
        if not state.plan[0]:
            ballot = stamp_of(stamp_time(request.ballot) + 1, bytes(32), 0)
            return m.BallotReply(request.id, state.now_us, m.BUSY, ballot=ballot)
        string = vote_string if isinstance(request, m.Vote) else exact_grant_string
        message = string(self._configuration.digest, request.group, root_of(digest_of(request.header)), request.ballot)
        # Together with something else: whoever takes it has a path to follow.
        proof = signed_together([b"something else", message], NODE_KEYS[LIAR].sign)[0][1]
        return m.BallotReply(request.id, state.now_us, 0, proof)
