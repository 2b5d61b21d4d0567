"""The demonstration itself: it ends well when all is well, and its status says so when a check fails."""

import pytest
import typer

from quorumcache.cli import demo as module
from quorumcache.testing.history import Verdict


def test_a_short_demo_ends_well_and_every_read_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    module.demo(seconds=3.0, seed=1)
    told = capsys.readouterr().out
    assert "changed nothing" in told
    assert "FAILED" not in told
    assert "ok    freshness" in told


def test_a_failed_check_is_told_and_gives_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        module.History, "check", lambda self: Verdict(reads=1, reads_found=1, stale=1, examples=["k: planted"])
    )
    with pytest.raises(typer.Exit) as ended:
        module.demo(seconds=3.0, seed=1)
    assert ended.value.exit_code == 1
    told = capsys.readouterr().out
    assert "FAILED  freshness" in told
    assert "k: planted" in told
