"""`quorumcache replay FILE`: a real trace, read-through, against a cluster: hit ratio and latencies.

Reads traces and drives clients; knows nothing of nodes. A private local cluster serves where none is named.
"""

from __future__ import annotations

import asyncio
import contextlib
import lzma
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quorumcache.client import Client
from quorumcache.errors import Misuse, PermissionDenied, QuorumCacheError
from quorumcache.testing import LocalCluster

LINE_CHARS_MAX: Final = 1000
LINES_MAX: Final = 50_000_000
VALUE_BYTES: Final = 128
TICK_S: Final = 0.2
MEMORY_BYTES_MAX: Final = 8 << 30
RECOVERY_S_MAX: Final = 60.0

Request = tuple[str, int]


def replay(
    file: Path = typer.Argument(help="A trace, plain or .xz: a key a line, or time, object and size in bytes."),
    cluster: Path | None = typer.Option(None, help="The cluster's file; a private local cluster where none is named."),
    key: Path | None = typer.Option(None, help="The writer's key file; needed with --cluster."),
    namespace: str | None = typer.Option(None, help="The namespace; the cluster's first unless named."),
    limit: int = typer.Option(0, min=0, help="Stop after so many requests; 0 replays the whole trace."),
    tasks: int = typer.Option(64, min=1, max=10_000, help="How many requests are under way at once."),
    value_bytes_max: int = typer.Option(4096, min=16, max=1 << 20, help="Larger objects are stored as this size."),
    memory_percent: float = typer.Option(
        0, min=0, max=100, help="Give the private cluster memory for so much of the trace's data; 0 is for all of it."
    ),
) -> None:
    """Replay a trace: get each key and, on a miss, set a made-up value of its size.

    Example: [bold]quorumcache replay trace.xz --limit 100000[/bold]
    """
    console = Console()
    try:
        if cluster is not None and key is None:
            raise Misuse("with --cluster, name the writer's key file too (--key): a miss is followed by a set")
        if cluster is not None and memory_percent:
            raise Misuse("--memory-percent is for the private cluster; that of --cluster has the memory that it has")
        requests = read_trace(file, limit)
        main = _replay(console, requests, cluster, key, namespace, tasks, value_bytes_max, memory_percent)
        if sys.platform == "win32":
            asyncio.run(main)
        else:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main)
    except QuorumCacheError as fault:
        typer.echo(f"quorumcache replay: {fault}", err=True)
        raise typer.Exit(2 if isinstance(fault, Misuse) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def read_trace(path: Path, limit: int = 0) -> list[Request]:
    """(key, size in bytes) of each request of a trace file, the first `limit` of them unless that is 0.

    Raises Misuse, with the line where there is one, for a file that cannot be read or is no trace.
    """
    requests: list[Request] = []
    keys: dict[str, str] = {}
    columns = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(_bounded(lines, path), 1):
                fields = line.split()
                columns = columns or len(fields)
                if columns not in (1, 3) or len(fields) != columns:
                    raise Misuse(
                        f"{path}, line {number}: {len(fields)} columns. A trace has one (a key) or three (time, "
                        "object, size in bytes), the same in every line"
                    )
                try:
                    size = int(fields[2]) if columns == 3 else VALUE_BYTES
                except ValueError:
                    raise Misuse(f"{path}, line {number}: {fields[2][:40]!r} is no size in bytes") from None
                name = fields[columns // 2]
                if size < 0 or len(name.encode()) > 1000:
                    raise Misuse(f"{path}, line {number}: a size below zero, or a key of more than 1000 bytes")
                requests.append((keys.setdefault(name, name), size))
                if len(requests) == limit:
                    break
    except (OSError, EOFError, lzma.LZMAError) as fault:
        raise Misuse(f"the trace {path} cannot be read: {fault}") from None
    except UnicodeDecodeError:
        hint = "it is compressed, but its name does not end in .xz?" if path.suffix != ".xz" else "it holds no text"
        raise Misuse(f"the trace {path} cannot be read: {hint}") from None
    if not requests:
        raise Misuse(f"the trace {path} is empty")
    return requests


def _open(path: Path) -> TextIO:
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _bounded(lines: TextIO, path: Path) -> Iterator[str]:
    """The lines, each of bounded length: a file without line ends must not fill the memory."""
    for number in range(1, LINES_MAX + 1):
        line = lines.readline(LINE_CHARS_MAX)
        if not line:
            return
        if len(line) == LINE_CHARS_MAX:
            raise Misuse(f"{path}, line {number}: more than {LINE_CHARS_MAX} characters; is this a trace?")
        yield line
    raise Misuse(f"{path} has more than {LINES_MAX:,} lines: name a --limit")


class _Run:
    """The replay under way: what is next, and what came of it."""

    def __init__(self, requests: list[Request], value_bytes_max: int) -> None:
        self.next = 0
        self.hits = 0
        self.ended = 0
        self.failed = 0
        self.capped = 0
        self.problem = ""
        self.fatal: QuorumCacheError | None = None
        self.get_s: list[float] = []
        self.set_s: list[float] = []
        self._requests = requests
        self._filler = bytes(range(256)) * (value_bytes_max // 256 + 1)
        self._value_bytes_max = value_bytes_max

    async def work(self, client: Client) -> None:
        """Take the next request until there is none."""
        requests = self._requests
        while self.next < len(requests):
            key, size = requests[self.next]
            self.next += 1
            try:
                await self._one(client, key, size)
            except (Misuse, PermissionDenied) as fault:
                # The next request would fare no better.
                self.fatal = fault
                self.next = len(requests)
            except QuorumCacheError as fault:
                self.failed += 1
                self.problem = str(fault)
            self.ended += 1

    async def _one(self, client: Client, key: str, size: int) -> None:
        start_s = time.perf_counter()
        found = await client.get(key)
        got_s = time.perf_counter()
        self.get_s.append(got_s - start_s)
        if found is not None:
            self.hits += 1
            return
        if size > self._value_bytes_max:
            self.capped += 1
            size = self._value_bytes_max
        await client.set(key, self._filler[:size])
        self.set_s.append(time.perf_counter() - got_s)


async def _replay(
    console: Console,
    requests: list[Request],
    cluster: Path | None,
    key: Path | None,
    namespace: str | None,
    tasks: int,
    value_bytes_max: int,
    memory_percent: float,
) -> None:
    run = _Run(requests, value_bytes_max)
    keys_count = len({name for name, _ in requests})
    bytes_max = MEMORY_BYTES_MAX
    if memory_percent:
        data_bytes = await _data_bytes(requests, namespace, tasks, value_bytes_max)
        bytes_max = max(1, int(data_bytes * memory_percent / 100))
        console.print(
            f"Each key once takes {data_bytes:,} bytes of a node's memory. Each node gets {bytes_max:,}.",
            highlight=False,
        )
    where = f"the cluster of {cluster}" if cluster is not None else "a private cluster of four node processes"
    console.print(
        f"{len(requests):,} requests for {keys_count:,} keys, {tasks} at once, against {where}.",
        highlight=False,
        soft_wrap=True,
    )
    async with _client(cluster, key, namespace, bytes_max) as client:
        start_s = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            group.create_task(_show(console, run, len(requests), start_s))
            for _ in range(min(tasks, len(requests))):
                group.create_task(run.work(client))
        took_s = time.perf_counter() - start_s
    if run.fatal is not None:
        raise run.fatal
    _summarize(console, run, took_s)


async def _data_bytes(requests: list[Request], namespace: str | None, tasks: int, value_bytes_max: int) -> int:
    """What a node says that all keys cost, each written once, by as many tasks as in the replay: what share batches."""
    once = _Run(list(dict(requests).items()), value_bytes_max)
    async with (
        LocalCluster(processes=True, namespace=namespace or "default", bytes_max=MEMORY_BYTES_MAX) as local,
        await local.client() as client,
    ):
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(once.work(client))
        if once.fatal is not None:
            raise once.fatal
        return max([int((await local.status(node))["bytes_used"]) for node in range(3 * local.f + 1)])


@contextlib.asynccontextmanager
async def _client(
    cluster: Path | None, key: Path | None, namespace: str | None, bytes_max: int
) -> AsyncIterator[Client]:
    if cluster is not None:
        async with await Client.connect(cluster, key=key, namespace=namespace) as client:
            yield client
        return
    async with (
        LocalCluster(processes=True, namespace=namespace or "default", bytes_max=bytes_max) as local,
        await local.client() as client,
    ):
        if bytes_max < MEMORY_BYTES_MAX:
            # Nodes that have just started recover first, and evict nothing until they have.
            for _ in range(round(RECOVERY_S_MAX / TICK_S)):
                told = [await local.status(node) for node in range(3 * local.f + 1)]
                if not any(status["shards_recovering"] for status in told):
                    break
                await asyncio.sleep(TICK_S)
        yield client


async def _show(console: Console, run: _Run, total: int, start_s: float) -> None:
    """A progress bar; without a terminal, a line every few seconds."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        row = bar.add_task("replaying", total=total)
        told_s = start_s
        while run.ended < total and run.fatal is None:
            await asyncio.sleep(TICK_S)
            now_s = time.perf_counter()
            rate = run.ended / (now_s - start_s)
            ratio = run.hits / max(1, run.ended)
            bar.update(row, completed=run.ended, description=f"{rate:,.0f} per second, {ratio:.1%} hits")
            if not console.is_terminal and now_s >= told_s + 2:
                told_s = now_s
                console.print(f"{run.ended:,} of {total:,}, {rate:,.0f} per second, {ratio:.1%} hits", highlight=False)


def _summarize(console: Console, run: _Run, took_s: float) -> None:
    console.print(
        f"{run.ended:,} requests in {took_s:.1f} s: {run.ended / took_s:,.0f} per second\n"
        f"hit ratio  {run.hits / run.ended:.2%} ({run.hits:,} hits, {run.ended - run.hits - run.failed:,} misses)",
        highlight=False,
    )
    for title, took in (("get", run.get_s), ("set", run.set_s)):
        if took:
            ordered = sorted(took)
            parts = [f"p{p:g} {1000 * ordered[int(len(ordered) * p / 100)]:.2f}" for p in (50, 90, 99, 99.9)]
            console.print(f"{title}        {', '.join(parts)} ms ({len(took):,})", highlight=False)
    if run.capped:
        console.print(
            f"{run.capped:,} objects were larger than --value-bytes-max, and stored as that.", highlight=False
        )
    if run.failed:
        raise QuorumCacheError(f"{run.failed:,} requests failed, the last one so: {run.problem}")


if __name__ == "__main__":
    typer.run(replay)
