"""EVAL, EVALSHA and SCRIPT: scripts of one key by compare-and-set, with bounds on what Lua may do (docs/redis.md)."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.scripting import SCRIPTS_MAX, Scripts, run, sha_of
from tests.gateway.redis.conftest import refused
from tests.gateway.redis.test_exact import client, gateway, r

__all__ = ["client", "gateway", "r"]

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("ignore:Call to deprecated:DeprecationWarning"),
]
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"


async def test_values_cross_over_as_in_redis(r: Any) -> None:
    for script, expected in (
        ("return 1", 1),
        ("return 3.9", 3),
        ("return 'text'", b"text"),
        ("return true", 1),
        ("return false", None),
        ("return {1, 'two', {3}, nil, 5}", [1, b"two", [3]]),
        ("return redis.status_reply('FINE')", b"FINE"),
        ("return {ARGV[1], ARGV[2], #KEYS}", [b"a", b"b", 0]),
        ("return redis.sha1hex('')", b"da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("return string.gsub('hello', 'l', 'L')", b"heLLo"),
        ("return {string.match('key=value', '(%w+)=(%w+)')}", [b"key", b"value"]),
        ("local ok, problem = pcall(error, 'no') return tostring(problem)", b"no"),
        ("return type(redis.pcall('nonsense'))", b"table"),
    ):
        assert await r.eval(script, 0, "a", "b") == expected, script
    with refused("my own words"):
        await r.eval("return redis.error_reply('ERR my own words')", 0)


async def test_a_script_reads_and_writes_its_key(r: Any) -> None:
    await r.set("k", "5", ex=1000)
    script = "local n = redis.call('incrby', KEYS[1], ARGV[1]) redis.call('pexpire', KEYS[1], 5000) return n * 2"
    assert await r.eval(script, 1, "k", 2) == 14
    assert await r.get("k") == b"7"
    assert 0 < await r.pttl("k") <= 5000
    assert await r.eval("return redis.call('get', KEYS[1])", 1, "nothing") is None
    assert await r.eval("return redis.call('set', KEYS[1], ARGV[1], 'NX')", 1, "new", "v") == b"OK"
    assert await r.eval("return redis.call('set', KEYS[1], ARGV[1], 'NX')", 1, "new", "w") is None
    assert (await r.eval(RELEASE, 1, "new", "w"), await r.eval(RELEASE, 1, "new", "v")) == (0, 1)
    assert await r.exists("new") == 0
    assert await r.eval("return redis.call('ttl', KEYS[1])", 1, "gone") == -2


async def test_json_is_changed_where_it_stands(r: Any) -> None:
    """And nothing where what stands is none."""
    script = """
        local item = cjson.decode(redis.call('get', KEYS[1]))
        item.count = item.count + 1
        return redis.call('set', KEYS[1], cjson.encode(item))
    """
    await r.set("k", '{"count": 6}')
    assert await r.eval(script, 1, "k") == b"OK"
    assert await r.get("k") == b'{"count":7}'
    await r.set("k", "[1")
    with refused("Expected comma or array end but found T_END at character 3"):
        await r.eval(script, 1, "k")
    assert await r.get("k") == b"[1"


async def test_by_its_sha(r: Any) -> None:
    sha = await r.script_load(RELEASE)
    assert sha == sha_of(RELEASE.encode()).decode()
    await r.set("k", "mine")
    assert await r.evalsha(sha, 1, "k", "mine") == 1
    assert await r.script_exists(sha, "f" * 40) == [True, False]
    with pytest.raises(NoScriptError):
        await r.evalsha("f" * 40, 1, "k")
    registered = r.register_script("return redis.call('append', KEYS[1], ARGV[1])")
    assert await registered(keys=["k"], args=["ab"]) == 2
    assert await r.script_flush() is True
    assert await registered(keys=["k"], args=["cd"]) == 4
    assert await r.script_exists(sha) == [False]


async def test_all_of_a_script_takes_effect_or_nothing(r: Any) -> None:
    """Unlike Redis, where what came before an error stands."""
    await r.set("k", "before")
    for script in (
        "redis.call('set', KEYS[1], 'half') error('no')",
        "redis.call('set', KEYS[1], 'half') redis.call('incr', KEYS[1])",
        "redis.call('set', KEYS[1], 'half') while true do end",
        "redis.call('set', KEYS[1], 'half') redis.call('get', 'other')",
    ):
        with pytest.raises(ResponseError):
            await r.eval(script, 1, "k")
        assert await r.get("k") == b"before"


async def test_what_is_refused(r: Any) -> None:
    for words, told in (
        (("return 1", "x"), "not an integer"),
        (("return 1", -1), "can't be negative"),
        (("return 1", 2, "k"), "greater than number of args"),
        (("return 1", 2, "k", "l"), "of one key"),
        (("return redis.call('get', 'l')", 1, "k"), "of one key"),
        (("return redis.call('mset', 'k', '1', 'l', '2')", 1, "k"), "of one key"),
        (("return redis.call('get', 'k')", 0), "of one key"),
        (("return redis.call('nonsense')", 1, "k"), "Unknown Redis command"),
        (("return redis.call('eval', 'return 1', 0)", 1, "k"), "not allowed from script"),
        (("return redis.call('flushall')", 1, "k"), "not allowed from script"),
        (("return redis.call('get')", 1, "k"), "wrong number of arguments"),
        (("return redis.call('get', {})", 1, "k"), "must be strings or integers"),
        (("return nonsense(", 0), "Error compiling script"),
        (("x" * 70_000, 0), "at most 65536 bytes"),
    ):
        with refused(told):
            await r.execute_command("EVAL", *words)
    with refused("Try SCRIPT HELP"):
        await r.execute_command("SCRIPT", "KILL")


async def test_elsewhere_it_says_what_it_takes(r: Any) -> None:
    await r.select(1)
    with refused("needs compare-and-set"):
        await r.eval(RELEASE, 1, "k", "v")
    assert await r.eval("return ARGV[1]", 0, "x") == b"x"


async def test_scripts_that_race_lose_nothing(gateway: Any) -> None:
    """Each is run on what stands there when it is written, again if need be."""
    script = "local n = (tonumber(redis.call('get', KEYS[1])) or 0) + 1 redis.call('set', KEYS[1], n) return n"

    async def some(connected: Any) -> list[int]:
        return [int(await connected.eval(script, 1, "raced")) for _ in range(6)]

    async with Redis(port=gateway.port) as one, Redis(port=gateway.port) as two:
        await one.delete("raced")
        found = [number for part in await asyncio.gather(some(one), some(two)) for number in part]
        assert sorted(found) == list(range(1, 13))


async def test_locks_of_redis_py(r: Any) -> None:
    """They are scripts: release, extend, reacquire."""
    mine, theirs = r.lock("lock", timeout=20), r.lock("lock", timeout=20, blocking=False)
    assert await mine.acquire()
    assert not await theirs.acquire()
    assert await mine.extend(20)
    assert await mine.reacquire()
    assert await mine.owned()
    await mine.release()
    assert await theirs.acquire()
    await theirs.release()


async def test_locks_of_libraries(gateway: Any) -> None:
    """aiocache's and dogpile.cache's are scripts."""
    from aiocache import RedisCache
    from aiocache.lock import RedLock
    from aiocache.serializers import StringSerializer

    async with RedisCache(endpoint="127.0.0.1", port=gateway.port, serializer=StringSerializer()) as cache:
        async with RedLock(cache, "aio", lease=20):
            assert await cache.get("aio-lock") is not None
        assert await cache.get("aio-lock") is None
    await asyncio.to_thread(_dogpile, gateway.port)


def _dogpile(port: int) -> None:
    from dogpile.cache import make_region

    region = make_region().configure(
        "dogpile.cache.redis",
        arguments={"host": "127.0.0.1", "port": port, "distributed_lock": True, "thread_local_lock": False},
    )
    assert [region.get_or_create("made", lambda number=number: number) for number in (1, 2)] == [1, 1]
    region.backend.writer_client.close()


_DJANGO = """
import sys
from django.conf import settings
settings.configure(
    CACHES={"default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": sys.argv[1]}},
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
)
from django.contrib.sessions.backends.cache import SessionStore
session = SessionStore()
session["user"] = 7
session.create()
again = SessionStore(session.session_key)
assert again["user"] == 7
again["user"] = 8
again.save()
assert SessionStore(session.session_key)["user"] == 8
again.flush()
assert "user" not in SessionStore(session.session_key)
print("fine")
"""


async def test_sessions_of_django(gateway: Any) -> None:
    """A process of its own: Django is configured once in each."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DJANGO, f"redis://127.0.0.1:{gateway.port}/0", stdout=PIPE, stderr=STDOUT
    )
    told, _ = await process.communicate()
    assert told.strip() == b"fine", told.decode()


