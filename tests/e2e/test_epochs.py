"""Protocol 9 over real sockets: a cluster goes from epoch to epoch under load, and clients follow by themselves.

`tests/core/test_membership.py` has the rules one by one. The slow test does the same with processes and the commands of
`quorumcache admin`, and tells how long operations waited.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quorumcache.client import Client, NearCache
from quorumcache.client.watching import Gap
from quorumcache.core import amend
from quorumcache.core.config import Configuration, NamespaceInfo, NodeInfo, SignedConfiguration
from quorumcache.core.node import NodeLimits
from quorumcache.errors import ConfigurationError, DiskFailed, OutcomeUnknown, PermissionDenied, Unavailable
from quorumcache.net.listening import free_ports
from quorumcache.net.moving import Progress, move
from quorumcache.node import RunningNode
from quorumcache.node.joining import wait_to_join
from quorumcache.storage import SqliteStorage, storage_of
from quorumcache.wire.founding import Founded, found_cluster
from quorumcache.wire.keys import SigningKey
from quorumcache.wire.sealrecord import SealRecord
from tests.e2e.test_cli import WAIT_S_MAX

KEYS = [f"key {i}" for i in range(40)]


class Live:
    """A cluster in this process whose nodes have records of seals, and what brings it to its next epochs."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 4,
        namespaces: tuple[NamespaceInfo, ...] = (),
        op_time_us: int = 3_000_000,
        storage: str = "memory",
    ) -> None:
        self.directory = directory
        self._storage = storage
        ports = free_ports(nodes + 3)
        self.spare = ports[nodes:]
        self.founded: Founded = found_cluster(
            nodes=nodes,
            writers=["alice", "bob"],
            namespaces=namespaces or (NamespaceInfo("default"), NamespaceInfo("maps", "map")),
            addresses=[f"127.0.0.1:{port}" for port in ports[:nodes]],
            max_skew_us=50_000,
            op_time_us=op_time_us,
            shards=16,
        )
        self.signed = self.founded.signed
        self.running: dict[bytes, RunningNode] = {}

    @property
    def configuration(self) -> Configuration:
        return self.signed.configuration

    def record_of(self, key: SigningKey) -> SealRecord:
        return SealRecord(self.directory / f"{key.public.hex()[:8]}.seals", key.public)

    async def start(self, key: SigningKey, configuration: Configuration | None = None) -> RunningNode:
        record = self.record_of(key)
        record.begin()
        node = RunningNode(
            configuration or self.founded.configuration,
            key,
            record=record,
            storage=storage_of("sqlite", self.directory / key.public.hex()[:8]) if self._storage == "sqlite" else None,
            limits=NodeLimits.within(1 << 20) if self._storage == "sqlite" else None,
        )
        await node.start()
        self.running[key.public] = node
        return node

    async def join(self, key: SigningKey) -> None:
        """What `quorumcache node` does with a key that is no node's yet."""
        before = self.configuration
        record = self.record_of(key)
        record.begin()
        await wait_to_join(before, key.public, record)
        await self.start(key, before)

    async def change(self, after: Configuration, *, timeout_s: float = 20.0) -> Progress:
        """Have it signed, and bring the cluster there."""
        admin = self.founded.admin
        signature = admin.sign(SignedConfiguration(after).signed_message)
        signed = SignedConfiguration(after, ((admin.public, signature),))
        progress = await move(self.configuration, signed, timeout_s=timeout_s, on_progress=lambda _progress: None)
        self.signed = signed
        return progress

    async def refilled(self) -> None:
        """Until nobody recovers anything."""
        async with asyncio.timeout(40):
            while any(node.status()["shards_recovering"] for node in self.members()):  # noqa: ASYNC110 - as a person would look
                await asyncio.sleep(0.05)

    def members(self) -> list[RunningNode]:
        found = [self.running.get(info.key) for info in self.configuration.nodes]
        assert None not in found
        return [node for node in found if node is not None]


@asynccontextmanager
async def live(directory: Path, **options: object) -> AsyncIterator[Live]:
    cluster = Live(directory, **options)  # type: ignore[arg-type]
    try:
        for key in cluster.founded.nodes:
            await cluster.start(key)
        await asyncio.sleep(0.15)
        yield cluster
    finally:
        await asyncio.gather(*(node.stop() for node in cluster.running.values()))
        await asyncio.sleep(0.05)  # Handshakes that were under way see that the other side is gone, and close.


