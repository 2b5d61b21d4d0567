"""The program's list of commands: each one is there, can be asked for help, and is found by its name."""

import pytest

from quorumcache.cli.app import COMMANDS, run


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_in_the_list_tells_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert "Usage: " in capsys.readouterr().out


def test_the_program_has_the_demonstration_that_make_demo_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in COMMANDS)
    assert {"demo", "replay"} <= set(COMMANDS)


def test_an_unknown_command_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
