"""The network: a networkx graph whose edges say how messages fare, and the partitions that cut it.

Edge attributes: `latency_us` (the least one-way time), `jitter_us` (the mean of an exponential on top), `loss`,
`duplication` and `reordering` (probabilities; a reordered message is late by up to `late_us`), `bandwidth` (bytes a
second, 0 = no limit). Edges are directed. It must not know nodes, clients or what messages mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import networkx as nx

from quorumcache.core import messages as m
from quorumcache.wire import codec
from sim.record import KIND_OF, Record
from sim.world import World

#: Round trips between five regions in milliseconds. Source: IBM Cloud VPC, "Network latency dashboards", averages of
#: 10 January to 8 February 2026 (github.com/ibm-cloud-docs/vpc, _include-segments/network-latency.md).
REGIONS: Final = ("washington", "frankfurt", "tokyo", "sydney", "sao-paulo")
REGION_ROUND_TRIP_MS: Final = {
    ("washington", "frankfurt"): 86,
    ("washington", "tokyo"): 139,
    ("washington", "sydney"): 214,
    ("washington", "sao-paulo"): 128,
    ("frankfurt", "tokyo"): 239,
    ("frankfurt", "sydney"): 251,
    ("frankfurt", "sao-paulo"): 200,
    ("tokyo", "sydney"): 115,
    ("tokyo", "sao-paulo"): 284,
    ("sydney", "sao-paulo"): 324,
}
TOPOLOGIES: Final = ("rack", "zones", "regions")
ZONES: Final = ("a", "b", "c")
_HELD_MAX: Final = 1000


def places_of(topology: str, count: int) -> list[str]:
    """Where each of `count` processes stands: they are dealt out in turn."""
    names: tuple[str, ...] = {"rack": ("rack",), "zones": ZONES, "regions": REGIONS}[topology]
    return [names[i % len(names)] for i in range(count)]


def one_way_us(topology: str, here: str, there: str) -> tuple[int, int]:
    """(least latency, mean jitter) in microseconds from one place to another."""
    if topology == "rack":
        return 100, 50
    if here == there:
        return 200, 100
    if topology == "zones":
        return 700, 200
    round_trip_ms = REGION_ROUND_TRIP_MS.get((here, there)) or REGION_ROUND_TRIP_MS[there, here]
    return round_trip_ms * 500, round_trip_ms * 15


def graph_of(topology: str, places: Sequence[str], **edge: float) -> nx.DiGraph:
    """The complete graph over processes 0, 1, ... in the given places; `edge` has further attributes of every edge."""
    graph = nx.DiGraph()
    for process, place in enumerate(places):
        graph.add_node(process, place=place)
    for source, here in enumerate(places):
        for target, there in enumerate(places):
            latency_us, jitter_us = one_way_us(topology, here, there)
            attributes = {
                "latency_us": latency_us,
                "jitter_us": jitter_us,
                "loss": 0.0,
                "duplication": 0.0,
                "reordering": 0.0,
                "late_us": 0,
                "bandwidth": 0,
            }
            attributes.update(edge)
            graph.add_edge(source, target, **attributes)
    return graph


#: Messages about epochs.
_APART: Final = frozenset((m.Follow, m.FollowReply, m.SealEpoch, m.SealReply))
Link = tuple[int, int, float, float, float, int, int]


class Network:
    """Carries messages between processes as the graph's edges say. `wire=True` takes each through the codec."""

    def __init__(self, world: World, graph: nx.DiGraph, record: Record, *, wire: bool) -> None:
        self._world = world
        self._random = world.random("network").random
        self._random_apart = world.random("network apart").random
        self._wire = wire
        self._record = record
        self.graph = graph
        self._links: dict[tuple[int, int], Link] = {}
        self._busy_until_us: dict[tuple[int, int], int] = {}
        self._cut: dict[tuple[int, int], int] = {}
        self._held: dict[tuple[int, int], tuple[tuple[type, ...], list[tuple[int, Any]]]] = {}
        self._receivers: dict[int, Callable[[int, Any], None]] = {}
        self.read_graph()

    def read_graph(self) -> None:
        """Take the edges' attributes anew, after somebody changed them."""
        self._links = {
            (source, target): (
                int(edge["latency_us"]),
                int(edge["jitter_us"]),
                edge["loss"],
                edge["duplication"],
                edge["reordering"],
                int(edge["late_us"]),
                int(edge["bandwidth"]),
            )
            for source, target, edge in self.graph.edges(data=True)
        }

    def attach(self, process: int, receive: Callable[[int, Any], None]) -> None:
        """Have messages to `process` given to `receive(sender, message)`."""
        self._receivers[process] = receive

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Lose what is sent from now on over these directed edges, until as many `mend` them."""
        for pair in pairs:
            self._cut[pair] = self._cut.get(pair, 0) + 1

    def mend(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Undo one `cut`."""
        for pair in pairs:
            left = self._cut.get(pair, 0) - 1
            if left > 0:
                self._cut[pair] = left
            else:
                self._cut.pop(pair, None)

    def hold(self, pairs: Iterable[tuple[int, int]], kinds: tuple[type, ...]) -> None:
        """Keep messages of these kinds on their way over these directed edges, until `release`. At most _HELD_MAX an
        edge: what is beyond that travels on."""
        for pair in pairs:
            self._held.setdefault(pair, (kinds, []))

    def release(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Let what is held on these edges arrive, in the order of its sending; hold nothing there any more."""
        for pair in pairs:
            _, waiting = self._held.pop(pair, ((), []))
            for sent_us, message in waiting:
                arrive_us = self._world.now_us + self._links[pair][0]
                self._record.message(sent_us, arrive_us, *pair, KIND_OF[type(message)], message.id)
                self._world.at(arrive_us, self._receivers[pair[1]], pair[0], message)

    def calm(self) -> None:
        """Heal: no cuts, no loss, no duplication, no lateness, nothing held, from now on."""
        self._cut.clear()
        self.release(list(self._held))
        self._links = {
            pair: (latency, jitter, 0.0, 0.0, 0.0, 0, band)
            for pair, (latency, jitter, _, _, _, _, band) in self._links.items()
        }

    def send(self, source: int, target: int, message: m.Request | m.Reply, extra_us: int = 0) -> None:
        """Send a message; `extra_us` is what the sender takes before it leaves."""
        now_us = self._world.now_us
        pair = (source, target)
        latency_us, jitter_us, loss, duplication, reordering, late_us, bandwidth = self._links[pair]
        # Whoever hears from a liar that an epoch has ended asks: what becomes of the rest does not change by that.
        draw = self._random_apart if type(message) in _APART else self._random
        if (self._cut and pair in self._cut) or (loss and draw() < loss):
            self._record.message(now_us, 0, source, target, KIND_OF[type(message)], message.id)
            return
        if self._wire:
            message = _through_codec(message)
        if self._held and pair in self._held:
            kinds, waiting = self._held[pair]
            if isinstance(message, kinds) and len(waiting) < _HELD_MAX:
                waiting.append((now_us, message))
                return
        copies = 1
        if duplication and draw() < duplication:
            copies = 2
        for _ in range(copies):
            # A uniform draw to the fourth: mostly near the least, with a tail, and cheaper than an exponential.
            u = draw()
            arrive_us = now_us + extra_us + latency_us + int(5 * jitter_us * u * u * u * u)
            if reordering and draw() < reordering:
                arrive_us += int(late_us * draw())
            if bandwidth:
                start_us = max(now_us + extra_us, self._busy_until_us.get(pair, 0))
                wait_us = start_us - now_us - extra_us + len(codec.encode(message)) * 1_000_000 // bandwidth
                self._busy_until_us[pair] = now_us + extra_us + wait_us
                arrive_us += wait_us
            self._record.message(now_us, arrive_us, source, target, KIND_OF[type(message)], message.id)
            self._world.at(arrive_us, self._receivers[target], source, message)


def _through_codec(message: m.Request | m.Reply) -> m.Request | m.Reply:
    payload = codec.join([codec.encode(message)])
    if isinstance(message, m.Request):
        return codec.decode_requests(payload)[0]
    return codec.decode_replies(payload)[0]
