"""One tree of errors. The class says whose fault it is and what to do next; the text says what happened.

    QuorumCacheError
      Misuse                   the caller's fault: change the call or the file; never retry as it is
        InvalidKey  InvalidValue  ConfigurationError  KeyFileError  InvalidProof
      PermissionDenied         the cluster works and says no: ask an administrator
      Unavailable              nothing happened: try again later
        DeadlineExceeded       ... nothing happened in time
        ConfigurationMismatch  ... different epochs: load the newer configuration
        QueueFull              ... too much waits for the database already
      CannotOpen               a sealed value that this client's data keys do not open: the text says why
      OutcomeUnknown           a write may or may not have happened: read, then decide
      StoreFailed              the database behind the cache failed; a write to it may or may not have happened
      PeerMisbehaved           a node sent what no correct node sends: `node` says which
        ProtocolViolation  WrongNodeKey
      DiskFailed               a node's disk: make room, or repair it, and start the node again

Belongs here: classes only, which know nothing else of the package. Inside the core a peer's lie is data, not
an exception; these classes are for the edge, where somebody has to act. A bug of our own is an assertion.
"""

from collections.abc import Mapping
from types import MappingProxyType


class QuorumCacheError(Exception):
    """Base of every error that quorumcache raises on purpose.

    `failed`: where one call was about many keys, the error of each key that failed; else empty.
    """

    failed: Mapping[str | bytes, "QuorumCacheError"] = MappingProxyType({})


class Misuse(QuorumCacheError):
    """The caller's fault: the call cannot succeed as it is, and was not sent to any node. Change it."""


class InvalidKey(Misuse):
    """A namespace, key or field that no node would accept: wrong type, empty, or too long. Change the key."""


class InvalidValue(Misuse):
    """A value, TTL or metadata that no node would accept, or that cannot be serialized. Change the value."""


class ConfigurationError(Misuse):
    """A configuration that is malformed, out of bounds, inconsistent, or not signed by enough administrators.

    The text names the field and what is allowed there. Correct the file, or ask an administrator for it.
    """


class KeyFileError(Misuse):
    """A key file that is missing, readable by others, corrupt, or made for another role.

    The text names the file and the command that puts it right. It never holds any part of the key.
    """


class InvalidProof(Misuse):
    """A file that does not prove what it should: damaged, forged, or of a cluster that is not the trusted one.

    Believe nothing in it. Get the proof again from whoever made it, and the cluster's administrators' keys from them.
    """


class PermissionDenied(QuorumCacheError):
    """The configuration, or f+1 nodes, so at least one correct one, say that this key may not do this. Nothing was
    written; the text names the right or the limit.

    Retrying does not help: ask an administrator for the right, or use another key.
    """


class CannotOpen(QuorumCacheError):
    """A value that clients seal, and that this client's data keys do not open: the text says which key is missing, or
    that it was sealed for another place. The value is of no use; reading it again will not help.
    """


class Unavailable(QuorumCacheError):
    """Too few nodes answered, and nothing happened: no write was committed. Safe to try again, later."""


class DeadlineExceeded(Unavailable):
    """Time ran out before anything was committed. Safe to try again, perhaps with a longer timeout."""


class ConfigurationMismatch(Unavailable):
    """This side and the nodes hold different configurations (cluster, epoch or digest). Nothing happened.

    The side with the lower epoch has to load the newer configuration; then try again.
    """


class QueueFull(Unavailable):
    """As much as is allowed already waits to be written, to the database or the cache. Nothing was queued.

    The text says what keeps the rest from leaving. Try again later, or see to the database.
    """


class OutcomeUnknown(QuorumCacheError):
    """A write was sent for commit, and time ran out before q nodes confirmed it: it may take effect or not.

    Read the key to learn which; write again only where writing twice does no harm.
    """


class StoreFailed(QuorumCacheError):
    """The database behind the cache could not be reached, or not used. What was read is unknown; what was written may
    or may not be there.

    See to the database. Stores that keep versions make it safe to write again.
    """


class PeerMisbehaved(QuorumCacheError):
    """A peer did what no correct peer does. One such node changes no result; tell whoever runs it.

    `node`: the name (or, before it is known, the address) of the peer.
    """

    def __init__(self, message: str, *, node: str) -> None:
        super().__init__(message)
        self.node = node

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled by their positional arguments alone, which would lose the keyword `node`
        # on the way between processes.
        return _rebuild, (type(self), str(self), self.node)


class ProtocolViolation(PeerMisbehaved):
    """The peer sent bytes that are no message, or one that the protocol forbids. Its session ends."""


class WrongNodeKey(PeerMisbehaved):
    """The peer at this address lacks the key that the configuration names: another cluster, or an impostor.

    Check the address in the configuration first; then who answers there.
    """


def _rebuild(kind: type[PeerMisbehaved], message: str, node: str) -> PeerMisbehaved:
    return kind(message, node=node)


class DiskFailed(QuorumCacheError):
    """A node's data directory cannot be used: it is not writable, its disk is full, or fails.

    The text names the directory and what the system said. Put that right and start the node again.
    """
