"""The mutants that random seeds have not caught yet (docs/mutants.md): a test that names their rule catches each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
HARD = {
    "restart-floor-one-skew": "tests/core/test_scenarios.py",
    "recovering-counts": "tests/core/test_scenarios.py",
    "recovery-does-not-wait": "tests/core/test_recovery.py",
    "recovery-from-f-plus-1": "tests/core/test_recovery.py",
    "recovery-ignores-rights": "tests/core/test_recovery.py",
    "recovery-takes-next-highest": "tests/core/test_recovery.py",
}


@pytest.mark.parametrize("mutant", HARD)
def test_a_test_that_names_the_rule_catches_it(mutant: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "tests.mutated",
        "-p",
        "no:cacheprovider",
        HARD[mutant],
    ]
    environment = {**os.environ, "MUTANT": mutant, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100)
    # 1: tests ran, and some failed. Anything else would be an error of this test's own.
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
