"""In which order commands of one connection run, and who a gateway may listen for: rules that need no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.client import Client
from quorumcache.client.mixed import ChangeSlot, ReadSlot
from quorumcache.core.model import PUT, encode_header, stamp_of
from quorumcache.core.outcome import (
    DENIED,
    UNAVAILABLE,
    UNKNOWN,
    Decided,
    Failed,
    Found,
    Missed,
    Outcome,
    Unchanged,
    Written,
)
from quorumcache.errors import Misuse
from quorumcache.gateway.redis import Settings, gathering
from quorumcache.gateway.redis.commands.strings import write_strings
from quorumcache.gateway.redis.database import check_written
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.gathering import Lane
from quorumcache.gateway.redis.running import _levels
from quorumcache.gateway.redis.table import COMMANDS, Call, Steps, find


class _Place(NamedTuple):
    number: int


KEYED = (b"GET", b"SET", b"DEL", b"HSET", b"MGET")


@given(st.lists(st.tuples(st.sampled_from(KEYED), st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 1)), max_size=12))
def test_commands_of_one_key_run_one_after_the_other_unless_both_read(given: list[tuple[bytes, bytes, int]]) -> None:
    calls = []
    for number, (name, key, database) in enumerate(given):
        command = find(name)
        assert command is not None
        calls.append(
            (number, Call(command, [name, key, b"x", b"y"][: 2 if name != b"HSET" else 4], None, _Place(database)))
        )  # type: ignore[arg-type]
    level = {number: i for i, turn in enumerate(_levels(calls)) for number, _ in turn}
    assert sorted(level) == list(range(len(given)))
    for j, (name, key, database) in enumerate(given):
        before = [
            i
            for i, (other, its_key, its_database) in enumerate(given[:j])
            if (its_key, its_database) == (key, database) and not {other, name} <= {b"GET", b"MGET"}
        ]
        # In the first turn that it can be in: no later than after the latest of those that it has to follow.
        assert level[j] == max((level[i] + 1 for i in before), default=0)


def test_other_machines_need_a_password_and_tls() -> None:
    for settings in ({}, {"password": "secret"}, {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}):
        for host in ("0.0.0.0", "example.org", "::", "192.0.2.1"):
            with pytest.raises(Misuse, match="a password and TLS"):
                Settings(host=host, **settings)  # type: ignore[arg-type]
    for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1"):
        Settings(host=host)
    with pytest.raises(Misuse, match="empty password"):
        Settings(password="")


class _Nodes:
    """In the place of a cluster: batches that wait until they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[bytes] = []
        self.way = asyncio.Event()
        monkeypatch.setattr(gathering, "run_mixed", self._run)

    async def _run(self, client: Client, parts: Sequence[ReadSlot]) -> list[Any]:
        self.asked += [part.slot for part in parts]
        await self.way.wait()
        return [Missed(4) for _ in parts]


def _ask(lane: Lane, slot: bytes) -> asyncio.Task[Any]:
    return asyncio.create_task(lane.run([ReadSlot(slot)]))


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_comes_while_a_batch_is_on_its_way_leaves_together_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes, lane = _Nodes(monkeypatch), Lane(cast(Client, None), 3600.0)
    tasks = [_ask(lane, b"a"), _ask(lane, b"b")]
    await _turns()
    assert nodes.asked == [b"a", b"b"]
    tasks += [_ask(lane, b"c"), _ask(lane, b"d")]
    await _turns()
    given_up = _ask(lane, b"given up")
    await _turns()
    given_up.cancel()
    assert nodes.asked == [b"a", b"b"]
    nodes.way.set()
    assert await asyncio.gather(*tasks) == [[Missed(4)]] * 4
    assert nodes.asked == [b"a", b"b", b"c", b"d"]
    assert await _ask(lane, b"e") == [Missed(4)]


