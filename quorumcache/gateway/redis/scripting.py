"""Lua for EVAL: one run of a script, in a Lua of its own, with bounds on time and memory and nothing of this machine in
reach; and the scripts that clients loaded. What `redis.call` does is the caller's. It must not know keys or commands.

Values cross over as Redis's manual has it: numbers become integers, false and nil nothing, a table with `err` or `ok`
an error or a status, another table a list up to its first nil.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any, Final

from quorumcache.gateway.redis import cjson
from quorumcache.gateway.redis.faults import Fault

#: A script runs on the gateway's one thread: everybody waits for so long at most, and for one call of its library.
SECONDS_MAX: Final = 0.1
MEMORY_BYTES_MAX: Final = 16 << 20
SCRIPT_BYTES_MAX: Final = 64 << 10
SCRIPTS_MAX: Final = 1000
SCRIPTS_BYTES_MAX: Final = 8 << 20
_DEPTH_MAX: Final = 16
_LIST_MAX: Final = 10_000

#: Answers a command of the script: its words in, a reply (or Fault) out.
Ask = Callable[[list[bytes]], Any]

# What is taken away reaches the machine, or past the bounds: other coroutines have no hook, bytecode no checks.
# Patterns backtrack inside one call that no hook interrupts, so those that could for long are refused.
_PRELUDE: Final = rb"""
local ask, digest, seconds, source, keys, argv, json, json_depth = ...
local clock, sethook, pcall0, xpcall0, error, type = os.clock, debug.sethook, pcall, xpcall, error, type
local load, tostring, find0, len, rawget = loadstring, tostring, string.find, string.len, rawget
local repeated, ipairs0 = string.rep, ipairs
local TOO_LONG = "the script ran for more than " .. tostring(seconds * 1000) .. " ms"
local ends, over = clock() + seconds, false
local script, problem = load(source, "@user_script")
if json then cjson = load(json, "=cjson")(json_depth) end
for _, name in ipairs{"io", "os", "debug", "package", "require", "module", "python", "coroutine", "loadstring", "load",
    "loadfile", "dofile", "newproxy", "collectgarbage", "print", "setfenv", "getfenv", "gcinfo"} do _G[name] = nil end
string.dump = nil
function string.rep(text, count)
    if text == "" then return "" end
    return repeated(text, count)
end
local function after(...)
    if over then error(TOO_LONG, 0) end
    return ...
end
function pcall(...) return after(pcall0(...)) end
function xpcall(...) return after(xpcall0(...)) end
for _, name in ipairs{"find", "match", "gmatch", "gsub", "gfind"} do
    local plain = string[name]
    if plain then
        string[name] = function(text, pattern, ...)
            local text, pattern = tostring(text), tostring(pattern)
            local repeats = 0
            for _, what in ipairs0{"[*+?-]", "%%b"} do
                local at = find0(pattern, what)
                while at do
                    repeats = repeats + 1
                    at = find0(pattern, what, at + 1)
                end
            end
            if repeats > 2 or (len(pattern) + 1) * len(text) ^ (repeats + 1) > 134217728 then
                error("a pattern with so many repetitions may take too long for a text of this length", 2)
            end
            return plain(text, pattern, ...)
        end
    end
end
local function replied(kind, value)
    if kind == "error" then return {err = value} end
    if kind == "status" then return {ok = value} end
    return value
end
redis = {
    pcall = function(...) return after(replied(ask(...))) end,
    call = function(...)
        local kind, value = ask(...)
        if kind == "error" then error({err = value}, 0) end
        return after(replied(kind, value))
    end,
    error_reply = function(text) return {err = text} end,
    status_reply = function(text) return {ok = text} end,
    sha1hex = function(text) return digest(tostring(text)) end,
    log = function() end,
    LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
}
KEYS, ARGV = keys, argv
if not script then return false, "Error compiling script (new function): " .. tostring(problem), rawget end
sethook(function()
    if over or clock() > ends then over = true; error(TOO_LONG, 0) end
end, "", 100)
local ok, result = pcall0(script)
sethook()
if over then return false, TOO_LONG, rawget end
if ok then return true, result, rawget end
if type(result) == "table" then
    local text = rawget(result, "err")
    return false, type(text) == "string" and text or "the script failed with a table", rawget
