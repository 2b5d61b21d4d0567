"""The bounded exhaustive search of compare-and-set in the real core, and that it sees a bug where there is one."""

from typing import Any

import pytest

from quorumcache.core import exact
from quorumcache.core import messages as m
from sim.copying import fingerprint
from sim.exactexplorer import ExactExplorer
from sim.explorer import Bounds

ONE = Bounds(writers=2, reads=1, deviations=1, restarts=0, evictions=0, releases=0, ticks=4, plans=1, states_max=20_000)


@pytest.mark.parametrize("hasty", [True, False])
def test_an_orderly_run_ends_and_is_judged_right(hasty: bool) -> None:
    """Two who append and a reader, one after another, under each of the liar's plans."""
    bounds = Bounds(writers=2, reads=1, deviations=0, restarts=0, evictions=0, releases=0, ticks=4)
    result = ExactExplorer(bounds, hasty=hasty).run()
    assert result.violation is None
    assert result.exhausted == 1
    assert result.depth > 60


@pytest.mark.slow
@pytest.mark.parametrize("hasty", [True, False])
def test_no_message_that_comes_late_breaks_the_line(hasty: bool) -> None:
    """Protocol 17, I0 to I5, for every run with one deviation."""
    result = ExactExplorer(ONE, hasty=hasty).run()
    assert result.violation is None
    assert result.exhausted == 2
    assert result.states > 5000


def test_votes_that_look_past_what_is_current_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protocol 17, vote rule 1: `after` is what is current, and without that two stand in one place."""
    refused = exact._refused

    def past(*arguments: Any) -> m.BallotReply | None:
        reply = refused(*arguments)
        return None if reply is not None and reply.code == m.STALE else reply

    monkeypatch.setattr(exact, "_refused", past)
    result = ExactExplorer(ONE).run()
    assert result.violation is not None
    assert "neither was made for the other" in result.violation.text


def test_states_that_differ_by_a_ballot_alone_are_told_apart() -> None:
    """Of one header there are votes and locks in several ballots."""
    one, other = (
        m.Vote(1, bytes(32), bytes(16), b"header", b"salted", bytes(64), bytes([ballot]) * 48, b"", ())
        for ballot in (1, 2)
    )
    assert fingerprint(one) != fingerprint(other)
    locks = [m.Locked(b"header", b"salted", bytes(64), bytes([ballot]) * 48, ()) for ballot in (1, 2)]
    assert fingerprint(locks[0]) != fingerprint(locks[1])
