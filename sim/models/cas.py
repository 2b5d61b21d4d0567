"""An exhaustive model of compare-and-set (protocol section 17): one slot, n = 4, f = 1, three correct nodes.

Whoever proposes is Byzantine here, and so is the fourth node: every header may be proposed at every ballot at any time,
to any node, by anyone; the fourth node has signed whatever helps; every certificate that could be put together is in
everybody's hands. What the model holds on to are the rules of the correct nodes, and nothing else. It must not know the
real code. `python -m sim.models.cas` explores the rules, and then each rule left out, which has to break something.

Times are small integers, and a ballot is one, so there is one proposer for each time.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

NODES: Final = 3
ABSENT: Final = -1
NEEDED: Final = 2  #: Correct nodes in a quorum to which the liar adds itself.


@dataclass(frozen=True)
class Rules:
    """One exploration: the headers as (predecessor, time), the ballots, what may happen, and what is broken."""

    headers: tuple[tuple[int, int], ...]
    ballots: tuple[int, ...]
    restarts: int = 0
    #: How often nodes may reap (they do not look whether an entry has expired, only whether it is old enough).
    reaps: int = 0
    #: How often a floor rises because of another slot of the shard, which was reaped.
    rises: int = 0
    #: Without ticks time stands still, all ballots are in the window, and nothing is forgotten.
    ticks: int = 0
    life: int = 1
    offsets: tuple[int, ...] = (0, 0, 0)
    skew: int = 0
    #: `G` of section 17: nothing is forgotten before its last ballot is `gap + life` old.
    gap: int = 2
    without: frozenset[str] = field(default_factory=frozenset)


class Node(NamedTuple):
    """What a correct node knows of the slot. `floor` is a time; `start` is when it began anew, or -1: it may vote."""

    current: int = ABSENT
    promised: int = 0
    voted: int = ABSENT
    locked: int = ABSENT
    lock_ballot: int = 0
    certified: int = 0  #: The ballot of the certificate that came with `current`.
    floor: int = 0
    start: int = -1


class State(NamedTuple):
    nodes: tuple[Node, ...]
    votes: int = 0
    grants: int = 0
    forgotten: int = 0  #: Which grants their nodes have forgotten, by a restart or by reaping.
    acknowledged: int = 0  #: Which node has said OK to which header's commit.
    now: int = 0
    restarts: int = 0
    reaps: int = 0
    rises: int = 0


class Violation(Exception):
    """An invariant does not hold: which, and where."""


class Model:
    """The transitions of one `Rules`, and the invariants of its states."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.headers = rules.headers
        self.count = len(rules.headers)
        self.broken = rules.without
        self.order = {b: i for i, b in enumerate(rules.ballots)}
        self.width = self.count * len(rules.ballots)
        self.places = [(h, b) for h in range(self.count) for b in rules.ballots]
        self.mask = {(h, b): sum(1 << self.bit(node, h, b) for node in range(NODES)) for h, b in self.places}
        self.needed = 1 if "decision by 2f" in self.broken else NEEDED

    def bit(self, node: int, h: int, b: int) -> int:
        return node * self.width + h * len(self.order) + self.order[b]

    def quorum(self, signed: int, h: int, b: int) -> bool:
        return (signed & self.mask[h, b]).bit_count() >= NEEDED

    def decided(self, grants: int) -> list[tuple[int, int]]:
        return [p for p in self.places if (grants & self.mask[p]).bit_count() >= self.needed]

    def ancestors(self, h: int) -> set[int]:
        line = {h}
        while self.headers[h][0] != ABSENT:
            h = self.headers[h][0]
            line.add(h)
        return line

    def time_of(self, h: int) -> int:
        return 0 if h == ABSENT else self.headers[h][1]

    # --- the rules of section 17 ---

    def in_window(self, node: Node, clock: int, b: int) -> bool:
        if not self.rules.ticks:
            return True
        old = b <= clock - self.rules.life and "ballots live for ever" not in self.broken
        return not old and b <= clock + self.rules.skew and b > node.floor

    def fits(self, node: Node, h: int) -> bool:
        after, at = self.headers[h]
        if node.current != after:
            return "kept after current changed" in self.broken and node.current != h
        if after == ABSENT and "headers below the floor" not in self.broken:
            return at > node.floor or h in (node.voted, node.locked)
        return True

    def may_vote(self, state: State, node: Node, clock: int, h: int, b: int) -> bool:
        if node.start >= 0 and "votes while it recovers" not in self.broken:
            return False
        if b < self.headers[h][1] or not self.in_window(node, clock, b) or not self.fits(node, h):
            return False
        if b < node.promised:
            return False
        if b == node.promised and node.voted != h and "votes twice" not in self.broken:
            return False
        if node.locked == ABSENT or node.locked == h or "no lock check" in self.broken:
            return True
        least = 0 if "any certificate unlocks" in self.broken else node.lock_ballot
        if "no justification" in self.broken and b > node.lock_ballot:
            return True
        return any(self.quorum(state.votes, h, below) for below in self.order if least < below < b)

    def may_lock(self, state: State, node: Node, clock: int, h: int, b: int) -> bool:
        if node.start >= 0 and "votes while it recovers" not in self.broken:
            return False
        if not self.quorum(state.votes, h, b) or not self.in_window(node, clock, b) or not self.fits(node, h):
            return False
        return b >= node.promised or ("locks below its promise" in self.broken and b >= node.lock_ballot)

    def stored(self, node: Node, h: int, b: int) -> tuple[Node, bool]:
        """The commit of h with its certificate of ballot b: the node then, and whether it says OK."""
        at = self.time_of(h)
        promised = max(node.promised, b)
        if node.current != ABSENT and at <= self.time_of(node.current):
            return node, True
        if node.current == ABSENT and at <= node.floor and (h not in (node.locked, node.voted)):
            return node, False
        voted = node.voted if promised == node.promised else ABSENT
        keep = node.lock_ballot > b and self.time_of(node.locked) > at
        locked, lock_ballot = (node.locked, node.lock_ballot) if keep else (ABSENT, 0)
        return Node(h, promised, voted, locked, lock_ballot, b, node.floor, node.start), True

    def recovered(self, state: State, who: int, clock: int) -> Iterator[Node]:
        """A node that began anew asks the others, the liar among them, which may show what it likes."""
        rules, node = self.rules, state.nodes[who]
        wait = rules.gap + rules.life + 2 * rules.skew
        if clock < node.start + wait and "recovers without waiting" not in self.broken:
            return
        others = [other for i, other in enumerate(state.nodes) if i != who]
        certified = self.decided(state.grants)
        for shown in [(ABSENT, 0), *certified]:
            for lock in [(ABSENT, 0), *[p for p in self.places if self.quorum(state.votes, *p)]]:
                entries = [(o.current, o.certified) for o in others if o.current != ABSENT]
                entries += [(node.current, node.certified)] if node.current != ABSENT else []
                entries += [shown] if shown[0] != ABSENT else []
                best, ballot = max(entries, key=lambda e: (self.time_of(e[0]), e[1]), default=(ABSENT, 0))
                floor = max(node.floor, clock - rules.life + rules.skew)
                if (
                    best != ABSENT
                    and any(o.current == ABSENT and o.floor >= self.time_of(best) for o in others)
                    and best != node.current
                ):
                    continue  # Doubtful: it stays silent, and asks again.
                locks = [(o.lock_ballot, o.locked) for o in others] + [(lock[1], lock[0])]
                if "recovers without locks" in self.broken:
                    locks = [(0, ABSENT)]
                lock_ballot, locked = max(locks)
                if lock_ballot <= ballot:
                    lock_ballot, locked = 0, ABSENT
                floors = [other.floor for other in others if other.current == ABSENT]
                if (
                    locked != ABSENT
                    and any(above >= self.time_of(locked) for above in floors)
                    and "adopts doubtful locks" not in self.broken
                ):
                    continue
                yield Node(best, max(ballot, lock_ballot), ABSENT, locked, lock_ballot, ballot, floor, -1)

    # --- transitions ---

    def granted_by(self, state: State, who: int) -> int:
        return state.grants & (((1 << self.width) - 1) << (who * self.width))

    def successors(self, state: State) -> Iterator[tuple[str, State]]:
        rules = self.rules
        certified = self.decided(state.grants)
        for who, node in enumerate(state.nodes):
            clock = state.now + rules.offsets[who]

            def put(after: Node, who: int = who, **changes: int) -> State:
                nodes = (*state.nodes[:who], after, *state.nodes[who + 1 :])
                return state._replace(nodes=nodes, **changes)

            for h, b in self.places:
                bit = 1 << self.bit(who, h, b)
                if not state.votes & bit and self.may_vote(state, node, clock, h, b):
                    yield f"{who} votes {h}@{b}", put(node._replace(promised=b, voted=h), votes=state.votes | bit)
                if not state.grants & bit and self.may_lock(state, node, clock, h, b):
                    locked = node._replace(promised=max(b, node.promised), locked=h, lock_ballot=b)
                    if b > node.promised:
                        locked = locked._replace(voted=ABSENT)
                    yield f"{who} grants {h}@{b}", put(locked, grants=state.grants | bit)
            for h, b in certified:
                after, ok = self.stored(node, h, b)
                said = state.acknowledged | (1 << (who * self.count + h) if ok else 0)
                if after != node or said != state.acknowledged:
                    yield f"{who} stores {h}@{b}", put(after, acknowledged=said)
            if state.restarts < rules.restarts and rules.ticks:
                floor = max(node.floor, clock + 2 * rules.skew)
                if "restarts without a floor" in self.broken:
                    floor = 0
                fresh = Node(floor=floor, start=clock)
                # Alone it stays silent until it knows again; what several lose at once may be lost.
                silent = [i for i, other in enumerate(state.nodes) if other.start >= 0 and i != who]
                forgotten = state.forgotten
                for i in [*silent, who] if silent else ():
                    forgotten |= self.granted_by(state, i)
                yield f"{who} restarts", put(fresh, restarts=state.restarts + 1, forgotten=forgotten)
            if node.start >= 0:
                for found in self.recovered(state, who, clock):
                    yield f"{who} recovers", put(found)
            elif state.reaps < rules.reaps and (node.current != ABSENT or node.locked != ABSENT):
                newest = max(node.certified, node.lock_ballot, self.time_of(node.current))
                is_old = clock > newest + rules.gap + rules.life
                if "forgets votes" not in self.broken:
                    is_old = is_old and clock > node.promised + rules.life
                if is_old or "reaps what is young" in self.broken:
                    floor = max(node.floor, clock - rules.life)
                    if "reaps to the stamp" in self.broken:
                        floor = max(node.floor, self.time_of(node.current))
                    forgotten = state.forgotten | self.granted_by(state, who)
                    yield f"{who} reaps", put(Node(floor=floor), reaps=state.reaps + 1, forgotten=forgotten)
            if state.rises < rules.rises and clock - rules.life > node.floor:
                yield f"{who}'s floor rises", put(node._replace(floor=clock - rules.life), rises=state.rises + 1)
        if state.now < rules.ticks:
            yield "tick", state._replace(now=state.now + 1)

    # --- invariants ---

    def check(self, state: State) -> None:
        decided = self.decided(state.grants)
        for b in self.order:
            if sum(self.quorum(state.votes, h, b) for h in range(self.count)) > 1:
                raise Violation(f"two headers are locked in ballot {b}")
        for h, b in decided:
            lost = (state.forgotten & self.mask[h, b]).bit_count()
            for other, later in decided:
                if other == h or later <= b:
                    continue
                if self.time_of(other) <= self.time_of(h):
                    raise Violation(f"{other}@{later} is decided after {h}@{b} with a lower token")
                after = self.headers[other][0]
                if h in self.ancestors(other):
                    continue
                if after != ABSENT and not self.is_fresh(decided, other, h, b):
                    raise Violation(f"{other}@{later} is decided after {h}@{b} and does not descend from it")
                if not lost:
                    raise Violation(f"{other}@{later} begins anew after {h}@{b}, which nobody forgot")
                root = next(g for g in self.ancestors(other) if self.headers[g][0] == ABSENT)
                if self.time_of(root) - b < self.rules.gap:
                    raise Violation(f"{other}@{later} begins anew too soon after {h}@{b}")
        afters = [self.headers[h][0] for h in {h for h, _ in decided} if self.headers[h][0] != ABSENT]
        if len(set(afters)) < len(afters):
            raise Violation("two headers with one predecessor are decided")
        for who, node in enumerate(state.nodes):
            for h in range(self.count):
                if state.acknowledged >> (who * self.count + h) & 1:
                    newer = node.current != ABSENT and self.time_of(node.current) >= self.time_of(h)
                    if not newer and not (node.current == ABSENT and node.floor >= self.time_of(h)):
                        raise Violation(f"node {who} acknowledged {h} and shows something older")

    def is_fresh(self, decided: list[tuple[int, int]], other: int, h: int, b: int) -> bool:
        """Whether `other` descends from a decided header that began anew after h@b."""
        return any(x > b and self.headers[g][0] == ABSENT and g in self.ancestors(other) for g, x in decided if g != h)


