"""What checkers are: objects that are told what happens and report what must not. One property per file.

A checker may see everything (true time, all nodes' states): it is no process of the world. It must not change anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from quorumcache.core import messages as m
from quorumcache.core.config import Configuration
from sim.keyed import named
from sim.record import Op

if TYPE_CHECKING:
    from sim.moving import MovingNode
    from sim.processes import NodeProcess

Report = Callable[[str, str], None]


class View(Protocol):
    """What checkers look at. `fail(checker, text)` reports a violation."""

    nodes: list[NodeProcess]
    configuration: Configuration
    #: Public keys of the adversary's writers, and the headers that they signed.
    evil_writers: set[bytes]
    evil_headers: set[bytes]
    #: Headers of keys with fields that correct clients signed, with the operations that they are for.
    authentic: dict[bytes, list[Op]]
    #: Writers revoked, and since when (true microseconds) enough nodes know.
    revoked: dict[bytes, int]
    #: Writers revoked or retired, and since when (true microseconds) an epoch has begun that says so.
    retired: dict[bytes, int]
    #: Writers that an epoch has barred from writing, or is about to.
    barred: set[bytes]
    #: All correct nodes can be reached, at once and throughout.
    reachable: bool
    #: Nodes compare themselves with their peers, and had room for all that they found.
    compares: bool
    #: No node ever starts without its stored state.
    keeps_state: bool
    #: Nothing happens that excuses the loss of what was acknowledged.
    lossless: bool
    #: Correct nodes answer within the grace time throughout, and none loses anything.
    calm: bool
    #: What this run has switched on.
    features: tuple[str, ...]
    op_time_us: int
    max_skew_us: int

    @property
    def ops(self) -> list[Op]:
        """All operations so far; on long runs, those not forgotten."""

    @property
    def now_us(self) -> int:
        """True time."""

    @property
    def hampered(self) -> bool:
        """Whether a correct node cannot end the recovery of what it joined, as others lost their memory before."""

    def node_at(self, index: int, configuration: Configuration | None = None) -> NodeProcess:
        """The process of the node that has this place in a configuration; in the view's where none is given."""

    def configuration_of(self, client: int) -> Configuration:
        """In which epoch a client is: the one that what it asks now is of."""

    def moves_since(self, client: int, time_us: int) -> int:
        """How many times a client has gone over to another epoch since then."""

    def must_be_whole(self, op: Op) -> bool:
        """Whether nothing that an operation's key may have met excuses a miss, or the end of a generation."""

    def fail(self, checker: str, text: str) -> None:
        """Report a violation: whose property, and what happened."""


class Checker:
    """The base: does nothing. Subclasses override what they need to hear; what they do not override costs nothing."""

    name = ""
    #: Whose operations it hears of: "registers", "keys" (with fields), "exact" (compare-and-set), "" for all of these,
    #: or "primary".
    about = "registers"

    def __init__(self, view: View) -> None:
        self.view = view

    def started(self, op: Op) -> None:
        """An operation began."""

    def ended(self, op: Op) -> None:
        """An operation ended (not: was forgotten by a client that crashed)."""

    def signed(self, header: bytes, ops: list[Op]) -> None:
        """A correct client asked for promises for a header of a key with fields; of `ops`, the last is the one whose
        value it has, and without any it is a base that the core makes by itself."""

    def balloted(self, node: NodeProcess, request: m.Vote | m.Lock, reply: m.BallotReply) -> None:
        """A correct node answered a vote or a lock."""

    def asked(self, request: m.Prepare) -> None:
        """A correct client asked for promises: it signed these headers."""

    def promised(self, node: NodeProcess, request: m.Prepare, reply: m.PrepareReply) -> None:
        """A correct node answered a prepare."""

    def committed(self, node: NodeProcess, request: m.Commit, reply: m.CommitReply) -> None:
        """A correct node answered a commit whose certificates it found valid."""

    def served(self, node: MovingNode, request: m.Request, reply: m.Reply) -> None:
        """Where epochs change: a correct node answered a request, and not with a rejection."""

    def took(self, node: NodeProcess, request: m.Put, reply: m.PutReply) -> None:
        """A node, correct or not, answered a put in mode primary; a liar's reply is what an honest one would be."""

    def forgetting(self, leaving: list[Op]) -> None:
        """A long run forgets these operations, which still are in the view: judge now what needs them."""

    def quieted(self) -> None:
        """Faults have ended for a while, and there is time yet until `healed`. Where there is mode primary only."""

    def healed(self) -> None:
        """Faults have ended, and whatever they began."""

    def finished(self) -> None:
        """The run is over."""

    def fail(self, text: str) -> None:
        """Report a violation."""
        self.view.fail(self.name, text)


def told(op: Op) -> str:
    """An operation in a few words."""
    ended = "still open" if op.end_us is None else f"to {op.end_us % 10**9 / 1000:.3f}"
    where = f"{op.slot[-8:]!r}"
    if op.type:
        where = f"{op.type} {op.base[-7:-2]!r}" + (f" {named(op.slot)}" if op.slot != op.base else "")
    what = f"{op.kind} of {where} {op.value!r}" if op.value else f"{op.kind} of {where}"
    return (
        f"operation {op.id} (client {op.client}, {what}, {op.start_us % 10**9 / 1000:.3f} {ended} ms: {op.outcome}"
        + (f", stamp {int.from_bytes(op.stamp[:8], 'big') % 10**9 / 1000:.3f}" if op.stamp else "")
        + (f", generation {int.from_bytes(op.generation[:8], 'big') % 10**9 / 1000:.3f}" if op.generation else "")
        + (f", {op.detail}" if op.detail else "")
        + ")"
    )