# --- Lua by itself ---


def plainly(source: str, *argv: bytes) -> Any:
    def ask(words: list[bytes]) -> Any:
        raise Fault("ERR not here")

    return run(source.encode(), [], list(argv), ask)


@pytest.mark.parametrize(
    "source",
    [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "local function f() return f() end return f()",
        "while true do local x = string.rep('x', 1000000) end",
        "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
        "repeat redis.pcall('get', 'x') until false",
        "table.sort({3, 2, 1}, function() while true do end end)",
    ],
)
async def test_what_never_ends_is_ended(source: str) -> None:
    with pytest.raises(Fault, match="ran for more than"):
        plainly(source)


@pytest.mark.parametrize(
    "source",
    [
        "local t = {} while true do t[#t + 1] = 'x' .. #t end",
        "return string.rep('x', 1e9)",
        "local x = 'x' while true do x = x .. x end",
    ],
)
async def test_what_takes_too_much_memory_is_ended(source: str) -> None:
    with pytest.raises(Fault, match=r"more than|memory"):
        plainly(source)


@pytest.mark.parametrize(
    "source",
    [
        "return string.find(string.rep('a', 300000), string.rep('a-', 3) .. 'b')",
        "return string.match(string.rep('a', 9000), '.-b')",
        "return string.gsub(string.rep('a', 1000), '.*.*b', '')",
        "return ('x'):rep(100000):find('.-.-y')",
    ],
)
async def test_patterns_that_could_take_long_are_refused(source: str) -> None:
    with pytest.raises(Fault, match="repetitions"):
        plainly(source)


