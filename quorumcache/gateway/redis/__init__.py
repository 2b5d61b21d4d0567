"""The Redis protocol on a local port, over the client library (docs/redis.md)."""

from quorumcache.gateway.redis.server import RedisGateway
from quorumcache.gateway.redis.settings import Settings

__all__ = ["RedisGateway", "Settings"]
