"""A pytest plugin that puts one mutant into the core for a whole session: `MUTANT=name pytest -p tests.mutated ...`."""

import os

from sim.mutants import MUTANTS
from sim.mutants.base import Patches


def pytest_configure() -> None:
    """Patch the core, before any test is collected."""
    MUTANTS[os.environ["MUTANT"]].patch(Patches())