end
return false, type(result) == "string" and result or "the script failed with a " .. type(result), rawget
"""


def sha_of(source: bytes) -> bytes:
    """The name that clients call a script by: SHA-1, in lower-case hex."""
    return sha1(source, usedforsecurity=False).hexdigest().encode()


class Scripts:
    """The scripts that a gateway's clients loaded, or ran; those that were not used for longest go first."""

    def __init__(self) -> None:
        self._sources: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def load(self, source: bytes) -> bytes:
        """Keep a script; its SHA-1. Raises Fault for one that is too long."""
        if len(source) > SCRIPT_BYTES_MAX:
            raise Fault(f"ERR a script has at most {SCRIPT_BYTES_MAX} bytes here, not {len(source)}")
        sha = sha_of(source)
        if sha not in self._sources:
            self._sources[sha] = source
            self._bytes += len(source)
            while len(self._sources) > SCRIPTS_MAX or self._bytes > SCRIPTS_BYTES_MAX:
                self._bytes -= len(self._sources.popitem(last=False)[1])
        self._sources.move_to_end(sha)
        return sha

    def get(self, sha: bytes) -> bytes:
        """The script of this SHA-1. Raises Fault, as Redis does, where there is none."""
        source = self._sources.get(sha.lower())
        if source is None:
            raise Fault("NOSCRIPT No matching script. Please use EVAL.")
        self._sources.move_to_end(sha.lower())
        return source

    def __contains__(self, sha: bytes) -> bool:
        return sha.lower() in self._sources

    def clear(self) -> None:
        """Forget all."""
        self._sources.clear()
        self._bytes = 0


def run(source: bytes, keys: Sequence[bytes], argv: Sequence[bytes], ask: Ask) -> Any:
    """What the script returns, as a reply. Raises Fault where it fails, takes too long, or too much memory."""
    try:
        from lupa import lua51
    except ImportError:
        raise Fault("ERR scripts need lupa: pip install 'quorumcache[scripts]', where the gateway runs") from None
    if source[:1] == b"\x1b":
        raise Fault("ERR Error compiling script: bytecode is not taken")

    def asked(*words: Any) -> tuple[bytes, Any]:
        try:
            reply = ask([_word(word) for word in words])
        except Fault as fault:
            reply = fault
        return _crossing(lua, reply, 0)

    try:
        lua = lua51.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_no_attributes,
            max_memory=MEMORY_BYTES_MAX,
        )
        prelude = lua.compile(_PRELUDE)
        # Most scripts do without, and to compile it takes as long as all else here.
        json = cjson.SOURCE if b"cjson" in source else None
        is_good, result, rawget = prelude(
            *(asked, sha_of, SECONDS_MAX, source, lua.table_from(keys), lua.table_from(argv), json, cjson.DEPTH_MAX)
        )
        if is_good:
            reply = _reply(lua51, result, 0, rawget, [_LIST_MAX])
            if isinstance(reply, Fault):
                raise reply
            return reply
    except lua51.LuaMemoryError:
        raise Fault(f"ERR the script needs more than {MEMORY_BYTES_MAX >> 20} MiB") from None
    except (lua51.LuaError, ValueError, TypeError, OverflowError, RecursionError) as fault:
        # The latter of what crosses over in a shape that nobody thought of: it must not end the client.
        raise Fault(f"ERR the script failed: {fault}") from None
    text = result.decode("utf-8", "backslashreplace") if isinstance(result, bytes) else str(result)
    raise Fault(text if text[:1].isupper() and " " in text and text.split(" ", 1)[0].isupper() else f"ERR {text}")


def _no_attributes(_object: Any, name: Any, _is_setting: bool) -> Any:
    raise AttributeError(f"no {name!r} here")


def _word(value: Any) -> bytes:
    """One word of a command, as the script gave it."""
    if type(value) is bytes:
        return value
    if type(value) is int:
        return b"%d" % value
    if type(value) is float:
        return b"%.17g" % value
    raise Fault("ERR Lua redis lib command arguments must be strings or integers")


def _crossing(lua: Any, reply: Any, depth: int) -> tuple[bytes, Any]:
    """A reply on its way into Lua: its kind, and its value there."""
    if isinstance(reply, Fault):
        return b"error", str(reply).encode("utf-8", "backslashreplace")
    if type(reply) is str:
        return b"status", reply.encode()
    if reply is None:
        return b"value", False
    if type(reply) is bool:
        return b"value", int(reply)
    if type(reply) is float:
        return b"value", repr(reply).encode()
    if isinstance(reply, list | tuple):
        return b"value", lua.table_from([_crossing(lua, item, depth + 1)[1] for item in reply])
    return b"value", reply


def _reply(lua51: Any, value: Any, depth: int, rawget: Any, left: list[int]) -> Any:
    """What a script returned, as a reply of at most `left` items in all. No metamethod is called: the hook is off."""
    if value is None or value is False:
        return None
    if value is True:
        return 1
    if isinstance(value, bytes | int):
        return value
    if isinstance(value, float):
        return int(value) if abs(value) < 1 << 63 else 0
    if lua51.lua_type(value) != "table":
        return None
    if depth > _DEPTH_MAX:
        raise Fault("ERR reached lua stack limit")
    if isinstance(error := rawget(value, b"err"), bytes):
        return Fault(error.decode("utf-8", "backslashreplace"))
    if isinstance(status := rawget(value, b"ok"), bytes):
        return status.decode("utf-8", "backslashreplace")
    items: list[Any] = []
    while (item := rawget(value, len(items) + 1)) is not None:
        left[0] -= 1
        if left[0] < 0:
            raise Fault(f"ERR a script returns at most {_LIST_MAX} items in all here")
        items.append(_reply(lua51, item, depth + 1, rawget, left))
    return items
