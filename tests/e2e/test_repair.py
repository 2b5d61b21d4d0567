"""A node that was away is complete again within seconds, by itself; `status --deep` says who differs, then nobody."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from typer.testing import CliRunner

from quorumcache.cli.app import app
from quorumcache.core.config import NamespaceInfo, to_toml
from quorumcache.net.divergence import diverging
from quorumcache.testing import LocalCluster

SPACES = [NamespaceInfo("sets", "set")]


async def test_a_node_that_was_away_is_complete_again() -> None:
    async with LocalCluster(processes=True, storage="sqlite", namespaces=SPACES, shards=16) as cluster:
        async with await cluster.client() as client:
            await client.set_many({f"k{i}": b"old" for i in range(200)})
            await cluster.kill(3)
            await client.set_many({f"k{i}": b"new" for i in range(300)})
            await client.set_("s").add("a", "b")
        # That client is gone, and with it what it had for the node.
        await cluster.restart(3)
        for _ in range(100):
            found = await diverging(cluster.configuration, timeout_s=10, looks=1)
            if not found.odd and not found.missing:
                break
            await asyncio.sleep(0.2)
        # It was killed before it had recovered from its beginning: it recovers what it lacks, and compares the rest.
        status = await cluster.status(3)
        assert status["repaired"] + status["recovered"] >= 300
        # Now its answers are needed.
        await cluster.kill(0)
        async with await cluster.client() as client:
            assert await client.get_many([f"k{i}" for i in range(300)]) == {f"k{i}": b"new" for i in range(300)}
            assert await client.set_("s").members() == {"a", "b"}


async def test_status_deep_names_the_odd_node(tmp_path: Path) -> None:
    async with LocalCluster(namespaces=SPACES, shards=16) as cluster, await cluster.client() as client:
        await client.set("k", b"v")
        await client.set("l", b"w")
        file = tmp_path / "cluster.toml"
        file.write_text(to_toml(cluster.signed))
        slots = cluster.node(2).node.slots
        # As if evicted: it does not take that back, and so goes on differing.
        slots.drop(next(iter(slots.current)))
        arguments = ["status", "--deep", "--cluster", str(file)]
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert result.exit_code == 3
        assert "n2 differs in 1 of its shards" in result.output
        told = json.loads((await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--json"])).output)
        assert list(told["divergence"]["odd"]) == ["n2"]
        await client.delete_many(["k", "l"])
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert "All nodes agree" in result.output
        assert result.exit_code == 0
