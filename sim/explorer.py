"""Bounded exhaustive search of the real core: every order of events within the bounds, each state visited once.

Four nodes, one of them Byzantine, two writers and a reader, on one slot. Left alone, a run is orderly: an operation
begins when all messages of the one before have arrived, and messages arrive in the order of their sending. A deviation
is a message held back, to arrive at any later point (delay bounding), an operation that begins while messages are under
way, or a fault: a restart without state, an eviction, a hoarded entry that the liar commits. All runs with up to so
many deviations are searched, those with fewer first; the liar's first plan, and when time passes, are free. Checked in
every state: no two values under one stamp, no read older than what an earlier operation returned. It must not know real
time, sockets or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

from quorumcache.core import messages as m
from quorumcache.core.certificate import Verifier, grant_string
from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, WriterInfo
from quorumcache.core.coordinator import Coordinator
from quorumcache.core.merkle import root_of
from quorumcache.core.model import ABSENT, PUT, Entry, digest_of, header_stamp, slot_of, stamp_parts
from quorumcache.core.node import Node
from quorumcache.core.outcome import Found, Missed, Outcome, Written
from quorumcache.core.quorum import full_bitmap
from sim.copying import clone, fingerprint

START_US: Final = 1_000_000_000
SKEW_US: Final = 10_000
SLOT: Final = slot_of(b"default", b"k")
LIAR: Final = 3
#: A floor that rules out everything: what a liar may claim.
HIGH_FLOOR_US: Final = START_US * 2
#: How often a search tells how far it is, in states.
TOLD_EACH: Final = 5000
PLANS: Final = tuple(
    (grants, confirms, reads)
    for grants in (True, False)
    for confirms in (True, False)
    for reads in ("oldest", "newest", "absent", "absent, high floor", "silent")
)


@dataclass(frozen=True)
class Bounds:
    """What the search may do. `states_max` ends it early: the count printed says so."""

    writers: int = 2
    reads: int = 2
    deviations: int = 3
    restarts: int = 1
    evictions: int = 1
    ticks: int = 2
    releases: int = 1
    liar: bool = True
    plans: int = 20
    states_max: int = 200_000


@dataclass(frozen=True)
class Violation:
    """What went wrong, and the steps that lead there."""

    text: str
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """How a search ended. All runs with fewer deviations than `exhausted` were visited; where that is above the bound,
    the search is complete."""

    bounds: Bounds
    states: int
    transitions: int
    depth: int
    exhausted: int
    violation: Violation | None


class _Secret:
    """A key of the search: its signatures are a keyed hash. Only who holds the object signs; the steps below give the
    liar its own alone."""

    def __init__(self, name: str) -> None:
        self.public = blake2b(name.encode(), digest_size=32).digest()

    def sign(self, message: bytes) -> bytes:
        return _signature(self.public, message)


def _signature(public: bytes, message: bytes) -> bytes:
    return blake2b(message, key=public, digest_size=64).digest()


def _verify(public: bytes, message: bytes, signature: bytes) -> bool:
    return _signature(public, message) == signature


NODE_KEYS: Final = [_Secret(f"node {i}") for i in range(4)]
_WRITER_KEYS: Final = [_Secret(f"writer {i}") for i in range(3)]


def configuration_of(kind: str = "register") -> Configuration:
    """Four nodes and one namespace of this type."""
    return Configuration(
        cluster_id="explored",
        epoch=1,
        previous=None,
        f=1,
        shards=1,
        max_skew_us=SKEW_US,
        op_time_us=1_000_000,
        grace_us=50_000,
        valid_until_us=0,
        oldest_epoch=1,
        admins=(_Secret("admin").public,),
        admins_needed=1,
        nodes=tuple(NodeInfo(i, f"n{i}", key.public, f"127.0.0.1:{i + 1}", "", 1) for i, key in enumerate(NODE_KEYS)),
        namespaces=(NamespaceInfo("default", kind, "quorum", ("*",), 1 << 20, 0),),
        writers=tuple(WriterInfo(f"w{i}", key.public, "active") for i, key in enumerate(_WRITER_KEYS)),
    )


class Client:
    """A client and its script: a writer writes once, the reader reads `left` times, one operation after another."""

    def __init__(self, core: Coordinator, writes: bool, left: int) -> None:
        self.core = core
        self.writes = writes
        self.left = left
        self.busy = False
        #: What every operation that ended before this one began returned, at the most: it may not read older.
        self.least = b""


@dataclass(frozen=True)
class Message:
    """A message under way: from client to node (`request`), or back."""

    client: int
    node: int
    body: Any
    mark: bytes


@dataclass(frozen=True)
class State:
    """A state: parts are shared between states, and cloned before they change; `marks` are their fingerprints."""

    now_us: int
    nodes: tuple[Node, ...]
    clients: tuple[Client, ...]
    queue: tuple[Message, ...]
    held: tuple[Message, ...]
    known: tuple[Entry, ...]  # certified entries that the liar has seen
    settled: bytes  # the highest stamp that any ended operation returned
    values: tuple[tuple[bytes, bytes], ...]  # (stamp, value) as read or written
    deviations: int
    restarts: int
    evictions: int
    ticks: int
    releases: int
    plan: tuple[bool, bool, str]  # whether the liar grants, whether it confirms commits, what it says to readers
    marks: tuple[bytes, ...]

    def mark(self) -> bytes:
        """The state's fingerprint."""
        rest = (self.now_us, self.deviations, self.restarts, self.evictions, self.ticks, self.releases, self.plan)
        parts = [repr(rest).encode(), *self.marks, self.settled]
        parts += [x.mark for x in self.queue] + [b"|"] + sorted(x.mark for x in self.held)
        parts += sorted(header_stamp(entry.header) for entry in self.known)
        return blake2b(b"".join(parts), digest_size=16).digest()


