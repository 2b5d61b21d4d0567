"""`python -m quorumcache.testing.node_process`: one honest node in a process of its own, for LocalCluster.

The parent sends one JSON line with what to run, then commands; each is answered with one JSON line. When the parent
goes away, its end of the pipe closes and the process ends: none is left behind. It must not know how nodes work.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from quorumcache.core.config import Configuration, parse_toml
from quorumcache.core.node import NodeLimits
from quorumcache.errors import QuorumCacheError
from quorumcache.node import RunningNode
from quorumcache.node.collecting import collect_seldom, keep_what_is_there
from quorumcache.storage import Storage, storage_of
from quorumcache.testing.local import LINE_BYTES_MAX
from quorumcache.wire.keys import SigningKey


class Job(NamedTuple):
    """What the parent asks for."""

    configuration: Configuration
    key: SigningKey
    behaviour: str
    change_s: float
    bytes_max: int
    storage: Storage


def run(make: Callable[[Job], RunningNode]) -> None:
    """Run the node that `make` makes until the parent says stop, or is gone."""
    if sys.platform == "win32":
        asyncio.run(_run(make))
        return
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(make))


async def _run(make: Callable[[Job], RunningNode]) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = await reader.readline()
    if not first:
        return
    said = json.loads(first)
    job = Job(
        parse_toml(said["cluster"]).configuration,
        SigningKey(bytes.fromhex(said["seed"])),
        said["behaviour"],
        said["change_s"],
        said["bytes_max"],
        storage_of(said["storage"], Path(data) if (data := said["data_directory"]) else None, said["durability"]),
    )
    collect_seldom()
    try:
        node = make(job)
        await node.start()
    except (OSError, QuorumCacheError) as fault:
        _say({"error": str(fault)})
        return
    keep_what_is_there()
    try:
        _say({"ok": True})
        while line := await reader.readline():
            command = json.loads(line)
            if command["command"] == "stop":
                break
            _say(_obey(node, command))
    finally:
        await node.stop()


def _obey(node: RunningNode, command: dict[str, Any]) -> dict[str, Any]:
    if command["command"] == "status":
        status = node.status()
        status["sessions"] = {
            "open": node.server.sessions_count,
            "refused": node.server.sessions_refused_count,
            "broken": node.server.sessions_broken_count,
        }
        return status
    behave = getattr(node, "behave", None)
    if command["command"] == "behave" and behave is not None:
        try:
            behave(command["behaviour"])
        except QuorumCacheError as fault:
            return {"error": str(fault)}
        return {"ok": True}
    return {"error": f"this node does not know the command {command['command']!r}"}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _made(job: Job) -> RunningNode:
    limits = NodeLimits(bytes_max=job.bytes_max)
    return RunningNode(job.configuration, job.key, limits=limits, storage=job.storage)


if __name__ == "__main__":
    run(_made)
