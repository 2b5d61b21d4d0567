"""Doors to a cluster for programs that do not speak its protocol, each beside a client that they trust.

A gateway runs on its callers' side: it checks what nodes say, so it must not be a node.
"""
