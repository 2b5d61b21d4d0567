"""`quorumcache up`: a whole cluster on this machine, to try things out with.

Each node is a process, as in earnest. It must not know how nodes work; it starts commands of this program and watches
over them (quorumcache/cli/children.py).
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quorumcache.cli.children import Children
    from quorumcache.core.config import SignedConfiguration

MAX_SKEW_US = 100_000
START_S_MAX = 30.0
ENV_FILE = "env.sh"


def up(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            "-d",
            help="Keep keys and logs there, and use them again next time. Unless given, they go when the cluster goes.",
            show_default=False,
        ),
    ] = None,
    f: Annotated[int, typer.Option("--f", min=0, max=3, help="How many faulty nodes it has to withstand.")] = 1,
    nodes: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="How many nodes; at least 3f+1, which is the default.", show_default=False),
    ] = None,
    zones: Annotated[int, typer.Option(min=1, help="How many zones, to which nodes are dealt in turn.")] = 1,
    base_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65000, help="The first node's port; the others, HTTP and Redis follow. Free ones unless given."
        ),
    ] = None,
    with_http: Annotated[bool, typer.Option("--http/--no-http", help="Serve HTTP for curl too.")] = True,
    with_redis: Annotated[bool, typer.Option("--redis/--no-redis", help="Serve Redis clients too.")] = True,
    tls: Annotated[
        bool, typer.Option("--tls/--no-tls", help="Sessions over TLS 1.3; a cluster that is there keeps what it has.")
    ] = True,
    storage: Annotated[
        str, typer.Option(metavar="memory|sqlite", help="Where nodes keep entries; sqlite: in --directory, under data.")
    ] = "memory",
    durability: Annotated[
        str, typer.Option(metavar="process|power", help="With sqlite: whether entries survive kill -9, or power cuts.")
    ] = "process",
) -> None:
    """Run a cluster on this machine until Ctrl-C: 3f+1 node processes or more, on loopback.

    It prints how to reach it from Python, the shell, curl and Redis clients. Nothing is left behind when it ends, but
    for what --directory keeps.

    Example: [bold]quorumcache up[/bold]
    """
    import tempfile

    from quorumcache.cli.loops import run_loop
    from quorumcache.storage import storage_of

    kept = ["--storage", storage, "--durability", durability]
    storage_of(storage, None if storage == "memory" else Path(), durability)  # Raises Misuse, here and once.
    gateways = [name for name, is_wanted in (("http", with_http), ("gateway", with_redis)) if is_wanted]
    if directory is not None:
        run_loop(_up(directory.resolve(), f, (nodes, zones), base_port, gateways, tls, kept))
        return
    with tempfile.TemporaryDirectory(prefix="quorumcache-", ignore_cleanup_errors=True) as temporary:
        run_loop(_up(Path(temporary).resolve(), f, (nodes, zones), base_port, gateways, tls, kept))


def _cluster_in(
    directory: Path, f: int, size: tuple[int | None, int], base_port: int | None, tls: bool
) -> SignedConfiguration:
    """The cluster that is kept in a directory, or a new one there."""
    from quorumcache.errors import Misuse
    from quorumcache.net.listening import free_ports
    from quorumcache.wire.founding import (
        begin_records,
        cluster_file_of,
        found_cluster,
        node_key_path,
        read_cluster_file,
    )

    if not directory.is_dir() or not cluster_file_of(directory).exists():
        count = 3 * f + 1 if size[0] is None else size[0]
        ports = list(range(base_port, base_port + count)) if base_port is not None else free_ports(count)
        founded = found_cluster(
            f=f,
            nodes=count,
            zones=size[1],
            addresses=[f"127.0.0.1:{port}" for port in ports],
            max_skew_us=MAX_SKEW_US,
            cluster_id="local",
            tls=tls,
        )
        founded.write(directory)
        return founded.signed
    signed = read_cluster_file(directory)
    for node in signed.configuration.nodes:
        if not node_key_path(directory, node.name).exists():
            raise Misuse(f"{directory} has a cluster, but not the key of its node {node.name}: it is run elsewhere")
    begin_records(directory, signed.configuration)
    kept = [int(node.address.rpartition(":")[2] or 0) for node in signed.configuration.nodes]
    if base_port is not None and base_port != kept[0]:
        raise Misuse(f"the cluster in {directory} has its first node on port {kept[0]}: leave --base-port out")
    if signed.configuration.tls != tls:
        stays = "TLS" if signed.configuration.tls else "no TLS"
        typer.secho(f"The cluster in {directory} has {stays}; that stays.", err=True)
    if size[0] is not None and len(signed.configuration.nodes) != size[0]:
        typer.secho(f"The cluster in {directory} has {len(signed.configuration.nodes)} nodes; that stays.", err=True)
    if signed.configuration.f != f:
        typer.secho(f"The cluster in {directory} is of f = {signed.configuration.f}; that stays.", err=True)
    return signed


async def _up(
    directory: Path,
    f: int,
    size: tuple[int | None, int],
    base_port: int | None,
    gateways: list[str],
    tls: bool,
    kept: list[str],
) -> None:
    import asyncio

    from quorumcache.cli.children import Children
    from quorumcache.cli.connecting import key_path
    from quorumcache.cli.loops import end_of_service
    from quorumcache.core.config import warnings_of
    from quorumcache.errors import Misuse
    from quorumcache.net.listening import free_ports
    from quorumcache.wire.founding import cluster_file_of

    end = end_of_service()
    signed = _cluster_in(directory, f, size, base_port, tls)
    for warning in warnings_of(signed.configuration):
        typer.secho(f"Warning: {warning}", fg="yellow", err=True)
    nodes = signed.configuration.nodes
    cluster = cluster_file_of(directory)
    writer = key_path(cluster, None)
    children = Children(directory / "logs")
    told = asyncio.create_task(end.wait(), name="told to end")
    troubled = asyncio.create_task(children.troubled.wait(), name="a child fails")
    writable = asyncio.create_task(_write_once(signed, writer), name="first write")
    tasks = [told, troubled, writable]
    try:
        typer.secho(f"Starting {len(nodes)} nodes ...", dim=True, err=True)
        for node in nodes:
            place = ["--data-dir", str(directory / "data" / node.name)] if "sqlite" in kept else []
            await children.start(node.name, ["node", "--cluster", str(cluster), "--name", node.name, *kept, *place])
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if writable.done():
            writable.result()
        elif troubled.done():
            raise Misuse(f"the cluster did not start: {', '.join(children.given_up)} failed, as said above")
        if not told.done():
            ports: dict[str, int] = {}
            for offset, name in enumerate(gateways, len(nodes)):
                ports[name] = base_port + offset if base_port is not None else free_ports(1)[0]
                arguments = ["--cluster", str(cluster), "--key", str(writer), "--port", str(ports[name])]
                await children.start(name, [name, *arguments])
                await _listening(ports[name], children)
            _explain(directory, cluster, writer, signed, ports)
            await told
        typer.echo("Stopping.", err=True)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await children.stop()


async def _write_once(signed: SignedConfiguration, writer: Path) -> None:
    """Return when the cluster takes writes. Nodes that start empty do not, for 2 max_skew."""
    from quorumcache.client import Client

    async with await Client.connect(signed, key=writer, timeout=START_S_MAX) as client:
        # It goes by itself, soon.
        await client.set(b"quorumcache up", b"", ttl=1)


async def _listening(port: int, children: Children) -> None:
    """Return when something listens on the port, or has failed to."""
    import asyncio

    for _ in range(round(START_S_MAX / 0.05)):
        if children.troubled.is_set():
            return
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


def _explain(directory: Path, cluster: Path, writer: Path, signed: SignedConfiguration, ports: dict[str, int]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from quorumcache.cli.connecting import CLUSTER_VARIABLE, KEY_VARIABLE

    configuration = signed.configuration
    environment = directory / ENV_FILE
    lines = [
        f"export {CLUSTER_VARIABLE}={shlex.quote(str(cluster))}",
        f"export {KEY_VARIABLE}={shlex.quote(str(writer))}",
    ]
    if shutil.which("quorumcache") is None:
        lines.append(f'quorumcache() {{ {shlex.quote(sys.executable)} -m quorumcache.cli "$@"; }}')
    environment.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    # No line may be broken or dressed up: people copy them.
    console = Console(highlight=False, soft_wrap=True)
    count = len(configuration.nodes)
    console.print(
        f"\n[bold green]{count} nodes are up[/bold green] and take writes; "
        f"up to {configuration.f} of them may lie or fail. Ctrl-C stops them.\n"
    )
    scheme = "https" if configuration.tls else "http"
    for node in configuration.nodes:
        console.print(f"  {escape(node.name)}    [dim]{scheme}://[/dim]{escape(node.address)}[dim]/v1/status[/dim]")
    http_port, redis_port = ports.get("http"), ports.get("gateway")
    if http_port:
        console.print(f"  HTTP  [dim]http://[/dim]127.0.0.1:{http_port}[dim]/v1/NAMESPACE/KEY[/dim]")
    if redis_port:
        console.print(f"  Redis [dim]redis://[/dim]127.0.0.1:{redis_port}")
    console.print("\n[bold]Python[/bold]  (in Jupyter too)\n")
    snippet = f"""from quorumcache.client import SyncClient

with SyncClient({str(cluster)!r}, key={str(writer)!r}) as client:
    client.set("hello", b"world", ttl=60)
    print(client.get("hello"))
"""
    console.print(snippet, markup=False)
    console.print("[bold]Shell[/bold]  (in another terminal)\n")
    shell = [
        f"source {shlex.quote(str(environment))}",
        "quorumcache set hello world",
        "quorumcache get hello --proof hello.proof",
        "quorumcache verify hello.proof",
        "quorumcache status",
    ]
    if http_port:
        shell.append(f"curl -X PUT -d world localhost:{http_port}/v1/{configuration.namespaces[0].name}/hello")
        shell.append(f"curl localhost:{http_port}/v1/{configuration.namespaces[0].name}/hello")
    if redis_port:
        shell.append(f"redis-cli -p {redis_port} get hello")
    for line in shell:
        console.print(line, markup=False)
    console.print(f"\n[dim]Logs are in {escape(str(directory / 'logs'))}[/dim]")
    sys.stdout.flush()
