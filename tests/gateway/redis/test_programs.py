"""Programs that were written for Redis, as they are, on a cluster with a lying node: redis-cli and redis-benchmark, of
Debian's redis-tools, where they are installed."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from quorumcache.gateway.redis import RedisGateway

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        shutil.which("redis-cli") is None or shutil.which("redis-benchmark") is None,
        reason="needs redis-cli and redis-benchmark: apt-get install redis-tools",
    ),
]


async def run(*command: str, given: bytes = b"") -> str:
    """What a program says; it must end well."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate(given)
    assert process.returncode == 0, said
    return said.decode()


async def test_a_session_of_redis_cli(gateway: RedisGateway) -> None:
    """The session in docs/redis.md."""
    typed = """set greeting hello ex 60
get greeting
hset person:7 name Ada mail ada@example.org
hgetall person:7
get person:7
incr visits
sadd tags "a b" c
scard tags
type tags
del greeting person:7
exists greeting
"""
    said = await run("redis-cli", "-p", str(gateway.port), given=typed.encode())
    assert [line for line in said.splitlines() if line] == [
        "OK",
        "hello",
        "2",
        "mail",
        "ada@example.org",
        "name",
        "Ada",
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR INCR needs compare-and-set: SELECT a database whose strings are in a namespace of type exact, which the "
        "gateway is given as --database N=NAMESPACE",
        "2",
        "2",
        "set",
        "2",
        "0",
    ]
    said = await run("redis-cli", "-3", "-p", str(gateway.port), "hello")
    assert "proto" in said
    said = await run("redis-cli", "-p", str(gateway.port), "--scan", "--pattern", "t*")
    assert said.split() == ["tags"]
    said = await run("redis-cli", "-p", str(gateway.port), "--bigkeys")
    assert "Biggest" in said


@pytest.mark.parametrize("pipeline", ["1", "16"])
async def test_redis_benchmark_runs(gateway: RedisGateway, pipeline: str) -> None:
    options = ["-c", "10", "-n", "300", "-r", "100", "-P", pipeline, "-q", "-t", "ping,set,get,sadd,hset,mset"]
    said = await run("redis-benchmark", "-p", str(gateway.port), *options)
    for name in ("PING_INLINE", "PING_MBULK", "SET", "GET", "SADD", "HSET", "MSET (10 keys)"):
        assert f"{name}: " in said, said
    assert "rror" not in said, said
