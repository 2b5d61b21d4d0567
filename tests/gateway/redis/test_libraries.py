"""Libraries that cache in Redis, as they are, on a cluster with a lying node: what works of each, and that what needs
compare-and-set is an error that they let through."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ResponseError

from quorumcache.gateway.redis import RedisGateway

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]
NEEDS = "needs compare-and-set"


async def test_django(gateway: RedisGateway) -> None:
    """The cache of django.core.cache.backends.redis, and cached views of a small app."""
    await asyncio.to_thread(_django, gateway.port)


def _django(port: int) -> None:
    import django
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"],
        CACHES={
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": f"redis://127.0.0.1:{port}/1",
                "KEY_PREFIX": "app",
            }
        },
        ROOT_URLCONF=__name__,
        SECRET_KEY="for tests",
        USE_TZ=True,
    )
    django.setup()
    from django.core.cache import cache
    from django.test import Client as Browser

    cache.set("k", {"a": [1, 2]}, timeout=60)
    assert cache.get("k") == {"a": [1, 2]}
    assert cache.get("nothing", "default") == "default"
    assert cache.set_many({"a": 1, "b": "two"}, timeout=60) == []
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": "two"}
    assert cache.set_many({"c": 3}, timeout=None) == []
    assert (cache.has_key("a"), "nothing" in cache) == (True, False)
    assert (cache.delete("k"), cache.delete("k")) == (True, False)
    cache.delete_many(["a", "b"])
    assert cache.get_many(["a", "b", "c"]) == {"c": 3}
    for attempt in (lambda: cache.add("k", 1), lambda: cache.incr("c"), lambda: cache.touch("c", 10)):
        with pytest.raises(ResponseError, match=NEEDS):
            attempt()
    browser = Browser()
    first, second = browser.get("/cached/"), browser.get("/cached/")
    assert first.content == second.content == b"call 1"
    cache.clear()
    assert cache.get("c") is None
    assert browser.get("/cached/").content == b"call 2"


_calls: list[None] = []


def _urls() -> list[Any]:
    from django.http import HttpRequest, HttpResponse
    from django.urls import path
    from django.views.decorators.cache import cache_page

    @cache_page(60)
    def cached(request: HttpRequest) -> HttpResponse:
        _calls.append(None)
        return HttpResponse(f"call {len(_calls)}")

    return [path("cached/", cached)]


def __getattr__(name: str) -> Any:
    # Django looks for this in ROOT_URLCONF, and it cannot be made before Django is configured.
    if name == "urlpatterns":
        return _urls()
    raise AttributeError(name)


async def test_flask_caching(gateway: RedisGateway) -> None:
    await asyncio.to_thread(_flask, gateway.port)


def _flask(port: int) -> None:
    from flask import Flask
    from flask_caching import Cache

    app = Flask(__name__)
    url = f"redis://127.0.0.1:{port}/2"
    cache = Cache(app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": url, "CACHE_KEY_PREFIX": "flask:"})
    made: list[int] = []

    @app.route("/")
    @cache.cached(timeout=60)
    def page() -> str:
        made.append(1)
        return f"page {len(made)}"

    @cache.memoize(60)
    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    browser = app.test_client()
    assert browser.get("/").data == browser.get("/").data == b"page 1"
    with app.app_context():
        assert (double(4), double(4), made) == (8, 8, [1, 4])
        cache.delete_memoized(double, 4)
        assert (double(4), made) == (8, [1, 4, 4])
        assert cache.set("k", [1], timeout=60)
        assert (cache.get("k"), cache.has("k"), cache.get("nothing")) == ([1], True, None)
        assert cache.set_many({"a": 1, "b": 2})
        assert cache.get_many("a", "b", "c") == [1, 2, None]
        assert cache.delete("k")
        assert cache.delete_many("a")
        with pytest.raises(ResponseError, match=NEEDS):
            cache.add("n", 1)
        assert cache.clear()
        assert cache.get("b") is None
        assert browser.get("/").data == b"page 4"


async def test_aiocache(gateway: RedisGateway) -> None:
    from aiocache import Cache, cached
    from aiocache.serializers import PickleSerializer

    options = {"endpoint": "127.0.0.1", "port": gateway.port, "db": 3, "namespace": "aio"}
    async with Cache(Cache.REDIS, serializer=PickleSerializer(), **options) as cache:
        assert await cache.set("k", {"a": 1}, ttl=60)
        assert await cache.set("f", 1, ttl=60.5)
        assert (await cache.get("k"), await cache.get("nothing"), await cache.exists("k")) == ({"a": 1}, None, True)
        assert await cache.multi_set([("a", 1), ("b", 2)], ttl=60)
        assert await cache.multi_set([("c", 3)])
        assert await cache.multi_get(["a", "b", "c", "d"]) == [1, 2, 3, None]
        assert 0 < await cache.raw("ttl", "aio:a") <= 60
        assert await cache.delete("k") == 1
        for attempt in (lambda: cache.add("n", 1), lambda: cache.expire("c", 10)):
            with pytest.raises(ResponseError, match=NEEDS):
                await attempt()
        with pytest.raises(TypeError):  # What aiocache makes of any error of INCRBY.
            await cache.increment("c")
        assert await cache.clear(namespace="aio")
        assert await cache.get("a") is None

    made: list[int] = []

    @cached(ttl=60, cache=Cache.REDIS, serializer=PickleSerializer(), **options)
    async def double(number: int) -> int:
        made.append(number)
        return 2 * number

    assert (await double(4), await double(4), made) == (8, 8, [4])
    await double.cache.close()


async def test_dogpile(gateway: RedisGateway) -> None:
    await asyncio.to_thread(_dogpile, gateway.port)


def _dogpile(port: int) -> None:
    from dogpile.cache import make_region
    from dogpile.cache.api import NO_VALUE

    region = make_region().configure(
        "dogpile.cache.redis",
        expiration_time=60,
        arguments={"host": "127.0.0.1", "port": port, "db": 4, "redis_expiration_time": 90},
    )
    made: list[int] = []

    @region.cache_on_arguments()
    def double(number: int) -> int:
        made.append(number)
        return 2 * number

    assert (double(4), double(4), made) == (8, 8, [4])
    double.invalidate(4)
    assert (double(4), made) == (8, [4, 4])
    region.set_multi({"a": 1, "b": 2})
    assert region.get_multi(["a", "b", "c"]) == [1, 2, NO_VALUE]
    region.delete("a")
    assert region.get("a") is NO_VALUE
    region.delete_multi(["b"])
    assert region.get("b") is NO_VALUE
    region.backend.writer_client.close()

    locking = make_region().configure(
        "dogpile.cache.redis",
        arguments={"host": "127.0.0.1", "port": port, "db": 4, "distributed_lock": True, "thread_local_lock": False},
    )
    with pytest.raises(ResponseError, match=NEEDS):
        locking.get_or_create("locked", lambda: 1)
    locking.backend.writer_client.close()
