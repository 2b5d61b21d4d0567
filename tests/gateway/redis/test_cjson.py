"""`cjson` in scripts (docs/redis.md). What is expected here is what Redis 7.0 replies to the same scripts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.scripting import run


def plainly(source: str, *argv: bytes) -> Any:
    return run(source.encode(), [], list(argv), lambda words: None)


def again(text: bytes) -> Any:
    """Read and written anew."""
    return plainly("local text = cjson.encode(cjson.decode(ARGV[1])) return text", text)


def test_what_is_written() -> None:
    for value, expected in (
        ("{}", b"{}"),
        ("{1, 2, nil, 4}", b"[1,2,null,4]"),
        ("{a = {true, false, cjson.null}}", b'{"a":[true,false,null]}'),
        ("{[10] = 1, [9] = 1, [8] = 1, [7] = 1, [6] = 1}", b"[null,null,null,null,null,1,1,1,1,1]"),
        ("{[0] = 'a'}", b'{"0":"a"}'),
        ("{[1.5] = 'a'}", b'{"1.5":"a"}'),
        ("{{}, {{}}}", b"[{},[{}]]"),
        ("1e15", b"1e+15"),
        ("1 / 3", b"0.33333333333333"),
        ("123456789012345", b"1.2345678901234e+14"),
        ("nil", b"null"),
        (r"'a/b\"\\\127\0\1\n\200'", b'"a\\/b\\"\\\\\\u007f\\u0000\\u0001\\n\xc8"'),
        ("setmetatable({1}, {__index = error, __len = error})", b"[1]"),
    ):
        assert plainly(f"local text = cjson.encode({value}) return text") == expected, value


def test_what_is_read() -> None:
    for text, expected in (
        (b' [1, -2.5e3 ,"x"\n,{"a" : 1,"a":2 }]\t', b'[1,-2500,"x",{"a":2}]'),
        (rb'"\u00e9\u4e2d\ud83d\ude00\/\b\f\n\r\t\u0000"', '"é中😀\\/\\b\\f\\n\\r\\t\\u0000"'.encode()),
        (b"01.5", b"1.5"),
        (b"[1.,-.5,1E+2]", b"[1,-0.5,100]"),
        (b"\xff", "Expected value but found invalid token at character 1"),
        (b'"\xff"', b'"\xff"'),
        (b"", "Expected value but found T_END at character 1"),
        (b"[1,]", "Expected value but found T_ARR_END at character 4"),
        (b"[1 2]", "Expected comma or array end but found T_NUMBER at character 4"),
        (b"{a:1}", "Expected object key string but found invalid token at character 2"),
        (b'{"a" 1}', "Expected colon but found T_NUMBER at character 6"),
        (b'{"a":1 "b":2}', "Expected comma or object end but found T_STRING at character 8"),
        (b"true false", "Expected the end but found T_BOOLEAN at character 6"),
        (b"-a", "Expected value but found invalid number at character 1"),
        (b'"\\x"', "Expected value but found invalid escape code at character 2"),
        (b'"\\ud800\\u0041"', "Expected value but found invalid unicode escape code at character 2"),
        (b'["ab', "Expected value but found unexpected end of string at character 5"),
        (b"1\0", "does not support UTF-16"),
        # Redis takes these.
        (b"0x10", "Expected the end but found invalid token at character 2"),
        (b"[inf]", "Expected value but found invalid token at character 2"),
        (b"[1]\0[", "Expected the end but found invalid token at character 4"),
    ):
        if isinstance(expected, bytes):
            assert again(text) == expected, text
        else:
            with pytest.raises(Fault, match=f"^ERR user_script:1: .*{expected}"):
                again(text)


def test_null_is_something() -> None:
    assert plainly("local list = cjson.decode('[1,null,2]') return {list[2] == cjson.null, #list, type(list[2])}") == [
        *(1, 3, b"userdata")
    ]
    assert plainly("return cjson.null") is None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("cjson.encode({[20] = 1})", "excessively sparse array"),
        ("cjson.encode({[true] = 1})", "boolean: table key must be a number or string"),
        ("cjson.encode({{error}})", "Cannot serialise function: type not supported"),
        ("cjson.encode(0 / 0)", "must not be NaN or Inf"),
        ("local t = {} t[1] = t cjson.encode(t)", r"excessive nesting \(1001\)"),
        ("cjson.decode(string.rep('[', 9999))", r"too many nested data structures \(1001\) at character 1001"),
        ("cjson.encode()", r"bad argument #1 to 'encode' \(expected 1 argument\)"),
        ("cjson.decode({})", r"bad argument #1 to 'decode' \(string expected, got table\)"),
        ("cjson.null.x = 1", "attempt to index"),
    ],
)
def test_what_is_refused(source: str, told: str) -> None:
    with pytest.raises(Fault, match=f"^ERR user_script:1: .*{told}"):
        plainly(source)


def test_a_thousand_deep_is_good() -> None:
    text = b"[" * 1000 + b"1" + b"]" * 1000
    assert again(text) == text


@pytest.mark.parametrize(
    "source",
    [
        "cjson.decode('[' .. string.rep('1,', 1e6) .. '1]')",
        "while true do pcall(cjson.decode, '[1') end",
        "local t = {} for n = 1, 900 do t = {t, t} end cjson.encode(t)",
        r"cjson.decode('\"' .. string.rep('\\n', 3e6) .. '\"')",
        r"cjson.encode(string.rep('\1', 5e6))",
    ],
)
def test_the_bounds_of_a_script_hold_inside(source: str) -> None:
    with pytest.raises(Fault, match=r"ran for more than|memory"):
        plainly(source)


def test_a_script_that_changes_the_library_changes_nothing_there() -> None:
    spoilt = "string.find, string.sub, string.byte, table.concat, next, type, error = nil"
    assert plainly(f"{spoilt} return cjson.encode(cjson.decode(ARGV[1]))", b'[1,"\\u00e9",{"a":1}]') == (
        '[1,"é",{"a":1}]'.encode()
    )


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**13), 10**13) | st.text(max_size=8),
    lambda inner: st.lists(inner, min_size=1, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(_JSON, st.booleans(), st.sampled_from([None, 1]))
def test_what_is_read_and_written_is_the_same(value: Any, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode()
    assert json.loads(again(text)) == value
