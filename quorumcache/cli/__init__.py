"""The command line: one file per command, over the client and node packages.

Knows terminals, exit codes and files named by the user; decides nothing about the protocol. Importing a command must
stay cheap, for help imports all of them: what a command needs, it imports when it runs.
"""

import sys


def main() -> int:
    """Entry point of the `quorumcache` command; returns the process's exit status."""
    try:
        from quorumcache.cli.app import run
    except ModuleNotFoundError as missing:
        if missing.name not in ("typer", "rich"):
            raise
        print(f"quorumcache: the command line needs {missing.name}: pip install 'quorumcache[cli]'", file=sys.stderr)
        return 2
    return run()
