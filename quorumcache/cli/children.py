"""Child processes that run commands of this program, watched over: started again when they end, ended when we do.

Each has a pipe from us as its standard input and ends when that does, so none outlives us however we die. It must not
know what the commands do.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import typer

from quorumcache.errors import Misuse

#: A child that ends this soon after it started has failed; after so many failures in a row it is given up.
FAILED_S: Final = 5.0
FAILURES_MAX: Final = 3
PAUSE_S: Final = 0.5
STOP_S_MAX: Final = 5.0
LAST_BYTES: Final = 2000


class Children:
    """The child processes of one command; `logs` is the directory for what they say."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._watchers: list[asyncio.Task[None]] = []
        #: Set once a child has failed too often.
        self.troubled = asyncio.Event()
        self.given_up: list[str] = []
        try:
            logs.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise Misuse(f"{logs}: cannot be created: {problem.strerror}") from None

    async def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a command as the child `name`, and keep it running."""
        await self._spawn(name, arguments)
        self._watchers.append(asyncio.create_task(self._watch(name, arguments), name=f"watch over {name}"))

    async def stop(self) -> None:
        """End all children, in order where they can, and wait until they are gone."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(self._ended(process) for process in self._processes.values()))
        self._processes.clear()

    def last_words(self, name: str) -> str:
        """The last line that a child logged."""
        try:
            with self._log(name).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - LAST_BYTES))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError as problem:
            return f"its log cannot be read: {problem.strerror}"
        return lines[-1] if lines else "it said nothing"

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    async def _spawn(self, name: str, arguments: Sequence[str]) -> None:
        with self._log(name).open("ab") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "quorumcache.cli",
                *arguments,
                "--watch-stdin",
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal is for us; we tell the children.
                start_new_session=True,
            )

    async def _watch(self, name: str, arguments: Sequence[str]) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began_s = loop.time()
            code = await self._processes[name].wait()
            failures = failures + 1 if loop.time() - began_s < FAILED_S else 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            if failures >= FAILURES_MAX or code == 2:
                # Exit code 2 is misuse, such as a port that is taken: it would end so each time.
                typer.secho(f"{name} {how} and is not started again: {self.last_words(name)}", fg="red", err=True)
                self.given_up.append(name)
                self.troubled.set()
                return
            why = f": {self.last_words(name)}" if code > 0 else ""
            typer.secho(f"{name} {how} and is started again{why}", fg="yellow", err=True)
            await asyncio.sleep(PAUSE_S)
            await self._spawn(name, arguments)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
