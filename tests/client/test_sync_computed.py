"""`get_or_set`, `cached` and `namespace` for blocking clients: loaders run in the threads of those who ask."""

import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quorumcache.client import Client, SyncClient, computed
from quorumcache.core.outcome import Found, Written
from quorumcache.errors import DeadlineExceeded, Misuse

#: What only code in the client's own loop can use.
IN_THE_LOOP = {"connect", "check", "check_key", "check_ttl", "data_of", "time_us"}


def test_the_surface_is_that_of_client() -> None:
    own, others = ({name for name in dir(kind) if not name.startswith("_")} for kind in (SyncClient, Client))
    assert own == others - IN_THE_LOOP
    for name in own:
        blocking, other = getattr(SyncClient, name), getattr(Client, name)
        if callable(blocking):
            assert list(inspect.signature(blocking).parameters) == list(inspect.signature(other).parameters), name


def test_what_a_client_tells_of_itself(sync_client: SyncClient) -> None:
    assert sync_client.unreachable == {}
    assert sync_client.configuration.cluster_id == "local"
    assert len(sync_client.writer or b"") == 32
    assert sync_client.within("default").namespace_name == "default"
    assert isinstance(sync_client.write("told", b"v", ttl=60), Written)
    outcome = sync_client.read("told")
    assert isinstance(outcome, Found)
    assert sync_client.serializer.loads(outcome.salted[16:]) == b"v"


def test_one_loader_runs_for_all_threads_in_one_of_them(sync_client: SyncClient) -> None:
    ran: list[threading.Thread] = []
    go = threading.Event()

    def load() -> bytes:
        ran.append(threading.current_thread())
        go.wait(10)
        return b"v"

    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(sync_client.get_or_set, "stampede", load, 60) for _ in range(20)]
        while not ran:
            time.sleep(0.002)
        go.set()
        assert {one.result(10) for one in asked} == {b"v"}
    assert len(ran) == 1
    assert ran[0] is not sync_client._thread


def test_a_loader_may_use_its_threads_own_things_and_the_client(sync_client: SyncClient) -> None:
    mine = threading.local()
    mine.value = b"of this thread"

    def inner() -> bytes:
        return bytes(mine.value)

    def outer() -> bytes:
        inside: bytes = sync_client.get_or_set("inner", inner, 60)
        return b"outer " + inside

    assert sync_client.get_or_set("outer", outer, 60) == b"outer of this thread"


def test_a_loader_that_fails_or_is_interrupted(sync_client: SyncClient) -> None:
    def fail() -> bytes:
        raise ZeroDivisionError

    def stop() -> bytes:
        raise StopIteration

    def interrupt() -> bytes:
        raise KeyboardInterrupt

    for loader, error in ((fail, ZeroDivisionError), (stop, RuntimeError), (interrupt, KeyboardInterrupt)):
        with pytest.raises(error):
            sync_client.get_or_set("fails", loader, 60)
    assert sync_client.get_or_set("fails", lambda: b"v", 60) == b"v"

    async def load() -> bytes:
        return b"v"

    with pytest.raises(Misuse, match="async loader"):
        sync_client.get_or_set("fails too", load)
    with pytest.raises(Misuse, match="returned an awaitable"):
        sync_client.get_or_set("fails too", lambda: load())
    with pytest.raises(Misuse, match="generator"):
        sync_client.get_or_set("fails too", lambda: (x for x in b"v"))


def test_a_loader_that_asks_for_its_own_value_is_refused(sync_client: SyncClient) -> None:
    def load() -> bytes:
        return bytes(sync_client.get_or_set("itself", load, 60))

    with pytest.raises(Misuse, match="asks for that value itself"):
        sync_client.get_or_set("itself", load, 60)


def test_a_deadline_is_kept_by_those_who_wait_for_anothers_loader(sync_client: SyncClient) -> None:
    begun, go = threading.Event(), threading.Event()

    def load() -> bytes:
        begun.set()
        go.wait(10)
        return b"v"

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sync_client.get_or_set, "slow", load, 60)
        begun.wait(10)
        with pytest.raises(DeadlineExceeded):
            sync_client.get_or_set("slow", load, 60, timeout=0.02)
        go.set()
        assert slow.result(10) == b"v"


def test_who_draws_the_lot_makes_the_value_anew(sync_client: SyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sync_client.set("lot", b"old", ttl=60)
    assert sync_client.get_or_set("lot", lambda: b"new", 60) == b"old"  # Nobody knows how long a set value takes.
    sync_client.delete("lot")
    assert sync_client.get_or_set("lot", lambda: b"1", 60) == b"1"
    while sync_client.get("lot") is None:
        time.sleep(0.002)
    monkeypatch.setattr(computed.random, "random", lambda: 0.999)
    ran: list[threading.Thread] = []

    def load() -> bytes:
        ran.append(threading.current_thread())
        return b"2"

    assert sync_client.get_or_set("lot", load, 60, eagerness=1e9) == b"2"
    assert ran == [threading.current_thread()]


def test_functions_and_methods(sync_client: SyncClient) -> None:
    calls: list[Any] = []

    @sync_client.cached(ttl=60)
    def square(number: int) -> bytes:
        calls.append(number)
        return b"%d" % (number * number)

    class Shop:
        name = "shop"

        @sync_client.cached(ttl=60, key="{self.name}:{item}")
        def price(self, item: str) -> bytes:
            return item.encode()

    assert square(4) == b"16"
    while sync_client.get(square.key_of(4)) is None:
        time.sleep(0.002)
    assert square(number=4) == b"16"
    assert calls == [4]
    square.invalidate(4)
    assert square(4) == b"16"
    assert calls == [4, 4]
    assert Shop().price("tea") == b"tea"
    assert Shop().price.key_of("tea") == "shop:tea"

    async def load() -> bytes:
        return b""

    with pytest.raises(Misuse, match="is async, and this client blocks"):
        sync_client.cached()(load)
    with pytest.raises(Misuse, match="generator"):
        sync_client.cached()(lambda: (yield))


def test_a_namespace_is_a_client_over_the_same_sessions(sync_client: SyncClient) -> None:
    other = sync_client.namespace("default", serializer="json", ttl=60, timeout=5, attempts=2)
    other.set("json", {"a": 1})
    assert other.get("json") == {"a": 1}
    assert sync_client.get("json") == b'{"a":1}'
    assert (sync_client.ttl("json") or 0) <= 60
    with pytest.raises(Misuse, match="no namespace 'none'"):
        sync_client.namespace("none")
