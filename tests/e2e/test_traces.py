"""`replay` reads traces as they come, and says of a bad file what is wrong with it; it runs against a cluster."""

import lzma
from pathlib import Path

import pytest
import typer

from quorumcache.cli.replay import read_trace, replay
from quorumcache.errors import Misuse


def test_both_formats_plain_and_compressed(tmp_path: Path) -> None:
    plain = tmp_path / "web.keys"
    plain.write_text("0\n1\n0\n")
    assert read_trace(plain) == [("0", 128), ("1", 128), ("0", 128)]
    assert read_trace(plain, 2) == [("0", 128), ("1", 128)]
    packed = tmp_path / "cdn.trace.xz"
    packed.write_bytes(lzma.compress(b"1 7 68\n2 9 7454\n"))
    assert read_trace(packed) == [("7", 68), ("9", 7454)]


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a", b"", "is empty"),
        ("a", b"1 2\n", "line 1: 2 columns"),
        ("a", b"1\n1 2 3\n", "line 2: 3 columns"),
        ("a", b"1\n\n", "line 2: 0 columns"),
        ("a", b"1 2 big\n", "'big' is no size"),
        ("a", b"1 2 -3\n", "size below zero"),
        ("a", b"x" * 5000, "more than 1000 characters"),
        ("a", lzma.compress(b"1\n"), "does not end in .xz"),
        ("a.xz", b"1\n", "cannot be read"),
        ("a.xz", lzma.compress(b"1\n" * 1000)[:-20], "cannot be read"),
        ("a.xz", lzma.compress(b"\xff\xfe"), "holds no text"),
    ],
)
def test_a_bad_file_is_told_so(tmp_path: Path, name: str, data: bytes, told: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Misuse, match=told):
        read_trace(path)


def test_a_missing_file_ends_with_status_2_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        replay(
            tmp_path / "none",
            cluster=None,
            key=None,
            namespace=None,
            limit=0,
            tasks=1,
            value_bytes_max=16,
            memory_percent=0,
        )
    assert ended.value.exit_code == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_small_trace_against_a_private_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace"
    path.write_text("".join(f"{i} {i % 10} {100 * (i % 10)}\n" for i in range(40)))
    replay(path, cluster=None, key=None, namespace=None, limit=0, tasks=1, value_bytes_max=500, memory_percent=0)
    told = capsys.readouterr().out
    assert "40 requests for 10 keys" in told
    assert "hit ratio  75.00% (30 hits, 10 misses)" in told
    assert "4 objects were larger" in told
