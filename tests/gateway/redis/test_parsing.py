"""Requests out of bytes: what a client sent, however it is cut; and bounds on what it may send (docs/redis.md)."""

from __future__ import annotations

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.gateway.redis.encoding import Push, Several, encode
from quorumcache.gateway.redis.faults import Fault
from quorumcache.gateway.redis.globs import Glob
from quorumcache.gateway.redis.parsing import (
    ARGUMENT_BYTES_MAX,
    ARGUMENTS_MAX,
    COMMAND_BYTES_MAX,
    LINE_BYTES_MAX,
    ProtocolFault,
    Requests,
    split_line,
)
from quorumcache.gateway.redis.times import integer

arguments = st.lists(st.binary(max_size=20) | st.just(b"\r\n") | st.just(b"*3\r\n$1\r\n"), min_size=1, max_size=5)


def parsed(chunks: list[bytes]) -> list[list[bytes]]:
    requests, found = Requests(), []
    for chunk in chunks:
        requests.feed(chunk)
        while (request := requests.next()) is not None:
            found.append(request)
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True) if b > a]


@given(st.lists(arguments, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_requests_come_out_as_they_went_in_however_they_are_cut(sent: list[list[bytes]], places: list[int]) -> None:
    data = b"".join(hiredis.pack_command(tuple(request)) for request in sent)
    assert parsed(cut(data, places)) == sent
    assert parsed([bytes((byte,)) for byte in data]) == sent


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_any_bytes_give_the_same_requests_or_the_same_fault_however_they_are_cut(
    data: bytes, places: list[int]
) -> None:
    def result(chunks: list[bytes]) -> object:
        found: list[object] = []
        try:
            requests = Requests()
            for chunk in chunks:
                requests.feed(chunk)
                while (request := requests.next()) is not None:
                    found.append(request)
        except ProtocolFault as fault:
            found.append(str(fault))
        return found

    assert result(cut(data, places)) == result([data])


@pytest.mark.parametrize(
    "data",
    [
        b"*%d\r\n" % (ARGUMENTS_MAX + 1),
        b"*1000000000000\r\n",
        b"*x\r\n",
        b"*1" + b"0" * 40,
        b"*1\r\n:1\r\n",
        b"*1\r\n*1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$%d\r\n" % (ARGUMENT_BYTES_MAX + 1),
        b"*1\r\n$1_0\r\n",
        b"*1\r\n$3\r\nabcde",
        b"a" * (LINE_BYTES_MAX + 1),
        b'set "a\r\n',
        b"set 'a'b\r\n",
    ],
)
def test_what_is_no_request_is_a_fault_at_once(data: bytes) -> None:
    with pytest.raises(ProtocolFault):
        parsed([data])


def test_a_header_of_a_few_bytes_takes_no_memory() -> None:
    requests = Requests()
    requests.feed(b"*%d\r\n$%d\r\n" % (ARGUMENTS_MAX, ARGUMENT_BYTES_MAX))
    assert requests.next() is None
    assert requests.held_bytes < 1000


def test_a_command_has_a_bound_on_all_its_bytes() -> None:
    requests = Requests()
    argument = b"$%d\r\n%b\r\n" % (1 << 20, bytes(1 << 20))
    requests.feed(b"*20\r\n")

    def go_on() -> None:
        for _ in range(20):
            requests.feed(argument)
            assert requests.next() is None
            assert requests.held_bytes < COMMAND_BYTES_MAX + (4 << 20)

    with pytest.raises(ProtocolFault, match="more than"):
        go_on()


def test_lines_are_split_as_people_type_them() -> None:
    assert parsed([b"PING\r\n\r\n  get  a\n*1\r\n$4\r\nPING\r\nping\n"]) == [
        [b"PING"],
        [b"get", b"a"],
        [b"PING"],
        [b"ping"],
    ]
    assert split_line(b'set "a b" \'c"\\\'d\' "\\x41\\n\\q" ""') == [b"set", b"a b", b"c\"'d", b"A\nq", b""]


reply = st.recursive(
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=10) | st.sampled_from(["OK", "PONG"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def as_read(value: object, resp3: bool) -> object:
    """What hiredis makes of a reply."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return [as_read(item, resp3) for item in value]
    if isinstance(value, dict):
        if resp3:
            return {key: as_read(item, True) for key, item in value.items()}
        return [part for key, item in value.items() for part in (key, as_read(item, False))]
    return value


@given(reply, st.booleans())
def test_replies_are_what_hiredis_reads(value: object, resp3: bool) -> None:
    out: list[bytes] = []
    encode(out, value, resp3)
    reader = hiredis.Reader()
    reader.feed(b"".join(out))
    assert reader.gets() == as_read(value, resp3)
    assert not reader.has_data()


def test_errors_pushes_sets_and_numbers_are_encoded_as_the_protocol_has_them() -> None:
    def both(value: object) -> tuple[bytes, bytes]:
        made = []
        for resp3 in (False, True):
            out: list[bytes] = []
            encode(out, value, resp3)
            made.append(b"".join(out))
        return made[0], made[1]

    assert both(Fault("ERR a\r\nb")) == (b"-ERR a  b\r\n",) * 2
    assert both(Push([b"a"])) == (b"*1\r\n$1\r\na\r\n", b">1\r\n$1\r\na\r\n")
    assert both(Several([1, None])) == (b":1\r\n$-1\r\n", b":1\r\n_\r\n")
    assert both({b"b", b"a"}) == (b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"~2\r\n$1\r\na\r\n$1\r\nb\r\n")
    assert both(1.5) == (b"$3\r\n1.5\r\n", b",1.5\r\n")
    assert both(True) == (b":1\r\n", b"#t\r\n")


@pytest.mark.parametrize(
    ("pattern", "fits", "not_fits"),
    [
        (b"*", [b"", b"abc"], []),
        (b"h?llo", [b"hello", b"h\xffllo"], [b"hllo", b"heello"]),
        (b"h*llo", [b"hllo", b"heeeello"], [b"hell"]),
        (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo"]),
        (b"h[^e]llo", [b"hallo"], [b"hello"]),
        (b"h[a-c]llo", [b"hbllo"], [b"hdllo"]),
        (b"h\\*llo", [b"h*llo"], [b"hello"]),
        (b"a*b*c", [b"abc", b"aXbYbc"], [b"aXbY"]),
        (b"[", [], [b"["]),
    ],
)
def test_patterns_fit_as_in_redis(pattern: bytes, fits: list[bytes], not_fits: list[bytes]) -> None:
    glob = Glob(pattern)
    assert [text for text in fits + not_fits if glob.fits(text)] == fits
    assert all(text.startswith(glob.prefix) for text in fits)


def test_a_hostile_pattern_ends() -> None:
    assert not Glob(b"a*" * 1000 + b"b").fits(b"a" * 1000)


@given(st.integers(-(2**70), 2**70))
def test_integers_are_those_of_64_bits(number: int) -> None:
    word = b"%d" % number
    if -(2**63) <= number < 2**63:
        assert integer(word) == number
    else:
        with pytest.raises(Fault):
            integer(word)


@pytest.mark.parametrize("word", [b"", b"-", b"1.0", b" 1", b"+1", b"01", b"1_0", b"-0", "٣".encode()])
def test_what_redis_takes_for_no_integer_is_none(word: bytes) -> None:
    with pytest.raises(Fault, match="not an integer"):
        integer(word)
