"""`get_or_set` and `cached`: one loader at a time, refresh before the end, stale values, hostile cases."""

import asyncio
import math
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from quorumcache.client import Client, computed
from quorumcache.errors import DeadlineExceeded, InvalidKey, InvalidValue, Misuse, Unavailable
from quorumcache.testing import LocalCluster


class Loader:
    """Gives 1, 2, 3, ... as bytes; waits and fails as it is told."""

    def __init__(self) -> None:
        self.calls = self.ended = 0
        self.error: BaseException | None = None
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> bytes:
        self.calls += 1
        mine = self.calls
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        if self.error is not None:
            raise self.error
        return b"%d" % mine


async def _until(condition: Any) -> None:
    """Wait until something is so; the test's own time limit is the bound."""
    while not condition():  # noqa: ASYNC110 - what is waited for is not always an event
        await asyncio.sleep(0.002)


async def _quiet(client: Client) -> None:
    await _until(lambda: not len(client._engine.flights))


# --- what it is for ---


async def test_a_value_is_made_once_and_read_by_any_call(client: Client, cluster: LocalCluster) -> None:
    loader, other = Loader(), await cluster.client()
    assert await client.get_or_set("k", loader, ttl=60) == b"1"
    await _quiet(client)
    assert await client.get_or_set("k", loader, ttl=60) == b"1"
    assert await other.get_or_set("k", loader, ttl=60) == b"1"
    assert await other.get("k") == b"1"
    assert await other.get_many(["k"]) == {"k": b"1"}
    assert 50 < (await client.ttl("k") or 0) <= 60
    assert loader.calls == 1
    await client.set("k", b"set")
    assert await client.get_or_set("k", loader) == b"set"
    await client.delete("k")
    assert await client.get_or_set("k", loader) == b"2"
    await _quiet(client)
    assert await client.ttl("k") == math.inf
    assert await client.touch("k", 30)
    assert 20 < (await client.ttl("k") or 0) <= 30


async def test_a_plain_function_may_be_the_loader(client: Client) -> None:
    assert await client.get_or_set("k", lambda: b"v", 60) == b"v"
    await _quiet(client)
    assert await client.get("k") == b"v"


async def test_a_stampede_runs_one_loader(client: Client) -> None:
    loader = Loader()
    loader.go.clear()
    asking = [asyncio.create_task(client.get_or_set("k", loader, ttl=60)) for _ in range(200)]
    other = asyncio.create_task(client.namespace().get_or_set(b"k", loader, ttl=60))
    await _until(lambda: loader.calls)
    loader.go.set()
    assert set(await asyncio.gather(*asking, other)) == {b"1"}
    assert loader.calls == 1


async def test_none_is_a_value(client: Client) -> None:
    calls = []

    async def load() -> None:
        calls.append(1)

    for _ in range(2):
        assert await client.get_or_set("k", load, ttl=60) is None
        await _quiet(client)
    assert len(calls) == 1
    assert await client.get("k", b"default") is None
    assert await client.get_many(["k"]) == {"k": None}


async def test_bytes_that_look_like_an_envelope_come_back_as_they_are(client: Client) -> None:
    for value in (b"\xc1qc\x01", b"\xc1qc\x01" + bytes(13), b"\xc1qc\x01\x02" + bytes(12) + b"x"):
        await client.set("k", value)
        assert await client.get("k") == value
        await client.set_many({"k": value})
        assert await client.get_many(["k"]) == {"k": value}
        assert await client.touch("k", 60)
        assert await client.get("k") == value
        await client.delete("k")
        assert await client.get_or_set("k", lambda value=value: value, 60) == value  # type: ignore[misc]
        await _quiet(client)
        assert await client.get("k") == value


async def test_a_proof_of_a_computed_value_shows_the_value(client: Client, tmp_path: Path) -> None:
    await client.get_or_set("k", lambda: b"made", 60)
    value, proof = await client.get("k", with_proof=True) or (None, b"")
    assert value == b"made"
    (tmp_path / "k.proof").write_bytes(proof)
    for options in ([], ["--value"]):
        done = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "quorumcache.cli", "verify", str(tmp_path / "k.proof"), *options),
            stdout=asyncio.subprocess.PIPE,
        )
        said, _ = await done.communicate()
        assert done.returncode == 0
        assert (said == b"made") if options else (b"made  4 bytes" in said)


# --- refresh before the end ---