async def test_a_batch_that_does_not_come_back_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, lane = _Nodes(monkeypatch), Lane(cast(Client, None), 0.001)
    first = _ask(lane, b"first")
    await _turns()
    others = [_ask(lane, b"other") for _ in range(3)]
    for _ in range(500):
        if len(nodes.asked) == 4:
            break
        await asyncio.sleep(0.01)
    assert nodes.asked == [b"first", b"other", b"other", b"other"]
    nodes.way.set()
    await asyncio.gather(first, *others)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([UNAVAILABLE], "UNAVAILABLE why"),
        ([DENIED], "NOPERM why"),
        ([UNAVAILABLE, UNAVAILABLE], "UNAVAILABLE 2 of 2 writes failed, one of them so: why"),
        ([UNAVAILABLE, UNKNOWN], "OUTCOMEUNKNOWN 2 of 2 writes failed, one of them so: why"),
        (["", UNAVAILABLE, ""], "OUTCOMEUNKNOWN 1 of 3 writes failed, one of them so: why"),
    ],
)
def test_an_error_never_says_that_nothing_was_written_where_something_was(kinds: list[str], said: str) -> None:
    outcomes: list[Outcome] = [Failed(kind, "why") if kind else Written(b"") for kind in kinds]
    with pytest.raises(Fault) as caught:
        check_written(outcomes)
    assert str(caught.value) == said
    check_written([Written(b"")])


class _Database:
    """A database of strings and hashes whose nodes fail between two steps."""

    number = 0
    collections: ClassVar[dict[str, None]] = {"hash": None}
    strings = None

    def lasting(self) -> int:
        return 0

    def put_string(self, key: bytes, value: bytes, expires_at_us: int) -> ReadSlot:
        return ReadSlot(key)

    def probes(self, key: bytes) -> list[ReadSlot]:
        return [ReadSlot(key)]


def test_a_value_that_is_written_is_never_said_not_to_be() -> None:
    call = Call(cast(Any, None), [], cast(Any, None), cast(Any, _Database()))
    steps = write_strings(call, {b"k": b"v"}, None)
    next(steps)
    with pytest.raises(Fault, match=r"^OUTCOMEUNKNOWN written, but"):
        steps.send([Written(b""), Failed(UNAVAILABLE, "why")])


def test_renaming_what_changes_meanwhile() -> None:
    """The new key has what the old one had when it went; and where another wrote to it, that is said."""
    database = SimpleNamespace(is_exact=True, string_slot=lambda key: key)
    call = Call(COMMANDS[b"rename"], [b"RENAME", b"old", b"new"], None, database)  # type: ignore[arg-type]
    slots = {b"old": b"1", b"new": b"x"}

    def run(steps: Steps, *between: Callable[[], None]) -> None:
        waiting, outcomes = list(between), None
        with contextlib.suppress(StopIteration):
            while True:
                (operation,) = steps.send(outcomes)
                if waiting:
                    waiting.pop(0)()
                value = slots.get(operation.slot)
                header = b"" if value is None else _header(operation.slot, value)
                if isinstance(operation, ReadSlot):
                    outcomes = [Found(header, bytes(16) + value)] if value is not None else [Missed(3)]
                    continue
                assert isinstance(operation, ChangeSlot)
                change = operation.change(header, bytes(16) + (value or b""), 5)
                if change is None:
                    outcomes = [Unchanged(header, b"")]
                    continue
                slots.pop(operation.slot, None)
                if change.kind == PUT:
                    slots[operation.slot] = change.value
                outcomes = [Decided(header, b"")]

    def nothing() -> None:
        pass

    run(call.command.run(call), nothing, nothing, lambda: slots.update({b"old": b"2"}))
    assert slots == {b"new": b"2"}
    slots.update({b"old": b"1"})
    with pytest.raises(Fault, match=r"OUTCOMEUNKNOWN the new key is written, .* written by somebody else"):
        run(call.command.run(call), nothing, nothing, lambda: slots.update({b"old": b"3", b"new": b"theirs"}))
    assert slots == {b"old": b"3", b"new": b"theirs"}


def _header(slot: bytes, value: bytes) -> bytes:
    return encode_header(slot, stamp_of(int.from_bytes(value[:1], "big"), bytes(32), 0), PUT, bytes(32), 1, 0, b"")
