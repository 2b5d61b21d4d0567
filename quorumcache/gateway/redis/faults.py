"""What Redis clients are told when something goes wrong: a word that programs know, and a text for people.

Where Redis has an error of its own for it, it is that. It must not know connections.
"""

from __future__ import annotations

from typing import Final

from quorumcache.errors import (
    ConfigurationMismatch,
    InvalidKey,
    InvalidValue,
    OutcomeUnknown,
    PermissionDenied,
    QuorumCacheError,
    Unavailable,
)

_SHOWN_BYTES_MAX: Final = 128


class Fault(Exception):
    """An error reply: `str` is the whole line."""


WRONG_TYPE: Final = "WRONGTYPE Operation against a key holding the wrong kind of value"
SYNTAX: Final = "ERR syntax error"
NOT_AN_INTEGER: Final = "ERR value is not an integer or out of range"
NO_AUTH: Final = "NOAUTH Authentication required."

# The first that fits: class, the word that programs see.
_WORDS: Final[tuple[tuple[type[QuorumCacheError], str], ...]] = (
    (PermissionDenied, "NOPERM"),
    (OutcomeUnknown, "OUTCOMEUNKNOWN"),
    (ConfigurationMismatch, "UNAVAILABLE"),
    (Unavailable, "UNAVAILABLE"),
    (InvalidKey, "ERR"),
    (InvalidValue, "ERR"),
    (QuorumCacheError, "ERR"),
)


def fault_of(error: QuorumCacheError) -> Fault:
    """The error reply for what the client library raised."""
    word = next(word for kind, word in _WORDS if isinstance(error, kind))
    return Fault(f"{word} {error}")


def unknown_command(arguments: list[bytes]) -> Fault:
    """Redis's words for a command that there is not."""
    name = shown(arguments[0])
    beginning = " ".join(f"'{shown(argument)}'" for argument in arguments[1:4])
    return Fault(f"ERR unknown command '{name}', with args beginning with: {beginning}")


def unknown_subcommand(command: str, subcommand: bytes) -> Fault:
    """Redis's words for a subcommand that there is not."""
    return Fault(f"ERR unknown subcommand '{shown(subcommand)}'. Try {command.upper()} HELP.")


def wrong_arguments(name: str) -> Fault:
    """Redis's words for too few or too many arguments."""
    return Fault(f"ERR wrong number of arguments for '{name.lower()}' command")


def shown(data: bytes) -> str:
    """Bytes of theirs as a reply may repeat them."""
    return data[:_SHOWN_BYTES_MAX].decode("ascii", "backslashreplace")
