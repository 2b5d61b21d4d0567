"""The report: it says what was run, what failed and how to replay it, and stands alone."""

from pathlib import Path

import pytest

from sim.__main__ import main
from sim.report import Tally, page


def test_a_report_of_a_few_seeds_stands_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.html"
    assert main(["report", "--count", "2", "--start", "5", "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    assert "Seeds 5 to 6" in text
    assert "No property was violated" in text
    assert "data:image/png;base64," in text
    assert "http" not in text.replace("data:image", "")
    assert "2 seeds, 0 failed" in capsys.readouterr().out


def test_a_violation_is_shown_with_the_line_that_replays_it() -> None:
    tally = Tally(seeds=1, failed=[(77, "freshness", "older than <b>")])
    text = page(tally, [], None, 77)
    assert "python -m sim run --seed 77" in text
    assert "older than &lt;b&gt;" in text
    assert "1 seeds violated a property" in text


def test_bad_input_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--count", "0"]) == 2
    assert main(["report", "--count", "1", "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
