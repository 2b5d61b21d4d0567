"""Our asyncio client beside others', in one run on one machine: redis-py's (hiredis) on a redis-server, and etcd.

So many concurrent tasks get and set 128-byte values, each on its own key, all clients on uvloop over loopback: of a
cluster of 4 nodes (f = 1) over TLS and without, of one redis-server that keeps no files, of 3 etcd members (with their
files in a temporary directory) through their JSON gateway, for there is no gRPC here. Rounds take turns, and the
medians count. Byzantine tolerance is on our side only.

    apt-get install redis-server etcd-server        # Debian's names; whichever is not there is left out, and named
    python bench/peers.py [--tasks 64] [--rounds 3] [--seconds S] [--only redis,etcd] [--no-tls] [--json PATH]
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import aiohttp

from bench.cluster import arguments, free_ports, run_loop, running_cluster, write_json
from bench.hotpath import VALUE, concurrent, quantile_us
from quorumcache.client import Client
from quorumcache.core.config import SignedConfiguration
from quorumcache.wire.keys import SigningKey

Operation = Callable[[str], Awaitable[object]]
#: What a peer offers: its get and its set.
Pair = tuple[Operation, Operation]
PEERS: Final = {"redis": "redis-server", "etcd": "etcd"}
START_S: Final = 15.0
WARM_S: Final = 0.3


@contextlib.contextmanager
def running(*commands: list[str]) -> Iterator[None]:
    """Processes that run meanwhile; what they say is kept for the error, should one end by itself."""
    with contextlib.ExitStack() as stack:
        for command in commands:
            log = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_end, process, log)
        yield


def _end(process: subprocess.Popen[bytes], log: Any) -> None:
    if process.poll() is not None:
        log.seek(0)
        print(f"{process.args!r} ended by itself: {log.read()[-2000:].decode(errors='replace')}", file=sys.stderr)
        return
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)


async def until_it_answers(what: str, ask: Callable[[], Awaitable[object]], wrong: type[Exception]) -> None:
    """Ask until there is no such error, for so long."""
    end_s = time.monotonic() + START_S
    while True:
        try:
            await ask()
            return
        except wrong as fault:
            if time.monotonic() > end_s:
                raise SystemExit(f"{what} did not answer within {START_S:.0f} s: {fault}") from fault
            await asyncio.sleep(0.1)


@contextlib.asynccontextmanager
async def quorumcache_pair(signed: SignedConfiguration, writer: SigningKey) -> AsyncIterator[Pair]:
    """Our client, on a cluster that runs."""
    async with await Client.connect(signed, key=writer) as client:

        async def put(key: str) -> None:
            await client.set(key, VALUE)

        yield client.get, put


@contextlib.asynccontextmanager
async def redis_pair(tasks: int) -> AsyncIterator[Pair]:
    """redis-py, on a server of its own."""
    import redis.asyncio as redis
    from redis.exceptions import RedisError

    (port,) = free_ports(1)
    server = [PEERS["redis"], "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with running(server):
        client = redis.Redis(host="127.0.0.1", port=port, max_connections=tasks + 1)
        try:
            await until_it_answers("redis-server", client.ping, RedisError)
            yield client.get, lambda key: client.set(key, VALUE)
        finally:
            await client.aclose()


@contextlib.asynccontextmanager
async def etcd_pair(tasks: int) -> AsyncIterator[Pair]:
    """etcd, three members of its own: linearizable gets and puts, taking turns among the members."""
    ports = free_ports(6)
    ours = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    theirs = [f"http://127.0.0.1:{port}" for port in ports[3:]]
    cluster = ",".join(f"m{i}={url}" for i, url in enumerate(theirs))
    with tempfile.TemporaryDirectory(prefix="quorumcache-bench-", ignore_cleanup_errors=True) as place:
        common = ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--log-level", "error"]
        members = []
        for i in range(3):
            urls = ["--listen-client-urls", ours[i], "--advertise-client-urls", ours[i]]
            urls += ["--listen-peer-urls", theirs[i], "--initial-advertise-peer-urls", theirs[i]]
            members.append([PEERS["etcd"], "--name", f"m{i}", "--data-dir", f"{place}/m{i}", *urls, *common])
        value = base64.b64encode(VALUE).decode()
        turn = 0
        with running(*members):
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=tasks)) as http:

                async def post(what: str, document: dict[str, str]) -> dict[str, Any]:
                    nonlocal turn
                    turn += 1
                    async with http.post(f"{ours[turn % 3]}/v3/kv/{what}", json=document) as response:
                        response.raise_for_status()
                        found: dict[str, Any] = await response.json(content_type=None)
                        return found

                async def get(key: str) -> object:
                    return (await post("range", {"key": base64.b64encode(key.encode()).decode()})).get("kvs")

                async def put(key: str) -> None:
                    await post("put", {"key": base64.b64encode(key.encode()).decode(), "value": value})

                await until_it_answers("etcd", lambda: put("first"), aiohttp.ClientError)
                yield get, put


async def measure(pairs: dict[str, Pair], tasks: int, rounds: int, seconds: float) -> dict[str, Any]:
    """The medians of all rounds, for each pair: operations a second, and p50 and p99 of one."""
    rates: dict[str, list[float]] = {}
    durations: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, (get, put) in pairs.items():

            async def got(key: str, get: Operation = get) -> None:
                if await get(key) is None:
                    raise SystemExit(f"{key} is not there, though it was written")

            # Writes first: they make the keys that are read.
            for what, operation in (("set", put), ("get", got)):
                rate, taken = await concurrent(operation, tasks, seconds if number else WARM_S)
                if number:
                    rates.setdefault(f"{name}{what}_c{tasks}", []).append(rate)
                    durations.setdefault(f"{name}{what}_c{tasks}", []).extend(taken)
    figures: dict[str, Any] = {}
    for name, found in rates.items():
        figures[f"{name}_ops_per_s"] = round(statistics.median(found))
        figures[f"{name}_p50_us"] = quantile_us(durations[name], 0.5)
        figures[f"{name}_p99_us"] = quantile_us(durations[name], 0.99)
        print(
            f"{name:<22}{figures[f'{name}_ops_per_s']:>10,}{figures[f'{name}_p50_us']:>10,.0f}"
            f"{figures[f'{name}_p99_us']:>10,.0f}"
        )
    return figures


async def compare(options: Any, peers: list[str]) -> dict[str, Any]:
    """Run everything, and say how many times as fast as each peer our client is."""
    tasks: int = options.tasks
    async with contextlib.AsyncExitStack() as stack:
        pairs: dict[str, Pair] = {}
        for prefix, tls in (("", True), ("no_tls_", False)):
            if tls and not options.tls:
                continue
            signed, writer, _ = stack.enter_context(running_cluster(1, tls=tls))
            pairs[prefix] = await stack.enter_async_context(quorumcache_pair(signed, writer))
        if "redis" in peers:
            pairs["redis_py_"] = await stack.enter_async_context(redis_pair(tasks))
        if "etcd" in peers:
            pairs["etcd_"] = await stack.enter_async_context(etcd_pair(tasks))
        print(f"{tasks} tasks{'':<14}{'ops/s':>10}{'p50 us':>10}{'p99 us':>10}")
        figures = await measure(pairs, tasks, options.rounds, options.seconds)
    for peer in ("redis_py", "etcd"):
        for prefix in ("", "no_tls_"):
            for what in ("get", "set"):
                name = f"{what}_c{tasks}"
                if {f"{peer}_{name}_ops_per_s", f"{prefix}{name}_ops_per_s"} <= figures.keys():
                    ratio = figures[f"{prefix}{name}_ops_per_s"] / figures[f"{peer}_{name}_ops_per_s"]
                    figures[f"{prefix}{name}_ratio_to_{peer}"] = round(ratio, 3)
                    print(f"{prefix}{name}: {ratio:.2f} times as many as {peer.replace('_', '-')}")
    return figures


def main() -> None:
    """Measure and print."""
    parser = arguments("Our client beside redis-py and etcd.")
    parser.add_argument("--tasks", type=int, default=64, help="concurrent tasks of each client")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which the clients take turns")
    parser.add_argument("--only", default=",".join(PEERS), metavar="NAME,NAME", help="peers to measure")
    options = parser.parse_args()
    wanted = [name for name in options.only.split(",") if name]
    if unknown := set(wanted) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    there = [name for name in wanted if shutil.which(PEERS[name])]
    for name in wanted:
        if name not in there:
            print(f"{PEERS[name]} is not installed (Debian: apt-get install {name}-server): its figures are left out")
    write_json(options.json, run_loop(compare(options, there)))


if __name__ == "__main__":
    main()