async def test_a_value_is_made_anew_in_the_background_before_its_end(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = Loader()
    assert await client.get_or_set("k", loader, ttl=60) == b"1"
    await _quiet(client)
    monkeypatch.setattr(computed.random, "random", lambda: 0.999)
    loader.go.clear()
    assert await client.get_or_set("k", loader, ttl=60, eagerness=0) == b"1"
    assert loader.calls == 1
    assert await client.get_or_set("k", loader, ttl=60, eagerness=1e9) == b"1"
    assert await client.get_or_set("k", loader, ttl=60, eagerness=1e9) == b"1"
    await _until(lambda: loader.calls == 2)
    loader.go.set()
    await _quiet(client)
    assert await client.get("k") == b"2"
    # A loader that fails then is nobody's error: the value has not ended.
    loader.error = ZeroDivisionError()
    assert await client.get_or_set("k", loader, ttl=60, eagerness=1e9) == b"2"
    await _quiet(client)
    assert (loader.calls, await client.get("k")) == (3, b"2")


# --- stale values ---


async def test_a_stale_value_serves_where_the_loader_fails_or_is_slow(client: Client) -> None:
    loader = Loader()
    options: dict[str, Any] = {"ttl": 0.05, "stale": 60, "eagerness": 0}
    assert await client.get_or_set("k", loader, **options) == b"1"
    await _quiet(client)
    await asyncio.sleep(0.06)
    # For everything else, the value has ended.
    assert await client.get("k") is None
    assert await client.get_many(["k"]) == {}
    assert await client.ttl("k") is None
    loader.error = ConnectionError("the database is away")
    assert await client.get_or_set("k", loader, **options) == b"1"
    with pytest.raises(ConnectionError):
        await client.get_or_set("k", loader, ttl=0.05)
    loader.error = None
    loader.go.clear()
    assert await client.get_or_set("k", loader, timeout=0.5, **options) == b"1"
    # The load goes on, and is shared by who asks next.
    calls = loader.calls
    asking = asyncio.create_task(client.get_or_set("k", loader, **{**options, "ttl": 60}))
    await asyncio.sleep(0.02)
    assert loader.calls == calls
    loader.go.set()
    assert await asking == b"%d" % calls


async def test_misuse_is_not_hidden_behind_a_stale_value(client: Client) -> None:
    options: dict[str, Any] = {"ttl": 0.02, "stale": 60, "eagerness": 0}
    await client.get_or_set("k", lambda: b"v", **options)
    await _quiet(client)
    await asyncio.sleep(0.03)
    with pytest.raises(InvalidValue, match="bytes are expected"):
        await client.get_or_set("k", lambda: "text", **options)


# --- hostile loaders and callers ---


async def test_a_loader_that_raises_raises_for_all_and_nothing_is_kept(client: Client) -> None:
    loader = Loader()
    loader.error = ZeroDivisionError("no value")
    results = await asyncio.gather(*[client.get_or_set("k", loader, 60) for _ in range(5)], return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 5
    assert await client.get("k") is None
    loader.error = asyncio.CancelledError()
    with pytest.raises(Unavailable, match="was cancelled"):
        await client.get_or_set("k", loader, 60)
    loader.error = TimeoutError("of the loader's own")
    with pytest.raises(TimeoutError, match="of the loader's own"):
        await client.get_or_set("k", loader, 60, timeout=30)
    loader.error = None
    assert await client.get_or_set("k", loader, 60) == b"%d" % loader.calls


async def test_a_loader_is_cancelled_when_all_who_wait_are(client: Client) -> None:
    loader = Loader()
    loader.go.clear()
    first, second = (asyncio.create_task(client.get_or_set("k", loader, 60)) for _ in range(2))
    await _until(lambda: loader.calls)
    first.cancel()
    await asyncio.sleep(0.01)
    assert not loader.ended
    second.cancel()
    await _until(lambda: loader.ended)
    assert loader.calls == 1
    assert await asyncio.gather(first, second, return_exceptions=True) != []
    assert first.cancelled()
    assert second.cancelled()


async def test_a_loader_that_asks_for_its_own_value_is_refused(client: Client) -> None:
    @client.cached(ttl=60, key="fib:{number}")
    async def fibonacci(number: int) -> bytes:
        if number < 2:
            return b"%d" % number
        return b"%d" % (int(await fibonacci(number - 1)) + int(await fibonacci(number - 2)))

    assert await fibonacci(20) == b"6765"  # Others may be asked for, as deep as it goes.

    async def selfish() -> Any:
        return await client.get_or_set("k", selfish, 60)

    with pytest.raises(Misuse, match="asks for that value itself"):
        await client.get_or_set("k", selfish, 60)


async def test_a_loader_slower_than_the_deadline(client: Client) -> None:
    loader = Loader()
    loader.go.clear()
    with pytest.raises(DeadlineExceeded, match=r"no value of 'k' within 0\.5 s: the loader takes longer"):
        await client.get_or_set("k", loader, 60, timeout=0.5)
    await _until(lambda: loader.ended)
    # One who has time keeps it going for himself.
    patient = asyncio.create_task(client.get_or_set("k", loader, 60))
    await _until(lambda: loader.calls == 2)
    with pytest.raises(DeadlineExceeded):
        await client.get_or_set("k", loader, 60, timeout=0.01)
    loader.go.set()
    assert await patient == b"2"


async def test_generators_and_values_that_cannot_be_kept_are_refused(client: Client, cluster: LocalCluster) -> None:
    def generate() -> Any:
        yield b"v"

    async def generate_async() -> Any:
        yield b"v"

    for loader in (generate, generate_async):
        with pytest.raises(Misuse, match="gave a generator"):
            await client.get_or_set("k", loader)
    with pytest.raises(InvalidValue, match="at most"):
        await client.get_or_set("k", lambda: bytes(1 << 20))
    for options in ({"ttl": -1}, {"ttl": 1, "stale": -1}, {"stale": 5}, {"timeout": 0}, {"on_unavailable": "panic"}):
        with pytest.raises(Misuse):
            await client.get_or_set("k", lambda: b"v", **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidKey):
        await client.get_or_set("", lambda: b"v")
    with pytest.raises(Misuse, match="no writer's key"):
        await (await cluster.client(None)).get_or_set("k", lambda: b"v")


async def test_a_write_while_the_loader_runs_is_not_overwritten(client: Client) -> None:
    for write in (lambda: client.set("k", b"newer"), lambda: client.set_many({"k": b"newer"})):
        loader = Loader()
        loader.go.clear()
        asking = asyncio.create_task(client.get_or_set("k", loader, 60))
        await _until(lambda loader=loader: loader.calls)
        await write()
        loader.go.set()
        assert await asking == b"1"
        await asyncio.sleep(0.02)
        assert await client.get("k") == b"newer"
        await client.delete("k")


async def test_without_the_cache_the_loader_serves_unless_told_otherwise(failing_cluster: LocalCluster) -> None:
    client = await failing_cluster.client()
    loader = Loader()
    for node in (2, 3):
        await failing_cluster.kill(node)
    assert await client.get_or_set("k", loader, 60) == b"1"
    assert await client.get_or_set("k", loader, 60, cache_timeout=0.001) in (b"1", b"2")
    with pytest.raises(Unavailable):
        await client.get_or_set("k", loader, 60, on_unavailable="raise")
    with pytest.raises(DeadlineExceeded, match="the cache did not answer"):
        await client.get_or_set("k", loader, 60, on_unavailable="raise", cache_timeout=0.001)


async def test_what_cannot_be_understood_is_made_anew(client: Client, cluster: LocalCluster) -> None:
    await client.set("k", b"\xff")
    other = client.namespace(serializer="json")
    assert await other.get_or_set("k", lambda: {"a": 1}, 60) == {"a": 1}
    await _quiet(client)
    assert await other.get("k") == {"a": 1}


async def test_closing_ends_loaders(cluster: LocalCluster) -> None:
    client, loader = await cluster.client(), Loader()
    loader.go.clear()
    asking = asyncio.create_task(client.get_or_set("k", loader, 60))
    await _until(lambda: loader.calls)
    await client.close()
    with pytest.raises(Unavailable):
        await asking
    assert loader.ended == 1
    with pytest.raises(Misuse, match="closed"):
        await client.get_or_set("k", loader, 60)


# --- functions ---


async def test_an_async_function(client: Client) -> None:
    calls: list[Any] = []

    @client.cached(ttl=60)
    async def load(user: int, *, full: bool = False, tags: Any = ()) -> bytes:
        """Loads."""
        calls.append((user, full, tags))
        return b"%d" % user

    assert await load(7) == await load(user=7) == await load(7, full=False) == b"7"
    await _quiet(client)
    assert await load(7, full=True) == b"7"
    await _quiet(client)
    # What cannot be hashed can be a key all the same.
    for tags in ([1, {"a": {2, 3}}], [1, {"a": {3, 2}}]):
        await load(7, tags=tags)
        await _quiet(client)
    assert len(calls) == 3
    assert (load.__name__, load.__doc__) == ("load", "Loads.")
    await load.invalidate(7)
    assert await client.get(load.key_of(7)) is None
    assert await load(7) == b"7"
    assert len(calls) == 4
    with pytest.raises(TypeError, match="missing a required argument"):
        await load()  # type: ignore[call-arg]


async def test_a_function_that_blocks_runs_in_a_thread(client: Client) -> None:
    threads = set()

    @client.cached(ttl=60, key="square:{number}")
    def square(number: int) -> bytes:
        threads.add(threading.current_thread())
        return b"%d" % (number * number)

    assert set(await asyncio.gather(*[square(4) for _ in range(10)])) == {b"16"}
    await _quiet(client)
    assert await client.get("square:4") == b"16"
    assert len(threads) == 1
    assert threading.current_thread() not in threads


async def test_methods(client: Client) -> None:
    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @client.cached(ttl=60, key="{self.name}:{item}")
        async def price(self, item: str) -> bytes:
            return f"{self.name} {item}".encode()

        @client.cached(ttl=60)
        async def unnamed(self, item: str) -> bytes:
            return b""

        @classmethod
        @client.cached(ttl=60)
        async def kinds(cls) -> bytes:
            return cls.__name__.encode()

        @staticmethod
        @client.cached(ttl=60)
        async def currency() -> bytes:
            return b"EUR"

    class Stall(Shop):
        pass

    assert [await Shop(name).price("tea") for name in ("a", "b", "a")] == [b"a tea", b"b tea", b"a tea"]
    await _quiet(client)
    assert await client.get("b:tea") == b"b tea"
    assert Shop("c").price.key_of("tea") == "c:tea"
    await Shop("b").price.invalidate("tea")
    assert await client.get("b:tea") is None
    with pytest.raises(Misuse, match=r'the argument self of .*unnamed cannot be part of a key .* key="name:\{self'):
        await Shop("a").unnamed("tea")
    assert (await Shop.kinds(), await Stall.kinds(), await Shop.currency()) == (b"Shop", b"Stall", b"EUR")


async def test_keys_that_are_made(client: Client) -> None:
    @client.cached(key=lambda first, second=2: f"{first}-{second}")
    async def made(first: int, second: int = 2) -> bytes:
        return b""

    assert made.key_of(1) == "1-2"

    @client.cached(key=lambda *args: 7)  # type: ignore[arg-type, return-value]
    async def odd() -> bytes:
        return b""

    with pytest.raises(InvalidKey, match="returned a int"):
        await odd()

    @client.cached()
    async def none() -> bytes:
        return b""

    assert str(none.key_of()).endswith(".none")

    @client.cached()
    async def one(value: Any) -> bytes:
        return b""

    different = [1, 1.0, True, "1", b"1", [1], [[1]], {1}, {1: None}, {"a": 1}, None, (), "", 1 << 70, Loader]
    assert len({one.key_of(value) for value in different}) == len(different)
    assert one.key_of((1, 2)) == one.key_of([1, 2])
    assert one.key_of({"a": 1, "b": 2}) == one.key_of({"b": 2, "a": 1})
    loop: list[Any] = []
    loop.append(loop)
    for value in (Loader(), object(), loop):
        with pytest.raises(Misuse, match="cannot be part of a key"):
            one.key_of(value)


async def test_what_is_no_function_to_keep_results_of_is_refused(client: Client) -> None:
    def generate() -> Any:
        yield 1

    async def generate_async() -> Any:
        yield 1

    for function in (generate, generate_async):
        with pytest.raises(Misuse, match=r"is a generator: .* Let it return a list"):
            client.cached()(function)
    with pytest.raises(Misuse, match="below @classmethod"):
        client.cached()(classmethod(generate))  # type: ignore[call-overload]
    with pytest.raises(Misuse, match="not for a int"):
        client.cached()(7)  # type: ignore[call-overload]
    with pytest.raises(Misuse, match="which is no parameter"):
        client.cached(key="{user}")(lambda other: b"")
    with pytest.raises(Misuse, match="the same for all arguments"):
        client.cached(key="constant")(lambda other: b"")
    with pytest.raises(Misuse, match="type int"):
        client.cached(key=7)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="ttl"):
        client.cached(ttl=0)
