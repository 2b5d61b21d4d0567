"""How a Redis gateway is set up: where it listens, who may come in, its databases and bounds."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from quorumcache.errors import Misuse

#: Databases 0 to 15, as Redis has them unless configured.
DATABASES: Final = 16


@dataclass(frozen=True)
class DatabaseNames:
    """The namespaces of a database: of its strings (type register, or exact), hashes (map) and sets (set). Without the
    latter two it has strings only, which then cost less; where those are exact, it has all three types in their
    namespace. `shared`: other databases are in the same namespaces."""

    strings: str
    hashes: str | None = None
    sets: str | None = None
    shared: bool = False


@dataclass(frozen=True)
class Settings:
    """`databases`: number -> namespaces; left empty, all 16 share the cluster's first namespace of registers, and its
    first of maps and of sets, told apart by a prefix. `prefixes`: keys of database 0 that begin so are in these
    namespaces instead. `password`: what AUTH asks for. `timeout_s`: what one step of a
    command may take. `idle_s`: how long a connection may say nothing; 0 for ever.

    Raises Misuse for what would let other machines in without password and TLS.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    databases: Mapping[int, DatabaseNames] = field(default_factory=dict)
    prefixes: Mapping[bytes, DatabaseNames] = field(default_factory=dict)
    timeout_s: float = 15.0
    idle_s: float = 0.0
    connections_max: int = 10_000
    #: Requests that are not complete or not run yet, all connections' together.
    requests_bytes_max: int = 256 << 20
    #: What one connection may have waiting for a slow reader.
    output_bytes_max: int = 32 << 20
    #: How long a reader may take none of what waits for it.
    output_s_max: float = 60.0

    def __post_init__(self) -> None:
        if self.password == "":
            raise Misuse("an empty password is none: leave it out, or give one")
        if not is_loopback(self.host) and (self.password is None or self.tls is None):
            raise Misuse(
                f"{self.host} can be reached by other machines: that takes a password and TLS, so that only those who "
                "know the one can read and write with your key, and nobody on the way sees it"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
