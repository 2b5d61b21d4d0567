"""`quorumcache demo`: four nodes, one of them lying, three writers racing, five readers; then every read is checked.

The load, the live table and the summary are here; the cluster, the lies, the workload and the check in testing/.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

import typer
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quorumcache.client import Client
from quorumcache.core.outcome import Failed
from quorumcache.testing import LocalCluster
from quorumcache.testing.byzantine import BEHAVIOURS, CHANGING, LIES
from quorumcache.testing.history import History, Verdict
from quorumcache.testing.workload import TWITTER_29, Workload

LIAR: Final = 3
WRITERS: Final = ("ann", "bob", "cyd")
READERS_COUNT: Final = 5
TASKS: Final = 4
KEYS_COUNT: Final = 2000
POLL_S: Final = 0.25
WINDOW_S: Final = 1.0


def demo(
    seconds: float = typer.Option(15.0, min=3.0, max=3600.0, help="How long the clients work."),
    seed: int = typer.Option(1, help="Draws keys and times to live."),
) -> None:
    """Watch one node of four lie while writers race and readers read; exit status 1 if any check fails.

    Example: [bold]quorumcache demo[/bold]
    """
    main = _demo(Console(), seconds, seed)
    try:
        if sys.platform == "win32":
            clean = asyncio.run(main)
        else:
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                clean = runner.run(main)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if not clean:
        raise typer.Exit(1)


@dataclass
class _Side:
    """The gets, or the sets: how many, and how long each took, in seconds."""

    count: int = 0
    failed: int = 0
    recent: deque[tuple[float, float]] = field(default_factory=deque)
    all_s: list[float] = field(default_factory=list)

    def add(self, ended_s: float, took_s: float) -> None:
        self.count += 1
        self.recent.append((ended_s, took_s))
        self.all_s.append(took_s)

    def window(self, now_s: float) -> tuple[float, float, float]:
        """Operations per second, p50 and p99 in milliseconds, over the last second."""
        while self.recent and self.recent[0][0] < now_s - WINDOW_S:
            self.recent.popleft()
        took = [took_s for _, took_s in self.recent]
        return len(took) / WINDOW_S, *_quantiles_ms(took)


class _Load:
    """The clients at work: readers get, writers set in proportion, and all is recorded."""

    def __init__(self, workload: Workload, history: History) -> None:
        self.gets = _Side()
        self.sets = _Side()
        self._workload = workload
        self._history = history
        self._numbers: Counter[str] = Counter()
        self._stopping = False
        self._due = asyncio.Semaphore(0)
        self._credit = 0.0

    async def fill(self, client: Client, author: str, keys: list[str]) -> None:
        """Write these keys for the first time."""
        await asyncio.gather(*(self._set(client, author, key) for key in keys))

    async def read(self, client: Client) -> None:
        """Get until it is over."""
        figures = self._workload.figures
        while not self._stopping:
            key = self._workload.key()
            began, start_s = self._history.begin(), time.perf_counter()
            outcome = await client.read(key)
            self._history.end(key, began, outcome)
            end_s = time.perf_counter()
            self.gets.add(end_s, end_s - start_s)
            self.gets.failed += isinstance(outcome, Failed)
            # Sets follow gets in the published proportion.
            self._credit += figures.set_share / figures.get_share
            if self._credit >= 1:
                self._credit -= 1
                self._due.release()

    async def write(self, client: Client, author: str) -> None:
        """Set, whenever one is due, until it is over."""
        while True:
            await self._due.acquire()
            if self._stopping:
                return
            await self._set(client, author, self._workload.key())

    def stop(self) -> None:
        """Let what is under way end, and begin nothing more."""
        self._stopping = True
        for _ in range(len(WRITERS) * TASKS):
            self._due.release()

    async def _set(self, client: Client, author: str, key: str) -> None:
        self._numbers[author] += 1
        value = self._workload.value(author, self._numbers[author])
        writer = client.writer
        assert writer is not None
        began, start_s = self._history.announce(key, value, writer), time.perf_counter()
        outcome = await client.write(key, value, ttl=self._workload.ttl())
        self._history.end(key, began, outcome)
        end_s = time.perf_counter()
        self.sets.add(end_s, end_s - start_s)
        self.sets.failed += isinstance(outcome, Failed)


class _Lies:
    """What the lying node says of itself, and how operations fared under each of its lies."""

    def __init__(self) -> None:
        self.now = ""
        self.told = 0
        self.told_by: dict[str, int] = {}
        self.rejected = 0
        self.rejected_by: Counter[str] = Counter()
        self.took_by: dict[str, list[float]] = {}
        self._taken = 0

    def note(self, lying: dict[str, Any], rejected: int, gets: _Side) -> None:
        """The node's own count, the clients' count of what they rejected, and the gets since the last call."""
        before = self.now or lying["behaviour"]
        self.rejected_by[before] += rejected - self.rejected
        self.took_by.setdefault(before, []).extend(gets.all_s[self._taken :])
        self._taken = len(gets.all_s)
        self.rejected = rejected
        self.now = lying["behaviour"]
        self.told = lying["told"]
        self.told_by = lying["told_by"]


async def _demo(console: Console, seconds: float, seed: int) -> bool:
    workload = Workload(TWITTER_29, KEYS_COUNT, seed)
    history = History()
    change_s = min(2.0, max(0.5, seconds / (len(LIES) + 0.5)))
    figures = workload.figures
    console.print(
        "[bold]quorumcache demo[/]\n"
        f"Four node processes; n{LIAR} lies, and changes its lie every {change_s:.1f} s. "
        f"{len(WRITERS)} writers race, {READERS_COUNT} readers read.\n"
        f"[dim]Workload: {KEYS_COUNT:,} keys, values of {figures.value_bytes} bytes, {figures.get_share:.0%} gets and "
        f"{figures.set_share:.0%} sets, Zipf {figures.zipf_alpha:.2f}:\n"
        f"{figures.source} (twitter/cache-trace, CC BY 4.0; Yang, Yue, Rashmi, OSDI 2020).\nStarting ...[/]",
        soft_wrap=True,
        highlight=False,
    )
    cluster = LocalCluster(processes=True, writers=WRITERS, byzantine={LIAR: "honest"}, change_s=change_s)
    async with cluster:
        writers = {name: await cluster.client(name) for name in WRITERS}
        readers = [await cluster.client(None) for _ in range(READERS_COUNT)]
        load, lies = _Load(workload, history), _Lies()
        await asyncio.gather(
            *(
                load.fill(client, name, workload.keys[i :: len(WRITERS)])
                for i, (name, client) in enumerate(writers.items())
            )
        )
        load.sets = _Side()
        await cluster.make_byzantine(LIAR, CHANGING)
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                for reader in readers:
                    group.create_task(load.read(reader))
                for name, client in writers.items():
                    group.create_task(load.write(client, name))
            try:
                await _watch(console, cluster, [*writers.values(), *readers], load, lies, seconds)
            finally:
                load.stop()
    verdict = history.check()
    _summarize(console, load, lies, verdict, seconds)
    return verdict.is_clean and not verdict.failed and lies.told > 0 and verdict.reads_found > 0


async def _watch(
    console: Console, cluster: LocalCluster, clients: list[Client], load: _Load, lies: _Lies, seconds: float
) -> None:
    """Show what goes on until the time is over: a live table, or without a terminal a line a second."""
    start_s = time.perf_counter()
    printed_s = start_s
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while (now_s := time.perf_counter()) < start_s + seconds:
            status = await cluster.status(LIAR)
            lies.note(status["lying"], sum(client.counts["lies_rejected"] for client in clients), load.gets)
            if console.is_terminal:
                live.update(_view(load, lies, now_s - start_s, seconds), refresh=True)
            elif now_s >= printed_s + 1:
                printed_s = now_s
                console.print(_line(load, lies, now_s - start_s), soft_wrap=True, highlight=False)
            await asyncio.sleep(min(POLL_S, max(0.0, start_s + seconds - now_s)))


def _view(load: _Load, lies: _Lies, elapsed_s: float, seconds: float) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2))
    for title in ("", "per second", "p50 ms", "p99 ms", "in all", "failed"):
        table.add_column(title, justify="left" if not title else "right")
    now_s = time.perf_counter()
    for title, side in ((f"get ({READERS_COUNT} readers)", load.gets), (f"set ({len(WRITERS)} writers)", load.sets)):
        rate, p50, p99 = side.window(now_s)
        table.add_row(title, f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{side.count:,}", str(side.failed))
    bar = "━" * round(40 * elapsed_s / seconds)
    return Group(
        Text.assemble((bar, "green"), ("━" * (40 - len(bar)), "bright_black"), f"  {elapsed_s:4.1f} of {seconds:g} s"),
        table,
        Text.assemble(f"  n{LIAR} now ", (lies.now, "bold red"), f": {BEHAVIOURS[lies.now].lie}"),
        Text.assemble(
            "  lies told ", (f"{lies.told:,}", "bold"), ", disproved by clients ", (f"{lies.rejected:,}", "bold"),
            ", outvoted by the other three: the rest",
        ),
    )  # fmt: skip


def _line(load: _Load, lies: _Lies, elapsed_s: float) -> str:
    now_s = time.perf_counter()
    parts = []
    for title, side in (("get", load.gets), ("set", load.sets)):
        rate, p50, p99 = side.window(now_s)
        parts.append(f"{title} {rate:6,.0f}/s p50 {p50:6.2f} p99 {p99:7.2f} ms")
    parts.append(f"lies told {lies.told:,}, disproved {lies.rejected:,}")
    return f"{elapsed_s:5.1f} s  {'   '.join(parts)}   now: {lies.now}"


def _summarize(console: Console, load: _Load, lies: _Lies, verdict: Verdict, seconds: float) -> None:
    table = Table(title=f"What n{LIAR} did, and what came of it", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("lie", style="red", no_wrap=True)
    wide = console.width >= 120
    if wide:
        table.add_column("it", ratio=1)
    for title in ("told", "disproved", "gets", "p50 ms", "p99 ms"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, took in lies.took_by.items():
        p50, p99 = _quantiles_ms(took)
        table.add_row(
            name,
            *([BEHAVIOURS[name].lie] if wide else []),
            f"{lies.told_by.get(name, 0):,}",
            f"{lies.rejected_by[name]:,}",
            f"{len(took):,}",
            f"{p50:.2f}",
            f"{p99:.2f}",
        )
    console.print(table)
    for title, side in (("gets", load.gets), ("sets", load.sets)):
        p50, p99 = _quantiles_ms(side.all_s)
        console.print(
            f"{side.count:,} {title}, {side.count / seconds:,.0f} per second, p50 {p50:.2f} ms, p99 {p99:.2f} ms",
            highlight=False,
        )
    console.print(
        f"{lies.told:,} lies told: {lies.rejected:,} disproved by signature, hash or form, the others outvoted.\n",
        highlight=False,
    )
    checks = (
        (not verdict.forged, f"integrity: {verdict.reads_found:,} values, each as its writer wrote it to that key"),
        (not verdict.stale, "freshness: none older than any operation on its key that had ended before the read began"),
        (not verdict.split, "one value per stamp"),
        (not verdict.failed, f"availability: {verdict.reads + verdict.writes:,} operations, {verdict.failed} failed"),
        (lies.told > 0 and verdict.reads_found > 0, f"there was something to check: {lies.told:,} lies were told"),
    )  # fmt: skip
    for kept, text in checks:
        console.print(
            Text.assemble(("  ok    ", "bold green") if kept else ("  FAILED  ", "bold red"), text), soft_wrap=True
        )
    if verdict.reads_missed:
        console.print(
            f"  note  {verdict.reads_missed:,} reads missed: a miss may stand in for a value, an older value never",
            highlight=False,
            soft_wrap=True,
        )
    for example in verdict.examples:
        console.print(f"        {example}", markup=False, highlight=False)
    clean = all(kept for kept, _ in checks)
    console.print(
        Text("One node of four lied all the time, and changed nothing.", style="bold green")
        if clean
        else Text("A check failed: this is a bug. Please report it with the output above.", style="bold red")
    )


def _quantiles_ms(took_s: list[float]) -> tuple[float, float]:
    """p50 and p99, in milliseconds."""
    if not took_s:
        return 0.0, 0.0
    ordered = sorted(took_s)
    return 1000 * ordered[len(ordered) // 2], 1000 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


if __name__ == "__main__":
    typer.run(demo)
