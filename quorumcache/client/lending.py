"""Blocking loaders for values that are made in the client's loop: each runs in the thread of who asked for it.

So a loader may use what belongs to its thread, as database connections do, and may itself call the client. It must not
know keys or values.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from quorumcache.errors import Unavailable

Ask = Callable[[Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]]
_Job = tuple["asyncio.Future[Any]", Context]
Submit = Callable[[Coroutine[Any, Any, Any]], "Future[Any]"]


def ask_and_lend(ask: Ask, loader: Callable[[], Any], submit: Submit) -> Any:
    """Run `ask(loader)` in the loop, where the loader it is given runs in this thread; its result, when it ends.

    A loader cannot be interrupted: where those who wait for it have gone meanwhile, its result is of no use.
    """
    jobs: SimpleQueue[_Job | None] = SimpleQueue()
    is_gone = threading.Event()

    async def lend() -> Any:
        if is_gone.is_set():
            raise _interrupted()
        job: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # With the context, in which it is known what the loader is part of.
        jobs.put((job, copy_context()))
        return await job

    asked = submit(ask(lend))
    asked.add_done_callback(lambda _: jobs.put(None))
    try:
        while (job := jobs.get()) is not None:
            _work(job, loader)
        return asked.result()
    except BaseException:
        # Others may wait for what this thread was to load.
        is_gone.set()
        asked.cancel()
        while not jobs.empty():
            left = jobs.get()
            if left is not None:
                left[0].get_loop().call_soon_threadsafe(_settle, left[0], None, _interrupted())
        raise


def _interrupted() -> Unavailable:
    return Unavailable("the loader's thread was interrupted: try again")


def _work(lent: _Job, loader: Callable[[], Any]) -> None:
    job, context = lent
    loop = job.get_loop()
    try:
        value = context.run(loader)
    except Exception as fault:  # noqa: BLE001 - it is raised to all who asked, this thread among them
        loop.call_soon_threadsafe(_settle, job, None, fault)
    except BaseException:
        # The thread is being ended, which is nothing that others asked for.
        loop.call_soon_threadsafe(_settle, job, None, _interrupted())
        raise
    else:
        loop.call_soon_threadsafe(_settle, job, value, None)


def _settle(job: asyncio.Future[Any], value: Any, fault: Exception | None) -> None:
    if job.done():
        return
    if isinstance(fault, StopIteration):
        fault = RuntimeError("the loader raised StopIteration")  # A future cannot hold that.
    if fault is not None:
        job.set_exception(fault)
    else:
        job.set_result(value)
