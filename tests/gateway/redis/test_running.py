"""In which order commands of one connection run, and who a gateway may listen for: rules that need no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.client import Client
from quorumcache.client.bulk import Receiver
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
from quorumcache.errors import Misuse, QuorumCacheError
from quorumcache.gateway.redis import Settings, running
from quorumcache.gateway.redis.commands.strings import write_strings
from quorumcache.gateway.redis.database import check_written
from quorumcache.gateway.redis.deadlines import Deadlines
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.ordering import turns_of
from quorumcache.gateway.redis.running import Running
from quorumcache.gateway.redis.table import COMMANDS, Call, Steps, find


class _Clock:
    """A loop's clock, set by hand."""

    def __init__(self) -> None:
        self.now_s = 5.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now_s + delay_s, call))

    def go_on(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.timers and min(self.timers)[0] <= end_s:
            timer = min(self.timers)
            self.timers.remove(timer)
            self.now_s = timer[0]
            timer[1]()
        self.now_s = end_s


class _Place(NamedTuple):
    number: int
    is_exact: bool = False


#: Commands with the words behind their key; those with a field or member touch nothing else.
WHOLE = ((b"GET",), (b"SET", b"v"), (b"DEL",), (b"MGET",), (b"HGETALL",), (b"SMEMBERS",))
FIELDS = {
    "hash": (
        (b"HSET", b"f", b"v"),
        (b"HSET", b"g", b"v", b"f", b"v"),
        (b"HGET", b"f"),
        (b"HMGET", b"f", b"g"),
        (b"HDEL", b"g"),
    ),
    "set": ((b"SADD", b"f"), (b"SREM", b"f", b"g"), (b"SISMEMBER", b"g")),
}


@given(st.data(), st.sampled_from([("hash",), ("set",), ("hash", "set")]), st.booleans())
def test_commands_follow_those_of_their_key_unless_both_read_or_are_of_different_fields(
    data: st.DataObject, groups: tuple[str, ...], is_exact: bool
) -> None:
    commands = [*WHOLE, *(each for group in groups for each in FIELDS[group])]
    given = data.draw(
        st.lists(st.tuples(st.sampled_from(commands), st.sampled_from([b"a", b"b"]), st.integers(0, 1)), max_size=12)
    )
    calls = []
    for number, ((name, *words), key, database) in enumerate(given):
        command = find(name)
        assert command is not None
        place = cast(Any, _Place(database, is_exact))
        calls.append((number, Call(command, [name, key, *words], cast(Any, None), place)))
    turn = {number: i for i, turn in enumerate(turns_of(calls)) for number, _ in turn}
    assert sorted(turn) == list(range(len(given)))

    def conflict(first: Call, second: Call) -> bool:
        if (first.database, first.arguments[1]) != (second.database, second.arguments[1]):
            return False
        if not (first.command.is_write or second.command.is_write):
            return False
        ours, theirs = (set(each.command.fields_of(each.arguments)) for each in (first, second))
        if is_exact or first.command.group != second.command.group or not (ours and theirs):
            return True
        return bool(ours & theirs)

    for j, after in calls:
        before = [turn[i] for i, call in calls[:j] if conflict(call, after)]
        # No sooner than after the latest of those that it has to follow; and at once then, where keys have one type.
        assert turn[j] > max(before, default=-1)
        assert len(groups) > 1 or turn[j] == max(before, default=-1) + 1


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
    """In the place of a cluster: what is asked of it waits until it is told to answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[bytes]] = []
        self.receivers: list[Receiver] = []
        self.fault: QuorumCacheError | None = None
        self.is_full = False
        self.place = asyncio.Event()
        monkeypatch.setattr(running, "begin_mixed", self._begin)
        monkeypatch.setattr(running, "run_mixed", self._run)

    def _begin(self, client: Client, parts: Sequence[ReadSlot], receiver: Receiver) -> bool:
        if self.fault is not None:
            raise self.fault
        if self.is_full:
            return False
        self.asked.append([part.slot for part in parts])
        self.receivers.append(receiver)
        return True

    async def _run(self, client: Client, parts: Sequence[ReadSlot]) -> list[Any]:
        await self.place.wait()
        if self.fault is not None:
            raise self.fault
        return [Missed(4) for _ in parts]

    def answer(self, at: int) -> None:
        if not self.receivers[at].done():
            self.receivers[at].set_result([Missed(4) for _ in self.asked[at]])


class _Commands:
    """Commands of one connection, run against `_Nodes`."""

    def __init__(self, deadlines: Deadlines, *runs: Callable[[Call], Steps]) -> None:
        self.ends: list[Exception | None] = []
        self.replies: list[Any] = [None] * len(runs)
        calls = []
        for number, run in enumerate(runs):
            command = replace(COMMANDS[b"get"], run=run)
            calls.append((number, Call(command, [b"GET", b"k%d" % number], cast(Any, None), cast(Any, _Place(0)))))
        self.running = Running(cast(Client, None), deadlines, calls, self.replies, self.ends.append)
        self.running.start()


def _reading(*slots: bytes) -> Callable[[Call], Steps]:
    """One step per slot; the reply is how many there were."""

    def run(call: Call) -> Steps:
        for slot in slots:
            yield [ReadSlot(slot)]
        return len(slots)

    return run


async def _deadlines(timeout_s: float = 3600.0) -> Deadlines:
    return Deadlines(asyncio.get_running_loop(), timeout_s)


async def test_commands_go_forward_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()
    commands = _Commands(deadlines, _reading(b"a", b"b"), _reading(), _reading(b"c"), _reading(b"d", b"e", b"f"))
    assert nodes.asked == [[b"a", b"c", b"d"]]
    nodes.answer(0)
    assert nodes.asked[1:] == [[b"b", b"e"]]
    nodes.answer(1)
    assert commands.replies == [2, 0, 1, None]
    assert commands.ends == []
    nodes.answer(2)
    assert commands.replies == [2, 0, 1, 3]
    assert commands.ends == [None]
    assert len(deadlines) == 0


async def test_many_operations_of_a_step_leave_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()
    brought: list[int] = []

    def run(call: Call) -> Steps:
        brought.append(len((yield [ReadSlot(b"%d" % i) for i in range(2500)])))
        return "OK"

    commands = _Commands(deadlines, run)
    for at, count in enumerate((1024, 1024, 452)):
        assert len(nodes.asked) == at + 1
        assert len(nodes.asked[at]) == count
        nodes.answer(at)
    assert brought == [2500]
    assert commands.replies == ["OK"]


async def test_a_command_whose_time_is_over_ends_and_what_comes_late_is_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock()
    nodes, deadlines = _Nodes(monkeypatch), Deadlines(cast(asyncio.AbstractEventLoop, clock), 0.01)
    commands = _Commands(deadlines, _reading(b"a", b"b"), _reading(b"c"))
    clock.go_on(0.02)
    assert {str(reply) for reply in commands.replies} == {"UNAVAILABLE no result within 0.01 s: too few nodes answered"}
    nodes.answer(0)
    assert nodes.asked == [[b"a", b"c"]]
    assert commands.ends == [None]
    assert len(deadlines) == 0


async def test_each_step_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps, each of which takes six tenths of the time there is for one."""
    clock = _Clock()
    nodes, deadlines = _Nodes(monkeypatch), Deadlines(cast(asyncio.AbstractEventLoop, clock), 1.0)
    commands = _Commands(deadlines, _reading(*(b"%d" % i for i in range(10))))
    for at in range(10):
        clock.go_on(0.6)
        nodes.answer(at)
    assert commands.replies == [10]
    late = _Commands(deadlines, _reading(b"late"))
    clock.go_on(0.99)
    assert late.ends == []
    clock.go_on(0.02)
    assert late.ends == [None]
    clock.go_on(10.0)
    assert clock.timers == []


async def test_commands_behind_one_whose_time_is_over_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    nodes, deadlines = _Nodes(monkeypatch), Deadlines(cast(asyncio.AbstractEventLoop, clock), 1.0)
    ends: list[Exception | None] = []
    replies: list[Any] = [None, None]
    calls = []
    for number, name in enumerate((b"set", b"get")):
        command = replace(COMMANDS[name], run=_reading(b"%d" % number))
        calls.append((number, Call(command, [name, b"k", b"v"], cast(Any, None), cast(Any, _Place(0)))))
    Running(cast(Client, None), deadlines, calls, replies, ends.append).start()
    assert nodes.asked == [[b"0"]]
    clock.go_on(1.01)
    assert nodes.asked == [[b"0"], [b"1"]]
    nodes.answer(1)
    assert str(replies[0]).startswith("UNAVAILABLE")
    assert replies[1] == 1
    assert ends == [None]


async def test_a_client_that_can_do_nothing_answers_all_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are: not one call within another."""
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()
    nodes.fault = Misuse("the client is closed")
    count = 5000
    calls = []
    replies: list[Any] = [None] * count
    ends: list[Exception | None] = []
    for number in range(count):
        command = replace(COMMANDS[b"append"], run=_reading(b"a"))
        calls.append((number, Call(command, [b"APPEND", b"k", b"v"], cast(Any, None), cast(Any, _Place(0)))))
    Running(cast(Client, None), deadlines, calls, replies, ends.append).start()
    assert ends == [None]
    assert all("the client is closed" in str(reply) for reply in replies)
    assert len(deadlines) == 0


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fails", [False, True])
async def test_where_there_are_no_places_commands_wait_for_them(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()
    nodes.is_full = True
    commands = _Commands(deadlines, _reading(b"a"))
    await _turns()
    assert commands.ends == []
    if fails:
        nodes.fault = Misuse("the client is closed")
    nodes.place.set()
    await _turns()
    assert commands.ends == [None]
    assert "the client is closed" in str(commands.replies[0]) if fails else commands.replies == [1]


async def test_who_leaves_is_told_nothing_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()
    closed: list[bool] = []

    def run(call: Call) -> Steps:
        try:
            yield [ReadSlot(b"a")]
        finally:
            closed.append(True)
        return 1

    commands = _Commands(deadlines, run)
    commands.running.stop()
    assert closed == [True]
    assert len(deadlines) == 0
    assert nodes.receivers[0].done()
    nodes.answer(0)
    assert commands.ends == []


async def test_a_fault_of_ours_ends_the_commands_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, deadlines = _Nodes(monkeypatch), await _deadlines()

    def run(call: Call) -> Steps:
        yield [ReadSlot(b"a")]
        raise ZeroDivisionError

    commands = _Commands(deadlines, run, _reading(b"b", b"c"))
    nodes.answer(0)
    assert [type(bug) for bug in commands.ends] == [ZeroDivisionError]
    assert len(deadlines) == 0
    assert len(nodes.asked) == 1


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
