"""A running node: core.node driven by a clock and sockets."""

from quorumcache.node.running import RunningNode

__all__ = ["RunningNode"]
