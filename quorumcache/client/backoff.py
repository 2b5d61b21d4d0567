"""How long to wait before trying again. It must not know what is tried."""

from __future__ import annotations

import random


def backoff_s(attempt: int, least_s: float, most_s: float) -> float:
    """Seconds to wait after attempt 1, 2, ...: doubled each time up to a bound, and then somewhere in its upper half,
    so that many do not come back at once."""
    return min(most_s, least_s * 2.0 ** min(attempt - 1, 30)) * (0.5 + random.random() / 2)
