"""`python -m quorumcache.testing.byzantine_node`: one node process that lies, as node_process.py runs an honest one.

The only way to start such a process. It must not know what the lies are.
"""

from quorumcache.testing.byzantine import LyingNode
from quorumcache.testing.node_process import Job, run


def _made(job: Job) -> LyingNode:
    return LyingNode(job.configuration, job.key, job.behaviour, change_s=job.change_s)


if __name__ == "__main__":
    run(_made)
