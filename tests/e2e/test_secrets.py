"""Secrets of real processes: in no output, no argument, no environment of a child, whatever goes wrong; and keys from
an environment variable or a file descriptor, which need no file at all."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quorumcache.cli import exits
from quorumcache.cli.app import run as run_here
from quorumcache.testing import LocalCluster
from quorumcache.wire.founding import node_key_path, read_cluster_file, writer_key_path
from quorumcache.wire.keys import read_key_file
from quorumcache.wire.sealrecord import record_beside

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def founded(tmp_path: Path) -> Path:
    directory = tmp_path / "c"
    assert run_here(["init", str(directory), "--writers", "alice"]) == 0
    return directory


def forms_of(path: Path) -> list[bytes]:
    """A secret as it could show up: its hex, its bytes, its base64."""
    seed = read_key_file(path).seed
    return [seed.hex().encode(), seed, base64.b64encode(seed), repr(seed)[2:-1].encode()]


def started(
    arguments: list[str], *, environment: dict[str, str] | None = None, **options: object
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-X", "dev", "-m", "quorumcache.cli", *arguments],
        env={**os.environ, "PYTHONASYNCIODEBUG": "1", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def process_list() -> bytes:
    """All arguments of all processes, as anybody on the machine sees them."""
    told = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                told.append((directory / "cmdline").read_bytes())
            except OSError:
                continue  # It ended meanwhile.
    return b"\n".join(told)


@pytest.mark.parametrize("source", ["env", "fd"])
def test_a_node_shows_its_secret_nowhere(founded: Path, source: str) -> None:
    """While it runs, and when it is ended by a signal in the middle, with all of Python's debugging on."""
    path = node_key_path(founded, "n0")
    configuration = read_cluster_file(founded).configuration
    environment, options = {}, {}
    if source == "env":
        environment["NODE_KEY"] = path.read_text()
        key = "env:NODE_KEY"
    elif source == "fd":
        ours, theirs = os.pipe()
        os.write(theirs, path.read_bytes())
        os.close(theirs)
        options["pass_fds"] = [ours]
        key = f"fd:{ours}"
    else:
        key = str(path)
    arguments = ["node", "--cluster", str(founded), "--key", key, "--seals", str(record_beside(path))]
    process = started(arguments, environment=environment, **options)
    if source == "fd":
        os.close(ours)
    try:
        host, _, port = configuration.nodes[0].address.rpartition(":")
        assert process.stderr is not None
        told = b""
        while b"listens" not in told and (line := process.stderr.readline()):
            told += line
        assert b"listens" in told, told
        seen = process_list()
        assert str(founded).encode() in seen
        # Bytes that are no TLS, so that something goes wrong too.
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"\0" * 100)
    finally:
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    for form in forms_of(path):
        assert form not in told + out + error
        assert form not in seen


def test_a_key_without_a_file_needs_a_place_for_what_it_sealed(
    founded: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in a directory named after the variable, wherever the node happens to be started."""
    monkeypatch.setenv("NODE_KEY", node_key_path(founded, "n0").read_text())
    assert run_here(["node", "--cluster", str(founded), "--key", "env:NODE_KEY", "--first-start"]) == exits.MISUSE
    assert "--seals" in capfd.readouterr().err
    assert not Path("env:NODE_KEY.seals").exists()


@pytest.mark.parametrize("damage", ["mode", "cut"])
def test_no_error_of_the_program_shows_a_secret(founded: Path, damage: str) -> None:
    path = writer_key_path(founded, "alice")
    forms = forms_of(path)
    if damage == "mode":
        path.chmod(0o644)
    else:
        path.write_bytes(path.read_bytes()[:-10])
        forms = [form[:40] for form in forms]
    process = started(["set", "k", "v", "--cluster", str(founded), "--key", str(path)])
    out, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(path).encode() in error
    assert b"Traceback" not in error
    for form in forms:
        assert form not in out + error


def environments(pids: list[int]) -> bytes:
    return b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in pids)


@pytest.mark.slow
async def test_processes_of_a_local_cluster_have_no_secret_in_their_arguments_or_environment() -> None:
    async with LocalCluster(processes=True) as cluster:
        seen = process_list() + environments([cluster.pid(index) for index in range(4)])
        for key in (*cluster._keys, *cluster.writers.values()):
            assert key.seed.hex().encode() not in seen
            assert key.seed not in seen
