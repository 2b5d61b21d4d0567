"""Bytes: the encoding of messages, and keys with domain-tagged signatures.

Knows core's messages; knows nothing of sockets, sessions or who is talking.
"""
