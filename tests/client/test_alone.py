"""`get_or_set(lock=...)`: one loader for a key at a time over all processes, and a loader all the same where no lock is
to be had. Each client here has sessions of its own, as another process would."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from quorumcache.client import Client, alone
from quorumcache.core.config import to_toml
from quorumcache.errors import Misuse
from quorumcache.testing import LocalCluster
from tests.client.test_exact import exact

__all__ = ["exact"]


async def test_one_of_several_processes_loads(exact: tuple[LocalCluster, Client]) -> None:
    cluster, _ = exact
    clients = [await cluster.client() for _ in range(3)]
    loads = 0

    async def load() -> bytes:
        nonlocal loads
        loads += 1
        await asyncio.sleep(0.2)
        return b"made %d" % loads

    async def ask(client: Client) -> bytes:
        found: bytes = await client.get_or_set("cold", load, 60, lock="locks", lock_ttl=20)
        return found

    found = await asyncio.gather(*(ask(client) for client in clients for _ in range(10)))
    assert set(found) == {b"made 1"}
    assert loads == 1
    # The lock is given up: the next key's loader, and this key's next one, wait for nobody.
    await clients[0].delete("cold")
    assert await ask(clients[1]) == b"made 2"
    cached = clients[2].cached(ttl=60, key="twice:{number}", lock="locks")

    @cached
    async def twice(number: int) -> bytes:
        return b"%d" % (2 * number)

    assert await twice(4) == b"8"


async def test_without_its_holder_others_load_after_a_while(
    exact: tuple[LocalCluster, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that died holds the lock no longer than `lock_ttl`; and where locks cannot be had at all, it loads."""
    cluster, _ = exact
    one, two = await cluster.client(), await cluster.client()
    began = asyncio.Event()

    async def never() -> bytes:
        began.set()
        await asyncio.sleep(60)
        return b"never"

    async def load() -> bytes:
        return b"other"

    hanging = asyncio.create_task(one.get_or_set("k", never, 60, lock="locks", lock_ttl=1.0))
    await began.wait()
    assert await two.get_or_set("k", load, 60, lock="locks", lock_ttl=1.0) == b"other"
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging

    async def nothing(*_: object) -> tuple[None, None]:
        return None, None

    monkeypatch.setattr("quorumcache.client.computed.taken_or_found", nothing)
    assert await two.get_or_set("other", load, 60, lock="locks") == b"other"


async def test_what_is_no_lock(exact: tuple[LocalCluster, Client]) -> None:
    cluster, _ = exact
    client = await cluster.client()
    for options, told in (
        ({"lock": "default"}, "of type exact"),
        ({"lock": "nothing"}, "nothing"),
        ({"lock": "locks", "lock_ttl": 0}, "lock_ttl"),
        ({"lock": "locks", "lock_ttl": "1"}, "lock_ttl"),
    ):
        with pytest.raises(Misuse, match=told):
            await client.get_or_set("k", lambda: b"v", 60, **options)
    assert alone.LOCK_TTL_S == 30.0


_PROCESS = """
import asyncio, json, sys, time
from quorumcache.client import Client

async def main(cluster, key, marks, tasks):
    async with await Client.connect(cluster, key=key) as client:
        async def load():
            with open(marks, "a") as file:
                file.write("x")
            await asyncio.sleep(0.5)
            return b"value"
        sys.stdin.readline()
        began = time.monotonic()
        found = await asyncio.gather(*(client.get_or_set("cold", load, 60, lock="locks") for _ in range(tasks)))
        print(json.dumps([len(found), set(found) == {b"value"}, time.monotonic() - began]))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_two_hundred_ask_for_one_cold_key(exact: tuple[LocalCluster, Client], tmp_path: Path) -> None:
    """Ten processes of twenty tasks: the loader runs once."""
    from quorumcache.wire.keys import write_key_file

    cluster, _ = exact
    file, key, marks = tmp_path / "cluster.toml", tmp_path / "writer.key", tmp_path / "marks"
    file.write_text(to_toml(cluster.signed))
    write_key_file(key, cluster.writers["default"], role="writer")
    command = [sys.executable, "-c", _PROCESS, str(file), str(key), str(marks), "20"]
    pipes = {"stdin": PIPE, "stdout": PIPE}
    processes = [await asyncio.create_subprocess_exec(*command, **pipes) for _ in range(10)]
    await asyncio.sleep(5.0)
    began_s = time.monotonic()
    told = await asyncio.gather(*(each.communicate(b"\n") for each in processes))
    answers = [json.loads(out) for out, _ in told]
    assert [(count, right) for count, right, _ in answers] == [(20, True)] * 10
    print(f"200 askers in ten processes: {time.monotonic() - began_s:.2f} s, {marks.read_text().count('x')} load")
    assert marks.read_text() == "x"
