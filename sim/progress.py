"""How far a command is: a bar where somebody watches, a plain line every few seconds where stderr goes elsewhere.

Nothing is said of what is over before the first line is due. It must not know what is counted.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")
#: Takes how many are done, and a remark.
Tell = Callable[[int, str], None]
EVERY_S: Final = 5.0


@contextmanager
def shown(what: str, total: int | None, *, every_s: float = EVERY_S) -> Iterator[Tell]:
    """Show how far it is while the block lasts; gives what to call with that. `total` is None where nobody knows."""
    with _bar(what, total) if sys.stderr.isatty() else _lines(what, total, every_s) as tell:
        yield tell


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """The items as they come, and how many of them have come."""
    with shown(what, total) as tell:
        for number, item in enumerate(items, 1):
            tell(number, "")
            yield item


@contextmanager
def _lines(what: str, total: int | None, every_s: float) -> Iterator[Tell]:
    began = time.monotonic()
    state = (0, "")
    over = threading.Event()

    def tell(done: int, remark: str) -> None:
        nonlocal state
        state = done, remark

    def speak() -> None:
        while not over.wait(every_s):
            done, remark = state
            of = f" of {total:,} ({100 * done // max(total, 1)} %)" if total is not None else ""
            extra = f", {remark}" if remark else ""
            line = f"{what}: {done:,}{of}{extra}, {time.monotonic() - began:.0f} s"
            try:
                print(line, file=sys.stderr, flush=True)
            except OSError:
                return  # Whoever read this has enough; the work goes on.

    # A thread, since one item may take minutes.
    thread = threading.Thread(target=speak, name="progress", daemon=True)
    thread.start()
    try:
        yield tell
    finally:
        over.set()
        thread.join()


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    of = f" of {total:,}" if total is not None else ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}{task.fields[of]} {task.fields[remark]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, of=of, remark="")
        yield lambda done, remark: bar.update(task, completed=done, remark=remark)
