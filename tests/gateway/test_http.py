"""The HTTP gateway (docs/http.md): what it answers, and that each error of the client has its status."""

import io
from collections.abc import AsyncIterator

import aiohttp
import pytest

from quorumcache.client import Client
from quorumcache.gateway.http import HttpGateway
from quorumcache.testing import LocalCluster


@pytest.fixture
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(value_bytes_max=1000, op_time=0.5) as cluster:
        yield cluster


@pytest.fixture
async def http(cluster: LocalCluster) -> AsyncIterator[aiohttp.ClientSession]:
    async with serving(await cluster.client()) as session:
        yield session


class serving:  # noqa: N801
    """A gateway for a client, and an HTTP session with it."""

    def __init__(self, client: Client) -> None:
        self._gateway = HttpGateway(client, host="127.0.0.1", port=0)

    async def __aenter__(self) -> aiohttp.ClientSession:
        await self._gateway.start()
        self._session = aiohttp.ClientSession(f"http://127.0.0.1:{self._gateway.port}")
        return self._session

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._gateway.stop()


async def status_and_error(
    http: aiohttp.ClientSession, method: str, path: str, data: bytes | io.BytesIO | None = None, **headers: str
) -> tuple[int, str]:
    async with http.request(method, path, data=data, headers=headers) as response:
        told = await response.json()
        assert told["detail"]
        return response.status, told["error"]


async def test_put_get_head_and_delete(http: aiohttp.ClientSession) -> None:
    value = bytes(range(256))
    async with http.put("/v1/default/k?ttl=60", data=value) as response:
        assert response.status == 204
    async with http.get("/v1/default/k") as response:
        assert (response.status, await response.read()) == (200, value)
    async with http.head("/v1/default/k") as response:
        assert (response.status, response.headers["Content-Length"]) == (200, "256")
    async with http.delete("/v1/default/k") as response:
        assert response.status == 204
    assert await status_and_error(http, "GET", "/v1/default/k") == (404, "no_such_key")


async def test_a_key_is_all_after_the_namespace_as_bytes(http: aiohttp.ClientSession, cluster: LocalCluster) -> None:
    from yarl import URL

    async with http.put(URL("/v1/default/a%2Fb/%FF%20c", encoded=True), data=b"v") as response:
        assert response.status == 204
    client = await cluster.client()
    assert await client.get(b"a/b/\xff c") == b"v"


async def test_a_listing_gives_keys_as_they_stand_in_an_address(
    http: aiohttp.ClientSession, cluster: LocalCluster
) -> None:
    from yarl import URL

    client = await cluster.client()
    names = [b"a/b/\xff c", b"a/b/\xff%", "a/b/é".encode(), b"b", *(b"n%d" % i for i in range(5))]
    await client.set_many(dict.fromkeys(names, b"v"))
    found: list[str] = []
    cursor = ""
    for _ in range(9):
        async with http.get("/v1/default/?limit=2" + cursor) as response:
            assert response.status == 200
            page = await response.json()
        assert len(page["keys"]) <= 2
        found += page["keys"]
        if page["cursor"] is None:
            break
        cursor = "&cursor=" + page["cursor"]
    assert len(found) == len(names)
    for key in found:
        async with http.get(URL("/v1/default/" + key, encoded=True)) as response:
            assert (response.status, await response.read()) == (200, b"v")
    async with http.get(URL("/v1/default/?prefix=a%2Fb%2F%FF", encoded=True)) as response:
        assert sorted((await response.json())["keys"]) == ["a%2Fb%2F%FF%20c", "a%2Fb%2F%FF%25"]


@pytest.mark.parametrize(
    ("method", "path", "size", "expected"),
    [
        ("GET", "/v1/nosuch/k", None, (400, "misuse")),
        ("GET", "/v1/default/" + "k" * 1025, None, (400, "invalid_key")),
        ("PUT", "/v1/default/k?ttl=soon", 1, (400, "invalid_value")),
        ("PUT", "/v1/default/k?ttl=-1", 1, (400, "invalid_value")),
        ("PUT", "/v1/default/k?ttl=1e300", 1, (400, "invalid_value")),
        ("PUT", "/v1/default/k", 1001, (413, "too_large")),
        ("PUT", "/v1/default/k", (1 << 20) + 1, (413, "too_large")),
        ("POST", "/v1/default/k", 1, (405, "method_not_allowed")),
        ("GET", "/v1/default", None, (404, "no_such_address")),
        ("PUT", "/v1/default/", 1, (405, "method_not_allowed")),
        ("GET", "/v1/nosuch/", None, (400, "misuse")),
        ("GET", "/v1/default/?limit=0", None, (400, "misuse")),
        ("GET", "/v1/default/?limit=-1", None, (400, "misuse")),
        ("GET", "/v1/default/?limit=9999999999999", None, (400, "misuse")),
        ("GET", "/v1/default/?cursor=nonsense", None, (400, "misuse")),
        ("GET", "/v1/default/?perfix=a", None, (400, "misuse")),
        ("GET", "/v1/default/?prefix=" + "k" * 1025, None, (400, "invalid_key")),
        ("GET", "/nosuch", None, (404, "no_such_address")),
    ],
)
async def test_misuse_is_told_apart_from_a_miss(
    http: aiohttp.ClientSession, method: str, path: str, size: int | None, expected: tuple[int, str]
) -> None:
    data = None if size is None else io.BytesIO(bytes(size))
    assert await status_and_error(http, method, path, data) == expected


@pytest.mark.attack
async def test_a_page_whose_name_points_here_is_turned_away(http: aiohttp.ClientSession) -> None:
    assert await status_and_error(http, "GET", "/v1/default/k", Host="evil.example") == (421, "other_host")
    assert await status_and_error(http, "GET", "/healthz", Host="127.0.0.1.evil.example:80") == (421, "other_host")
    for name in ("localhost:1", "127.0.0.1", "[::1]:80"):
        async with http.get("/healthz", headers={"Host": name}) as response:
            assert response.status == 200


@pytest.mark.attack
async def test_a_client_without_a_key_may_not_write(cluster: LocalCluster) -> None:
    async with serving(await cluster.client(None)) as http:
        assert await status_and_error(http, "PUT", "/v1/default/k", b"v") == (403, "permission_denied")
        assert await status_and_error(http, "DELETE", "/v1/default/k") == (403, "permission_denied")
        async with http.get("/v1/status") as response:
            assert (await response.json())["may_write"] is False


async def test_without_a_quorum_it_says_unavailable_and_not_a_miss(
    http: aiohttp.ClientSession, cluster: LocalCluster
) -> None:
    async with http.put("/v1/default/k", data=b"v") as response:
        assert response.status == 204
    await cluster.kill(0)
    async with http.get("/v1/default/k") as response:
        assert (response.status, await response.read()) == (200, b"v")
    await cluster.kill(1)
    assert await status_and_error(http, "GET", "/v1/default/k") == (503, "unavailable")
    assert await status_and_error(http, "PUT", "/v1/default/k", b"v") == (503, "unavailable")
    assert await status_and_error(http, "GET", "/healthz") == (503, "unavailable")
    async with http.get("/v1/status") as response:
        told = await response.json()
    assert [node["connected"] for node in told["nodes"]] == [False, False, True, True]
