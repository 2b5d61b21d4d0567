"""Ten processes that count, take one lock and race for fresh keys, with a lying node, while nodes and clients are
killed and come back: compare-and-set is exact on real sockets too (protocol 17).

With QUORUMCACHE_FULL=1 in the environment in full size, which takes long.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from quorumcache.core.config import NamespaceInfo, to_toml
from quorumcache.errors import OutcomeUnknown, Unavailable
from quorumcache.testing import LocalCluster
from quorumcache.wire.keys import write_key_file

ROOT = Path(__file__).resolve().parents[2]
FULL = os.environ.get("QUORUMCACHE_FULL", "") not in ("", "0")
WRITERS = 10
#: How many increments, takings of the lock (both of each process) and races.
COUNT, LOCKS, RACES = (10_000, 200, 1_000) if FULL else (300, 40, 1_000)
KILLS = 1_000 if FULL else 20
LIMIT_S = 6 * 3600 if FULL else 900
NOTE_PARTS = 3

#: number, mark, time in ns, result
Line = tuple[int, str, int, str]


def _lines(notes: Path) -> list[Line]:
    lines = []
    for text in notes.read_text().splitlines() if notes.exists() else ():
        number, mark, time_ns, result = text.split(" ", NOTE_PARTS)
        lines.append((int(number), mark, int(time_ns), result))
    return lines


async def _worker(directory: Path, name: str, what: str, first: int, end: int) -> asyncio.subprocess.Process:
    paths = [directory / f"{part}" for part in ("cluster.toml", f"{name}.key", f"{name}.notes")]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.e2e.exact_worker", *map(str, paths), name, what, str(first), str(end), cwd=ROOT
    )


async def _holder(directory: Path, names: list[str]) -> str:
    """Who holds the lock, if that is seen within a while; else any."""
    for _ in range(50):
        for name in names:
            if [line[1] for line in _lines(directory / f"{name}.notes")][-1:] == ["take"]:
                return name
        await asyncio.sleep(0.02)
    return names[-1]


async def _run(directory: Path, what: str, end: int) -> tuple[dict[str, list[Line]], dict[str, bytes | None]]:
    """What each process noted, and the values in the end."""
    names = [f"w{i}" for i in range(WRITERS)]
    async with LocalCluster(
        processes=True,
        writers=names,
        namespaces=[NamespaceInfo("exact", "exact")],
        byzantine={0: "changing"},
        op_time=3.0,
        storage="sqlite",
    ) as cluster:
        (directory / "cluster.toml").write_text(to_toml(cluster.signed))
        for name, secret in cluster.writers.items():
            write_key_file(directory / f"{name}.key", secret, role="writer")
        client = await cluster.client(names[0], namespace="exact")
        for _ in range(100):  # New nodes vote only after a while.
            try:
                await client.set("ready", b"yes")
                break
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.2)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        running = {name: await _worker(directory, name, what, 0, end) for name in names}
        try:
            for turn in range(KILLS):
                await asyncio.sleep(1.0)
                if all(process.returncode is not None for process in running.values()):
                    break
                node = 1 + turn % 3
                await cluster.kill(node)
                victim = await _holder(directory, names) if what == "lock" else names[turn % WRITERS]
                if running[victim].returncode is None:
                    running[victim].kill()
                    await running[victim].wait()
                    # Who races goes on where the others are.
                    seen = [directory / f"{name}.notes" for name in (names if what == "race" else [victim])]
                    last = max((line[0] for notes in seen for line in _lines(notes)), default=-1)
                    running[victim] = await _worker(directory, victim, what, last + 1, end)
                await asyncio.sleep(1.0)
                await cluster.restart(node)
            codes = [await process.wait() for process in running.values()]
        finally:
            for process in running.values():
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        assert codes == [0] * WRITERS
        took_s = loop.time() - begun_s
        noted = {name: _lines(directory / f"{name}.notes") for name in names}
        done = sum(line[1] in ("!", "-", "leave") for lines in noted.values() for line in lines)
        marks = {mark: sum(line[1] == mark for lines in noted.values() for line in lines) for mark in "xu"}
        print(f"{what}: {done} in {took_s:.1f} s, {done / took_s:.1f}/s; {marks}, {turn + 1} turns of kills")
        keys = {"count": ["count"], "lock": [], "race": [f"race-{number}" for number in range(end)]}[what]
        values: dict[str, bytes | None] = {}
        for key in keys:
            for _ in range(20):
                try:
                    values[key] = await client.get(key, strict=True)
                    break
                except Unavailable:
                    await asyncio.sleep(0.2)
        return noted, values


def _ended(lines: list[Line]) -> list[tuple[int, int, str, int, str]]:
    """Operations as (number, begun, mark, ended, result); one that did not end has mark `u`."""
    begun: dict[int, int] = {}
    operations = []
    for number, mark, time_ns, result in lines:
        if mark == "?":
            begun[number] = time_ns
        else:
            operations.append((number, begun.pop(number), mark, time_ns, result))
    return operations + [(number, time_ns, "u", 0, "") for number, time_ns in begun.items()]


def _judge_count(noted: dict[str, list[Line]], last: int) -> None:
    """Every acknowledged result is unique and above all that were acknowledged before its operation began."""
    operations = [operation for lines in noted.values() for operation in _ended(lines)]
    done = [(int(result), begun, ended) for _, begun, mark, ended, result in operations if mark == "!"]
    unknown = sum(mark == "u" for _, _, mark, _, _ in operations)
    print(f"count {last}: {len(done)} acknowledged, {unknown} unknown")
    assert done, "nothing was acknowledged"
    assert len({result for result, _, _ in done}) == len(done), "a result was given twice"
    assert len(done) <= last <= len(done) + unknown
    assert max(done)[0] <= last
    ends = sorted((ended, result) for result, _, ended in done)
    highest, at = 0, 0
    for begun, result in sorted((begun, result) for result, begun, _ in done):
        while at < len(ends) and ends[at][0] < begun:
            highest, at = max(highest, ends[at][1]), at + 1
        assert result > highest, f"{result} for what began after {highest} was acknowledged"


def _judge_locks(noted: dict[str, list[Line]]) -> None:
    """Nobody takes the lock while another certainly holds it, and tokens rise from holder to holder."""
    left = {int(result): time_ns for lines in noted.values() for _, mark, time_ns, result in lines if mark == "leave"}
    held = []
    for lines in noted.values():
        for _, mark, _, result in lines:
            if mark == "take":
                token, until = map(int, result.split())
                held.append((token, until))
    takes = {int(r.split()[0]): t for lines in noted.values() for _, mark, t, r in lines if mark == "take"}
    print(f"{len(held)} takings, {len(held) - len(left)} of holders that were killed")
    assert held, "nobody took the lock"
    assert len(takes) == len(held), "a token was given twice"
    end, token_before = 0, 0
    for taken, token, until in sorted((takes[token], token, until) for token, until in held):
        assert token > token_before, f"token {token} after {token_before}"
        assert taken >= end, f"token {token} was given while {token_before} was held"
        end, token_before = min(until, left.get(token, until)), token


def _judge_races(noted: dict[str, list[Line]], values: dict[str, bytes | None]) -> None:
    """At most one wins each; exactly one where nothing is unknown and somebody was told; and it is who stands there."""
    races: dict[int, dict[str, list[tuple[str, int, int]]]] = defaultdict(lambda: defaultdict(list))
    for name, lines in noted.items():
        for number, begun, mark, ended, _ in _ended(lines):
            races[number][mark].append((name, begun, ended))
    contended = 0
    for number, race in races.items():
        winners = [name for name, _, _ in race["!"]]
        unknown = {name for name, _, _ in race["u"]}
        value = values[f"race-{number}"]
        assert len(winners) <= 1, f"race {number} was won by {winners}"
        if race["-"] and not unknown:
            assert winners, f"race {number} was lost by all"
        if winners:
            assert value == winners[0].encode(), f"race {number} was won by {winners}, and {value!r} stands there"
            _, begun, ended = race["!"][0]
            contended += any(b < ended for mark in "-xu" for _, b, e in race[mark] if not e or e > begun)
        else:
            assert value is None or value.decode() in unknown, f"race {number}: {value!r} came from nowhere"
            assert value is not None or not race["-"], f"race {number}: told of a winner, and none is there"
    print(f"{len(races)} races, {contended} of winners that had rivals at the same time")
    assert len(races) == len(values)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
async def test_ten_processes_count_exactly(tmp_path: Path) -> None:
    noted, values = await _run(tmp_path, "count", COUNT)
    value = values["count"]
    assert value is not None
    _judge_count(noted, int(value))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
async def test_ten_processes_take_one_lock(tmp_path: Path) -> None:
    noted, _ = await _run(tmp_path, "lock", LOCKS)
    _judge_locks(noted)


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
async def test_races_of_ten_have_one_winner(tmp_path: Path) -> None:
    noted, values = await _run(tmp_path, "race", RACES)
    _judge_races(noted, values)


def _counted(*results: tuple[int, int, int]) -> dict[str, list[Line]]:
    return {
        f"w{i}": [(0, "?", begun, ""), (0, "!", ended, str(result))] for i, (result, begun, ended) in enumerate(results)
    }


def test_the_judges_see_what_is_wrong() -> None:
    _judge_count(_counted((1, 0, 5), (2, 3, 6)), 2)
    for wrong, last in (
        (_counted((1, 0, 5), (1, 3, 6)), 2),
        (_counted((2, 0, 5), (1, 6, 9)), 2),
        (_counted((1, 0, 5)), 2),
        (_counted((1, 0, 5), (2, 6, 7)), 1),
    ):
        with pytest.raises(AssertionError):
            _judge_count(wrong, last)
    first: list[Line] = [(0, "take", 10, "7 50"), (0, "leave", 20, "7")]
    _judge_locks({"a": first, "b": [(0, "take", 20, "8 70")]})
    _judge_locks({"a": first[:1], "b": [(0, "take", 50, "8 70")]})
    for second, before in (("8 70", first[:1]), ("6 70", first), ("7 70", first)):
        with pytest.raises(AssertionError):
            _judge_locks({"a": before, "b": [(0, "take", 30, second)]})
    won: list[Line] = [(0, "?", 0, ""), (0, "!", 5, "9")]
    lost: list[Line] = [(0, "?", 0, ""), (0, "-", 5, "")]
    _judge_races({"a": won, "b": lost}, {"race-0": b"a"})
    _judge_races({"a": lost, "b": won[:1]}, {"race-0": b"b"})
    for a, b, value in ((won, won, b"a"), (lost, lost, b"c"), (lost, lost, None), (won, lost, b"b")):
        with pytest.raises(AssertionError):
            _judge_races({"a": a, "b": b}, {"race-0": value})
