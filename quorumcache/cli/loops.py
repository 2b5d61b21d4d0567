"""Event loops for commands: uvloop where there is one, and an end that comes in order on SIGINT and SIGTERM.

It must not know any command.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def words_of(problem: OSError) -> str:
    """What the operating system refused, without what asyncio puts around it."""
    return os.strerror(problem.errno) if problem.errno is not None and problem.errno > 0 else str(problem)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on the fastest loop that this platform has."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def end_of_service(*, with_stdin: bool = False) -> asyncio.Event:
    """An event that is set when the process is told to end: by SIGINT or SIGTERM, or, `with_stdin`, by the end of its
    standard input. That is a pipe from a parent then, and ends with the parent however it dies."""
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(end.set))
        else:
            loop.add_signal_handler(number, end.set)
    if with_stdin:
        descriptor = sys.stdin.fileno()

        def read() -> None:
            if not os.read(descriptor, 4096):
                loop.remove_reader(descriptor)
                end.set()

        loop.add_reader(descriptor, read)
    return end
