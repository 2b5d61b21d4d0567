"""In which order commands of one connection run, and who a gateway may listen for: rules that need no cluster."""

from __future__ import annotations

import ssl
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorumcache.errors import Misuse
from quorumcache.gateway.redis import Settings
from quorumcache.gateway.redis.running import _levels
from quorumcache.gateway.redis.table import Call, find


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