@pytest.mark.parametrize(
    "name",
    [
        "io", "os", "debug", "package", "require", "module", "python", "coroutine", "loadstring", "load", "loadfile",
        "dofile", "newproxy", "collectgarbage", "setfenv", "getfenv", "string.dump", "print",
    ],
)  # fmt: skip
async def test_nothing_of_this_machine_is_in_reach(name: str) -> None:
    assert plainly(f"return {name} == nil") == 1


async def test_a_script_finds_no_way_out() -> None:
    """Not by tables of others, nor by a script of before: each run has a Lua of its own."""
    assert plainly("return getmetatable('').__index == string") == 1
    plainly("string.rep = nil; redis = nil; leak = 1")
    assert plainly("return leak == nil and string.rep ~= nil and redis ~= nil") == 1
    with pytest.raises(Fault, match="bytecode"):
        run(b"\x1bLua", [], [], lambda words: None)
    assert plainly("return setmetatable({}, {__index = function() error('no') end})") == []
    assert plainly("local t = {} t[1] = t return 1") == 1
    with pytest.raises(Fault, match="stack limit"):
        plainly("local t = {} t[1] = t return t")


@pytest.mark.parametrize(
    "source",
    [
        "string.rep('', 2147483647)",
        "string.find(string.rep('(', 1000000), '%b()')",
        "string.find(string.rep('a', 500000), string.rep('a', 1000000) .. 'b')",
        "return setmetatable({}, {__index = function() while true do end end})",
        "error(setmetatable({}, {__index = function() while true do end end}))",
        "error(setmetatable({}, {__tostring = function() while true do end end}))",
        "local t = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10} for _ = 1, 12 do t = {t, t, t, t, t, t, t, t, t, t} end return t",
    ],
)
async def test_nothing_goes_on_where_no_hook_is(source: str) -> None:
    """Inside one call of Lua's library, or after the script's end: each of these hung the gateway once, or for very
    long. The test's own time limit is the bound."""
    try:
        assert plainly(source) in ([], None)
    except Fault:
        pass


async def test_loaded_scripts_are_bounded() -> None:
    scripts = Scripts()
    first = scripts.load(b"return 0")
    for number in range(1, SCRIPTS_MAX + 1):
        last = scripts.load(b"return %d" % number)
    assert first not in scripts
    assert scripts.get(last.upper()) == b"return %d" % SCRIPTS_MAX