class Load:
    """Writes numbers that only rise, each key by one task, and reads them all the while."""

    def __init__(self, writer: Client, reader: Client) -> None:
        self.writer, self.reader = writer, reader
        self.acknowledged = dict.fromkeys(KEYS, 0)
        self.sent = dict.fromkeys(KEYS, 0)
        self.unknown = 0
        self.unanswered = 0  # Too few answers in time, said so: what happens where the machine itself stands still.
        self.count = 0
        self.waited_s_max = 0.0
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for key in KEYS:
            self._tasks += [asyncio.create_task(self._write(key)), asyncio.create_task(self._read(key))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _write(self, key: str) -> None:
        while not self._stop:
            self.sent[key] += 1
            number, began_s = self.sent[key], time.monotonic()
            try:
                await self.writer.set(key, b"%d" % number)
            except OutcomeUnknown:
                self.unknown += 1
            except Unavailable:
                self.unanswered += 1
            else:
                self.acknowledged[key] = number
            self.waited_s_max = max(self.waited_s_max, time.monotonic() - began_s)
            self.count += 1
            await asyncio.sleep(0.01)

    async def _read(self, key: str) -> None:
        while not self._stop:
            known, began_s = self.acknowledged[key], time.monotonic()
            try:
                found = await self.reader.get(key, strict=True)
            except Unavailable:
                self.unanswered += 1
            else:
                told = f"{key}: read {found!r} after {known} was acknowledged"
                assert known <= int(found or 0) <= self.sent[key], told
            self.waited_s_max = max(self.waited_s_max, time.monotonic() - began_s)
            self.count += 1
            await asyncio.sleep(0.01)

    def waited(self) -> float:
        """The longest wait since this was asked last, in seconds."""
        waited_s, self.waited_s_max = self.waited_s_max, 0.0
        return waited_s


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_a_cluster_changes_under_load(tmp_path: Path, storage: str) -> None:
    """0016 and 0022: a writer is revoked, two nodes are added, one replaced, one removed; no stale read, and nothing
    acknowledged is lost. Nobody is told but the nodes."""
    async with live(tmp_path, storage=storage) as cluster:
        founded = cluster.founded
        writer = await Client.connect(founded.signed, key=founded.writers["alice"])
        bob = await Client.connect(founded.signed, key=founded.writers["bob"])
        reader = await Client.connect(founded.signed)
        async with writer, bob, reader:
            await bob.set("bobs", b"secret")
            near = NearCache(reader, staleness=60.0)
            assert await near.get("bobs") == b"secret"
            new = [SigningKey.generate() for _ in range(3)]
            places = [f"127.0.0.1:{port}" for port in cluster.spare]
            async with Load(writer, reader) as load:
                await asyncio.sleep(0.3)
                progress = await cluster.change(amend.revoke_writer(cluster.configuration, "bob"))
                assert len(progress.begun) == 4
                joining = [asyncio.create_task(cluster.join(key)) for key in new[:2]]
                after = amend.add_node(cluster.configuration, "n4", new[0].public, address=places[0])
                await cluster.change(after)
                await asyncio.wait_for(joining[0], 20)
                await cluster.refilled()
                await cluster.change(amend.add_node(cluster.configuration, "n5", new[1].public, address=places[1]))
                await asyncio.wait_for(joining[1], 20)
                await cluster.refilled()
                joining = [asyncio.create_task(cluster.join(new[2]))]
                replaced = cluster.running[founded.nodes[1].public]
                await cluster.change(amend.replace_node(cluster.configuration, "n1", new[2].public, address=places[2]))
                await asyncio.wait_for(joining[0], 20)
                await cluster.refilled()
                assert replaced.membership.has_left
                await replaced.stop()
                del cluster.running[founded.nodes[1].public]
                await cluster.change(amend.remove_node(cluster.configuration, "n3"))
                await cluster.refilled()
                await asyncio.sleep(0.3)
            assert {node.configuration.epoch for node in cluster.members()} == {6}
            assert writer.configuration.epoch == reader.configuration.epoch == 6
            final = await reader.get_many(KEYS, strict=True)
            assert all(load.acknowledged[key] <= int(final[key]) <= load.sent[key] for key in KEYS)
            assert await reader.get("bobs") is None
            assert await near.get("bobs") is None
            with pytest.raises(PermissionDenied):
                await bob.set("bobs", b"again")
            # Who comes now with the file of the last epoch, or with that of the first, finds the same.
            for signed in (cluster.signed, founded.signed):
                async with await Client.connect(signed) as late:
                    assert await late.get_many(KEYS, strict=True) == final


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_a_node_finds_its_epoch_again(tmp_path: Path, storage: str) -> None:
    """0016, 7: started with the file of before, after it was away when the epoch changed, or after it had changed."""
    async with live(tmp_path, op_time_us=1_000_000, storage=storage) as cluster:
        founded = cluster.founded
        async with await Client.connect(founded.signed, key=founded.writers["alice"]) as client:
            await client.set("k", b"v")
            away = founded.nodes[3]
            await cluster.running.pop(away.public).stop()
            await cluster.change(amend.retire_writer(cluster.configuration, "bob"))
            await client.set("k", b"w")
            node = await cluster.start(away)
            async with asyncio.timeout(20):
                while node.configuration.epoch != 2:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            await cluster.refilled()
            await cluster.running.pop(founded.nodes[0].public).stop()
            assert (await cluster.start(founded.nodes[0])).configuration.epoch == 2
            await cluster.refilled()
            assert await client.get("k") == b"w"


async def test_a_node_whose_disk_is_full_goes_over_at_its_next_start(tmp_path: Path) -> None:
    """0022: its record says that the next epoch has begun, its database is still of the one before."""
    async with live(tmp_path, op_time_us=1_000_000, storage="sqlite") as cluster:
        founded = cluster.founded
        async with await Client.connect(founded.signed, key=founded.writers["alice"]) as client:
            values = {f"k{i}": bytes([i]) * 50_000 for i in range(40)}  # More than a node has in memory.
            for key, value in values.items():
                await client.set(key, value)
            key = founded.nodes[2]
            full = cluster.running[key.public]
            assert 0 < full.status()["values_in_memory"] < 40
            await cluster.refilled()  # Of a shard that it leaves, and was recovering, nobody reports.
            assert isinstance(full.storage, SqliteStorage)
            database = full.storage._database
            assert database is not None
            database.execute("PRAGMA query_only = 1").fetchall()
            # Two more nodes at once: where both join, those that leave have to report, of what is on their disks alone.
            new = [SigningKey.generate() for _ in range(2)]
            places = [f"127.0.0.1:{port}" for port in cluster.spare]
            joining = [asyncio.create_task(cluster.join(each)) for each in new]
            first = cluster.configuration
            nodes = (*first.nodes, *(NodeInfo(4 + i, f"n{4 + i}", new[i].public, places[i]) for i in range(2)))
            changing = asyncio.create_task(cluster.change(amend.successor_of(first, nodes=nodes)))
            await asyncio.wait_for(full.failed.wait(), 20)
            assert isinstance(full.failure, DiskFailed)
            assert "cannot go along" in str(full.failure)
            await cluster.running.pop(key.public).stop()
            again = await cluster.start(key)
            assert again.resumed
            assert again.configuration.epoch == 2
            assert again.status()["entries"] > 0
            await asyncio.gather(*joining, changing)
            await cluster.refilled()
            for name, value in values.items():
                assert await client.get(name) == value
            assert any(node.status()["values_in_memory"] < node.status()["entries"] for node in cluster.members())


async def test_a_watch_tells_of_a_gap(tmp_path: Path) -> None:
    """A watch goes on in the next epoch, and says that changes may have been missed."""
    async with live(tmp_path) as cluster:
        founded = cluster.founded
        client = await Client.connect(founded.signed, key=founded.writers["alice"])
        async with client, client.watch("k", interval=0.02) as watch:
            await client.set("k1", b"1")
            change = await watch.next(10)
            assert change is not None
            assert not isinstance(change, Gap)
            assert change.key == "k1"
            await cluster.change(amend.retire_writer(cluster.configuration, "bob"))
            assert await client.get("k1") == b"1"
            assert isinstance(await watch.next(10), Gap)
            await client.set("k2", b"2")
            async with asyncio.timeout(10):
                while (change := await watch.next(10)) is None or isinstance(change, Gap) or change.key != "k2":
                    pass


async def test_types_with_fields_go_along(tmp_path: Path) -> None:
    async with live(tmp_path, nodes=5, op_time_us=1_000_000) as cluster:
        founded = cluster.founded
        async with await Client.connect(founded.signed, key=founded.writers["alice"]) as client:
            maps = client.map_("m")
            await maps.set("a", b"1")
            await maps.set("b", b"2")
            await maps.remove("b")
            new = SigningKey.generate()
            joining = asyncio.create_task(cluster.join(new))
            await cluster.change(
                amend.replace_node(cluster.configuration, "n2", new.public, address=f"127.0.0.1:{cluster.spare[0]}")
            )
            await asyncio.wait_for(joining, 20)
            await cluster.refilled()
            assert await maps.items() == {"a": b"1"}
            await maps.set("c", b"3")
            assert await maps.items() == {"a": b"1", "c": b"3"}


async def test_who_comes_late_can_check_what_was_written_before(tmp_path: Path) -> None:
    """Certificates of earlier epochs count: a node that joins with the file of a later one, nodes that start again with
    it, clients with the first file and with the last."""
    async with live(tmp_path, op_time_us=1_000_000) as cluster:
        founded = cluster.founded
        async with await Client.connect(founded.signed, key=founded.writers["alice"]) as client:
            await client.set_many(dict.fromkeys(KEYS, b"first"))
        for _ in range(2):
            await cluster.change(
                amend.set_quota(cluster.configuration, "default", (cluster.configuration.epoch + 1) << 24)
            )
        for key in founded.nodes[:2]:
            await cluster.refilled()
            await cluster.running.pop(key.public).stop()
            await cluster.start(key, cluster.configuration)
        await cluster.refilled()
        new = SigningKey.generate()
        joining = asyncio.create_task(cluster.join(new))
        place = f"127.0.0.1:{cluster.spare[0]}"
        await cluster.change(amend.replace_node(cluster.configuration, "n3", new.public, address=place))
        await asyncio.wait_for(joining, 20)
        await cluster.refilled()
        assert len(cluster.running[new.public].node.slots.current) == len(KEYS)
        await cluster.running.pop(founded.nodes[3].public).stop()
        # A node that has nothing of the epochs before but the last file: it asks for them.
        shutil.rmtree(cluster.record_of(founded.nodes[0]).directory)
        await cluster.running.pop(founded.nodes[0].public).stop()
        node = await cluster.start(founded.nodes[0], cluster.configuration)
        await cluster.refilled()
        assert len(node.node.slots.current) == len(KEYS)
        for signed in (founded.signed, cluster.signed):
            async with await Client.connect(signed) as late:
                assert await late.get_many(KEYS, strict=True) == dict.fromkeys(KEYS, b"first")


@pytest.mark.parametrize("storage", ["memory", "sqlite"])
async def test_locks_and_counts_go_along(tmp_path: Path, storage: str) -> None:
    """Protocol 17, "Epochs": results stay unique, a lock is held over a change, a revoked writer's is free."""
    spaces = (NamespaceInfo("locks", "exact"),)
    async with live(tmp_path, namespaces=spaces, op_time_us=1_000_000, storage=storage) as cluster:
        founded = cluster.founded
        alice = await Client.connect(founded.signed, key=founded.writers["alice"])
        bob = await Client.connect(founded.signed, key=founded.writers["bob"])
        async with alice, bob:
            async with asyncio.timeout(60):
                while any(node.status()["shards_silent"] for node in cluster.members()):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.1)
            results: list[int] = []
            unknown = 0

            async def count(client: Client) -> None:
                nonlocal unknown
                for _ in range(15):
                    try:
                        results.append(await client.incr("n"))
                    except (OutcomeUnknown, Unavailable) as fault:
                        unknown += isinstance(fault, OutcomeUnknown)

            counting = asyncio.create_task(count(alice))
            async with alice.lock("held", ttl=30.0) as mine:
                await cluster.change(amend.set_quota(cluster.configuration, "locks", 1 << 20))
                assert await alice.get("held") is not None
                assert mine.token
            await counting
            theirs = bob.lock("bobs", ttl=60.0)
            await theirs.__aenter__()
            await cluster.change(amend.revoke_writer(cluster.configuration, "bob"))
            async with asyncio.timeout(20), alice.lock("bobs", ttl=30.0) as after:
                assert after.token > theirs.token
            counting = asyncio.create_task(count(alice))
            await counting
            assert len(set(results)) == len(results)
            assert len(results) <= await alice.incr("n", 0) <= len(results) + unknown


