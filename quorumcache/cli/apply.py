"""`quorumcache admin apply`: a signed draft put to use in a running cluster.

Belongs here: the words, the progress, the cluster file. What happens between the nodes is in net/moving.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from quorumcache.cli.connecting import ClusterOption, cluster_path

if TYPE_CHECKING:
    from rich.console import Console

    from quorumcache.core.config import Configuration, SignedConfiguration
    from quorumcache.net.moving import Progress

_LOOK_S: Final = 0.25


def apply(
    draft: Annotated[
        Path | None, typer.Argument(help="The signed draft; next.toml beside cluster.toml unless given.")
    ] = None,
    cluster: ClusterOption = None,
    timeout: Annotated[float, typer.Option(min=1, max=3600, help="Seconds that nodes get to go over.")] = 30.0,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            help="Wait until nodes that joined have what their groups hold; before other nodes, until none recovers.",
        ),
    ] = True,
    refill_timeout: Annotated[float, typer.Option(min=1, max=86400, help="Seconds to wait for that.")] = 600.0,
) -> None:
    """Have a running cluster go over to a signed draft: its next epoch. No node has to be stopped.

    All nodes end their epoch, and begin the next one once enough of every group have; clients follow by themselves.
    Writes and reads wait meanwhile, usually for some tens of milliseconds. Then cluster.toml becomes the draft, and the
    one before is kept beside it as cluster-epoch-N.toml. The command may be interrupted and repeated at any time:
    nodes that have begun to change carry it through by themselves.

    Start a node that is to join before this or after, with the cluster file of before or of after:
    [bold]quorumcache node --key n4.key[/bold] waits for the epoch that names its key.

    Example: [bold]quorumcache admin apply --cluster my-cluster[/bold]
    """
    from rich.markup import escape

    from quorumcache.cli.admin import console_of
    from quorumcache.cli.loops import run_loop
    from quorumcache.errors import ConfigurationError, Unavailable
    from quorumcache.net.moving import move
    from quorumcache.wire.founding import cluster_file_of, read_cluster_file
    from quorumcache.wire.signing import read_draft, write_draft

    file = cluster_file_of(cluster_path(cluster))
    current = read_cluster_file(file)
    before = current.configuration
    found = file.with_name("next.toml") if draft is None else draft
    if not found.exists() and draft is None:
        raise ConfigurationError(f"{found}: there is no draft; quorumcache admin --help tells how one is made")
    signed = read_draft(found)
    after = signed.configuration
    console = console_of()
    if after.digest != before.digest:
        if wait and [node.key for node in before.nodes] != [node.key for node in after.nodes]:
            _settle(console, before, refill_timeout)
        show = _Shown(console, before)
        progress = run_loop(move(before, signed, timeout_s=timeout, on_progress=show.update))
        show.end()
        if not progress.sealed:
            raise Unavailable(
                f"no node was asked to change anything: {progress.lacking} of {len(before.groups)} groups have fewer "
                f"than {before.q} nodes that can be reached. {_problems(before, progress)}"
            )
        if not progress.begun:
            raise Unavailable(
                f"{len(progress.sealed)} nodes have ended epoch {before.epoch} and wait: {progress.lacking} of "
                f"{len(before.groups)} groups need more. Until then those groups answer nobody. Bring the others up: "
                f"they go over by themselves, and this command can be repeated. {_problems(before, progress)}"
            )
        kept = file.with_name(f"{file.stem}-epoch-{before.epoch}{file.suffix}")
        if not kept.exists():
            write_draft(kept, current)
        write_draft(file, signed)
        console.print(
            f"Epoch {after.epoch} has begun at {len(progress.begun)} of {len(before.nodes)} nodes; operations waited "
            f"for about {progress.paused_s * 1000:.0f} ms. {file} is that of epoch {after.epoch} now, {kept.name} that "
            "before."
        )
        for info in before.nodes:
            if info.index not in progress.begun:
                reasons = {**progress.unreachable, **progress.refused}
                why = escape(reasons.get(info.index, "it does not answer"))
                console.print(f"  [yellow]{info.name} has not followed yet[/yellow] ({why}); it does once it can")
    else:
        console.print(f"{file} is that draft already: epoch {after.epoch}")
    if found.exists() and found != file:
        found.unlink()
    if wait:
        _refill(console, before, signed, refill_timeout)


def _problems(before: Configuration, progress: Progress) -> str:
    problems = {**progress.unreachable, **progress.refused}
    return "; ".join(f"{before.nodes[i].name} at {before.nodes[i].address}: {why}" for i, why in problems.items())


class _Shown:
    """Progress on a terminal, in one line; elsewhere nothing until the end."""

    def __init__(self, console: Console, before: Configuration) -> None:
        self._console = console
        self._before = before
        self._next_s = time.monotonic() + 1.0
        self._has_line = False

    def update(self, progress: Progress) -> None:
        """Show how far the nodes are, from the second second on."""
        now_s = time.monotonic()
        if now_s < self._next_s or not sys.stderr.isatty():
            return
        self._next_s = now_s + _LOOK_S
        self._has_line = True
        count = len(self._before.nodes)
        text = f"ended epoch {self._before.epoch}: {len(progress.sealed)} of {count} nodes; begun the next: "
        print(f"\r{text}{len(progress.begun)}   ", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """The line is over."""
        if self._has_line:
            print(file=sys.stderr)


def _settle(console: Console, before: Configuration, timeout_s: float) -> None:
    """Before other nodes: wait until no node recovers. Who recovers as its epoch ends can tell those that join nothing,
    and too many of them would have them wait for ever. Nodes that do not answer are nobody's hope anyway."""
    from quorumcache.cli.loops import run_loop
    from quorumcache.errors import Unavailable
    from quorumcache.net.survey import survey

    end_s, next_s = time.monotonic() + timeout_s, time.monotonic() + 2.0
    while True:
        reports = run_loop(survey(before, timeout_s=5.0))
        busy = [report.node.name for report in reports if report.status and report.status.get("shards_recovering")]
        if not busy:
            return
        if time.monotonic() >= end_s:
            raise Unavailable(
                f"no node was asked to change anything: {', '.join(busy)} still recovered after {timeout_s:g} s, and "
                "nodes that join need them. Wait longer with --refill-timeout; --no-wait goes on all the same"
            )
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + 5.0
            console.print(f"  waiting: {', '.join(busy)} recovers; the nodes change when that is done")
        time.sleep(_LOOK_S)


