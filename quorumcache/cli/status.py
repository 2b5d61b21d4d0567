"""`quorumcache status`: the nodes of a cluster in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quorumcache.cli import exits
from quorumcache.cli.connecting import ClusterOption, cluster_path

if TYPE_CHECKING:
    from quorumcache.core.config import Configuration
    from quorumcache.net.divergence import Divergence
    from quorumcache.net.survey import NodeReport


def status(
    cluster: ClusterOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that the nodes say, as JSON.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare what the nodes hold, shard by shard, and name those that differ.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=600, help="Seconds to wait for each node.")] = 2.0,
) -> None:
    """Show the nodes of a cluster: which answer, and how they are.

    Exit status 0 while at least 2f+1 nodes of every group answer under the same configuration, so that it works; 3
    while fewer do. With --deep also 3 while any node holds other than most of its group. What a node says of itself is
    not proven: a faulty node can say anything here.

    Example: [bold]quorumcache status --cluster my-cluster[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.net.moving import chain_from
    from quorumcache.net.survey import survey
    from quorumcache.wire.founding import read_cluster_file

    configuration = read_cluster_file(cluster_path(cluster)).configuration
    reports = run_loop(survey(configuration, timeout_s=timeout))
    if any(report.status is not None and _number(report.status, "epoch") > configuration.epoch for report in reports):
        chain = run_loop(chain_from(configuration, timeout_s=timeout))
        if chain:
            typer.secho(
                f"The cluster file is of epoch {configuration.epoch}; the cluster is in epoch {chain[-1].epoch}, and "
                "its nodes show how it got there.",
                err=True,
            )
            configuration = chain[-1]
            reports = run_loop(survey(configuration, timeout_s=timeout))
    works = _works(configuration, reports)
    divergence = None
    if deep:
        from quorumcache.net.divergence import diverging

        divergence = run_loop(diverging(configuration, timeout_s=max(timeout, 10.0)))
    if as_json:
        _print_json(configuration, reports, works, divergence)
    else:
        _print_table(configuration, reports, works)
        if divergence is not None:
            _print_divergence(configuration, divergence)
    if not works or (divergence is not None and (divergence.odd or divergence.undecided or divergence.missing)):
        raise typer.Exit(exits.UNAVAILABLE)


def _is_in_step(configuration: Configuration, report: NodeReport) -> bool:
    return report.status is not None and report.status.get("configuration") == configuration.digest.hex()


def _works(configuration: Configuration, reports: list[NodeReport]) -> bool:
    up = {report.node.index for report in reports if _is_in_step(configuration, report)}
    return all(len(up.intersection(group.members)) >= configuration.q for group in configuration.groups.values())


def _print_json(
    configuration: Configuration, reports: list[NodeReport], works: bool, divergence: Divergence | None
) -> None:
    import json

    from quorumcache.core.config import warnings_of

    nodes = [
        {
            "name": report.node.name,
            "address": report.node.address,
            "reachable": report.status is not None,
            "problem": report.problem,
            "round_trip_us": report.round_trip_us,
            "clock_offset_us": report.clock_offset_us,
            "status": report.status,
        }
        for report in reports
    ]
    told: dict[str, Any] = {
        "cluster_id": configuration.cluster_id,
        "epoch": configuration.epoch,
        "configuration": configuration.digest.hex(),
        "f": configuration.f,
        "works": works,
        "warnings": warnings_of(configuration),
        "nodes": nodes,
    }
    if divergence is not None:
        told["divergence"] = {
            "shards": divergence.compared,
            "odd": {configuration.nodes[n].name: sorted(shards) for n, shards in sorted(divergence.odd.items())},
            "undecided": sorted(divergence.undecided),
            "missing": [configuration.nodes[n].name for n in sorted(divergence.missing)],
        }
    typer.echo(json.dumps(told, indent=2))


def _print_divergence(configuration: Configuration, divergence: Divergence) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    name = {node.index: escape(node.name) for node in configuration.nodes}
    if divergence.missing:
        names = ", ".join(name[node] for node in sorted(divergence.missing))
        console.print(f"[red]Not compared:[/red] {names} did not tell what they hold.")
    for node, shards in sorted(divergence.odd.items()):
        some = ", ".join(map(str, sorted(shards)[:8])) + (", ..." if len(shards) > 8 else "")
        console.print(f"[yellow]{name[node]}[/yellow] differs in {len(shards)} of its shards: {some}")
    if divergence.undecided:
        console.print(f"[yellow]{len(divergence.undecided)} shards[/yellow] differ at so many nodes that none is odd.")
    if divergence.odd or divergence.undecided:
        console.print(
            "What a node lacks it takes from its peers within seconds; what it evicted, or what lies below its floor "
            "since a restart, it does not take back, and it goes on differing there until that is written again."
        )
    elif not divergence.missing:
        console.print(f"[green]All nodes agree[/green] in all {divergence.compared} shards.")


def _print_table(configuration: Configuration, reports: list[NodeReport], works: bool) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quorumcache.core.config import warnings_of

    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("node", no_wrap=True)
    table.add_column("address", overflow="fold", min_width=15)
    table.add_column("state", overflow="fold")
    for title in ("epoch", "clock", "entries", "memory", "requests", "sessions"):
        table.add_column(title, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(escape(report.node.name), escape(report.node.address or "-"), *_cells(configuration, report))
    console.print(table)
    for report in reports:
        if report.problem:
            console.print(f"[red]{escape(report.node.name)}:[/red] {escape(report.problem[:300])}")
    denied: dict[str, float] = {}
    for report in reports:
        told = report.status.get("denied") if report.status is not None else None
        if isinstance(told, dict):
            for whom in list(told)[:20]:
                denied[whom] = max(denied.get(whom, 0), _number(told, whom))
    if denied:
        # The most that any node says, since a write is denied at all of them.
        most = sorted(denied.items(), key=lambda item: -item[1])[:5]
        console.print(f"Denied: {escape(', '.join(f'{whom[:90]} {count:g}' for whom, count in most))}")
    answering = sum(report.status is not None for report in reports)
    console.print(
        f"\nCluster [bold]{escape(configuration.cluster_id)}[/bold], epoch {configuration.epoch}: "
        f"{answering} of {len(reports)} nodes answer; each key is on {configuration.n} nodes, "
        f"{configuration.q} of them have to work."
    )
    if works:
        spare = min(
            sum(_is_in_step(configuration, reports[i]) for i in group.members) - configuration.q
            for group in configuration.groups.values()
        )
        note = "" if spare else "  [yellow]One more failure stops it.[/yellow]"
        console.print(f"[green]It works.[/green]{note}")
    else:
        console.print("[red]It does not work:[/red] too few nodes answer under this configuration. Start the others.")
    for warning in warnings_of(configuration):
        console.print(f"[yellow]Warning:[/yellow] {escape(warning)}")


def _cells(configuration: Configuration, report: NodeReport) -> list[str]:
    from quorumcache.cli.words import bytes_text, count_text

    told = report.status
    if told is None:
        return ["[red]down[/red]"]
    if told.get("has_left") is True:
        state = "[yellow]has left the cluster[/yellow]"
    elif told.get("sealed_for"):
        state = "[yellow]ended its epoch, waits for others[/yellow]"
    elif not _is_in_step(configuration, report):
        state = "[yellow]another configuration[/yellow]"
    elif _number(told, "shards_recovering"):
        state = "[yellow]recovering[/yellow]"
    elif _number(told, "evidence"):
        state = f"[yellow]{count_text(_number(told, 'evidence'))} writers convicted[/yellow]"
    elif behind := _behind(told):
        state = f"[yellow]others lack {count_text(behind)} of its writes[/yellow]"
    else:
        state = "[green]up[/green]"
    # Half of the round trip is what the offset may be wrong by.
    offset_ms = report.clock_offset_us / 1000
    beyond = abs(report.clock_offset_us) - report.round_trip_us // 2 > configuration.max_skew_us
    clock = f"[red]{offset_ms:+.1f} ms[/red]" if beyond else f"{offset_ms:+.1f} ms"
    requests, sessions = told.get("requests"), told.get("sessions")
    return [
        state,
        count_text(_number(told, "epoch")),
        clock,
        count_text(_number(told, "entries")),
        bytes_text(_number(told, "bytes_used")),
        count_text(sum(_number(requests, name) for name in requests) if isinstance(requests, dict) else 0),
        count_text(_number(sessions, "open")) if isinstance(sessions, dict) else "-",
    ]


def _behind(told: dict[str, Any]) -> float:
    """In mode primary: how many entries the peer that lags most has not taken from this node for a second or more. A
    node says what it likes."""
    lags = told.get("forward_lag")
    if not isinstance(lags, dict):
        return 0
    late = [lag for lag in lags.values() if isinstance(lag, dict) and _number(lag, "oldest_s") >= 1]
    return max((_number(lag, "entries") for lag in late), default=0)


def _number(told: dict[str, Any], name: str) -> float:
    """A number that a node told; 0 where it told something else."""
    value = told.get(name)
    return value if isinstance(value, int | float) and abs(value) < 1e18 else 0
