"""The commands, one file per group. Importing a file puts its commands into the table (gateway/redis/table.py)."""

from typing import Final

from quorumcache.gateway.redis.commands import (
    connection,
    exact,
    hashes,
    info,
    keys,
    listing,
    members,
    pubsub,
    renaming,
    scripts,
    sets,
    strings,
    transactions,
)

LOADED: Final = (
    *(connection, exact, hashes, info, keys, listing, members),
    *(pubsub, renaming, scripts, sets, strings, transactions),
)
