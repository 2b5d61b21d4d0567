"""The version, for who shows it. Knows nothing else."""

from typing import Final

VERSION: Final = "0.1.0"
