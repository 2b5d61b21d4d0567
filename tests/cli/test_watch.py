"""`quorumcache watch`, as a process of its own beside a live cluster."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from quorumcache.core.config import to_toml
from quorumcache.testing import LocalCluster


async def test_changes_are_printed_until_it_is_told_to_end(tmp_path: Path) -> None:
    async with LocalCluster() as cluster, await cluster.client() as client:
        path = tmp_path / "cluster.toml"
        path.write_text(to_toml(cluster.signed))

        async def start(*arguments: str) -> asyncio.subprocess.Process:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "quorumcache.cli", "watch", "user:", "--cluster", str(path)),
                *("--interval", "0.01", *arguments),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )

        program = await start()
        assert program.stdout is not None
        lines = asyncio.create_task(program.stdout.readline())
        # It says nothing when it has begun: write until it does.
        number = 0
        while not lines.done():
            await client.set(f"user:{number}", b"v")
            number += 1
            await asyncio.sleep(0.02)
        assert (await lines).startswith(b"set user:")
        program.send_signal(signal.SIGINT)
        _, errors = await program.communicate()
        assert program.returncode == 0, errors
        token = errors.decode().split("--resume ")[1].strip()
        await client.delete("user:0")
        await client.set("user:\x1b[31m", b"v")
        program = await start("--resume", token, "--json", "--count", "2")
        output, errors = await program.communicate()
        assert program.returncode == 0, errors
        seen = [json.loads(line) for line in output.splitlines()]
        assert {"deleted", "set"} >= {change["change"] for change in seen}
        assert all(change["key"].startswith("user:") for change in seen)
