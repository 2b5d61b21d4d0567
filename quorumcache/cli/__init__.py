"""The command line: one file per command, over the client and node packages.

Knows terminals, exit codes and files named by the user; decides nothing about the protocol.
"""

import sys


def main() -> int:
    """Entry point of the `quorumcache` command; returns the process's exit status."""
    print("quorumcache: no commands are built yet in this version.", file=sys.stderr)
    return 2
