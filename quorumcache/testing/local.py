"""A cluster of one's own on loopback: in this process, or of processes that can be killed, paused and made to lie.

For tests, demonstrations and trying things out. Keys are made on the spot and live nowhere else. It must not know how
nodes or clients work inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from quorumcache.client import Client
from quorumcache.core.config import (
    Configuration,
    Limits,
    NamespaceInfo,
    NodeInfo,
    RightInfo,
    SignedConfiguration,
    WriterInfo,
    to_toml,
)
from quorumcache.core.node import NodeLimits
from quorumcache.errors import Misuse, QuorumCacheError
from quorumcache.net.listening import free_ports
from quorumcache.node import RunningNode
from quorumcache.storage import storage_of
from quorumcache.testing.byzantine import CHANGE_S, NAMES, LyingNode
from quorumcache.wire.keys import SigningKey

START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 5.0
LINE_BYTES_MAX: Final = 1 << 22


class LocalCluster:
    """A cluster of 3f+1 nodes on loopback, as an async context manager.

        async with LocalCluster(f=1) as cluster, await cluster.client() as client:
            await client.set("greeting", b"hello")

    With `processes=True` each node is a process, which `kill`, `pause` and `resume` need; else all run in this process
    and event loop, which starts faster. With storage in memory, a node that was killed comes back empty and recovers;
    with `storage="sqlite"` it comes back with what it stored (see `quorumcache.storage.DURABILITIES`).

    `writers`: names, each with a key of its own. `namespaces`: further ones, beside `namespace`. `rights`: beside those
    of the namespaces' writers and readers. `limits`: of writers, by name. `byzantine`: node -> behaviour for nodes that
    lie from the start (see `quorumcache.testing.byzantine.NAMES`; "honest" is one, to be changed later). `max_skew`,
    `op_time`, `grace`: seconds; smaller than a real cluster's, so that tests do not wait. `change_s`: how long
    "changing" keeps a lie. `bytes_max`: what entries may cost in each node. `tls`: whether sessions are encrypted.
    """

    def __init__(
        self,
        f: int = 1,
        *,
        processes: bool = False,
        writers: Sequence[str] = ("default",),
        namespace: str = "default",
        namespaces: Sequence[NamespaceInfo] = (),
        rights: Sequence[RightInfo] = (),
        limits: Mapping[str, Limits] = MappingProxyType({}),
        byzantine: Mapping[int, str] | None = None,
        max_skew: float = 0.1,
        op_time: float = 5.0,
        grace: float = 0.2,
        shards: int = 64,
        value_bytes_max: int = 1 << 20,
        bytes_max: int = 256 << 20,
        change_s: float = CHANGE_S,
        tls: bool = True,
        storage: str = "memory",
        durability: str = "process",
    ) -> None:
        count = 3 * f + 1
        self.f = f
        self.processes = processes
        self._keys = [SigningKey.generate() for _ in range(count)]
        #: Each writer's key, by name.
        self.writers = {name: SigningKey.generate() for name in writers}
        admin = SigningKey.generate()
        configuration = Configuration(
            cluster_id="local",
            f=f,
            shards=shards,
            max_skew_us=round(max_skew * 1e6),
            op_time_us=round(op_time * 1e6),
            grace_us=round(grace * 1e6),
            tls=tls,
            admins=(admin.public,),
            admins_needed=1,
            nodes=tuple(
                NodeInfo(i, f"n{i}", key.public, f"127.0.0.1:{port}")
                for i, (key, port) in enumerate(zip(self._keys, free_ports(count), strict=True))
            ),
            namespaces=(NamespaceInfo(namespace, value_bytes_max=value_bytes_max), *namespaces),
            writers=tuple(
                WriterInfo(name, key.public, limits=limits.get(name, Limits())) for name, key in self.writers.items()
            ),
            rights=tuple(rights),
        )
        unsigned = SignedConfiguration(configuration, ())
        #: The signed configuration: what `Client.connect` takes.
        self.signed = SignedConfiguration(configuration, ((admin.public, admin.sign(unsigned.signed_message)),))
        self._behaviours = {i: _known(behaviour) for i, behaviour in (byzantine or {}).items()}
        self._change_s = change_s
        self._bytes_max = bytes_max
        self._storage, self._durability = storage, durability
        self._data: tempfile.TemporaryDirectory[str] | None = None
        if storage != "memory":
            self._data = tempfile.TemporaryDirectory(prefix="quorumcache-", ignore_cleanup_errors=True)
        self._nodes: dict[int, _Inside | _Process] = {}
        self._clients: list[Client] = []

    @property
    def configuration(self) -> Configuration:
        """The cluster's configuration."""
        return self.signed.configuration

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(self._start(i) for i in range(len(self._keys))))
            await self.settle()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def settle(self) -> None:
        """Wait until nodes that have just started empty grant new writes: their floors begin 2 max_skew ahead."""
        await asyncio.sleep(2 * self.configuration.max_skew_us / 1e6)

    async def client(self, writer: str | None = "default", **options: Any) -> Client:
        """A connected client with that writer's key, or with None one that only reads. The default is the first writer.

        Options are those of `Client.connect`. The cluster closes what is still open when it ends.
        """
        key = None
        if writer is not None:
            if writer not in self.writers and writer != "default":
                raise Misuse(f"the cluster has no writer {writer!r}; it has {', '.join(self.writers)}")
            key = self.writers.get(writer) or next(iter(self.writers.values()))
        client = await Client.connect(self.signed, key=key, **options)
        self._clients.append(client)
        return client

    # --- what befalls nodes ---

    async def kill(self, node: int) -> None:
        """End a node at once, with SIGKILL where it is a process."""
        await self._running(node).kill()
        del self._nodes[node]

    def pause(self, node: int) -> None:
        """Stop a node process (SIGSTOP): its connections stay open, and nothing answers."""
        self._process(node).send(signal.SIGSTOP)

    def resume(self, node: int) -> None:
        """Let a paused node process go on (SIGCONT)."""
        self._process(node).send(signal.SIGCONT)

    async def restart(self, node: int) -> None:
        """Start a node again, ended before if it still runs. It comes back with what it stored, if anything."""
        if node in self._nodes:
            await self._nodes.pop(node).stop()
        await self._start(node)

    def data_directory(self, node: int) -> Path:
        """Where the node stores what it has, with storage that is not memory."""
        if self._data is None:
            raise Misuse("the cluster's storage is memory")
        return Path(self._data.name) / f"n{node}"

    async def make_byzantine(self, node: int, behaviour: str) -> None:
        """Let a node behave so, one of `quorumcache.testing.byzantine.NAMES`.

        A node that was started with a behaviour changes it on the spot; another is restarted, and so loses its state.
        """
        _known(behaviour)
        changes = node in self._behaviours and node in self._nodes
        self._behaviours[node] = behaviour
        if changes:
            await self._nodes[node].behave(behaviour)
        else:
            await self.restart(node)

    async def status(self, node: int) -> dict[str, Any]:
        """The node's status, as `/v1/status` shows it."""
        return await self._running(node).status()

    def pid(self, node: int) -> int:
        """The process id of a node process."""
        return self._process(node).pid

    def node(self, node: int) -> RunningNode:
        """The running node itself, where it runs in this process."""
        running = self._running(node)
        if not isinstance(running, _Inside):
            raise Misuse("with processes=True a node is out of reach: ask for its status")
        return running.node

    # --- inside ---

    def _running(self, node: int) -> _Inside | _Process:
        running = self._nodes.get(node)
        if running is None:
            raise Misuse(f"node {node} does not run; those that do: {sorted(self._nodes)}")
        return running

    def _process(self, node: int) -> _Process:
        running = self._running(node)
        if not isinstance(running, _Process):
            raise Misuse("only node processes have signals and ids: open the cluster with processes=True")
        return running

    async def _start(self, node: int) -> None:
        key, behaviour = self._keys[node], self._behaviours.get(node)
        running: _Inside | _Process
        if self.processes:
            job = {
                "cluster": to_toml(self.signed),
                "seed": key.seed.hex(),
                "behaviour": behaviour or "honest",
                "change_s": self._change_s,
                "bytes_max": self._bytes_max,
                "storage": self._storage,
                "data_directory": str(self.data_directory(node)) if self._data is not None else None,
                "durability": self._durability,
            }
            running = await _Process.start(job, lying=behaviour is not None)
        elif behaviour is None:
            directory = self.data_directory(node) if self._data is not None else None
            storage = storage_of(self._storage, directory, self._durability)
            limits = NodeLimits(bytes_max=self._bytes_max)
            running = _Inside(RunningNode(self.configuration, key, limits=limits, storage=storage))
            await running.node.start()
        else:
            running = _Inside(LyingNode(self.configuration, key, behaviour, change_s=self._change_s))
            await running.node.start()
        self._nodes[node] = running

    async def _stop(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            await client.close()
        nodes, self._nodes = self._nodes, {}
        await asyncio.gather(*(node.stop() for node in nodes.values()))
        if self._data is not None:
            self._data.cleanup()


class _Inside:
    """A node in this process."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node

    async def status(self) -> dict[str, Any]:
        return self.node.status()

    async def behave(self, behaviour: str) -> None:
        assert isinstance(self.node, LyingNode)
        self.node.behave(behaviour)

    async def kill(self) -> None:
        await self.node.stop()

    async def stop(self) -> None:
        await self.node.stop()


class _Process:
    """A node in a process of its own; it ends when its standard input does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.pid = process.pid
        self._process = process
        self._turn = asyncio.Lock()

    @classmethod
    async def start(cls, job: dict[str, Any], *, lying: bool) -> _Process:
        module = "byzantine_node" if lying else "node_process"
        running = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"quorumcache.testing.{module}",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES_MAX,
            )
        )
        try:
            async with asyncio.timeout(START_S_MAX):
                await running._ask(job)
        except BaseException:
            await running.kill()
            raise
        return running

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    async def status(self) -> dict[str, Any]:
        return await self._ask({"command": "status"})

    async def behave(self, behaviour: str) -> None:
        await self._ask({"command": "behave", "behaviour": behaviour})

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._ended()

    async def stop(self) -> None:
        """Let it end in order; after a while, or where it is paused, end it."""
        with contextlib.suppress(ProcessLookupError):
            # A paused process would not see that its input ended.
            self.send(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._ended()
        except TimeoutError:
            await self.kill()

    async def _ended(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        # Not communicate(): another call may be reading. What was not read is of no interest any more.
        await self._process.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await self._process.stdin.wait_closed()

    async def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            try:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                await self._process.stdin.drain()
                line = await self._process.stdout.readline()
            except (BrokenPipeError, ConnectionResetError):
                line = b""
        if not line:
            raise QuorumCacheError(f"the node process {self.pid} has ended; its standard error says why")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise QuorumCacheError(f"the node process {self.pid} says: {answer['error']}")
        return answer


def _known(behaviour: str) -> str:
    if behaviour not in NAMES:
        raise Misuse(f"no behaviour is called {behaviour!r}; there are {', '.join(NAMES)}")
    return behaviour
