"""PUBLISH and SUBSCRIBE between the clients of one gateway. It must not know connections beyond their `push`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quorumcache.gateway.redis.encoding import Push
from quorumcache.gateway.redis.globs import Glob

if TYPE_CHECKING:
    from quorumcache.gateway.redis.session import Session


class Channels:
    """Who listens to what."""

    def __init__(self) -> None:
        self.channels: dict[bytes, set[Session]] = {}
        self.patterns: dict[bytes, tuple[Glob, set[Session]]] = {}

    def subscribe(self, session: Session, channel: bytes) -> None:
        """Let a session hear what is published to a channel."""
        session.channels.add(channel)
        self.channels.setdefault(channel, set()).add(session)

    def unsubscribe(self, session: Session, channel: bytes) -> None:
        """The opposite; nothing where it did not listen."""
        session.channels.discard(channel)
        listening = self.channels.get(channel)
        if listening is not None:
            listening.discard(session)
            if not listening:
                del self.channels[channel]

    def subscribe_pattern(self, session: Session, pattern: bytes) -> None:
        """Let a session hear what is published to all channels that a pattern fits."""
        session.patterns.add(pattern)
        if pattern not in self.patterns:
            self.patterns[pattern] = (Glob(pattern), set())
        self.patterns[pattern][1].add(session)

    def unsubscribe_pattern(self, session: Session, pattern: bytes) -> None:
        """The opposite."""
        session.patterns.discard(pattern)
        found = self.patterns.get(pattern)
        if found is not None:
            found[1].discard(session)
            if not found[1]:
                del self.patterns[pattern]

    def publish(self, channel: bytes, message: bytes) -> int:
        """Tell all who listen; how many."""
        told = 0
        for session in list(self.channels.get(channel, ())):
            session.push(Push([b"message", channel, message]))
            told += 1
        for pattern, (glob, sessions) in list(self.patterns.items()):
            if glob.fits(channel):
                for session in list(sessions):
                    session.push(Push([b"pmessage", pattern, channel, message]))
                    told += 1
        return told

    def forget(self, session: Session) -> None:
        """A session has ended."""
        for channel in list(session.channels):
            self.unsubscribe(session, channel)
        for pattern in list(session.patterns):
            self.unsubscribe_pattern(session, pattern)
