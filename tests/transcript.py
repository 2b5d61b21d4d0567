"""Golden transcripts: a cluster whose every message is written down in words.

A scenario moves clients, nodes and time; `Transcript` delivers what they send, except on links that the scenario holds
back, and notes it. Nodes are A, B, C (correct) and Z (which lies where the scenario says so). Times are relative to the
start; an entry reads `k="value"@+1s/w1`: slot, value, stamp time, writer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from quorumcache.core.model import (
    ABSENT,
    Entry,
    digest_of,
    header_is_delete,
    header_slot,
    slot_parts,
    stamp_parts,
)
from quorumcache.core.node import Node, NodeLimits
from quorumcache.core.outcome import Failed, Found, Missed, Outcome, Written
from quorumcache.core.repair import Recovery
from tests.cluster import START_US, Client, Cluster, configuration_of, key_of, slot
from tests.making import passed_on

NAMES = "ABCZ"
Lie = Callable[[m.Request, m.Reply], m.Reply | None]


def seconds(time_us: int) -> str:
    """A time relative to the start, in seconds."""
    if time_us == 0:
        return "none"
    return f"{(time_us - START_US) / 1e6:+.6f}".rstrip("0").rstrip(".") + "s"


class World(Cluster):
    """A cluster whose nodes' clocks may differ: `skew_us[node]` is added to the time."""

    def __init__(self, configuration: Configuration) -> None:
        self.skew_us: dict[int, int] = {}
        super().__init__(configuration=configuration)

    def clock_us(self, node: int) -> int:
        return self.now_us + self.skew_us.get(node, 0)

    def answer(self, node: int, request: m.Request) -> m.Reply | None:
        reply = self.nodes[node].handle(request, self.clock_us(node))
        lie = self.lies.get(node)
        return lie(request, reply) if lie is not None else reply

    def start(self, index: int, *, floor_us: int | None = None, limits: NodeLimits | None = None) -> Node:
        true_us = self.now_us
        self.now_us = self.clock_us(index)
        node = super().start(index, floor_us=floor_us, limits=limits)
        self.now_us = true_us
        return node


