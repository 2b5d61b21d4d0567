"""For users' own tests: local clusters, fixtures, and nodes that lie on purpose.

Byzantine behaviours live here only: a shipping node cannot be switched into one by configuration.
"""

from quorumcache.testing.local import LocalCluster

__all__ = ["LocalCluster"]