class Outcome(NamedTuple):
    states: int
    transitions: int
    complete: bool
    trace: tuple[str, ...]
    fault: str


def explore(rules: Rules, states_max: int = 2_000_000) -> Outcome:
    """Breadth first through all states, up to so many; the first violation comes with the shortest way to it. Of the
    states seen only hashes of 64 bits are kept."""
    model = Model(rules)
    first = _canonical(model, State((Node(),) * NODES))
    parents = {hash(first): 0}
    layer, transitions = [first], 0
    while layer:
        following: list[State] = []
        for state in layer:
            for _, after in model.successors(state):
                transitions += 1
                after = _canonical(model, after)
                name = hash(after)
                if name in parents:
                    continue
                parents[name] = hash(state)
                try:
                    model.check(after)
                except Violation as fault:
                    return Outcome(len(parents), transitions, False, _way(model, parents, name), str(fault))
                following.append(after)
                if len(parents) >= states_max:
                    return Outcome(len(parents), transitions, False, (), "")
        layer = following
    return Outcome(len(parents), transitions, True, (), "")


def walk(rules: Rules, walks: int, seed: int = 0, steps_max: int = 80) -> Outcome:
    """So many random ways through the states, each to its end or to so many steps: deeper than `explore` gets."""
    model, draw = Model(rules), random.Random(seed)
    transitions = 0
    for _ in range(walks):
        state, way = State((Node(),) * NODES), []
        for _ in range(steps_max):
            ways = list(model.successors(state))
            if not ways:
                break
            # Time passes now and then, whatever else could happen, or most walks end in its first instants.
            label, state = ways[-1] if ways[-1][0] == "tick" and draw.random() < 0.15 else draw.choice(ways)
            transitions += 1
            way.append(label)
            try:
                model.check(state)
            except Violation as fault:
                return Outcome(transitions, transitions, False, tuple(way), str(fault))
    return Outcome(transitions, transitions, True, (), "")


