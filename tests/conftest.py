"""For all tests: hypothesis times nothing, since a busy machine is not a bug, and prints how to replay.

`--update-vectors` and `--update-scenarios` write the golden files of tests/vectors and tests/scenarios anew, to be
reviewed as diffs.
"""

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("quorumcache", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quorumcache")


def pytest_addoption(parser: pytest.Parser) -> None:
    for what in ("vectors", "scenarios"):
        parser.addoption(f"--update-{what}", action="store_true", help=f"write tests/{what} anew")
