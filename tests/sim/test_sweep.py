"""Sweeps: the same rows on any executor, each stamped with what made it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import distributed
import pytest

import sim
from sim import results
from sim.settings import SimConfig

BASE = SimConfig(operations=20, faults=2)
GRID = {"nodes": [4, 5], "byzantine_nodes": [0, 1]}


@pytest.fixture(scope="module")
def plain() -> Any:
    with ThreadPoolExecutor(1) as pool:
        return sim.sweep(GRID, range(2), base=BASE, executor=pool, progress=False)


def test_rows_come_in_the_order_of_the_grid_and_say_what_made_them(plain: Any) -> None:
    assert list(zip(plain["nodes"], plain["byzantine_nodes"], plain["seed"], strict=True)) == [
        (nodes, liars, seed) for nodes in (4, 5) for liars in (0, 1) for seed in (0, 1)
    ]
    row = plain.iloc[5]
    assert row["digest"] == results.run(BASE.but(nodes=5, byzantine_nodes=0), 1).digest
    assert row["config_nodes"] == 5
    assert row["config_operations"] == 20
    assert row["version_quorumcache"] == plain.attrs["versions"]["quorumcache"]
    assert (plain["ok"] + plain["miss"] + plain["failed"] + plain["unknown"] + plain["pending"] == plain["ops"]).all()
    assert plain["available"].between(0, 1).all()


def test_processes_give_the_same_rows(plain: Any) -> None:
    there = sim.sweep(GRID, range(2), base=BASE, jobs=2, progress=False)
    assert there.drop(columns="wall_s").equals(plain.drop(columns="wall_s"))


def test_a_dask_cluster_gives_the_same_rows_by_address_client_and_cluster(plain: Any) -> None:
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        by_address = sim.sweep(GRID, range(2), base=BASE, executor=cluster.scheduler_address, progress=False)
        with distributed.Client(cluster, set_as_default=False) as client:
            by_client = sim.sweep({"nodes": [4]}, [0], base=BASE, executor=client, progress=False)
        by_cluster = sim.sweep({"nodes": [4]}, [0], base=BASE, executor=cluster, progress=False)
    assert by_address.drop(columns="wall_s").equals(plain.drop(columns="wall_s"))
    assert by_client["digest"].equals(by_cluster["digest"])


def test_points_may_be_listed_one_by_one_and_name_scenarios() -> None:
    points = [{"scenario": "rack"}, {"nodes": 7, "f": 2}]
    with ThreadPoolExecutor(1) as pool:
        table = sim.sweep(points, [1], base=BASE, executor=pool, progress=True)
    assert list(table["config_nodes"]) == [4, 7]
    assert list(table["config_operations"]) == [20, 20]
    assert table.loc[0, "config_features"] == ""


@pytest.mark.parametrize(
    ("grid", "executor", "says"),
    [
        ({"nodes": [3]}, None, "too few for f = 1"),
        ({"modes": [4]}, None, "there is no setting 'modes'"),
        ({"topology": "rack"}, None, "needs a list of values"),
        ({"nodes": []}, None, "at least one point"),
        ({"nodes": [4] * 1_000_001}, None, "divide the sweep"),
        ({"nodes": [4]}, 7, "neither a Dask scheduler's address"),
        ({"nodes": [4]}, "nonsense://here", "no Dask scheduler answers"),
    ],
)
def test_bad_input_gets_a_clear_error(grid: Any, executor: Any, says: str) -> None:
    with pytest.raises(sim.BadSetting, match=says):
        sim.sweep(grid, [1], executor=executor, progress=False)
