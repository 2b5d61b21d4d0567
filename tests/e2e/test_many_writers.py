"""Many writers of one counter, one set and one map, with a lying node, while nodes and clients are killed and come
back: nothing that was acknowledged is lost, nothing that was removed comes back (protocol 6)."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path

import pytest

from quorumcache.core.config import NamespaceInfo, to_toml
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import write_key_file

SPACES = [NamespaceInfo(kind + "s", kind) for kind in ("counter", "set", "map")]
ROOT = Path(__file__).resolve().parents[2]


async def _worker(cluster: Path, keys: Path, writer: str, notes: Path, count: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.many_writers_worker",
        str(cluster),
        str(keys / f"{writer}.key"),
        str(notes),
        notes.stem,
        str(count),
        cwd=ROOT,
    )


async def _run(directory: Path, writers: int, count: int, kills: int) -> None:
    names = [f"w{i}" for i in range(writers)]
    async with LocalCluster(
        processes=True,
        writers=names,
        namespaces=SPACES,
        byzantine={0: "changing"},
        storage="sqlite",
    ) as cluster:
        file = directory / "cluster.toml"
        file.write_text(to_toml(cluster.signed))
        for name, key in cluster.writers.items():
            write_key_file(directory / f"{name}.key", key, role="writer")
        async with await cluster.client(names[0]) as client:
            # One makes the keys: who makes a key at the same instant as others may find its own generation ended.
            await client.counter("count").add()
            await client.set_("members").add("first")
            await client.map_("items").set("first", b"0")
        processes = {name: await _worker(file, directory, name, directory / f"{name}.notes", count) for name in names}
        begun = asyncio.get_running_loop().time()
        for turn in range(kills):
            await asyncio.sleep(1.0)
            node = 1 + turn % 3
            await cluster.kill(node)
            victim = names[turn % len(names)]
            if processes[victim].returncode is None:
                processes[victim].kill()
                await processes[victim].wait()
                again = directory / f"{victim}-{turn}.notes"
                processes[victim] = await _worker(file, directory, victim, again, count // 2)
            await asyncio.sleep(1.0)
            await cluster.restart(node)
        codes = await asyncio.gather(*(process.wait() for process in processes.values()))
        assert codes == [0] * writers
        print(f"{writers} processes took {asyncio.get_running_loop().time() - begun:.1f} s")
        await asyncio.sleep(1.0)
        async with await cluster.client(names[0]) as client:
            _judge(
                directory,
                await client.counter("count").value(strict=True),
                await client.set_("members").members(strict=True),
                {name: int(value) for name, value in (await client.map_("items").items(strict=True)).items()},
            )


def _judge(directory: Path, total: int, members: set[str], items: dict[str, int]) -> None:
    begun: Counter[str] = Counter()
    done: Counter[str] = Counter()
    last_begun: dict[str, list[int]] = {}
    last_done: dict[str, int] = {}
    for notes in directory.glob("*.notes"):
        for line in notes.read_text().splitlines():
            mark, _, what = line.partition(" ")
            kind, _, rest = what.partition(" ")
            (begun if mark == "?" else done)[what if kind in ("in", "out") else kind] += 1
            if kind == "set":
                name, _, value = rest.partition(" ")
                if mark == "?":
                    last_begun.setdefault(name, []).append(int(value))
                else:
                    last_done[name] = int(value)
    print(f"counter {total}: {done['add'] + 1} acknowledged, {begun['add'] + 1} begun")
    assert done["add"] + 1 <= total <= begun["add"] + 1
    for what, count in done.items():
        kind, _, element = what.partition(" ")
        if kind == "in" and f"out {element}" not in begun:
            assert element in members, f"{element} was acknowledged {count} times, and is lost"
        if kind == "out":
            assert element not in members, f"{element} came back"
    for element in members - {"first"}:
        assert f"in {element}" in begun
    for name, value in last_done.items():
        assert items[name] in last_begun[name], "a value that nobody wrote"
        assert items[name] >= value, "an older value than was acknowledged"


async def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    await _run(tmp_path, writers=3, count=300, kills=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_processes_of_ten_thousand_increments(tmp_path: Path) -> None:
    await _run(tmp_path, writers=10, count=10_000, kills=6)