def _refill(console: Console, before: Configuration, signed: SignedConfiguration, timeout_s: float) -> None:
    """Wait until no node of the new epoch recovers anything."""
    from quorumcache.cli.loops import run_loop
    from quorumcache.net.survey import survey

    after = signed.configuration
    joined = [info.name for info in after.nodes if before.node_by_key(info.key) is None]
    left = [info.name for info in before.nodes if after.node_by_key(info.key) is None]
    end_s, said, next_s = time.monotonic() + timeout_s, "", time.monotonic() + 2.0
    while True:
        reports = run_loop(survey(after, timeout_s=5.0))
        waits: dict[str, str] = {}
        for report in reports:
            status = report.status
            if status is None:
                waits[report.node.name] = f"does not answer ({report.problem})"
            elif status.get("epoch") != after.epoch:
                waits[report.node.name] = f"is in epoch {status.get('epoch')}"
            elif recovering := status.get("shards_recovering"):
                waits[report.node.name] = f"recovers {recovering} of {status.get('shards')} shards"
        if not waits:
            break
        text = "; ".join(f"{name} {why}" for name, why in waits.items())
        if time.monotonic() >= end_s:
            console.print(f"[yellow]Not all is refilled after {timeout_s:g} s:[/yellow] {text}. It goes on by itself.")
            return
        if text != said and time.monotonic() >= next_s:
            said, next_s = text, time.monotonic() + 5.0
            console.print(f"  waiting: {text}")
        time.sleep(_LOOK_S)
    if joined:
        console.print(f"{', '.join(joined)} joined, and has all that its groups hold.")
    if left:
        console.print(f"{', '.join(left)} left: it may be stopped now.")
    console.print(f"All {len(after.nodes)} nodes are in epoch {after.epoch}.")
