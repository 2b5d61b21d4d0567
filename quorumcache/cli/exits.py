"""Exit codes, and errors in words: what happened, whose fault it is, what to do next.

Every command ends with one of these codes; docs/operations.md lists them. It must not know any command.
"""

from __future__ import annotations

from typing import Final

import typer

from quorumcache import errors

OK: Final = 0
NOT_FOUND: Final = 1
MISUSE: Final = 2
UNAVAILABLE: Final = 3
UNKNOWN: Final = 4
DENIED: Final = 5
PEER: Final = 6
INVALID: Final = 7
OTHER: Final = 8
INTERRUPTED: Final = 130

EPILOG: Final = (
    "Exit codes: 0 done, 1 no such key, 2 misuse (change the call), 3 unavailable (nothing happened: try again), "
    "4 outcome unknown (read before you write again), 5 permission denied, 6 a node misbehaved, "
    "7 a proof or a check failed."
)

# The first that fits. (class, exit code, headline, what to do next)
_TABLE: Final[tuple[tuple[type[errors.QuorumCacheError], int, str, str], ...]] = (
    (errors.InvalidProof, INVALID, "Not a valid proof", "Believe nothing in it; get the proof again from its source."),
    (errors.Misuse, MISUSE, "Error", ""),
    (errors.PermissionDenied, DENIED, "Permission denied", "Ask an administrator for the right, or use another key."),
    (
        errors.ConfigurationMismatch,
        UNAVAILABLE,
        "Another configuration",
        "Nothing happened. Get the cluster's current cluster.toml and try again.",
    ),
    (
        errors.Unavailable,
        UNAVAILABLE,
        "Unavailable",
        "Nothing happened, so it is safe to try again. Which nodes answer? quorumcache status",
    ),
    (
        errors.OutcomeUnknown,
        UNKNOWN,
        "Outcome unknown",
        "The write may or may not have happened: read the key, then decide.",
    ),
    (errors.PeerMisbehaved, PEER, "A node misbehaved", "Check the node's address and key, and tell who runs it."),
    (errors.QuorumCacheError, OTHER, "Error", ""),
)


def report(error: errors.QuorumCacheError) -> int:
    """Print an error to standard error; returns the exit code that goes with it."""
    _, code, headline, next_ = next(row for row in _TABLE if isinstance(error, row[0]))
    node = f" ({error.node})" if isinstance(error, errors.PeerMisbehaved) else ""
    typer.secho(f"{headline}{node}: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(str(error), err=True)
    if next_:
        typer.secho(next_, dim=True, err=True)
    return code