class Transcript:
    """What happened, line by line."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.world = World(configuration or configuration_of(shards=1))
        self.lines: list[str] = []
        self.names: dict[int, str] = {}
        self.labels: dict[bytes, str] = {}
        self.cut: set[tuple[str, str]] = set()
        self.held: list[tuple[Client, int, m.Request]] = []
        self._writers = {key_of(name).public: name for name in ("w1", "w2", "w3")}
        self._told: set[tuple[int, object]] = set()

    # --- what a scenario says ---

    def say(self, text: str) -> None:
        """A line of the scenario's own."""
        self.lines += ["", f"# {text}"]

    def client(self, name: str, writer: str | None = None) -> Client:
        """A client by name, with the key of the writer of that name unless it only reads."""
        client = self.world.client(writer)
        self.names[id(client)] = name
        return client

    def hold(self, client: Client, nodes: str) -> None:
        """From now on messages of the client to these nodes wait on the way."""
        self.cut |= {(self.names[id(client)], node) for node in nodes}

    def free(self, client: Client, nodes: str) -> None:
        """The client's messages to these nodes pass again; those that waited arrive now."""
        self.cut -= {(self.names[id(client)], node) for node in nodes}
        waiting, self.held = self.held, []
        for whose, node, request in waiting:
            if whose is client and NAMES[node] in nodes:
                self._deliver(whose, node, request)
            else:
                self.held.append((whose, node, request))
        self.pump()

    def lose(self) -> None:
        """Everything that waits on the way is lost."""
        self.held.clear()
        self.lines.append("  (what waits on the way is lost)")

    def lie(self, how: Lie | None) -> None:
        """Z answers as `how` says; None: as it should."""
        if how is None:
            del self.world.lies[3]
        else:
            self.world.lies[3] = how

    def tell(self, node: str, request: m.Request, sender: str) -> m.Reply:
        """Bring one request to a node, sent by whomever."""
        index = NAMES.index(node)
        self.lines.append(f"  {sender} -> {node}: {self.request(request)}")
        reply = self.world.nodes[index].handle(request, self.world.clock_us(index))
        self.lines.append(f"  {node} -> {sender}: {self.reply(request, reply)}")
        return reply

    def give(self, entry: Entry, nodes: str, sender: str) -> None:
        """Commit a certified entry at some nodes, on somebody's behalf."""
        for node in nodes:
            self.tell(node, passed_on(entry, self.world.configuration), sender)

    def restart(self, node: str) -> Recovery:
        """A node restarts with nothing stored."""
        index = NAMES.index(node)
        started = self.world.start(index)
        floor = seconds(started.slots.shards[0].floor_us)
        self.lines.append(f"  {node} restarts with nothing stored: floor {floor}, recovering")
        return Recovery(started, self.world.clock_us(index), first_id=0)

    def recover(self, node: str, recovery: Recovery) -> None:
        """Let a node's recovery do what is due, reports arriving at once."""
        index = NAMES.index(node)
        recovery.wake(self.world.now_us)
        while recovery.outbox:
            sent, recovery.outbox = recovery.outbox, []
            for peers, request in sent:
                for peer in peers:
                    reply = self.world.answer(peer, request)
                    if reply is not None:
                        self.lines.append(f"  {NAMES[peer]} -> {node}: {self.reply(request, reply)}")
                        recovery.receive(peer, reply, self.world.now_us)
        if recovery.finished:
            self.lines.append(f"  {node} is active, recovered {recovery.recovered_count}")
        elif not self.world.nodes[index].slots.current:
            self.lines.append(f"  {node} still waits")

    def evict(self, node: str, key: str = "k") -> None:
        """A node drops an entry, as it does for space."""
        slots = self.world.nodes[NAMES.index(node)].slots
        slots.drop(slot(key))
        self.lines.append(f"  {node} evicts {key}: floor {seconds(slots.shards[0].floor_us)}")

    def show(self, key: str = "k") -> None:
        """What each node holds for a key."""
        for index, node in sorted(self.world.nodes.items()):
            held = node.slots.current.get(slot(key))
            promised = [self.label(p.header.raw) for p in node.slots.open.get(slot(key), ())]
            what = "absent" if held is None else self.label(held.header, held.salted)
            line = f"  {NAMES[index]} holds {what}"
            floor_us = node.slots.shards[0].floor_us
            line += f", floor {seconds(floor_us)}" if floor_us else ""
            line += f", promised {', '.join(promised)}" if promised else ""
            self.lines.append(line)

    def pump(self) -> None:
        """Deliver what clients send until nothing is left to send; note what ended."""
        for _ in range(1000):
            quiet = True
            for client in self.world.clients:
                sent = client.take()
                quiet = quiet and not sent and not client.core.has_ready()
                self._send(client, sent)
                self._outcomes(client)
            if quiet:
                return
        raise AssertionError("the clients never stop sending")

    def wait(self, by_us: int) -> None:
        """Let time pass; clients wake when they asked to."""
        self.pump()
        end_us = self.world.now_us + by_us
        while True:
            due = [c.core.deadline_us for c in self.world.clients if c.core.deadline_us is not None]
            next_us = min(due, default=end_us)
            if next_us >= end_us:
                break
            self.world.now_us = max(self.world.now_us, next_us)
            self._wake()
        self.world.now_us = end_us
        self.lines.append(f"  ... it is {seconds(end_us)}")
        self._wake()

    def _wake(self) -> None:
        for client in self.world.clients:
            client.core.wake(self.world.now_us)
        self.pump()

    # --- delivery ---

    def _send(self, client: Client, sent: list[tuple[int, m.Request]]) -> None:
        while sent:
            request = sent[0][1]
            same = [node for node, other in sent if other is request]
            sent = [pair for pair in sent if pair[1] is not request]
            name = self.names[id(client)]
            where = " ".join(NAMES[node] for node in same)
            self.lines.append(f"  {name} -> {where}: {self.request(request)}")
            for node in same:
                if (name, NAMES[node]) in self.cut:
                    self.held.append((client, node, request))
                else:
                    self._deliver(client, node, request)

    def _deliver(self, client: Client, node: int, request: m.Request) -> None:
        reply = client.deliver(node, request)
        name = self.names[id(client)]
        if reply is not None:
            self.lines.append(f"  {NAMES[node]} -> {name}: {self.reply(request, reply)}")
        self._outcomes(client)

    def _outcomes(self, client: Client) -> None:
        for token, outcome in client.outcomes.items():
            if (id(client), token) not in self._told:
                self._told.add((id(client), token))
                assert isinstance(token, tuple)
                self.lines.append(f"  {self.names[id(client)]}: {token[0]} ends: {self.outcome(outcome)}")

    # --- words ---

    def label(self, header: bytes, salted: bytes | None = None) -> str:
        """An entry in words; its value where it is known."""
        digest = digest_of(header)
        time_us, writer, _ = stamp_parts(header[3:51])
        if salted or digest not in self.labels:
            key = slot_parts(header_slot(header))[1].decode()
            value = "" if not salted else f'="{salted[16:].decode()}"'
            value = " deleted" if header_is_delete(header) else value
            self.labels[digest] = f"{key}{value}@{seconds(time_us)}/{self._writers[writer]}"
        return self.labels[digest]

    def request(self, request: m.Request) -> str:
        if isinstance(request, m.Prepare):
            return "prepare " + ", ".join(self.label(raw) for raw in request.headers)
        if isinstance(request, m.Commit):
            items = [item for bundle in request.bundles for item in bundle.items]
            return "commit " + ", ".join(self.label(item.header, item.salted) for item in items)
        if isinstance(request, m.Read | m.ReadFull):
            keys = ", ".join(slot_parts(s)[1].decode() for s in request.slots)
            full = isinstance(request, m.ReadFull)
            wanted = isinstance(request, m.Read) and request.values_to > request.values_from
            return f"read {keys}" + (" in full" if full else " with its value" if wanted else "")
        return type(request).__name__.lower()

    def reply(self, request: m.Request, reply: m.Reply) -> str:
        if isinstance(reply, m.PrepareReply):
            return ", ".join([*(["granted"] if reply.signature else []), *map(self._refusal, reply.refusals)])
        if isinstance(reply, m.CommitReply):
            floors: Iterable[int] = reply.floors or [0] * len(reply.codes)
            codes = zip(reply.codes, floors, strict=True)
            return ", ".join(m.COMMIT_CODES[c] + (f", floor {seconds(at)}" if at else "") for c, at in codes)
        if isinstance(reply, m.ReadReply):
            digests = [reply.digests[at : at + 32] for at in range(0, len(reply.digests), 32)]
            return ", ".join("absent" if d == ABSENT else self.labels.get(d, "a digest of nothing") for d in digests)
        if isinstance(reply, m.ReadFullReply):
            return ", ".join(self._full(answer) for answer in reply.answers)
        if isinstance(reply, m.ReportReply):
            held = ", ".join(self.label(e.header, e.salted) for e in reply.entries)
            return f"reports {held or 'nothing'}, floor {seconds(reply.floor_us)}"
        if isinstance(reply, m.Reject):
            return f"rejected: {m.REJECTIONS[reply.code]}, {reply.detail}"
        return type(reply).__name__.lower()

    def _refusal(self, refusal: m.Refusal) -> str:
        name = m.REFUSALS[refusal.code]
        if refusal.proof is not None:
            return f"{name}, holds {self.label(refusal.proof.header)}"
        return name + (f", {seconds(refusal.time_us)}" if refusal.time_us else "")

    def _full(self, answer: m.FullAnswer) -> str:
        if answer.entry is None:
            return f"absent, floor {seconds(answer.floor_us)}"
        return self.label(answer.entry.header, answer.entry.salted)

    def outcome(self, outcome: Outcome) -> str:
        if isinstance(outcome, Found):
            return "found " + self.label(outcome.header, outcome.salted)
        if isinstance(outcome, Written):
            at = seconds(stamp_parts(outcome.stamp)[0])
            return f"written @{at}" + (", just before what overtook it" if outcome.overtaken else "")
        if isinstance(outcome, Missed):
            return f"miss ({outcome.vouchers} nodes vouch for it)"
        assert isinstance(outcome, Failed)
        return f"failed: {outcome.kind}"
