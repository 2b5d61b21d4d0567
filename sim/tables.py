"""A run's plain lists as tidy pandas DataFrames: one row per operation, message, fault, change of state, lie.

Times are microseconds since the run began, on the true clock that no process can read. pandas is imported by whoever
asks for a table. It must not know plots or files.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quorumcache.core.model import slot_parts
from sim.record import KINDS, PENDING
from sim.results import Run
from sim.settings import BadSetting

if TYPE_CHECKING:
    import pandas as pd

    from sim.tracing import Lie, Trace

#: Faults that are over as soon as they happen.
_INSTANT = ("clock_step", "client_crash", "revoke", "epoch", "cut", "mend", "hold", "release")
#: Faults that are no single process's.
_NOBODYS = ("revoke", "epoch", "partition", "one_way", "cut", "mend", "hold", "release")


def pandas() -> Any:
    """The module, or a BadSetting that says how to get it."""
    try:
        import pandas as pd
    except ImportError:
        raise BadSetting("tables need pandas: pip install 'quorumcache[sim]'") from None
    return pd


def process_name(found: Run, process: int) -> str:
    """What a process is called in tables and pictures: "node 0", "client 2", "adversary 0" (a Byzantine writer)."""
    nodes, clients = found.config.nodes + found.plan.spares, found.config.clients
    if process < nodes:
        return f"node {process}"
    if process < nodes + clients:
        return f"client {process - nodes}"
    return f"adversary {process - nodes - clients}"


def ops(found: Run) -> pd.DataFrame:
    """Operations. `end_us` and `latency_ms` are missing where it never ended: a client crashed, the run stopped."""
    pd = pandas()
    rows = []
    for op in found.ops:
        namespace, key, field = slot_parts(op.slot)
        start_us = op.start_us - found.start_us
        end_us = None if op.end_us is None else op.end_us - found.start_us
        rows.append(
            (
                op.id,
                op.client,
                op.lane,
                op.phase,
                op.kind,
                namespace.decode(),
                key.decode(errors="backslashreplace"),  # A liar may have listed it.
                field.decode(errors="backslashreplace"),
                op.value.decode(errors="replace"),
                op.stamp.hex(),
                op.writer.hex(),
                start_us,
                end_us,
                None if end_us is None else (end_us - start_us) / 1000,
                op.outcome,
                op.overtaken,
                op.detail,
            )
        )
    columns = "id client lane phase kind namespace key field value stamp writer start_us end_us latency_ms outcome"
    table = pd.DataFrame(rows, columns=[*columns.split(), "overtaken", "detail"])
    return table.astype({"start_us": "int64", "end_us": "Int64", "latency_ms": "float64", "overtaken": bool})


def messages(found: Run) -> pd.DataFrame:
    """Messages, as many of the last as `messages_max` keeps. `arrived_us` is missing where one got lost."""
    pd = pandas()
    names = [process_name(found, process) for process in sorted(found.graph.nodes)]
    table = pd.DataFrame(found.messages, columns=["sent_us", "arrived_us", "source", "target", "kind", "id"])
    lost = table["arrived_us"] == 0
    table["sent_us"] -= found.start_us
    table["arrived_us"] = (table["arrived_us"] - found.start_us).astype("Int64").mask(lost)
    for end in ("source", "target"):
        table[end] = pd.Categorical.from_codes(table[end], categories=names)
    table["kind"] = pd.Categorical.from_codes(table["kind"], categories=KINDS)
    table["lost"] = lost
    return table


def faults(found: Run) -> pd.DataFrame:
    """Faults from `start_us` to `end_us` (when it was over, or the world healed, whichever was first)."""
    pd = pandas()
    planned = {(found.start_us + offset, kind, target): lasts for offset, kind, target, lasts, _ in found.plan.faults}
    healed_us = (found.healed_us or found.end_us) - found.start_us
    rows = []
    for time_us, kind, target, detail in found.faults:
        start_us = time_us - found.start_us
        lasts_us = 0 if kind in _INSTANT else planned.get((time_us, kind, target), 0)
        whom = {"client_crash": f"client {target}"}
        rows.append(
            (
                start_us,
                max(start_us, min(start_us + lasts_us, healed_us)),
                kind,
                "" if kind in _NOBODYS else whom.get(kind, f"node {target}"),
                detail,
            )
        )
    return pd.DataFrame(rows, columns=["start_us", "end_us", "kind", "target", "detail"])


def states(found: Run) -> pd.DataFrame:
    """What state ("active", "down", "recovering") each node was in, from when until when: rows cover the run."""
    pd = pandas()
    end_us = found.end_us - found.start_us
    rows = []
    for node in range(found.config.nodes + found.plan.spares):
        since_us, state = 0, "active"
        for time_us, changed, following in found.states:
            if changed == node:
                rows.append((node, state, since_us, time_us - found.start_us))
                since_us, state = time_us - found.start_us, following
        rows.append((node, state, since_us, end_us))
    return pd.DataFrame(rows, columns=["node", "state", "start_us", "end_us"])


def lies(found: Run, told: list[Lie]) -> pd.DataFrame:
    """Lies: answers that differ from what the honest machine inside the liar would have said."""
    pd = pandas()
    rows = [
        (
            lie.time_us - found.start_us,
            process_name(found, lie.node),
            process_name(found, lie.target),
            lie.lie,
            lie.asked,
            lie.id,
            lie.effect,
        )
        for lie in told
    ]
    return pd.DataFrame(rows, columns=["time_us", "node", "target", "lie", "asked", "id", "effect"])


def summary(found: Run) -> dict[str, Any]:
    """A run in a row: how operations under faults ended and how long they took, and what else can be counted.

    `available` is the share of operations that ended as asked or with an honest miss, among those whose client lived.
    """
    asked = [op for op in found.ops if op.phase == "faults" and not (op.outcome == PENDING and "crashed" in op.detail)]
    outcomes = {name: sum(op.outcome == name for op in asked) for name in ("ok", "miss", "failed", "unknown", PENDING)}
    row: dict[str, Any] = {"ops": len(asked), **outcomes}
    row["available"] = (row["ok"] + row["miss"]) / len(asked) if asked else float("nan")
    reads = [op for op in asked if op.kind == "read" and op.outcome in ("ok", "miss")]
    row["hit"] = sum(op.outcome == "ok" for op in reads) / len(reads) if reads else float("nan")
    for name, kinds in (("read", ("read",)), ("write", ("write", "delete"))):
        took_ms = sorted((op.end_us - op.start_us) / 1000 for op in asked if op.end_us is not None and op.kind in kinds)
        for percent in (50, 99):
            row[f"{name}_p{percent}_ms"] = took_ms[len(took_ms) * percent // 100] if took_ms else float("nan")
    row["messages"] = found.message_count
    row["faults_done"] = len(found.faults)
    row["violations"] = len(found.violations)
    row["violated"] = found.violations[0].checker if found.violations else ""
    row["virtual_s"] = (found.end_us - found.start_us) / 1e6
    row["wall_s"] = found.wall_s
    row["digest"] = found.digest
    return row


def messages_of(found: Run, trace: Trace, operation: int) -> pd.DataFrame:
    """The messages of an operation: those that its client exchanged about its slot while it lasted."""
    op = found.op(operation)
    address = found.config.nodes + found.plan.spares + op.client
    end_us = found.end_us if op.end_us is None else op.end_us
    asked = {number for (sender, number), slots in trace.slots.items() if sender == address and op.slot in slots}
    told = {(lie.node, lie.target, lie.id): lie for lie in trace.lies if lie.target == address}
    first = op.start_us
    rows = [row for row in trace.run.messages if row[5] in asked and first <= row[0] <= end_us and address in row[2:4]]
    table = messages(replace(found, messages=rows))
    of = [told.get((source, target, number)) for _, _, source, target, _, number in rows]
    table["lie"] = [lie.lie if lie else "" for lie in of]
    table["effect"] = [lie.effect if lie else "" for lie in of]
    return table
