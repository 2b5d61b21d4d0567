"""The Redis gateway under redis-benchmark, and beside it a real redis-server in the same run.

Four node processes, the gateway in a process of its own, all on loopback: 50 connections, pipelines of 1 and of 16,
10,000 keys. redis-benchmark names one set and one hash for all of its commands, whatever the keys; incr is of an exact
database, by compare-and-set, for which nodes are ready some 20 s after their start.

Needs redis-benchmark and redis-server (Debian: redis-tools, redis-server). Prints requests a second of both, their
ratio, and where the processor's time of the gateway's runs went.

    python bench/gateway.py [--requests N] [--tests set,get,...] [--no-tls] [--json PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import free_ports, run_loop, running_cluster, write_json
from quorumcache.client import Client
from quorumcache.core.config import NamespaceInfo, SignedConfiguration
from quorumcache.gateway.redis import RedisGateway, Settings
from quorumcache.gateway.redis.settings import DatabaseNames
from quorumcache.node.collecting import collect_seldom, keep_what_is_there
from quorumcache.wire.keys import SigningKey

TESTS = "set,get,incr,sadd,hset,mset"
#: The tests of an exact database.
EXACT_TESTS = ("incr",)
READY_S_MAX = 60
CONNECTIONS = 50
PIPELINES = (1, 16)
KEYS = 10_000


def _gateway_process(signed: SignedConfiguration, seed: bytes, strings: str, pipe: Connection) -> None:
    async def main() -> None:
        collect_seldom()
        databases = {0: DatabaseNames(strings)} if strings else {}
        async with await Client.connect(signed, key=SigningKey(seed)) as client:
            gateway = RedisGateway(client, Settings(port=0, databases=databases))
            await gateway.start()
            keep_what_is_there()
            pipe.send(gateway.port)
            await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
            await gateway.stop()

    run_loop(main())


@contextmanager
def running_gateway(signed: SignedConfiguration, writer: SigningKey, strings: str = "") -> Iterator[tuple[int, int]]:
    """A gateway in a process of its own: its port, and the process's id. `strings`: the namespace of a database that
    has nothing else."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_gateway_process, args=(signed, writer.seed, strings, theirs))
    process.start()
    assert process.pid is not None
    try:
        yield ours.recv(), process.pid
    finally:
        ours.send(None)
        process.join(10)
        process.kill()


@contextmanager
def running_redis() -> Iterator[int]:
    """A redis-server that keeps nothing: its port."""
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as directory:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", directory]
        process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            for _ in range(100):
                if (
                    subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True, check=False).stdout
                    == b"PONG\n"
                ):
                    break
                time.sleep(0.05)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def processor_s(pid: int) -> float:
    """What a process has had of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def benchmark(port: int, test: str, pipeline: int, requests: int) -> float:
    """Requests a second of one test."""
    said = subprocess.run(
        [
            *("redis-benchmark", "-p", str(port), "-c", str(CONNECTIONS), "-P", str(pipeline), "-n", str(requests)),
            *("-r", str(KEYS), "-d", "128", "-t", test, "--csv"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [row for row in csv.reader(io.StringIO(said)) if len(row) > 1 and row[0] != "test"]
    assert rows, said
    return float(rows[-1][1])


def wait_for_votes(port: int) -> None:
    """Wait until the exact database counts: after their start nodes keep silent about compare-and-set for a while."""
    end_s = time.monotonic() + READY_S_MAX
    while True:
        said = subprocess.run(
            ["redis-cli", "-p", str(port), "incr", "ready"], capture_output=True, text=True, check=False
        ).stdout
        if said.strip().isdigit():
            return
        if time.monotonic() > end_s:
            sys.exit(f"the exact database did not count within {READY_S_MAX} s: {said}")
        time.sleep(0.5)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="requests of each test at the gateway")
    parser.add_argument("--tests", default=TESTS)
    parser.add_argument("--strings-only", action="store_true", help="a database of strings only")
    parser.add_argument("--no-tls", action="store_true", help="sessions with nodes without TLS")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args()
    missing = [name for name in ("redis-benchmark", "redis-server", "redis-cli") if shutil.which(name) is None]
    if missing:
        sys.exit(f"{', '.join(missing)} not found: apt-get install redis-tools redis-server")
    figures: dict[str, float | int | str] = {}
    tests: list[str] = options.tests.split(",")
    locks = NamespaceInfo("locks", "exact")
    with running_cluster(tls=not options.no_tls, more=[locks]) as (signed, writer, nodes):
        time.sleep(1)
        with (
            running_gateway(signed, writer, "default" if options.strings_only else "") as plain,
            running_gateway(signed, writer, "locks") as exact,
            running_redis() as redis_port,
        ):
            if set(tests) & set(EXACT_TESTS):
                wait_for_votes(exact[0])
            print(f"{'':6}{'P':>4}{'gateway/s':>12}{'redis/s':>12}{'ratio':>8}{'us gateway':>12}{'us nodes':>10}")
            for test in tests:
                port, pid = exact if test in EXACT_TESTS else plain
                for pipeline in PIPELINES:
                    benchmark(port, test, pipeline, max(500, options.requests // 20))
                    before = processor_s(pid), sum(map(processor_s, nodes))
                    ours = benchmark(port, test, pipeline, options.requests)
                    spent = processor_s(pid) - before[0], sum(map(processor_s, nodes)) - before[1]
                    theirs = benchmark(redis_port, test, pipeline, 10 * options.requests)
                    each = [round(1e6 * seconds / options.requests, 1) for seconds in spent]
                    row = f"{test:6}{pipeline:>4}{ours:>12,.0f}{theirs:>12,.0f}{ours / theirs:>8.1%}"
                    print(f"{row}{each[0]:>12}{each[1]:>10}", flush=True)
                    name = f"{test}_p{pipeline}"
                    figures[f"{name}_per_s"] = round(ours)
                    figures[f"{name}_redis_per_s"] = round(theirs)
                    figures[f"{name}_ratio"] = round(ours / theirs, 4)
                    figures[f"{name}_gateway_us"], figures[f"{name}_nodes_us"] = each
    if options.json is not None:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
