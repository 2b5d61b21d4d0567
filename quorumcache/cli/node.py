"""`quorumcache node`: one node of a cluster, in this process, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quorumcache.cli.connecting import ClusterOption, cluster_path

if TYPE_CHECKING:
    from quorumcache.node import RunningNode

LOOK_S = 1.0
#: Entries are many, live long and form no cycles: the collector's walks over them find nothing and cost much.
GC_THRESHOLDS = (100_000, 50, 100)


def node(
    cluster: ClusterOption = None,
    key: Annotated[
        Path | None, typer.Option("--key", "-k", help="The node's key file: it says which node this is.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="In place of --key: take keys/node-NAME.key beside cluster.toml.")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where to listen, if not at the address in the cluster file."),
    ] = None,
    memory_mib: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="What entries may take; beyond it, old ones go.")
    ] = 256,
    watch_stdin: Annotated[bool, typer.Option("--watch-stdin", hidden=True)] = False,
) -> None:
    """Run one node of a cluster until Ctrl-C or SIGTERM. What it does is logged to standard error.

    Entries are kept in memory: a node that starts again begins empty, and recovers from the others what they hold.

    Example: [bold]quorumcache node --cluster cluster.toml --key keys/node-n0.key[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.core.node import NodeLimits
    from quorumcache.errors import Misuse
    from quorumcache.node import RunningNode
    from quorumcache.wire.founding import node_key_path, read_cluster_file
    from quorumcache.wire.keys import read_key_file

    path = cluster_path(cluster)
    if (key is None) == (name is None):
        raise Misuse("which node is it? Name its key file with --key, or the node with --name")
    configuration = read_cluster_file(path).configuration
    if name is not None:
        if name not in [info.name for info in configuration.nodes]:
            raise Misuse(
                f"the cluster has no node {name!r}; it has {', '.join(info.name for info in configuration.nodes[:20])}"
            )
        key = node_key_path(path if path.is_dir() else path.parent, name)
    assert key is not None
    host, port = _place(listen)
    running = RunningNode(
        configuration,
        read_key_file(key, role="node"),
        host=host,
        port=port,
        limits=NodeLimits(bytes_max=memory_mib << 20),
    )
    run_loop(_run(running, watch_stdin))


def _place(listen: str | None) -> tuple[str | None, int | None]:
    from quorumcache.errors import Misuse

    if listen is None:
        return None, None
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise Misuse(f"--listen {listen}: is not HOST:PORT with a port of 1 to 65535, like 0.0.0.0:7411")
    return host.strip("[]"), int(port)


async def _run(running: RunningNode, watch_stdin: bool) -> None:
    import asyncio
    import gc
    import logging

    from quorumcache.cli.loops import end_of_service, words_of
    from quorumcache.core.config import is_loopback, warnings_of
    from quorumcache.errors import Misuse

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    log = logging.getLogger("quorumcache.node")
    end = end_of_service(with_stdin=watch_stdin)
    name, configuration, server = running.info.name, running.configuration, running.server
    for warning in warnings_of(configuration):
        log.warning("%s", warning)
    if not configuration.tls and not is_loopback(server.host):
        log.warning("%s listens without TLS on %s: whoever is on the way reads keys and values", name, server.host)
    try:
        await running.start()
    except OSError as problem:
        raise Misuse(
            f"{name} cannot listen on {server.host} port {server.port}: {words_of(problem)}. "
            "Is it running already? Another address: --listen"
        ) from None
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    log.info(
        "%s listens on %s port %d%s: cluster %s, epoch %d, f %d, %s of memory for entries",
        name,
        server.host,
        server.port,
        " over TLS" if configuration.tls else " without TLS",
        configuration.cluster_id,
        configuration.epoch,
        configuration.f,
        f"{running.node.slots.memory.bytes_max >> 20} MiB",
    )
    recovering, evidence_count, clipped = True, 0, 0
    while not end.is_set():
        try:
            async with asyncio.timeout(LOOK_S):
                await end.wait()
        except TimeoutError:
            pass  # Time to look.
        if recovering and not (recovering := bool(running.status()["shards_recovering"])):
            log.info("%s has recovered: %d entries", name, len(running.node.slots.current))
        if len(running.node.evidence) > evidence_count:
            evidence_count = len(running.node.evidence)
            log.warning("%s holds proof that %d writer(s) signed two things under one stamp", name, evidence_count)
        if server.sessions_refused_count > clipped:
            log.warning("%s refused %d session(s) since it started", name, server.sessions_refused_count)
            clipped = server.sessions_refused_count
    status = running.status()
    log.info(
        "%s stops: %d entries, %d requests, %s s up",
        name,
        status["entries"],
        sum(status["requests"].values()),
        f"{status['uptime_s']:.0f}",
    )
    await running.stop()
