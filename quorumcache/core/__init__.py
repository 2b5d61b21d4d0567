"""The protocol as pure state machines: events in, messages and effects out.

Nothing here awaits, reads a clock, draws randomness, or touches files, sockets or third-party cryptography:
the time (integers of microseconds since the epoch), random bytes and signing are arguments.
"""
