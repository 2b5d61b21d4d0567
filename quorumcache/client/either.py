"""What works with either client. It must not know how they differ."""

from __future__ import annotations

from typing import Any, overload

from quorumcache.client.cached import Decorator
from quorumcache.client.client import Client
from quorumcache.client.sync import SyncClient
from quorumcache.client.sync_computed import SyncDecorator


@overload
def cached(client: Client, **options: Any) -> Decorator: ...


@overload
def cached(client: SyncClient, **options: Any) -> SyncDecorator: ...


def cached(client: Client | SyncClient, **options: Any) -> Decorator | SyncDecorator:
    """A decorator: the cache keeps the function's results. `options` are those of `Client.cached`."""
    return client.cached(**options)
