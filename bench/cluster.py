"""What the benchmarks share: a private cluster of node processes on loopback, and how results are told.

It must not decide what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from quorumcache.core.config import (
    Configuration,
    NamespaceInfo,
    NodeInfo,
    SignedConfiguration,
    WriterInfo,
)
from quorumcache.core.node import NodeLimits
from quorumcache.node import RunningNode
from quorumcache.node.collecting import collect_seldom, keep_what_is_there
from quorumcache.storage import storage_of
from quorumcache.wire.founding import NAMESPACES
from quorumcache.wire.keys import SigningKey

#: Where nodes keep entries, and what these then survive.
STORAGES = ("memory", "sqlite-process", "sqlite-power")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_cluster(
    f: int, *, tls: bool = True, nodes: int = 0, shards: int = 1024, more: Sequence[NamespaceInfo] = ()
) -> tuple[SignedConfiguration, list[SigningKey], SigningKey]:
    """A signed configuration for so many nodes (0: 3f+1) on loopback, the nodes' keys, and a writer's key; `more` are
    namespaces beside the usual ones."""
    count = nodes or 3 * f + 1
    keys = [SigningKey.generate() for _ in range(count)]
    writer, admin = SigningKey.generate(), SigningKey.generate()
    configuration = Configuration(
        cluster_id="bench",
        epoch=1,
        previous=None,
        f=f,
        shards=shards,
        max_skew_us=100_000,
        op_time_us=5_000_000,
        grace_us=200_000,
        valid_until_us=0,
        oldest_epoch=1,
        tls=tls,
        admins=(admin.public,),
        admins_needed=1,
        nodes=tuple(
            NodeInfo(i, f"n{i}", key.public, f"127.0.0.1:{port}", "", 1)
            for i, (key, port) in enumerate(zip(keys, free_ports(count), strict=True))
        ),
        namespaces=(*NAMESPACES, *(NamespaceInfo(f"ack{ack}", mode="primary", ack=ack) for ack in (1, 2)), *more),
        writers=(WriterInfo("bench", writer.public, "active"),),
    )
    unsigned = SignedConfiguration(configuration, ())
    signed = SignedConfiguration(configuration, ((admin.public, admin.sign(unsigned.signed_message)),))
    return signed, keys, writer


def processor_s(processes: list[int]) -> float:
    """The seconds of processor time that these processes have used so far (Linux)."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def run_loop(main: Any) -> Any:
    """Run a coroutine on uvloop where there is one."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _node_process(
    configuration: Configuration,
    seed: bytes,
    limits: NodeLimits | None,
    ready: Event,
    stop: Event,
    directory: Path | None,
    durability: str,
) -> None:
    async def main() -> None:
        collect_seldom()  # As a node's command does.
        storage = storage_of("memory" if directory is None else "sqlite", directory, durability)
        node = RunningNode(configuration, SigningKey(seed), limits=limits, storage=storage)
        await node.start()
        keep_what_is_there()
        ready.set()
        await asyncio.get_running_loop().run_in_executor(None, stop.wait)
        await node.stop()

    run_loop(main())


@contextmanager
def running_cluster(
    f: int = 1,
    *,
    tls: bool = True,
    storage: str = "memory",
    limits: NodeLimits | None = None,
    nodes: int = 0,
    shards: int = 1024,
    more: Sequence[NamespaceInfo] = (),
) -> Iterator[tuple[SignedConfiguration, SigningKey, list[int]]]:
    """A cluster of node processes: (its signed configuration, a writer's key, the processes' ids).

    `storage`: one of `STORAGES`; what is stored goes when the cluster goes.
    """
    signed, keys, writer = make_cluster(f, tls=tls, nodes=nodes, shards=shards, more=more)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    processes = []
    place = tempfile.TemporaryDirectory(prefix="quorumcache-bench-", ignore_cleanup_errors=True)
    _, _, durability = storage.partition("-")
    try:
        for number, key in enumerate(keys):
            ready = context.Event()
            directory = Path(place.name) / f"n{number}" if durability else None
            process = context.Process(
                target=_node_process,
                args=(signed.configuration, key.seed, limits, ready, stop, directory, durability or "process"),
                daemon=True,
            )
            process.start()
            processes.append((process, ready))
        for process, ready in processes:
            if not ready.wait(20):
                raise RuntimeError(f"a node process did not start (exit code {process.exitcode})")
        # A node that starts empty takes its floor at its clock + 2 max_skew: nothing can be written before.
        time.sleep(2 * signed.configuration.max_skew_us / 1e6)
        yield signed, writer, [process.pid or 0 for process, _ in processes]
    finally:
        stop.set()
        for process, _ in processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        place.cleanup()


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures there, as one flat object")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long each measurement takes")
    parser.add_argument("--no-tls", dest="tls", action="store_false", help="sessions without encryption")
    return parser


def write_json(path: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures as one object."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