def _canonical(model: Model, state: State) -> State:
    """The same state with its nodes in a fixed order: names of correct nodes with equal clocks mean nothing."""
    if len(set(model.rules.offsets)) > 1:
        return state
    width = model.width
    low, short = (1 << width) - 1, (1 << model.count) - 1
    rows = [
        (
            node,
            state.votes >> (i * width) & low,
            state.grants >> (i * width) & low,
            state.forgotten >> (i * width) & low,
            state.acknowledged >> (i * model.count) & short,
        )
        for i, node in enumerate(state.nodes)
    ]
    rows.sort()
    return state._replace(
        nodes=tuple(row[0] for row in rows),
        votes=sum(row[1] << (i * width) for i, row in enumerate(rows)),
        grants=sum(row[2] << (i * width) for i, row in enumerate(rows)),
        forgotten=sum(row[3] << (i * width) for i, row in enumerate(rows)),
        acknowledged=sum(row[4] << (i * model.count) for i, row in enumerate(rows)),
    )


def _way(model: Model, parents: dict[int, int], name: int) -> tuple[str, ...]:
    names = [name]
    while parents[names[-1]]:
        names.append(parents[names[-1]])
    state, steps = _canonical(model, State((Node(),) * NODES)), []
    for wanted in reversed(names[:-1]):
        for label, after in model.successors(state):
            after = _canonical(model, after)
            if hash(after) == wanted:
                steps.append(label)
                state = after
                break
    return tuple(steps)


