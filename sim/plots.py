"""Pictures of a run, with matplotlib: latency over time, the messages of one operation, the network.

Each takes an Axes or makes one, and returns it. Colours are told apart without colour vision, too. It must not know how
runs are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import networkx as nx

from sim import tables
from sim.results import Run
from sim.settings import BadSetting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sim.tracing import Trace

# Okabe & Ito's palette.
_BLUE, _ORANGE, _GREEN, _RED, _GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
_QUANTILES: Final = (0.5, 0.9, 0.99)
#: More processes than this make a space-time diagram unreadable, and more messages slow.
_MESSAGES_MAX: Final = 2000


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError:
        raise BadSetting("plots need matplotlib: pip install 'quorumcache[sim]'") from None
    return pyplot.subplots(figsize=(width, height), layout="constrained")[1]


def latency(
    found: Run,
    ax: Axes | None = None,
    *,
    kind: str | None = None,
    quantiles: Sequence[float] = _QUANTILES,
    bins: int = 40,
) -> Axes:
    """Quantiles of latency over time in `bins` intervals, of operations by their start; a cross where one failed.

    `kind` is "read", "write", "delete" or None for all. Faults are shaded while they last, crashes darker.
    """
    if not 1 <= bins <= 10_000:
        raise BadSetting(f"bins = {bins}: 1 to 10000")
    ax = _axes(ax, 9, 3.5)
    ops = tables.ops(found)
    if kind is not None:
        ops = ops[ops["kind"] == kind]
    ops = ops.assign(start_s=ops["start_us"] / 1e6)
    end_s = max((found.end_us - found.start_us) / 1e6, 1e-6)
    ended = ops.dropna(subset="latency_ms")
    width_s = end_s / bins
    groups = ended.groupby((ended["start_s"] // width_s).astype(int))["latency_ms"]
    for quantile, style in zip(quantiles, ("-", "--", ":", "-.") * len(quantiles), strict=False):
        line = groups.quantile(quantile)
        ax.plot((line.index + 0.5) * width_s, line, style, marker=".", color=_BLUE, label=f"{quantile:.0%}")
    bad = ended[ended["outcome"].isin(("failed", "unknown"))]
    if len(bad):
        ax.plot(bad["start_s"], bad["latency_ms"], "x", color=_RED, label="failed, unknown")
    shaded = set()
    for fault in tables.faults(found).itertuples():
        colour = _GREY if fault.kind in ("crash", "wipe") else _ORANGE
        name = "crash" if colour == _GREY else "other fault"
        label = None if name in shaded else name
        shaded.add(name)
        if fault.end_us > fault.start_us:
            ax.axvspan(fault.start_us / 1e6, fault.end_us / 1e6, color=colour, alpha=0.2, lw=0, label=label)
        else:
            ax.axvline(fault.start_us / 1e6, color=colour, alpha=0.5, lw=1, label=label)
    ax.axvline((found.healed_us - found.start_us) / 1e6, color=_GREEN, lw=1, label="healed")
    ax.set(xlim=(0, end_s), xlabel="time (s, virtual)", ylabel="latency (ms)")
    if len(ended):
        ax.set_yscale("log")
    ax.set_title(f"{kind or 'operation'} latency, seed {found.seed}", loc="left")
    ax.legend(fontsize="small", ncols=3)
    return ax


def messages(
    found: Run, trace: Trace, operation: int, ax: Axes | None = None, *, until_ms: float | None = None
) -> Axes:
    """The space-time diagram of an operation: processes are lines, messages arrows from sending to arrival.

    Requests are blue, replies green; what a Byzantine node said instead of the truth is red and named; a cross is where
    a message got lost, or a liar kept silent. `until_ms`: only what was sent until then, since the operation began.
    """
    op = found.op(operation)
    start_us = op.start_us - found.start_us
    table = tables.messages_of(found, trace, operation)
    if len(table) > _MESSAGES_MAX:
        raise BadSetting(f"operation {operation} has {len(table)} messages, more than the {_MESSAGES_MAX} of a picture")
    ax = _axes(ax, 9, 1.2 + 0.45 * (found.config.nodes + found.plan.spares + 1))
    names = [f"client {op.client}", *(f"node {i}" for i in range(found.config.nodes + found.plan.spares))]
    at = {name: -row for row, name in enumerate(names)}
    table = table.assign(sent_ms=(table["sent_us"] - start_us) / 1000)
    arrived = (table["arrived_us"].astype("float64") - start_us) / 1000
    table["arrived_ms"] = arrived.where(~table["lost"], table["sent_ms"])
    end_ms = table["arrived_ms"].max() if len(table) else 0.0
    if op.end_us is not None:
        end_ms = max(end_ms, (op.end_us - op.start_us) / 1000)
    shown_ms = end_ms if until_ms is None else until_ms
    for message in table.itertuples():
        if message.sent_ms > shown_ms:
            continue
        _arrow(ax, message, at, shown_ms)
    for lie in tables.lies(found, trace.lies).itertuples():
        when_ms = (lie.time_us - start_us) / 1000
        if lie.effect == "silent" and lie.target == names[0] and 0 <= when_ms <= min(end_ms, shown_ms):
            ax.plot(when_ms, at[lie.node], "x", color=_RED)
            ax.annotate(lie.lie, (when_ms, at[lie.node]), (3, 3), textcoords="offset points", color=_RED, fontsize=8)
    for name, row in at.items():
        liar = name.startswith("node") and int(name[5:]) in found.plan.byzantine
        ax.axhline(row, color=_RED if liar else _GREY, lw=0.8, ls="--" if liar else "-", zorder=0)
    if op.end_us is not None and (op.end_us - op.start_us) / 1000 <= shown_ms:
        ax.plot((op.end_us - op.start_us) / 1000, 0, "s", color="black")
    ax.set_yticks(list(at.values()), [f"{n} (liar)" if _lies(found, n) else n for n in at])
    ax.set(xlabel="time since the operation began (ms, virtual)", ylim=(min(at.values()) - 0.5, 0.7))
    ax.set_xlim(-0.03 * max(end_ms, 0.01), 1.08 * max(end_ms, 0.01))
    ax.set_title(f"operation {op.id}: {op.kind} by client {op.client}, {op.outcome}", loc="left")
    return ax


def _lies(found: Run, name: str) -> bool:
    return name.startswith("node") and int(name[5:]) in found.plan.byzantine


def _arrow(ax: Axes, message: Any, at: dict[str, int], shown_ms: float) -> None:
    colour = _RED if message.effect else _BLUE if message.source.startswith("client") else _GREEN
    begin = (message.sent_ms, at[message.source])
    if message.lost:
        middle = (begin[1] + at[message.target]) / 2
        ax.plot([begin[0], begin[0]], [begin[1], middle], color=colour, lw=1, alpha=0.6)
        ax.plot(begin[0], middle, "x", color=colour)
        return
    share = 1.0
    if message.arrived_ms > shown_ms:
        # Still on its way: as far as it has come.
        share = (shown_ms - message.sent_ms) / (message.arrived_ms - message.sent_ms)
    end = (
        begin[0] + share * (message.arrived_ms - begin[0]),
        begin[1] + share * (at[message.target] - begin[1]),
    )
    arrow = {"arrowstyle": "->" if share == 1.0 else "-", "color": colour, "lw": 1.0, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, begin, arrowprops=arrow)
    text = message.lie or (message.kind if message.source.startswith("client") and at[message.target] == -1 else "")
    if text:
        place = ((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
        ax.annotate(text, place, (4, 2), textcoords="offset points", color=colour, fontsize=8)


def topology(found: Run, ax: Axes | None = None) -> Axes:
    """The places, with who is where, and the least one-way latency between places on the edges."""
    ax = _axes(ax, 7, 5)
    where: dict[str, list[int]] = {}
    for process, place in found.graph.nodes(data="place"):
        where.setdefault(place, []).append(process)
    places = nx.Graph()
    for place in where:
        places.add_node(place)
    for source, target, latency_us in found.graph.edges(data="latency_us"):
        here, there = found.graph.nodes[source]["place"], found.graph.nodes[target]["place"]
        if here != there:
            known = places.get_edge_data(here, there, {"ms": 1e9})["ms"]
            places.add_edge(here, there, ms=min(known, latency_us / 1000))
    spots = nx.circular_layout(places) if len(where) > 1 else dict.fromkeys(where, (0.0, 0.0))
    nx.draw_networkx_edges(places, spots, ax=ax, edge_color=_GREY, width=0.8)
    labels = {(a, b): f"{ms:g} ms" for a, b, ms in places.edges(data="ms")}
    nx.draw_networkx_edge_labels(places, spots, labels, ax=ax, font_size=8)
    for place, processes in where.items():
        nodes = [p for p in processes if p < found.config.nodes + found.plan.spares]
        others = len(processes) - len(nodes)
        names = ", ".join(f"n{p}*" if p in found.plan.byzantine else f"n{p}" for p in nodes)
        text = "\n".join((place, names, f"{others} clients" if others else "")).rstrip()
        evil = any(p in found.plan.byzantine for p in nodes)
        box = {"boxstyle": "round", "fc": "white", "ec": _RED if evil else _BLUE}
        x, y = spots[place]
        ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)
    ax.set_axis_off()
    ax.margins(0.2)
    ax.set_title(f"{found.plan.topology}: one-way latency" + (" (*: liar)" if found.plan.byzantine else ""), loc="left")
    return ax
