"""How outcomes become errors, and how those of one call on many keys come together. It must not know what the
operations are."""

from __future__ import annotations

from typing import Any, Protocol

from quorumcache.core.outcome import DENIED, MISMATCH, UNKNOWN, Failed, Outcome
from quorumcache.errors import (
    ConfigurationMismatch,
    OutcomeUnknown,
    PermissionDenied,
    QuorumCacheError,
    Unavailable,
)


class Receiver(Protocol):
    """Takes the outcomes of a bulk operation: a future, or what goes on with them at once."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, outcomes: list[Outcome], /) -> None:
        """Take the outcomes. Must not raise."""


class Many:
    """Collects the outcomes of a bulk operation."""

    __slots__ = ("future", "left", "outcomes")

    def __init__(self, future: Receiver, count: int) -> None:
        self.future = future
        self.left = count
        self.outcomes: list[Any] = [None] * count


class Part:
    """One operation of a bulk operation, as a token."""

    __slots__ = ("_index", "_many")

    def __init__(self, many: Many, index: int) -> None:
        self._many = many
        self._index = index

    def done(self) -> bool:
        return self._many.future.done()

    def set_result(self, outcome: Outcome, /) -> None:
        many = self._many
        many.outcomes[self._index] = outcome
        many.left -= 1
        if not many.left:
            many.future.set_result(many.outcomes)


def error_of(outcome: Outcome) -> QuorumCacheError:
    """What to raise for an operation that failed."""
    assert isinstance(outcome, Failed)
    kind = {DENIED: PermissionDenied, UNKNOWN: OutcomeUnknown, MISMATCH: ConfigurationMismatch}.get(
        outcome.kind, Unavailable
    )
    return kind(outcome.detail)
