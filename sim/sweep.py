"""Many configurations times many seeds, on local processes or on a Dask cluster: one DataFrame, one row a run.

Every row says which versions and which configuration made it, so that a row can be replayed by itself. It must not know
what a run's numbers mean.
"""

from __future__ import annotations

import itertools
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from quorumcache.version import VERSION
from sim import results, scenarios, tables
from sim.settings import BadSetting, SimConfig

if TYPE_CHECKING:
    import pandas as pd

#: More runs than this do not fit into one table comfortably: divide the sweep.
RUNS_MAX: Final = 1_000_000
_CONNECT_S: Final = 10
Task = tuple[dict[str, Any], SimConfig, int]


def sweep(
    grid: Mapping[str, Sequence[Any]] | Iterable[Mapping[str, Any]],
    seeds: Iterable[int],
    *,
    executor: Any = None,
    base: SimConfig | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Run every point of the grid with every seed.

    `grid`: setting -> values, of which all combinations are run, or an iterable of settings. Besides those of SimConfig
    there is "scenario", a name or path; `base` has what the grid leaves out. `executor`: None for processes of this
    machine (`jobs` of them), the address of a Dask scheduler, a `distributed.Client` or cluster, or any
    `concurrent.futures.Executor`; workers need quorumcache, sim and their dependencies in the same versions.
    `progress` shows a bar on stderr, or in the notebook; None: where somebody watches.

    Columns: the grid's settings, seed, what `Study.summary` has, versions, and the whole configuration (`config_*`).
    Raises BadSetting.
    """
    pandas = tables.pandas()
    tasks = _tasks(grid, [int(seed) for seed in seeds], base or SimConfig())
    rows: list[dict[str, Any] | None] = [None] * len(tasks)
    with _bar(len(tasks), progress) as advance:
        for number, row in _results(tasks, executor, jobs):
            rows[number] = row
            advance()
    table = pandas.DataFrame(rows)
    table.attrs["versions"] = versions()
    return table


def versions() -> dict[str, str]:
    """What decides a run besides its configuration and seed."""
    return {"quorumcache": VERSION, "python": platform.python_version()}


def one(asked: dict[str, Any], config: SimConfig, seed: int) -> dict[str, Any]:
    """One run as a row; what executors call."""
    row = {**asked, "seed": seed, **tables.summary(results.run(config, seed))}
    row.update({f"version_{name}": version for name, version in versions().items()})
    for field in fields(config):
        value = getattr(config, field.name)
        row[f"config_{field.name}"] = ",".join(value) if isinstance(value, tuple) else value
    return row


def _tasks(grid: Any, seeds: list[int], base: SimConfig) -> list[Task]:
    if isinstance(grid, Mapping):
        for name, values in grid.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, range)):
                raise BadSetting(f"grid: {name} needs a list of values, not {values!r:.80}")
        points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
    else:
        points = [dict(point) for point in grid]
    if not points or not seeds:
        raise BadSetting("a sweep needs at least one point and one seed")
    if len(points) * len(seeds) > RUNS_MAX:
        raise BadSetting(
            f"{len(points)} points times {len(seeds)} seeds are more than {RUNS_MAX} runs: divide the sweep"
        )
    tasks = []
    for point in points:
        settings = dict(point)
        scenario = settings.pop("scenario", None)
        config = scenarios.load(scenario, base) if scenario is not None else base
        config = config.but(**settings)
        shown = {name: ",".join(value) if isinstance(value, (tuple, list)) else value for name, value in point.items()}
        tasks += [(shown, config, seed) for seed in seeds]
    return tasks


def _results(tasks: list[Task], executor: Any, jobs: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers, as they get ready."""
    if executor is None:
        # Processes are started anew, not forked: a notebook's kernel has threads.
        import multiprocessing

        count = min(jobs or os.cpu_count() or 1, len(tasks), 64)
        context = multiprocessing.get_context("spawn")
        with futures.ProcessPoolExecutor(max_workers=count, mp_context=context) as pool:
            yield from _on_executor(tasks, pool, 4 * count)
    elif isinstance(executor, futures.Executor):
        yield from _on_executor(tasks, executor, 256)
    else:
        yield from _on_dask(tasks, executor)


def _on_executor(tasks: list[Task], pool: futures.Executor, ahead: int) -> Iterator[tuple[int, dict[str, Any]]]:
    waiting: dict[futures.Future[dict[str, Any]], int] = {}
    following = iter(enumerate(tasks))
    try:
        while True:
            for number, task in itertools.islice(following, ahead - len(waiting)):
                waiting[pool.submit(one, *task)] = number
            if not waiting:
                return
            done, _ = futures.wait(waiting, return_when=futures.FIRST_COMPLETED)
            for future in done:
                yield waiting.pop(future), future.result()
    finally:
        for future in waiting:
            future.cancel()


def _on_dask(tasks: list[Task], executor: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        import distributed
    except ImportError:
        raise BadSetting("a sweep on Dask needs distributed: pip install 'quorumcache[sim]'") from None
    if isinstance(executor, distributed.Client):
        yield from _on_client(tasks, executor, distributed.as_completed)
        return
    if not isinstance(executor, str) and not hasattr(executor, "scheduler_address"):
        raise BadSetting(
            f"executor: {executor!r:.80} is neither a Dask scheduler's address, a distributed.Client or cluster, nor a "
            "concurrent.futures.Executor"
        )
    try:
        client: Any = distributed.Client(  # type: ignore[no-untyped-call]
            executor, timeout=_CONNECT_S, set_as_default=False
        )
    except (OSError, ValueError) as problem:
        raise BadSetting(f"no Dask scheduler answers at {executor!r:.80}: {problem}") from None
    with client:
        yield from _on_client(tasks, client, distributed.as_completed)


def _on_client(tasks: list[Task], client: Any, as_completed: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    following = iter(enumerate(tasks))
    numbers: dict[str, int] = {}

    def submit() -> Any:
        for number, task in following:
            # Impure: the same run asked for twice is two runs, and a row is never taken from an older sweep.
            future = client.submit(one, *task, pure=False)
            numbers[future.key] = number
            return future
        return None

    first = [submit() for _ in range(min(len(tasks), 1024))]
    running = as_completed(first, loop=client.loop)
    del first
    for future in running:
        yield numbers.pop(future.key), future.result()
        fresh = submit()
        if fresh is not None:
            running.add(fresh)


@contextmanager
def _bar(total: int, progress: bool | None) -> Iterator[Callable[[], None]]:
    """A progress bar; gives what to call once per run."""
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    if not progress:
        yield lambda: None
        return
    try:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress
    except ImportError:
        raise BadSetting("a progress bar needs rich: pip install 'quorumcache[cli]', or progress=False") from None
    console = None if "ipykernel" in sys.modules else Console(stderr=True)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console, transient=True) as shown:
        task = shown.add_task("runs", total=total)
        yield lambda: shown.advance(task)
