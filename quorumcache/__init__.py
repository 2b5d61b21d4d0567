"""quorumcache: a distributed cache that stays right while up to f of 3f+1 nodes lie.

Only the public names belong here, and nothing inside the package imports from this module.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
