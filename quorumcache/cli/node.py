"""`quorumcache node`: one node of a cluster, in this process, until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quorumcache.cli.connecting import ClusterOption, cluster_path

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Callable

    from quorumcache.core.config import Configuration
    from quorumcache.node import RunningNode
    from quorumcache.wire.sealrecord import SealRecord

LOOK_S = 1.0


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
        int, typer.Option(min=1, max=1 << 20, help="What it holds may take; beyond it, what is not used goes.")
    ] = 256,
    storage: Annotated[
        str, typer.Option(metavar="memory|sqlite", help="Where entries are kept: sqlite keeps them over a restart.")
    ] = "memory",
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="This node's own directory for them, with --storage sqlite.")
    ] = None,
    durability: Annotated[
        str,
        typer.Option(
            metavar="process|power",
            help="What they survive: the end of the process, as by kill -9; or a power cut too, at a disk's pace.",
        ),
    ] = "process",
    stored_mib: Annotated[
        int,
        typer.Option(
            min=0, max=1 << 30, help="What entries may take on disk, with --storage sqlite. [16 times --memory-mib]"
        ),
    ] = 0,
    seals: Annotated[
        Path | None,
        typer.Option(
            help="The directory of the record of ended epochs, which else is beside the key file: for a key from env: "
            "or fd:.",
            show_default=False,
        ),
    ] = None,
    first_start: Annotated[
        bool,
        typer.Option(
            "--first-start",
            help="Begin the record of ended epochs beside the key, which has to be there else: for a key that no node "
            "ever ran with, made elsewhere than by init, up or keygen.",
        ),
    ] = False,
    watch_stdin: Annotated[bool, typer.Option("--watch-stdin", hidden=True)] = False,
) -> None:
    """Run one node of a cluster until Ctrl-C or SIGTERM. What it does is logged to standard error.

    With storage in memory, a node that starts again begins empty, and recovers from the others what they hold. With
    --storage sqlite it goes on with what it had.

    A node whose key is not in the cluster file waits until the cluster begins an epoch that names it. Beside the key
    file is a directory that ends in .seals: what the node remembers of epochs that it ended. Move the two together.

    Example: [bold]quorumcache node --cluster cluster.toml --key keys/node-n0.key[/bold]

    Example: [bold]quorumcache node --cluster cluster.toml --name n0 --storage sqlite --data-dir data/n0[/bold]
    """
    from quorumcache.cli.loops import run_loop
    from quorumcache.core.node import NodeLimits
    from quorumcache.errors import Misuse
    from quorumcache.node import RunningNode
    from quorumcache.storage import storage_of
    from quorumcache.wire.founding import node_key_path, read_cluster_file
    from quorumcache.wire.keys import read_key_file
    from quorumcache.wire.sealrecord import SealRecord, record_beside

    path = cluster_path(cluster)
    if (key is None) == (name is None):
        raise Misuse("which node is it? Name its key file with --key, or the node with --name")
    configuration = read_cluster_file(path).configuration
    if name is not None:
        key = node_key_path(path if path.is_dir() else path.parent, name)
        if name not in [info.name for info in configuration.nodes] and not key.exists():
            raise Misuse(
                f"the cluster has no node {name!r}; it has {', '.join(info.name for info in configuration.nodes[:20])}"
            )
    assert key is not None
    host, port = _place(listen)
    secret = read_key_file(key, role="node")
    if seals is None and str(key).startswith(("env:", "fd:")):
        raise Misuse(
            f"{key}: beside a file there is the record of the epochs that this node ended, beside this key there is "
            "none. Name the directory with --seals; --first-start begins it, for a key that was never used"
        )
    record = SealRecord(record_beside(key) if seals is None else seals, secret.public)
    if first_start:
        record.begin()
    record.check()
    limits = NodeLimits.within(memory_mib << 20, stored_mib << 20)
    kept = storage_of(storage, data_dir, durability)

    def make() -> RunningNode:
        return RunningNode(configuration, secret, host=host, port=port, limits=limits, storage=kept, record=record)

    run_loop(_run(configuration, secret.public, record, make, watch_stdin))


def _place(listen: str | None) -> tuple[str | None, int | None]:
    from quorumcache.errors import Misuse

    if listen is None:
        return None, None
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise Misuse(f"--listen {listen}: is not HOST:PORT with a port of 1 to 65535, like 0.0.0.0:7411")
    return host.strip("[]"), int(port)


async def _run(
    trusted: Configuration, key: bytes, record: SealRecord, make: Callable[[], RunningNode], watch_stdin: bool
) -> None:
    import asyncio
    import logging

    from quorumcache.cli.loops import end_of_service, words_of
    from quorumcache.core.config import is_loopback, warnings_of
    from quorumcache.errors import Misuse
    from quorumcache.node.collecting import collect_seldom, keep_what_is_there
    from quorumcache.node.joining import is_member, patient, wait_to_join

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    log = logging.getLogger("quorumcache.node")
    end = end_of_service(with_stdin=watch_stdin)
    if not is_member(trusted, key, record):
        log.info(
            "the key %s is no node's in epoch %d of cluster %s: waiting for an epoch that names it; see quorumcache "
            "admin add-node and apply",
            key.hex(),
            trusted.epoch,
            trusted.cluster_id,
        )
        waiting = asyncio.get_running_loop().create_task(wait_to_join(trusted, key, record), name="waiting to join")
        if not await patient(waiting, end):
            return
    running = make()
    name, configuration, server = running.info.name, running.configuration, running.server
    for warning in warnings_of(configuration):
        log.warning("%s", warning)
    if not configuration.tls and not is_loopback(server.host):
        log.warning("%s listens without TLS on %s: whoever is on the way reads keys and values", name, server.host)
    collect_seldom()
    try:
        await running.start()
    except OSError as problem:
        raise Misuse(
            f"{name} cannot listen on {server.host} port {server.port}: {words_of(problem)}. "
            "Is it running already? Another address: --listen"
        ) from None
    keep_what_is_there()
    log.info(
        "%s listens on %s port %d%s: cluster %s, epoch %d, f %d, %s of memory for entries; %s",
        name,
        server.host,
        server.port,
        " over TLS" if configuration.tls else " without TLS",
        configuration.cluster_id,
        configuration.epoch,
        configuration.f,
        f"{running.node.slots.memory.bytes_max + running.node.slots.memory.promises_bytes_max >> 20} MiB",
        f"it goes on with {len(running.node.slots.current)} stored entries" if running.resumed else "it begins empty",
    )
    try:
        await _watch(running, end, log)
    finally:
        await running.stop()


async def _watch(running: RunningNode, end: asyncio.Event, log: logging.Logger) -> None:
    """Tell what happens until the end."""
    import asyncio

    from quorumcache.errors import DiskFailed

    name, server = running.info.name, running.server
    recovering, evidence_count, clipped, denied = bool(running.status()["shards_recovering"]), 0, 0, 0
    while not end.is_set():
        try:
            async with asyncio.timeout(LOOK_S):
                await end.wait()
        except TimeoutError:
            pass  # Time to look.
        if running.failed.is_set():
            raise DiskFailed(f"{name} cannot go on: {running.failure}") from running.failure
        if recovering and not (recovering := bool(running.status()["shards_recovering"])):
            log.info("%s has recovered: %d entries", name, len(running.node.slots.current))
        if len(running.node.evidence) > evidence_count:
            evidence_count = len(running.node.evidence)
            log.warning("%s holds proof that %d writer(s) signed two things under one stamp", name, evidence_count)
        if server.sessions_refused_count > clipped:
            log.warning("%s refused %d session(s) since it started", name, server.sessions_refused_count)
            clipped = server.sessions_refused_count
        if (count := sum(running.node.denied_counts.values())) > denied:
            whom = max(running.node.denied_counts.items(), key=lambda item: item[1])
            log.warning("%s denied %d request(s) more, most of them so far of %s", name, count - denied, whom[0])
            denied = count
    status = running.status()
    log.info(
        "%s stops: %d entries, %d requests, %s s up",
        name,
        status["entries"],
        sum(status["requests"].values()),
        f"{status['uptime_s']:.0f}",
    )