async def test_what_cannot_move_says_so_before_anything_changes(tmp_path: Path) -> None:
    """Groups of exact namespaces stay while nodes run; and an epoch does not end that too few nodes could end."""
    async with live(tmp_path, namespaces=(NamespaceInfo("locks", "exact"),)) as cluster:
        with pytest.raises(ConfigurationError, match="exact"):
            await cluster.change(
                amend.add_node(cluster.configuration, "n4", SigningKey.generate().public, address="127.0.0.1:1")
            )
        assert not any(node.membership.is_sealed for node in cluster.running.values())
    async with live(tmp_path / "other") as cluster:
        for key in cluster.founded.nodes[:2]:
            await cluster.running.pop(key.public).stop()
        progress = await cluster.change(amend.retire_writer(cluster.configuration, "bob"))
        assert not progress.sealed
        assert progress.lacking == 1
        assert not any(node.membership.is_sealed for node in cluster.running.values())


# --- processes ---


class Processes:
    """A cluster of processes, changed by the commands of `quorumcache admin` and by nothing else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = free_ports(8)
        founded = found_cluster(
            writers=["alice", "bob"],
            addresses=[f"127.0.0.1:{port}" for port in self.ports[:4]],
            cluster_id="live",
            max_skew_us=100_000,
            op_time_us=5_000_000,
        )
        self.file = founded.write(directory)

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "quorumcache.cli", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        log = (self.directory / f"{name}.log").open("ab")
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "quorumcache.cli", "node", "--cluster", str(self.file), "--name", name],
            stdout=log,
            stderr=log,
        )
        log.close()

    def key(self, name: str) -> str:
        """Make the key of a node that is to come; its public half."""
        return self.command("keygen", str(self.directory / "keys" / f"node-{name}.key"), "--role", "node").split()[-1]

    def change(self, *draft: str) -> str:
        """Draft, sign, apply, wait for what joined."""
        at = ("--cluster", str(self.directory))
        self.command("admin", *draft, *at)
        self.command("admin", "sign", *at, "--key", str(self.directory / "keys" / "admin.key"), "--yes")
        return self.command("admin", "apply", *at)

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(WAIT_S_MAX)

    def stop(self) -> None:
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(WAIT_S_MAX)


@pytest.mark.slow
@pytest.mark.timeout(280)
async def test_processes_change_under_load(tmp_path: Path) -> None:
    """0016, as an operator does it: a node replaced, two added, one removed, a writer revoked."""
    cluster = Processes(tmp_path / "live")
    loop = asyncio.get_running_loop()

    async def change(what: str, *draft: str) -> None:
        load.waited()
        told = await loop.run_in_executor(None, lambda: cluster.change(*draft))
        pause = re.search(r"operations waited for about (\d+) ms", told)
        assert pause is not None, told
        print(f"{what}: epoch paused {pause[1]} ms; the longest wait of {load.count} operations {load.waited():.3f} s")

    try:
        for name in ("n0", "n1", "n2", "n3"):
            cluster.start(name)
        first = tmp_path / "first.toml"
        first.write_bytes(cluster.file.read_bytes())
        keys = tmp_path / "live" / "keys"
        await asyncio.sleep(1.0)
        writer = await Client.connect(first, key=keys / "writer-alice.key", timeout=30.0)
        bob = await Client.connect(first, key=keys / "writer-bob.key")
        reader = await Client.connect(first)
        async with writer, bob, reader:
            await bob.set("bobs", b"secret")
            async with Load(writer, reader) as load:
                await asyncio.sleep(1.0)
                print(f"undisturbed: the longest wait {load.waited():.3f} s")
                await change("revoke a writer", "revoke-writer", "bob")
                for at, name in enumerate(("n4", "n5")):
                    public = cluster.key(name)
                    cluster.start(name)
                    await change(
                        f"add {name}", "add-node", name, public, "--address", f"127.0.0.1:{cluster.ports[4 + at]}"
                    )
                public = cluster.key("n6")
                cluster.start("n6")
                await change(
                    "replace n1",
                    "replace-node",
                    "n1",
                    public,
                    "--name",
                    "n6",
                    "--address",
                    f"127.0.0.1:{cluster.ports[6]}",
                )
                cluster.kill("n1")
                await change("remove n3", "remove-node", "n3")
                cluster.kill("n3")
                await asyncio.sleep(1.0)
            assert writer.configuration.epoch == 6
            final = await reader.get_many(KEYS, strict=True)
            assert all(load.acknowledged[key] <= int(final[key]) <= load.sent[key] for key in KEYS)
            assert await reader.get("bobs") is None
        print(f"{load.count} operations, {load.unknown} unknown")
        async with await Client.connect(cluster.file) as late:
            assert await late.get_many(KEYS, strict=True) == final
    finally:
        cluster.stop()