TWO: Final = ((ABSENT, 1), (ABSENT, 2))
LINE: Final = (*TWO, (0, 2))
LATE: Final = ((ABSENT, 1), (ABSENT, 4))
TREE: Final = (*TWO, (0, 2), (0, 3), (1, 3))
RESTART: Final = Rules(LATE, (1, 4), restarts=1, ticks=4, gap=1)
REAP: Final = Rules(LATE, (1, 4), reaps=2, ticks=4, gap=1)
AGAIN: Final = Rules(TWO, (1, 5), reaps=2, ticks=5, gap=2)
VOTED: Final = Rules(((ABSENT, 1), (0, 2), (ABSENT, 5)), (1, 3, 5), reaps=2, ticks=5, gap=1)
DOUBT: Final = Rules(TWO, (1, 2, 5), restarts=1, reaps=1, ticks=5, gap=1)
SKEWED: Final = replace(RESTART, headers=((ABSENT, 1), (ABSENT, 7)), ballots=(1, 7), ticks=7, offsets=(0, 1, 0), skew=1)

EXPLORED: Final = {
    "two headers, two ballots, no time": Rules(TWO, (1, 2)),
    "one that follows, two ballots, no time": Rules(LINE, (1, 2)),
    "two headers, three ballots, no time": Rules(TWO, (1, 2, 3)),
    "one restart": RESTART,
    "one restart, clocks that differ": SKEWED,
    "two restarts, one after another or at once": replace(RESTART, restarts=2),
    "reaping": REAP,
    "an old header after reaping": AGAIN,
    "reaping after a vote that came to nothing": VOTED,
    "reaping, a restart, and a floor that rises": replace(REAP, reaps=1, restarts=1, rises=1),
}
WALKED: Final = {
    "five headers, four ballots, no time": Rules(TREE, (1, 2, 3, 4)),
    "restarts and reaping": Rules(
        ((ABSENT, 1), (0, 2), (ABSENT, 5), (0, 5), (ABSENT, 6)),
        (1, 2, 5, 6),
        restarts=2,
        reaps=2,
        rises=2,
        ticks=9,
        life=2,
        gap=1,
    ),
}
MUTANTS: Final = {
    "votes twice": Rules(LINE, (1, 2)),
    "locks below its promise": Rules(TWO, (1, 2)),
    "no lock check": Rules(TWO, (1, 2)),
    "no justification": Rules(TWO, (1, 2)),
    "any certificate unlocks": Rules(LINE, (1, 2, 3)),
    "decision by 2f": Rules(TWO, (1, 2)),
    "kept after current changed": Rules(TWO, (1, 2)),
    "votes while it recovers": RESTART,
    "recovers without waiting": RESTART,
    "recovers without locks": RESTART,
    "restarts without a floor": RESTART,
    "ballots live for ever": RESTART,
    "headers below the floor": AGAIN,
    "reaps what is young": REAP,
    "forgets votes": VOTED,
    "reaps to the stamp": AGAIN,
}

if __name__ == "__main__":
    states_max = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    for name, rules in EXPLORED.items():
        found = explore(rules, states_max)
        how = found.fault or ("all of them" if found.complete else "no more were looked at")
        print(f"{name}: {found.states:,} states, {found.transitions:,} transitions; {how} {found.trace}", flush=True)
    for name, rules in WALKED.items():
        found = walk(rules, 20_000)
        print(f"{name}: {found.transitions:,} random steps; {found.fault or 'nothing found'} {found.trace}", flush=True)
    for name, rules in (MUTANTS | {"adopts doubtful locks": DOUBT}).items():
        found = explore(replace(rules, without=frozenset([name])), states_max)
        print(f"without the rule, {name!r}: {found.states:,} states, {found.fault or 'NOT CAUGHT'}", flush=True)
