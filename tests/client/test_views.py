"""Clients with a namespace, a time to live, a deadline, further attempts, or a trace of their own."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from quorumcache.client import Client, OpenTelemetry
from quorumcache.core.outcome import UNAVAILABLE, UNKNOWN, Failed, Missed, Outcome, Written
from quorumcache.errors import DeadlineExceeded, InvalidValue, Misuse, OutcomeUnknown, Unavailable
from quorumcache.testing import LocalCluster

DOWN = Failed(UNAVAILABLE, "2 of 4 nodes answered")


class Script:
    """In place of a client's way to the nodes: outcomes one after another; a number is seconds to wait."""

    def __init__(self, *outcomes: Outcome | float) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[int] = []

    async def one(self, slot: bytes, *rest: Any) -> Outcome:
        self.calls.append(1)
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, float):
            await asyncio.sleep(outcome)
            outcome = self.outcomes.pop(0)
        return outcome

    async def many(self, slots: list[bytes], writes: Any, part: Any) -> list[Outcome]:
        self.calls.append(len(slots))
        return [self.outcomes.pop(0) for _ in slots]  # type: ignore[misc]


def scripted(client: Client, monkeypatch: pytest.MonkeyPatch, script: Script, **options: Any) -> Client:
    for name, way in (("_read", script.one), ("_put", script.one), ("_many", script.many)):
        monkeypatch.setattr(type(client), name, lambda self, *rest, way=way: way(*rest))
    return client.namespace(**options)


async def test_options_are_inherited_and_can_be_changed(client: Client) -> None:
    hour = client.namespace(ttl=3600)
    await hour.set("k", b"v")
    assert 3000 < (await client.ttl("k") or 0) <= 3600
    await hour.set("k", b"v", ttl=10)
    assert (await client.ttl("k") or 0) <= 10
    strict = hour.namespace("default", serializer="str", timeout=5.0)
    await strict.set("k", "text")
    assert await client.get("k") == b"text"
    assert (await client.ttl("k") or 0) > 3000
    assert await hour.get_or_set("made", lambda: b"v") == b"v"
    for options in ({"ttl": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"attempts": 0}, {"attempts": 1.5}):
        with pytest.raises((Misuse, InvalidValue)):
            client.namespace(**options)
    with pytest.raises(Misuse, match="no namespace 'none'"):
        client.namespace("none")


async def test_what_did_not_happen_is_tried_again_and_nothing_else(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(DOWN, DOWN, Missed(4))
    assert await scripted(client, monkeypatch, script, attempts=3).get("k") is None
    assert len(script.calls) == 3
    script = Script(DOWN, DOWN, DOWN)
    with pytest.raises(Unavailable, match="2 of 4"):
        await scripted(client, monkeypatch, script, attempts=3).set("k", b"v")
    script = Script(Failed(UNKNOWN, "not confirmed"))
    with pytest.raises(OutcomeUnknown):
        await scripted(client, monkeypatch, script, attempts=3).set("k", b"v")
    assert len(script.calls) == 1
    # Of many, only those that need it.
    script = Script(Written(b""), DOWN, Written(b""), DOWN, Written(b""), Written(b""))
    await scripted(client, monkeypatch, script, attempts=3).set_many({"a": b"", "b": b"", "c": b"", "d": b""})
    assert script.calls == [4, 2]


async def test_a_deadline_says_whether_anything_may_have_happened(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DeadlineExceeded, match=r"no result within 0\.02 s"):
        await scripted(client, monkeypatch, Script(30.0, Missed(4)), timeout=0.02).get("k")
    with pytest.raises(OutcomeUnknown, match="may take effect or not"):
        await scripted(client, monkeypatch, Script(30.0, Written(b"")), timeout=0.02).set("k", b"v")
    monkeypatch.setattr("quorumcache.client.views.PAUSE_S_MIN", 30.0)
    monkeypatch.setattr("quorumcache.client.views.PAUSE_S_MAX", 30.0)
    with pytest.raises(DeadlineExceeded, match="2 of 4 nodes answered"):
        await scripted(client, monkeypatch, Script(DOWN), timeout=0.02, attempts=2).set("k", b"v")


async def test_a_client_without_options_is_not_wrapped(client: Client) -> None:
    for plain in (client, client.namespace(ttl=5), client.within("default")):
        assert "_read" not in vars(plain)
        assert "_many" not in vars(plain)


class Told:
    """A trace that writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def operation(self, name: str, namespace: str, keys: int) -> Iterator[Callable[[str], None]]:
        try:
            yield lambda word: self.lines.append(f"{name} {namespace} {keys} {word}")
        except Exception as fault:
            self.lines.append(f"{name} {namespace} {keys} {type(fault).__name__}")
            raise


async def test_a_trace_is_told_of_each_operation(failing_cluster: LocalCluster) -> None:
    client = await failing_cluster.client()
    told = Told()
    traced = client.namespace(trace=told)
    await traced.set("k", b"v")
    await traced.get("k")
    await traced.get_many(["k", "l"])
    await traced.delete_many(["k"])
    await traced.get_or_set("made", lambda: b"v", 60)
    assert told.lines[:4] == [
        "write default 1 written",
        "read default 1 found",
        "read_many default 2 mixed",
        "write_many default 1 written",
    ]
    assert told.lines[4:6] == ["read default 1 missed", "load default 1 loaded"]
    with pytest.raises(ZeroDivisionError):
        await traced.get_or_set("fails", lambda: 1 // 0)
    assert told.lines[-1] == "load default 1 ZeroDivisionError"
    for node in (2, 3):
        await failing_cluster.kill(node)
    with pytest.raises(Unavailable):
        await traced.get("k")
    assert told.lines[-1] == "read default 1 unavailable"


async def test_opentelemetry_gets_spans_without_keys_or_values(client: Client) -> None:
    pytest.importorskip("opentelemetry.sdk", reason='pip install "quorumcache[opentelemetry]" opentelemetry-sdk')
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    traced = client.namespace(trace=OpenTelemetry(provider))
    with provider.get_tracer("application").start_as_current_span("request") as request:
        await traced.set("secret-key", b"secret-value")
        await traced.get_many(["secret-key", "other"])
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert list(spans) == ["quorumcache write", "quorumcache read_many", "request"]
    for name in ("quorumcache write", "quorumcache read_many"):
        assert spans[name].parent == request.get_span_context()
        assert spans[name].kind.name == "CLIENT"
    assert dict(spans["quorumcache read_many"].attributes or {}) == {
        "db.system.name": "quorumcache",
        "db.namespace": "default",
        "db.operation.name": "read_many",
        "db.operation.batch.size": 2,
        "quorumcache.outcome": "mixed",
    }
    assert "secret" not in "".join(span.to_json() for span in spans.values())
    provider.shutdown()


async def test_without_opentelemetry_its_trace_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(Misuse, match=r"quorumcache\[opentelemetry\]"):
        OpenTelemetry()