def _when(stamp: bytes) -> str:
    time_us, writer, _ = stamp_parts(stamp)
    number = next(i for i, key in enumerate(_WRITER_KEYS) if key.public == writer)
    return f"(+{time_us - START_US} us, writer {number})"


class Broken(Exception):
    """An invariant does not hold."""


class Explorer:
    """One search. `run` stops at the first violation; `told(states, deviations)` hears of its progress, and ends the
    search where it says True."""

    plans = PLANS

    def __init__(
        self,
        bounds: Bounds,
        *,
        told: Callable[[int, int], bool] = lambda _states, _level: False,
        configuration: Configuration | None = None,
    ) -> None:
        self.bounds = bounds
        self._told = told
        self._configuration = configuration or configuration_of()
        self._verifier = Verifier(_verify, [self._configuration], remembered_max=100_000)
        self._group = self._configuration.shard_groups[0]

    def run(self) -> Result:
        """Search."""
        # Each visited state with the step that led there, to tell the way to a violation.
        came: dict[bytes, tuple[bytes, str]] = {}
        # One stack for each number of deviations: all of those with fewer comes before any with more.
        stacks: list[list[tuple[State, bytes, int]]] = [[] for _ in range(self.bounds.deviations + 1)]
        for plan in self.plans[: self.bounds.plans]:
            first = self._first(plan)
            came[first.mark()] = (b"", "")
            stacks[0].append((first, first.mark(), 0))
        transitions = deepest = 0
        while any(stacks):
            level = next(i for i, stack in enumerate(stacks) if stack)
            state, mark, depth = stacks[level].pop()
            deepest = max(deepest, depth)
            for step, make in self._steps(state):
                transitions += 1
                try:
                    following = make()
                except Broken as fault:
                    steps = (*self._way(came, mark), step)
                    violation = Violation(str(fault), steps)
                    return Result(self.bounds, len(came), transitions, deepest, level, violation)
                next_mark = following.mark()
                if next_mark in came:
                    continue
                came[next_mark] = (mark, step)
                over = len(came) % TOLD_EACH == 0 and self._told(len(came), level)
                if over or len(came) >= self.bounds.states_max:
                    return Result(self.bounds, len(came), transitions, deepest, level, None)
                used = self.bounds.deviations - following.deviations
                stacks[used].append((following, next_mark, depth + 1))
        return Result(self.bounds, len(came), transitions, deepest, self.bounds.deviations + 1, None)

    def _way(self, came: dict[bytes, tuple[bytes, str]], mark: bytes) -> list[str]:
        steps: list[str] = []
        while came[mark][0]:
            mark, step = came[mark]
            steps.append(step)
        return steps[::-1]

    def _first(self, plan: tuple[bool, bool, str]) -> State:
        nodes = []
        for i in range(4):
            node = Node(self._configuration, i, NODE_KEYS[i].sign, self._verifier, started_us=None)
            nodes.append(node)
        clients = []
        for i in range(self.bounds.writers + 1):
            writes = i < self.bounds.writers
            core = Coordinator(
                self._configuration,
                self._verifier,
                writer=_WRITER_KEYS[i].public if writes else None,
                sign=_WRITER_KEYS[i].sign if writes else None,
                nonce=i,
                random_bytes=bytes,
                first_id=i * 1000,
                guess_us=0,
            )
            clients.append(Client(core, writes, 1 if writes else self.bounds.reads))
        parts = (*nodes, *clients)
        b = self.bounds
        return State(
            START_US, tuple(nodes), tuple(clients), (), (), (), b"", (),
            b.deviations, b.restarts, b.evictions, b.ticks, b.releases, plan, tuple(fingerprint(p) for p in parts),
        )  # fmt: skip

    # --- steps ---

    def _steps(self, state: State) -> Iterator[tuple[str, Any]]:
        busy = bool(state.queue)
        odd = replace(state, deviations=state.deviations - 1) if state.deviations else None
        begun = odd if busy else state
        if begun is not None:
            # In the order of their numbers: which writer comes first makes no difference that a name would not.
            for i, client in enumerate(state.clients):
                if client.left:
                    if not client.busy:
                        what = "write" if client.writes else "read"
                        yield f"client {i} begins to {what}", lambda i=i: self._begin(begun, i)
                    break
        if busy:
            head, rest = state.queue[0], state.queue[1:]
            yield from self._deliveries(replace(state, queue=rest), head, "")
            if odd is not None:
                later = replace(odd, queue=rest, held=(*state.held, head))
                yield f"{self._name(head)} is held back", lambda: later
        for at, message in enumerate(state.held):
            others = state.held[:at] + state.held[at + 1 :]
            yield from self._deliveries(replace(state, held=others), message, "late: ")
        if not busy and state.ticks and self._deadline(state) is not None:
            yield "time passes to the next deadline", lambda: self._tick(state)
        if not busy and odd is not None:
            yield from self._faults(odd)

    def _faults(self, state: State) -> Iterator[tuple[str, Any]]:
        for i in range(LIAR):
            if state.restarts:
                yield f"node {i} restarts without state", lambda i=i: self._restart(state, i)
            if state.evictions and SLOT in state.nodes[i].slots.current:
                yield f"node {i} evicts", lambda i=i: self._evict(state, i)
            if state.releases:
                for entry in state.known:
                    yield f"the liar commits a hoarded entry at node {i}", lambda i=i, e=entry: self._hoard(state, i, e)

    def _name(self, message: Message) -> str:
        kind = type(message.body).__name__
        if isinstance(message.body, m.Request):
            return f"{kind} of client {message.client} to node {message.node}"
        return f"{kind} of node {message.node} to client {message.client}"

    def _deliveries(self, state: State, message: Message, prefix: str) -> Iterator[tuple[str, Any]]:
        name = prefix + self._name(message)
        if not isinstance(message.body, m.Request):
            yield name, lambda: self._reply_arrives(state, message)
        elif message.node == LIAR and self.bounds.liar:
            yield name, lambda: self._liar_answers(state, message, self._lie(state, message.body))
        else:
            yield name, lambda: self._request_arrives(state, message)

    def _begin(self, state: State, i: int) -> State:
        client = clone(state.clients[i])
        client.left -= 1
        client.busy = True
        client.least = state.settled
        self._queue(client, i)
        client.core.flush(state.now_us)
        return self._with_client(state, i, client)

    def _queue(self, client: Client, i: int) -> None:
        if client.writes:
            client.core.write(SLOT, PUT, b"value %d" % i, 0, i)
        else:
            client.core.read(SLOT, i)

    def _request_arrives(self, state: State, message: Message) -> State:
        node = clone(state.nodes[message.node])
        reply = node.handle(message.body, state.now_us)
        state = self._answered(self._with_node(state, message.node, node), message, reply)
        return replace(state, queue=(*state.queue, self._message(message.client, message.node, reply)))

    def _answered(self, state: State, message: Message, reply: m.Reply) -> State:
        """A correct node answered: what it signed may break an invariant."""
        return state

    def _reply_arrives(self, state: State, message: Message) -> State:
        client = clone(state.clients[message.client])
        client.core.receive(message.node, message.body, state.now_us)
        client.core.flush(state.now_us)
        return self._with_client(state, message.client, client)

    def _tick(self, state: State) -> State:
        deadline_us = self._deadline(state)
        assert deadline_us is not None
        state = replace(state, now_us=max(deadline_us, state.now_us), ticks=state.ticks - 1)
        for i, before in enumerate(state.clients):
            due_us = before.core.deadline_us
            if due_us is not None and due_us <= state.now_us:
                client = clone(before)
                client.core.wake(state.now_us)
                client.core.flush(state.now_us)
                state = self._with_client(state, i, client)
        return state

    def _restart(self, state: State, i: int) -> State:
        node = Node(self._configuration, i, NODE_KEYS[i].sign, self._verifier, started_us=state.now_us)
        return replace(self._with_node(state, i, node), restarts=state.restarts - 1)

    def _evict(self, state: State, i: int) -> State:
        node = clone(state.nodes[i])
        node.slots.drop(SLOT)
        return replace(self._with_node(state, i, node), evictions=state.evictions - 1)

    def _hoard(self, state: State, i: int, entry: Entry) -> State:
        node = clone(state.nodes[i])
        item = m.Item(entry.position, entry.header, entry.salted, entry.path)
        bundle = m.Bundle(entry.certificate, b"", [item])
        node.handle(m.Commit(0, self._configuration.digest, [bundle]), state.now_us)
        return replace(self._with_node(state, i, node), releases=state.releases - 1)

    # --- the liar ---

    def _lie(self, state: State, request: m.Request) -> m.Reply | None:
        """What the Byzantine node says, by its plan: it knows the entries it was sent, and signs with its own key."""
        now_us = state.now_us
        grants, confirms, reads = state.plan
        if isinstance(request, m.Prepare):
            count = len(request.headers)
            root = root_of(b"".join(digest_of(raw) for raw in request.headers))
            bitmap = full_bitmap(count)
            signed = grant_string(self._configuration.digest, request.group, root, bitmap)
            signature = NODE_KEYS[LIAR].sign(signed)
            return m.PrepareReply(request.id, now_us, bitmap, signature, []) if grants else None
        if isinstance(request, m.Commit):
            count = sum(len(bundle.items) for bundle in request.bundles)
            return m.CommitReply(request.id, now_us, bytes(count), []) if confirms else None
        if reads == "silent":
            return None
        ordered = sorted(state.known, key=lambda entry: header_stamp(entry.header))
        entry = None
        if ordered and reads in ("oldest", "newest"):
            entry = ordered[0 if reads == "oldest" else -1]
        if isinstance(request, m.Read):
            values = [b"", b""] if entry is None else [entry.header, entry.salted]
            wanted = request.values_to > request.values_from
            digest = ABSENT if entry is None else digest_of(entry.header)
            return m.ReadReply(request.id, now_us, digest, values if wanted else [])
        floor_us = HIGH_FLOOR_US if reads == "absent, high floor" else 0
        return m.ReadFullReply(request.id, now_us, [m.FullAnswer(entry, floor_us)])

    def _liar_answers(self, state: State, message: Message, reply: m.Reply | None) -> State:
        request = message.body
        known = {entry.header: entry for entry in state.known}
        if isinstance(request, m.Commit):
            for bundle in request.bundles:
                for item in bundle.items:
                    # Batches here have one header, so the path is empty in either form.
                    entry = Entry(item.header, item.salted, bundle.certificate, item.position, item.path)
                    known.setdefault(item.header, entry)
        state = replace(state, known=tuple(known.values()))
        if reply is None:
            return state
        return replace(state, queue=(*state.queue, self._message(message.client, LIAR, reply)))

    # --- parts ---

    def _message(self, client: int, node: int, body: Any) -> Message:
        mark = fingerprint((client, node, body))
        return Message(client, node, body, mark)

    def _with_node(self, state: State, i: int, node: Node) -> State:
        nodes = (*state.nodes[:i], node, *state.nodes[i + 1 :])
        marks = (*state.marks[:i], fingerprint(node), *state.marks[i + 1 :])
        return replace(state, nodes=nodes, marks=marks)

    def _with_client(self, state: State, i: int, client: Client) -> State:
        sent = [self._message(i, node, request) for nodes, request in client.core.outbox for node in nodes]
        client.core.outbox = []
        ended, client.core.done = client.core.done, []
        if ended:
            client.busy = False
        for _, outcome in ended:
            state = self._judge(state, client, outcome)
        clients = (*state.clients[:i], client, *state.clients[i + 1 :])
        at = len(state.nodes) + i
        marks = (*state.marks[:at], fingerprint(client), *state.marks[at + 1 :])
        return replace(state, clients=clients, marks=marks, queue=(*state.queue, *sent))

    def _judge(self, state: State, client: Client, outcome: Outcome) -> State:
        """Protocol 5.2 and 5.3, at the end of an operation."""
        if isinstance(outcome, Written):
            # One that was overtaken is ordered below what it completed; its own stamp is no bound for readers.
            return state if outcome.overtaken else replace(state, settled=max(state.settled, outcome.stamp))
        if isinstance(outcome, Found):
            stamp = header_stamp(outcome.header)
            value = outcome.salted[16:]
            for known_stamp, known_value in state.values:
                if known_stamp == stamp and known_value != value:
                    raise Broken("two values were read under one stamp")
            if stamp < client.least:
                raise Broken(
                    f"a read returned what was written at {_when(stamp)}, older than what an operation that had ended "
                    f"before it returned, at {_when(client.least)}"
                )
            values = state.values if (stamp, value) in state.values else (*state.values, (stamp, value))
            return replace(state, settled=max(state.settled, stamp), values=values)
        assert not isinstance(outcome, Missed) or outcome.vouchers >= 0
        return state

    def _deadline(self, state: State) -> int | None:
        due = [c.core.deadline_us for c in state.clients if c.core.deadline_us is not None]
        return min(due, default=None)
