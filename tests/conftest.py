"""For all tests: hypothesis times nothing, since a busy machine is not a bug, and prints how to replay.

`--update-vectors` and `--update-scenarios` write the golden files of tests/vectors and tests/scenarios anew, to be
reviewed as diffs. A test that failed because the machine stood still is skipped (tests/standstill.py).
"""

from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.standstill import Watch, is_excused

_WATCH = pytest.StashKey[Watch]()

settings.register_profile("quorumcache", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quorumcache")


def pytest_addoption(parser: pytest.Parser) -> None:
    for what in ("vectors", "scenarios"):
        parser.addoption(f"--update-{what}", action="store_true", help=f"write tests/{what} anew")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_WATCH] = Watch()


def pytest_unconfigure(config: pytest.Config) -> None:
    if _WATCH in config.stash:
        config.stash[_WATCH].stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    longest_s = item.config.stash[_WATCH].longest_s()
    if call.excinfo is not None and report.failed and is_excused(call.excinfo.value, longest_s):
        report.outcome = "skipped"
        path, line, _ = item.location
        report.longrepr = (path, line or 0, f"the machine stood still for {longest_s:.1f} s: {call.excinfo.value}")
    return report
