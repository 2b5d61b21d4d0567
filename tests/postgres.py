"""A real PostgreSQL server for tests: found, or else installed, and run on a socket in a directory of its own.

Where it comes from: the search path and Debian's directories; else `apt-get install postgresql`, for root; else the
PyPI package pgserver, into a directory that the tests throw away.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

START_S_MAX = 30.0


def programs(into: Path) -> tuple[Path | None, str]:
    """The directory of `initdb` and `postgres`, installed if need be (pgserver in `into`); or None, and why."""
    found = _found()
    if found is not None:
        return found, ""
    problems = []
    if os.geteuid() == 0 and shutil.which("apt-get"):
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"]
        problems.append(_run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}))
        found = _found()
        if found is not None:
            return found, ""
    problems.append(_run([sys.executable, "-m", "pip", "install", "-q", "--target", str(into), "pgserver==0.1.4"]))
    for initdb in into.glob("**/bin/initdb"):
        return initdb.parent, ""
    return None, "; ".join(problem for problem in problems if problem)


def _found() -> Path | None:
    on_path = shutil.which("initdb")
    candidates = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    if on_path:
        candidates.append(Path(on_path).resolve())
    return next((path.parent for path in candidates if (path.parent / "postgres").exists()), None)


def _run(command: list[str], **options: Any) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as fault:
        return f"{command[0]}: {fault}"
    return f"{' '.join(command)}: {done.stderr.strip()[-300:]}" if done.returncode else ""


class Postgres:
    """A server with one database, to be stopped, killed and started again."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self._programs = programs
        self._directory = directory
        self._data = directory / "data"
        # PostgreSQL refuses to run as root.
        self._user = (
            next((name for name in ("postgres", "nobody") if _is_user(name)), None) if not os.geteuid() else None
        )
        if self._user is not None:
            os.chown(directory, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._call("initdb", "-D", str(self._data), "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync")

    @property
    def dsn(self) -> str:
        """Where asyncpg reaches it."""
        return f"postgresql://tests@/postgres?host={self._directory}"

    def start(self) -> None:
        """Start, and wait until it answers."""
        assert self._process is None
        options = ["-D", str(self._data), "-k", str(self._directory), "-c", "listen_addresses=", "-c", "fsync=off"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *options], stdout=log, stderr=log, user=self._user, cwd=self._directory
            )
        end_s = time.monotonic() + START_S_MAX
        while "ready" not in self._state():
            assert self._process.poll() is None, (self._directory / "log").read_text()
            assert time.monotonic() < end_s, "PostgreSQL did not start in time"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop: SIGINT closes connections and ends in order, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S_MAX)
            self._process = None

    def _state(self) -> str:
        lines = (
            (self._data / "postmaster.pid").read_text().splitlines() if (self._data / "postmaster.pid").exists() else []
        )
        return lines[7] if len(lines) > 7 and self._process and lines[0] == str(self._process.pid) else ""

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            capture_output=True,
            user=self._user,
            cwd=self._directory,
            check=False,
        )
        assert not done.returncode, done.stderr.decode()


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def running() -> Iterator[Postgres | str]:
    """A running server; or why there can be none."""
    # Not below pytest's directories: those are closed to the user that the server runs as.
    directory = Path(tempfile.mkdtemp(prefix="qc-pg-"))
    try:
        (directory / "programs").mkdir()
        found, problem = programs(directory / "programs")
        if found is None:
            yield problem
            return
        directory.chmod(0o755)
        (directory / "server").mkdir()
        server = Postgres(found, directory / "server")
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
