"""Progress: plain lines where nobody watches, none for what is over at once, no control characters."""

import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim import progress

ROOT = Path(__file__).parents[2]


def test_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("seeds", 200, every_s=0.01) as tell:
        tell(50, "")
        while "seeds: 50 of 200 (25 %), " not in (said := capsys.readouterr().err):
            time.sleep(0.01)
    assert all(c.isprintable() or c == "\n" for c in said)


def test_without_a_total_and_with_a_remark(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown("states", None, every_s=0.01) as tell:
        tell(1234, "at 2 deviations")
        while "states: 1,234, at 2 deviations, " not in capsys.readouterr().err:
            time.sleep(0.01)


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.counted([3, 4], 2, "things")) == [3, 4]
    assert capsys.readouterr().err == ""


def test_a_reader_that_left_does_not_stop_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    with progress.shown("seeds", 2, every_s=0.001) as tell:
        for number in range(3):
            time.sleep(0.01)
            tell(number, "")


def test_commands_print_no_control_characters_into_a_pipe() -> None:
    command = [sys.executable, "-m", "sim", "explore", "--deviations", "1", "--plans", "1", "--states-max", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=100)
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)
