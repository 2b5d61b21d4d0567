"""The command table: what each command is called, takes, and does. COMMAND, the checks and the order of pipelines all
go by it. It must not know what the commands do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from quorumcache.client.mixed import Operation
from quorumcache.core.outcome import Outcome
from quorumcache.gateway.redis.faults import Fault, wrong_arguments

if TYPE_CHECKING:
    from quorumcache.gateway.redis.database import Database
    from quorumcache.gateway.redis.session import Session

#: A command as steps: each yields operations and is given their outcomes; what it returns is the reply.
Steps = Generator[Sequence[Operation], list[Outcome], Any]


class Call(NamedTuple):
    """One command of one connection, about to run."""

    command: Command
    arguments: list[bytes]
    session: Session
    database: Database
    #: Of a plain write: key -> time to expire (milliseconds since the epoch) that an EXPIRE behind it gives.
    deadlines: dict[bytes, int] | None = None


@dataclass(frozen=True)
class Command:
    """`arity`: how many words, its name among them; below 0: at least so many. `keys`: the first key's place, the
    last's (below 0: from the end), and the step; (0, 0, 0) for none. `fields`: likewise, of fields or members, for a
    command of one key that touches only those."""

    name: str
    arity: int
    flags: tuple[str, ...]
    keys: tuple[int, int, int]
    group: str
    summary: str
    run: Callable[[Call], Any]
    #: "steps": a generator of operations; "alone": a coroutine, after all before it and before all after it; "at once":
    #: a plain function, which neither waits nor is waited for.
    kind: str
    fields: tuple[int, int, int]

    @property
    def is_write(self) -> bool:
        """Whether it changes the keys it names."""
        return "write" in self.flags

    def keys_of(self, arguments: list[bytes]) -> list[bytes]:
        """The keys that a command names."""
        return _some(arguments, self.keys)

    def fields_of(self, arguments: list[bytes]) -> list[bytes]:
        """The fields or members that a command names, where it touches only those; else none."""
        return _some(arguments, self.fields)

    def check(self, arguments: list[bytes]) -> Fault | None:
        """The error for a wrong number of words; None where it is right."""
        given = len(arguments)
        if given == self.arity or (self.arity < 0 and given >= -self.arity):
            return None
        return wrong_arguments(self.name)


def _some(words: list[bytes], places: tuple[int, int, int]) -> list[bytes]:
    first, last, step = places
    return words[first : (last + 1 or None) if last < 0 else last + 1 : step] if first else []


#: Lower-case name -> command. Filled where the commands are.
COMMANDS: Final[dict[bytes, Command]] = {}

NO_KEYS: Final = (0, 0, 0)
ONE_KEY: Final = (1, 1, 1)
ALL_KEYS: Final = (1, -1, 1)
ONE_FIELD: Final = (2, 2, 1)
ALL_FIELDS: Final = (2, -1, 1)
#: Of fields and their values.
PAIRS: Final = (2, -1, 2)


def command(
    name: str,
    arity: int,
    flags: str,
    keys: tuple[int, int, int] = NO_KEYS,
    *,
    group: str,
    summary: str,
    fields: tuple[int, int, int] = NO_KEYS,
) -> Callable[[Callable[[Call], Any]], Callable[[Call], Any]]:
    """Put what is decorated into the table."""

    def put(run: Callable[[Call], Any]) -> Callable[[Call], Any]:
        if inspect.isgeneratorfunction(run):
            kind = "steps"
        else:
            kind = "alone" if inspect.iscoroutinefunction(run) else "at once"
        COMMANDS[name.encode()] = Command(name, arity, tuple(flags.split()), keys, group, summary, run, kind, fields)
        return run

    return put


def find(word: bytes) -> Command | None:
    """The command of that name, however it is written."""
    return COMMANDS.get(word) or COMMANDS.get(word.lower())
