"""Blocking loaders for values that are made in the client's loop: each runs in the thread of who asked for it.

So a loader may use what belongs to its thread, as database connections do, and may itself call the client. It must not
know keys or values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from quorumcache.errors import Unavailable

Ask = Callable[[Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]]
Submit = Callable[[Coroutine[Any, Any, Any]], "Future[Any]"]


def ask_and_lend(ask: Ask, loader: Callable[[], Any], submit: Submit) -> Any:
    """Run `ask(loader)` in the loop, where the loader it is given runs in this thread; its result, when it ends.

    A loader cannot be interrupted: where those who wait for it have gone meanwhile, its result is of no use.
    """
    jobs: SimpleQueue[asyncio.Future[Any] | None] = SimpleQueue()

    async def lend() -> Any:
        job: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        jobs.put(job)
        return await job

    asked = submit(ask(lend))
    asked.add_done_callback(lambda _: jobs.put(None))
    try:
        while (job := jobs.get()) is not None:
            _work(job, loader)
        return asked.result()
    except BaseException:
        asked.cancel()
        raise


def _work(job: asyncio.Future[Any], loader: Callable[[], Any]) -> None:
    loop = job.get_loop()
    try:
        value = loader()
    except Exception as fault:  # noqa: BLE001 - it is raised to all who asked, this thread among them
        loop.call_soon_threadsafe(_settle, job, None, fault)
    except BaseException:
        # The thread is being ended, which is nothing that others asked for.
        loop.call_soon_threadsafe(_settle, job, None, Unavailable("the loader's thread was interrupted: try again"))
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
