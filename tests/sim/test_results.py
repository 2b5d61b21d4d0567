"""What researchers get from a run: tables that agree with the plain lists, pictures, and the history file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

import sim
from quorumcache.core.model import slot_parts
from sim import results
from sim.adversary.lies import LIES
from sim.settings import SimConfig

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
LYING = SimConfig(
    operations=60,
    byzantine_nodes=1,
    byzantine_writers=0,
    lies=("stale", "silent"),
    features=("crash", "partition", "client_crash", "loss"),
    faults=6,
)


@pytest.fixture(scope="module")
def study() -> sim.Study:
    return sim.run(LYING, 3)


def test_a_run_imports_neither_pandas_nor_matplotlib() -> None:
    code = (
        "import sim, sys; sim.run(sim.SimConfig(operations=5), 1); print({'pandas', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_a_study_is_the_plain_run(study: sim.Study) -> None:
    assert study.digest == results.run(LYING, 3).digest
    assert not study.violations
    assert set(study.graph.nodes) == set(range(LYING.nodes + LYING.clients))


def test_the_table_of_operations_has_each_with_its_outcome(study: sim.Study) -> None:
    table, plain = study.ops, study.raw.ops
    assert list(table["id"]) == [op.id for op in plain]
    assert list(table["outcome"]) == [op.outcome for op in plain]
    assert list(table["key"]) == [slot_parts(op.slot)[1].decode() for op in plain]
    never = table["end_us"].isna()
    assert list(never) == [op.end_us is None for op in plain]
    assert never.any()
    took_ms = (table["end_us"] - table["start_us"])[~never] / 1000
    assert (took_ms.astype(float) - table["latency_ms"][~never]).abs().max() < 1e-6


def test_the_table_of_messages_names_processes_and_losses(study: sim.Study) -> None:
    table = study.messages
    assert len(table) == study.raw.message_count == len(study.raw.messages)
    assert table["lost"].any()
    assert table["arrived_us"].isna().equals(table["lost"])
    assert (table["arrived_us"] >= table["sent_us"])[~table["lost"]].all()
    first = study.raw.messages[0]
    assert table.loc[0, "source"] == f"client {first[2] - LYING.nodes}"
    assert table.loc[0, "target"] == f"node {first[3]}"


def test_faults_end_and_states_cover_the_run(study: sim.Study) -> None:
    faults = study.faults
    assert len(faults) == len(study.raw.faults) > 0
    healed_us = study.raw.healed_us - study.raw.start_us
    assert (faults["end_us"] >= faults["start_us"]).all()
    assert (faults["end_us"] <= healed_us).all()
    end_us = study.raw.end_us - study.raw.start_us
    for _, rows in study.states.groupby("node"):
        assert rows["start_us"].iloc[0] == 0
        assert rows["end_us"].iloc[-1] == end_us
        assert list(rows["start_us"].iloc[1:]) == list(rows["end_us"].iloc[:-1])
    crashed = faults[faults["kind"] == "crash"]
    down = study.states[study.states["state"] == "down"]
    assert set(crashed["start_us"]) == set(down["start_us"])


def test_lies_are_told_by_the_liar_alone(study: sim.Study) -> None:
    lies = study.lies
    assert set(lies["node"]) == {f"node {study.plan.byzantine[0]}"}
    assert set(lies["lie"]) == {"stale", "silent"}
    assert set(lies.loc[lies["lie"] == "silent", "effect"]) == {"silent"}
    assert not any(lie.__name__ == "told" for lie in LIES.values()), "the lies are as they were"


def test_an_operations_messages_are_its_clients_while_it_lasts(study: sim.Study) -> None:
    for op in study.raw.ops[:20]:
        if op.end_us is None:
            continue
        table = study.messages_of(op.id)
        assert len(table) > 0
        client = f"client {op.client}"
        assert ((table["source"] == client) ^ (table["target"] == client)).all()
        assert table["sent_us"].between(op.start_us - study.raw.start_us, op.end_us - study.raw.start_us).all()


def test_pictures_are_drawn(study: sim.Study) -> None:
    latency = study.plot_latency(kind="read", bins=10)
    assert latency.get_ylabel() == "latency (ms)"
    assert any(text.get_text() == "healed" for text in latency.get_legend().get_texts())
    messages = study.plot_messages()
    assert [label.get_text() for label in messages.get_yticklabels()][1:] == [
        f"node {i} (liar)" if i in study.plan.byzantine else f"node {i}" for i in range(4)
    ]
    part = study.plot_messages(0, until_ms=0.1)
    assert len(part.texts) < len(study.plot_messages(0).texts)
    regions = sim.run(SimConfig(operations=10, topology="regions", features=(), nodes=5), 1)
    assert {"washington", "tokyo"} <= {t.get_text().split("\n")[0] for t in regions.plot_topology().texts}
    matplotlib.pyplot.close("all")


def test_a_run_that_stopped_early_can_be_looked_into() -> None:
    """Beyond f a run ends at the first violation, with operations that never end."""
    broken = next(s for s in (sim.run(SimConfig(over=True, byzantine_nodes=2), n) for n in range(20)) if s.violations)
    assert broken.violations[0].checker in broken._repr_html_()
    assert broken.ops["outcome"].eq("pending").any()
    assert broken.plot_latency() is not None
    assert broken.plot_messages(0) is not None
    matplotlib.pyplot.close("all")


def test_notebooks_show_a_run_as_a_table(study: sim.Study) -> None:
    shown = study._repr_html_()
    assert study.digest in shown
    assert "1 violation" not in shown


def test_bad_arguments_get_a_clear_error(study: sim.Study) -> None:
    with pytest.raises(sim.BadSetting, match="there is no operation 9999: this run has 0 to"):
        study.plot_messages(9999)
    with pytest.raises(sim.BadSetting, match="bins"):
        study.plot_latency(bins=0)


def test_the_history_file_is_as_documented(study: sim.Study, tmp_path: Path) -> None:
    """docs/simulator.md, the history file: one head, then an operation a line."""
    path = tmp_path / "history.jsonl"
    count = study.save_history(path)
    head, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert head["format"] == "quorumcache-history-1"
    assert (head["seed"], head["digest"], head["operations"]) == (3, study.digest, count)
    assert len(rows) == count == len(study.raw.ops)
    fields = {"op", "process", "kind", "namespace", "key", "field", "stamp", "start", "end", "outcome"}
    documented = set((ROOT / "docs" / "simulator.md").read_text().split("`"))
    for row, op in zip(rows, study.raw.ops, strict=True):
        assert fields <= set(row) <= documented
        assert ("value" in row) != ("digest" in row)
        assert row["outcome"] in ("ok", "miss", "failed", "unknown")
        assert (row["end"] is None) == (row["outcome"] == "unknown")
        assert row["start"] == (op.start_us - study.raw.start_us) * 1000
        if op.outcome == "ok" and op.kind != "delete":
            assert row["value"] == op.value.decode()
