"""`quorumcache http`: a cluster over HTTP, for curl and other languages, through a client in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quorumcache.cli.connecting import ClusterOption, DataKeysOption, KeyOption, TimeoutOption, cluster_path, key_path


def http(
    cluster: ClusterOption = None,
    key_file: KeyOption = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any free one.")] = 8080,
    read_only: Annotated[bool, typer.Option("--read-only", help="Take no key: whoever calls can only read.")] = False,
    allow_remote: Annotated[
        bool,
        typer.Option("--allow-remote", help="Listen on an address that other machines reach, for all who reach it."),
    ] = False,
    data_keys: DataKeysOption = None,
    timeout: TimeoutOption = 10.0,
    watch_stdin: Annotated[bool, typer.Option("--watch-stdin", hidden=True)] = False,
) -> None:
    """Serve a cluster over HTTP on this machine until Ctrl-C or SIGTERM.

    GET, PUT (the body is the value; ?ttl= in seconds) and DELETE /v1/NAMESPACE/KEY; /v1/status; /healthz. Whoever can
    connect writes with the key that is given here, and takes this process's word for what it reads: run it beside the
    programs that use it.

    Example: [bold]quorumcache http --port 8080[/bold], then [bold]curl -T a.html localhost:8080/v1/default/a[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.errors import Misuse

    if not allow_remote and not _is_loopback(host):
        raise Misuse(
            f"--host {host} can be reached by other machines, and all of them could read and write with your key. "
            "If that is what you want: --allow-remote"
        )
    path = cluster_path(cluster)
    writer = None if read_only else key_path(path, key_file)
    run_loop(
        _serve(path, {"key": writer, "data_keys": data_keys, "timeout": timeout}, host, port, allow_remote, watch_stdin)
    )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _serve(
    cluster: Path, connect: dict[str, Any], host: str, port: int, any_name: bool, watch_stdin: bool
) -> None:
    from quorumcache.cli.loops import end_of_service, words_of
    from quorumcache.client import Client
    from quorumcache.errors import Misuse
    from quorumcache.gateway.http import HttpGateway
    from quorumcache.node.collecting import collect_seldom, keep_what_is_there

    end = end_of_service(with_stdin=watch_stdin)
    collect_seldom()
    async with await Client.connect(cluster, **connect) as client:
        gateway = HttpGateway(client, host=host.strip("[]"), port=port, any_name=any_name)
        try:
            await gateway.start()
        except OSError as problem:
            raise Misuse(f"cannot listen on {host} port {port}: {words_of(problem)}. Another port: --port") from None
        may = "read only" if connect["key"] is None else "read and write"
        typer.echo(
            f"Serving cluster {client.configuration.cluster_id} ({may}) on http://{host}:{gateway.port}", err=True
        )
        keep_what_is_there()
        await end.wait()
        await gateway.stop()
