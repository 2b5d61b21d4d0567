"""What a run's cluster is made of: its first configuration, and the network between its processes.

It must not know how the run goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, WriterInfo
from sim.crypto import Suite
from sim.direct import NAMESPACE
from sim.exact import EXACT
from sim.network import graph_of, places_of
from sim.plan import Plan
from sim.settings import SimConfig
from sim.world import World

#: The one administrator.
ADMIN = "admin"


def configuration_of(config: SimConfig, plan: Plan, suite: Suite, writers: Sequence[str]) -> Configuration:
    """The configuration that a run begins with. `writers`: names of keys, any of them more than once."""
    namespaces = [NamespaceInfo("sim")]
    namespaces += [NamespaceInfo(kind, kind) for kind in sorted({*plan.types, *((EXACT,) if plan.exact else ())})]
    if plan.direct_keys:
        namespaces.append(NamespaceInfo(NAMESPACE.decode(), mode="primary", ack=plan.direct_ack))
    zones = ("", "a", "b") if config.nodes > 3 * config.f + 1 else ("",)
    return Configuration(
        cluster_id="sim",
        f=config.f,
        shards=plan.shards,
        max_skew_us=plan.max_skew_us,
        op_time_us=plan.op_time_us,
        grace_us=plan.grace_us,
        admins=(suite.key(ADMIN).public,),
        admins_needed=1,
        nodes=tuple(
            NodeInfo(i, f"n{i}", suite.key(f"node {i}").public, "", zones[i % len(zones)], 1)
            for i in range(config.nodes)
        ),
        namespaces=tuple(namespaces),
        writers=tuple(WriterInfo(name.replace(" ", "-"), suite.key(name).public) for name in dict.fromkeys(writers)),
    )


def graph_for(plan: Plan, world: World, nodes: int, others: int) -> nx.DiGraph:
    """The network between so many nodes and so many others, whose addresses come after those of all nodes."""
    places = places_of(plan.topology, nodes) + places_of(plan.topology, others)
    edge: dict[str, float] = {}
    draw = world.random("graph")
    if "loss" in plan.features:
        edge["loss"] = draw.choice((0.01, 0.05, 0.2))
    if "duplication" in plan.features:
        edge["duplication"] = draw.choice((0.02, 0.2))
    if "lateness" in plan.features:
        edge["reordering"] = draw.choice((0.02, 0.1, 0.3))
        edge["late_us"] = draw.choice((plan.op_time_us // 20, plan.op_time_us // 4, plan.op_time_us))
    graph = graph_of(plan.topology, places, **edge)
    if "far" in plan.features:
        far_us = plan.op_time_us // draw.choice((10, 20))
        if "types" in plan.features:
            far_us //= 2  # Fields take more rounds: to look for the generation, and once more where it changed.
        for _, _, attributes in [*graph.in_edges(nodes, data=True), *graph.out_edges(nodes, data=True)]:
            attributes["latency_us"] += far_us
    return graph
