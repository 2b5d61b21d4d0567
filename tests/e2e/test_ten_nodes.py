"""Ten nodes in three zones with SQLite, as `quorumcache up` starts them: any two may be killed (protocol 9, f = 2), and
once they are back, `status --deep` finds no difference (protocol 8)."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quorumcache.cli import exits
from quorumcache.cli.app import app
from quorumcache.client import SyncClient
from tests.e2e.test_cli import WAIT_S_MAX, children_of, wait_for_end

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
OPTIONS = ["--nodes", "10", "--f", "2", "--zones", "3", "--storage", "sqlite", "--no-http", "--no-redis"]
GREEN_S_MAX = 90.0


def _node(process: subprocess.Popen[str], name: str) -> int:
    """The id of the process of a node."""
    mark = f"\0{name}\0".encode()
    return next(each for each in children_of(process) if mark in Path(f"/proc/{each}/cmdline").read_bytes())


def _status(environment: dict[str, str], *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(
        app, ["status", *options], env={**environment, "COLUMNS": "160"}, catch_exceptions=False
    )
    return result.exit_code, result.output


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("victims", [("n0", "n1"), ("n4", "n7")], ids="-".join)
def test_any_two_of_ten_nodes_may_be_killed_and_come_back(victims: tuple[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "quorumcache.cli", "up", "--directory", str(tmp_path), *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if "Logs are in" in line:
                break
        else:
            raise AssertionError("".join(said))
        assert "one zone holds more than f = 2 members" in said[0]
        environment = dict(re.findall(r"export (\w+)=(\S+)", (tmp_path / "env.sh").read_text()))
        before = {f"before {i}": b"%d" % i for i in range(400)}
        while_away = {f"before {i}": b"new %d" % i for i in range(0, 400, 2)} | {f"away {i}": b"a" for i in range(200)}
        key = tmp_path / "keys" / "writer-default.key"
        with SyncClient(tmp_path / "cluster.toml", key=key) as client:
            client.set_many(before)
            # Stopped, it does not start them again meanwhile.
            process.send_signal(signal.SIGSTOP)
            for name in victims:
                os.kill(_node(process, name), signal.SIGKILL)
            assert client.get_many(list(before)) == before
            client.set_many(while_away)
            assert client.get_many(list(while_away), strict=True) == while_away
        assert _status(environment)[1].count(" down") == 2
        with SyncClient(tmp_path / "cluster.toml", key=key) as client:  # One that comes while they are away.
            assert client.get_many(list(before)) == {**before, **{k: while_away[k] for k in before if k in while_away}}
        process.send_signal(signal.SIGCONT)
        end_s = time.monotonic() + GREEN_S_MAX
        while (told := _status(environment, "--deep"))[0] != exits.OK or "All nodes agree" not in told[1]:
            assert time.monotonic() < end_s, told[1]
            time.sleep(0.5)
        children = children_of(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == 0
        wait_for_end(children)
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(WAIT_S_MAX)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
