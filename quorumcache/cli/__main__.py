"""`python -m quorumcache.cli`: the same as the `quorumcache` command."""

import sys

from quorumcache.cli import main

if __name__ == "__main__":
    sys.exit(main())
