"""`quorumcache up` with real processes, and the commands that use a cluster, as a new user types them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis
from typer.testing import CliRunner

from quorumcache.cli import exits
from quorumcache.cli.app import app
from quorumcache.core.config import NamespaceInfo
from quorumcache.wire.founding import found_cluster

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
WAIT_S_MAX = 30.0


def started(directory: Path) -> subprocess.Popen[str]:
    """`quorumcache up` in a directory, up."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quorumcache.cli", "up", "--directory", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "Logs are in" in line:
            return process
    raise AssertionError("".join(said))


def children_of(process: subprocess.Popen[str]) -> list[int]:
    """The ids of its child processes."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in told.stdout.split()]


def wait_for_end(ids: list[int]) -> None:
    """Return when none of the processes is left."""
    end_s = time.monotonic() + WAIT_S_MAX
    while left := [each for each in ids if Path(f"/proc/{each}").exists()]:
        assert time.monotonic() < end_s, f"left behind: {left}"
        time.sleep(0.05)


class Up:
    """A cluster that runs, and the command line with its environment."""

    def __init__(self, directory: Path, process: subprocess.Popen[str]) -> None:
        self.directory = directory
        self.process = process
        self.environment = dict(re.findall(r"export (\w+)=(\S+)", (directory / "env.sh").read_text()))

    def run(self, *arguments: str, given: bytes | None = None) -> tuple[int, bytes, str]:
        """Exit code, standard output, standard error."""
        result = CliRunner().invoke(
            app, list(arguments), input=given, env={**self.environment, "COLUMNS": "120"}, catch_exceptions=False
        )
        return result.exit_code, result.stdout_bytes, result.stderr


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    directory = tmp_path_factory.mktemp("up")
    # A cluster that is there already, for a namespace that a fresh one would not have.
    closed = NamespaceInfo("private", encryption="client", hide_keys=True, readers=("*",))
    with ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(4)]
        addresses = [f"127.0.0.1:{place.getsockname()[1]}" for place in places]
    spaces = (NamespaceInfo("default"), closed)
    found_cluster(addresses=addresses, namespaces=spaces, max_skew_us=100_000).write(directory)
    process = started(directory)
    children = children_of(process)
    try:
        assert len(children) == 6  # Four nodes, HTTP, and Redis.
        yield Up(directory, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == 0
        wait_for_end(children)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_what_is_set_is_got_and_can_be_proven_to_others(up: Up, tmp_path: Path) -> None:
    proof = str(tmp_path / "proof")
    assert up.run("set", "hello", "world", "--ttl", "60")[:2] == (exits.OK, b"")
    assert up.run("get", "hello", "--proof", proof)[:2] == (exits.OK, b"world")
    code, output, _ = up.run("verify", proof, "--cluster", up.environment["QUORUMCACHE_CLUSTER"])
    assert code == exits.OK
    assert b"hello in namespace default" in output
    assert up.run("verify", "--value", proof)[:2] == (exits.OK, b"world")
    data = bytearray(Path(proof).read_bytes())
    data[len(data) // 2] ^= 1
    Path(proof).write_bytes(data)
    assert up.run("verify", proof)[0] == exits.INVALID
    assert up.run("delete", "hello")[0] == exits.OK
    code, output, said = up.run("get", "hello")
    assert (code, output) == (exits.NOT_FOUND, b"")
    assert "no key 'hello'" in said


def test_any_bytes_go_in_by_standard_input_and_come_out_the_same(up: Up) -> None:
    value = bytes(range(256)) + b"\n"
    assert up.run("set", "bytes", "-", given=value)[0] == exits.OK
    assert up.run("get", "bytes")[:2] == (exits.OK, value)
    code, _, said = up.run("set", "bytes", "-", given=bytes((1 << 20) + 1))
    assert code == exits.MISUSE
    assert "1048576" in said
    assert up.run("get", "bytes")[1] == value


def test_keys_are_listed_and_deleted_by_prefix(up: Up) -> None:
    names = [b"list:%d" % i for i in range(12)] + ["list:é".encode()]
    for name in names:
        assert up.run("set", os.fsdecode(name), "v")[0] == exits.OK
    code, out, _ = up.run("keys", "list:")
    assert code == exits.OK
    assert sorted(out.splitlines()) == sorted(names)
    code, out, _ = up.run("keys", "list:", "--limit", "5", "--null")
    assert (code, out.count(b"\0"), set(out.split(b"\0")) <= {*names, b""}) == (exits.OK, 5, True)
    code, _, said = up.run("delete", "--prefix", "list:1")
    assert (code, said) == (exits.OK, "Deleted 3 keys.\n")
    assert len(up.run("keys", "list:")[1].splitlines()) == 10
    assert up.run("keys", "nothing begins so") == (exits.OK, b"", "")
    for wrong in (["delete"], ["delete", "k", "--prefix", "p"], ["delete", "--prefix", ""], ["keys", "k" * 1025]):
        assert up.run(*wrong)[0] == exits.MISUSE, wrong
    assert up.run("delete", "--prefix", "list:")[0] == exits.OK


def test_what_is_private_takes_the_right_key_and_the_data_keys(up: Up, tmp_path: Path) -> None:
    data_keys = str(tmp_path / "data.keys")
    assert up.run("keygen", data_keys, "--role", "data")[0] == exits.OK
    private = ["-n", "private", "--data-keys", data_keys]
    assert up.run("set", "secret", "value", *private)[0] == exits.OK
    assert up.run("get", "secret", *private)[:2] == (exits.OK, b"value")
    code, _, said = up.run("get", "secret", "-n", "private")
    assert code == exits.MISUSE
    assert "--data-keys" in said
    up.environment["QUORUMCACHE_KEY"], kept = "", up.environment["QUORUMCACHE_KEY"]
    try:
        code, _, said = up.run("get", "secret", *private)
    finally:
        up.environment["QUORUMCACHE_KEY"] = kept
    assert code == exits.DENIED
    assert "a client without a key has no right to read" in said
    others = str(tmp_path / "others.keys")
    assert up.run("keygen", others, "--role", "data")[0] == exits.OK
    # Hidden under another name, it is not even found.
    assert up.run("get", "secret", "-n", "private", "--data-keys", others)[0] == exits.NOT_FOUND


@pytest.mark.parametrize(
    "command",
    [["set", "", "v"], ["get", "k" * 1025], ["set", "k", "v", "--ttl", "nan"], ["set", "k", "v", "--ttl", "0"]],
)
def test_keys_and_lives_out_of_bounds_are_misuse(up: Up, command: list[str]) -> None:
    assert up.run(*command)[0] == exits.MISUSE


def test_a_node_that_is_killed_is_missed_by_nobody_and_started_again(up: Up) -> None:
    assert up.run("set", "kept", "value")[0] == exits.OK
    code, output, _ = up.run("status", "--json")
    told = json.loads(output)
    assert code == exits.OK
    assert [node["reachable"] for node in told["nodes"]] == [True] * 4
    before = set(children_of(up.process))
    victim = next(each for each in before if b"\0n2\0" in Path(f"/proc/{each}/cmdline").read_bytes())
    os.kill(victim, signal.SIGKILL)
    assert up.run("get", "kept")[:2] == (exits.OK, b"value")
    end_s = time.monotonic() + WAIT_S_MAX
    while not (set(children_of(up.process)) - before and up.run("status")[1].count(b" down") == 0):
        assert time.monotonic() < end_s
        time.sleep(0.1)


def test_up_serves_http_beside_its_nodes(up: Up) -> None:
    arguments = [Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") for each in children_of(up.process)]
    http = next(words for words in arguments if b"http" in words)
    port = int(http[http.index(b"--port") + 1])
    with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as response:
        assert json.load(response) == {"ok": True}


def test_up_serves_redis_clients_beside_its_nodes(up: Up) -> None:
    arguments = [Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") for each in children_of(up.process)]
    gateway = next(words for words in arguments if b"gateway" in words)
    with redis.Redis(port=int(gateway[gateway.index(b"--port") + 1])) as connected:
        connected.set("by a redis client", "v", ex=60)
        assert up.run("get", "by a redis client")[:2] == (exits.OK, b"v")


def test_no_child_outlives_an_up_that_dies(tmp_path: Path) -> None:
    process = started(tmp_path)
    children = children_of(process)
    assert len(children) == 6
    process.kill()
    process.communicate()
    wait_for_end(children)
