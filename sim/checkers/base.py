"""What checkers are: objects that are told what happens and report what must not. One property per file.

A checker may see everything (true time, all nodes' states): it is no process of the world. It must not change anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from sim.record import Op

if TYPE_CHECKING:
    from sim.processes import NodeProcess

Report = Callable[[str, str], None]


class View(Protocol):
    """What checkers look at. `fail(checker, text)` reports a violation."""

    nodes: list[NodeProcess]
    configuration: Configuration
    #: Public keys of the adversary's writers, and the headers that they signed.
    evil_writers: set[bytes]
    evil_headers: set[bytes]
    #: Writers revoked, and since when (true microseconds) enough nodes know.
    revoked: dict[bytes, int]
    #: All correct nodes can be reached, at once and throughout.
    reachable: bool
    op_time_us: int
    max_skew_us: int

    @property
    def ops(self) -> list[Op]:
        """All operations so far; on long runs, those not forgotten."""

    @property
    def now_us(self) -> int:
        """True time."""

    def fail(self, checker: str, text: str) -> None:
        """Report a violation: whose property, and what happened."""


class Checker:
    """The base: does nothing. Subclasses override what they need to hear; what they do not override costs nothing."""

    name = ""

    def __init__(self, view: View) -> None:
        self.view = view

    def started(self, op: Op) -> None:
        """An operation began."""

    def ended(self, op: Op) -> None:
        """An operation ended (not: was forgotten by a client that crashed)."""

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node answered a commit whose certificates it found valid."""

    def forgetting(self, leaving: list[Op]) -> None:
        """A long run forgets these operations, which still are in the view: judge now what needs them."""

    def finished(self) -> None:
        """The run is over."""

    def fail(self, text: str) -> None:
        """Report a violation."""
        self.view.fail(self.name, text)


def told(op: Op) -> str:
    """An operation in a few words."""
    ended = "still open" if op.end_us is None else f"to {op.end_us % 10**9 / 1000:.3f}"
    what = f"{op.kind} of {op.slot[-8:]!r} {op.value!r}" if op.value else f"{op.kind} of {op.slot[-8:]!r}"
    return (
        f"operation {op.id} (client {op.client}, {what}, {op.start_us % 10**9 / 1000:.3f} {ended} ms: {op.outcome}"
        + (f", stamp {int.from_bytes(op.stamp[:8], 'big') % 10**9 / 1000:.3f}" if op.stamp else "")
        + (f", {op.detail}" if op.detail else "")
        + ")"
    )
